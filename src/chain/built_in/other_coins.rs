//! Other coins.
//!
//! Pins are checkpoints of the chain's node software that another source confirms. Where there is none, the block after
//! genesis must name it, as no other chain is known that has the same. The seeds are those of ElectrumX and of the
//! coin's Electrum wallet.

use std::borrow::Cow;

use super::{MAINNET_PORTS, TESTNET_PORTS, pin};
use crate::chain::{Chain, ChainName, ChainParams, HeaderRule, Pin, PinProof, WorkRule};

impl Chain {
    /// Litecoin. Feathercoin has the same genesis, and Litecoin Cash split off at 1,371,111.
    pub const LITECOIN: Chain = Chain::BuiltIn(&LITECOIN);
    /// Test network of Litecoin.
    pub const LITECOIN_TESTNET: Chain = Chain::BuiltIn(&LITECOIN_TESTNET);
    /// Private chain for tests of Litecoin software.
    pub const LITECOIN_REGTEST: Chain = Chain::BuiltIn(&LITECOIN_REGTEST);
    /// Dogecoin, mined together with Litecoin.
    pub const DOGECOIN: Chain = Chain::BuiltIn(&DOGECOIN);
    /// Namecoin, mined together with Bitcoin.
    pub const NAMECOIN: Chain = Chain::BuiltIn(&NAMECOIN);
    /// Dash. Blocks are hashed with X11.
    pub const DASH: Chain = Chain::BuiltIn(&DASH);
    /// Groestlcoin. Blocks are hashed with Grøstl.
    pub const GROESTLCOIN: Chain = Chain::BuiltIn(&GROESTLCOIN);
    /// DigiByte, mined with five functions.
    pub const DIGIBYTE: Chain = Chain::BuiltIn(&DIGIBYTE);
    /// Monacoin.
    pub const MONACOIN: Chain = Chain::BuiltIn(&MONACOIN);
    /// Vertcoin.
    pub const VERTCOIN: Chain = Chain::BuiltIn(&VERTCOIN);
    /// Verge. Blocks are hashed with scrypt.
    pub const VERGE: Chain = Chain::BuiltIn(&VERGE);
    /// Ravencoin. Headers have 120 bytes since 1,219,736.
    pub const RAVENCOIN: Chain = Chain::BuiltIn(&RAVENCOIN);
    /// Zcash. Headers contain a solution of Equihash. Ycash split off earlier than the pin.
    pub const ZCASH: Chain = Chain::BuiltIn(&ZCASH);
}

static LITECOIN: ChainParams = ChainParams {
    name: ChainName::built_in("litecoin"),
    genesis_hash: Cow::Borrowed("12a765e31ffd4059bada1e25190f6e98c99d9714d334efa41a195a7e7e04bfe2"),
    default_ports: MAINNET_PORTS,
    seeds: Cow::Borrowed(&[
        "electrum-ltc.bysh.me v1.4 s50002 t50001",
        "electrum.ltc.xurious.com v1.4 s50002 t50001",
        "backup.electrum-ltc.org v1.4 s443 t50001",
        "electrum-ltc.wilv.in v1.4 s50002 t50001",
        "ltc.rentonisk.com v1.4 s50002 t50001",
        "electrum1.cipig.net v1.4 s20063 t10063",
        "electrum.privateservers.network v1.4 s50005 t50004",
        "46.101.3.154 v1.4 s50002 t50001",
    ]),
    irc: None,
    pin: Some(Pin {
        min_tip: 2_772_730,
        ..pin(1_572_480, "20e3eb741a0622d4a90328c604df9b9773177c37c9cf14e27c30d09fcaef0449", PinProof::OwnHeader)
    }),
    header: HeaderRule::Exact,
    work: WorkRule::Unchecked,
};

static LITECOIN_TESTNET: ChainParams = ChainParams {
    name: ChainName::built_in("litecoin-testnet"),
    genesis_hash: Cow::Borrowed("4966625a4b2851d9fdee139e56211a0d88575f59ed816ff5e6a63deb4e3e29a0"),
    default_ports: TESTNET_PORTS,
    seeds: Cow::Borrowed(&["electrum-ltc.bysh.me v1.4 s51002 t51001", "electrum.ltc.xurious.com v1.4 s51002 t51001"]),
    irc: None,
    pin: Some(pin(0, "4966625a4b2851d9fdee139e56211a0d88575f59ed816ff5e6a63deb4e3e29a0", PinProof::NextHeader)),
    header: HeaderRule::Exact,
    work: WorkRule::Unchecked,
};

static LITECOIN_REGTEST: ChainParams = ChainParams {
    name: ChainName::built_in("litecoin-regtest"),
    genesis_hash: Cow::Borrowed("530827f38f93b43ed12af0b3ad25a288dc02ed74d6d7857862df51fc56c416f9"),
    default_ports: TESTNET_PORTS,
    seeds: Cow::Borrowed(&[]),
    irc: None,
    pin: Some(pin(0, "530827f38f93b43ed12af0b3ad25a288dc02ed74d6d7857862df51fc56c416f9", PinProof::NextHeader)),
    header: HeaderRule::Exact,
    work: WorkRule::Unchecked,
};

static DOGECOIN: ChainParams = ChainParams {
    name: ChainName::built_in("dogecoin"),
    genesis_hash: Cow::Borrowed("1a91e3dace36e2be3bf030a65679fe821aa1d6ef92e7c9902eb318182c355691"),
    default_ports: MAINNET_PORTS,
    seeds: Cow::Borrowed(&[]),
    irc: None,
    pin: Some(pin(3_606_083, "954c7c66dee51f0a3fb1edb26200b735f5275fe54d9505c76ebd2bcabac36f1e", PinProof::OwnHeader)),
    header: HeaderRule::First80,
    work: WorkRule::Unchecked,
};

static NAMECOIN: ChainParams = ChainParams {
    name: ChainName::built_in("namecoin"),
    genesis_hash: Cow::Borrowed("000000000062b72c5e2ceb45fbc8587e807c155b0da735e6483dfba2f0a9c770"),
    default_ports: MAINNET_PORTS,
    seeds: Cow::Borrowed(&[
        "electrum-nmc.le-space.de v1.4 s50002",
        "electrumx2.nmc.dotbit.zone v1.4 s50002",
        "electrumx4.nmc.dotbit.zone v1.4 s50002",
        "nmc.bitcoins.sk v1.4 s50002",
        "nmc2.bitcoins.sk v1.4 s57002",
        "ulrichard.ch v1.4 s50006 t50005",
        "h6qrnwxtwiaahsw4qhk2nbutswwb54vnqso6jrxeuk6nwtfbos7jkoqd.onion v1.4 s50002",
        "mqhok2edqcxdpklwovquuvvl2q5or4g2o777qwrinydgzfxjbixq76yd.onion v1.4 s50002",
    ]),
    irc: None,
    pin: Some(pin(0, "000000000062b72c5e2ceb45fbc8587e807c155b0da735e6483dfba2f0a9c770", PinProof::NextHeader)),
    header: HeaderRule::First80,
    work: WorkRule::Unchecked,
};

static DASH: ChainParams = ChainParams {
    name: ChainName::built_in("dash"),
    genesis_hash: Cow::Borrowed("00000ffd590b1485b3caadc19b22e6379c733355108f107a430458cdf3407ab6"),
    default_ports: MAINNET_PORTS,
    seeds: Cow::Borrowed(&[
        "electrum.dash.siampm.com v1.4 s50002 t50001",
        "electrum.dash.org v1.4 s50002 t50001",
        "electrumx-mainnet.dash.org v1.4 s50002",
        "drk.p2pay.com v1.4 s50002",
        "electrum.masternode.io v1.4 s50002 t50001",
        "dashcrypto.space v1.4 s50002 t50001",
    ]),
    irc: None,
    pin: Some(pin(1_450_000, "00000000000000105cfae44a995332d8ec256850ea33a1f7b700474e3dad82bc", PinProof::NextHeader)),
    header: HeaderRule::Exact,
    work: WorkRule::Unchecked,
};

static GROESTLCOIN: ChainParams = ChainParams {
    name: ChainName::built_in("groestlcoin"),
    genesis_hash: Cow::Borrowed("00000ac5927c594d49cc0bdb81759d0da8297eb614683d3acb62f0703b639023"),
    default_ports: MAINNET_PORTS,
    seeds: Cow::Borrowed(&[
        "electrum1.groestlcoin.org v1.4 s50002 t50001",
        "electrum2.groestlcoin.org v1.4 s50002 t50001",
        "glzyzqiulwclsowniyjeg5tspdojfgiiizbpnepcxoswqkmsjzlkucqd.onion v1.4 s50002 t50001",
        "jcv7kwu3gopzxp3r2ve43m6nahrxzc426hif4o3a2vt7wl4xq6tg3xqd.onion v1.4 s50002 t50001",
    ]),
    irc: None,
    pin: Some(pin(2_000_000, "00000000000434d5b8d1c3308df7b6e3fd773657dfb28f5dd2f70854ef94cc66", PinProof::NextHeader)),
    header: HeaderRule::Exact,
    work: WorkRule::Unchecked,
};

static DIGIBYTE: ChainParams = ChainParams {
    name: ChainName::built_in("digibyte"),
    genesis_hash: Cow::Borrowed("7497ea1b465eb39f1c8f507bc877078fe016d6fcb6dfad3a64c98dcc6e1e8496"),
    default_ports: MAINNET_PORTS,
    seeds: Cow::Borrowed(&[]),
    irc: None,
    pin: Some(pin(21_700_000, "457f6864b52e5076a433afe3c28e3ae0bbeeaba9036a782ddb691242326fcb80", PinProof::OwnHeader)),
    header: HeaderRule::Exact,
    work: WorkRule::Unchecked,
};

static MONACOIN: ChainParams = ChainParams {
    name: ChainName::built_in("monacoin"),
    genesis_hash: Cow::Borrowed("ff9f1c0116d19de7c9963845e129f9ed1bfc0b376eb54fd7afa42e0d418c8bb6"),
    default_ports: MAINNET_PORTS,
    seeds: Cow::Borrowed(&[
        "electrumx.tamami-foundation.org v1.4 s50002 t50001",
        "electrumx3.monacoin.nl v1.4 s50002 t50001",
        "electrumx1.monacoin.ninja v1.4 s50002 t50001",
        "102.67.136.247 v1.4 s50002 t50001",
        "133.167.67.203 v1.4 s50002 t50001",
        "ylx5ejgbmxf2m3ymdbw4tkcx2w4vaxkwyzjbtsghadmnwpq6yaqfi7qd.onion v1.4 s50002 t50001",
        "fst2ox5p4evi5jj23kdczumzfgrrzopo7itao6fxqiowr4bufvbjkxad.onion v1.4 s50002 t50001",
        "electrumx2.movsign.info v1.4 s50002 t50001",
    ]),
    irc: None,
    pin: Some(pin(904_000, "353f5b7f9440e1d830bd1c265c69fb0e7c7988e343b2202a704406d04a8cd02e", PinProof::OwnHeader)),
    header: HeaderRule::Exact,
    work: WorkRule::Unchecked,
};

static VERTCOIN: ChainParams = ChainParams {
    name: ChainName::built_in("vertcoin"),
    genesis_hash: Cow::Borrowed("4d96a915f49d40b1e5c2844d1ee2dccb90013a990ccea12c492d22110489f0c4"),
    default_ports: MAINNET_PORTS,
    seeds: Cow::Borrowed(&[
        "electrumx-vtc.cryptoverted.com v1.4 s55002 t55001",
        "electrumx.javerity.com v1.4 s5886 t5885",
    ]),
    irc: None,
    pin: Some(pin(627_610, "6000a787f2d8bb77d4f491a423241a4cc8439d862ca6cec6851aba4c79ccfedc", PinProof::OwnHeader)),
    header: HeaderRule::Exact,
    work: WorkRule::Unchecked,
};

static VERGE: ChainParams = ChainParams {
    name: ChainName::built_in("verge"),
    genesis_hash: Cow::Borrowed("00000fc63692467faeb20cdb3b53200dc601d75bdfa1001463304cc790d77278"),
    default_ports: MAINNET_PORTS,
    seeds: Cow::Borrowed(&["electrumx-verge.cloud v1.4 s50002 t50001", "electrum-verge.cloud v1.4 s50002 t50001"]),
    irc: None,
    pin: Some(pin(0, "00000fc63692467faeb20cdb3b53200dc601d75bdfa1001463304cc790d77278", PinProof::NextHeader)),
    header: HeaderRule::Exact,
    work: WorkRule::Unchecked,
};

static RAVENCOIN: ChainParams = ChainParams {
    name: ChainName::built_in("ravencoin"),
    genesis_hash: Cow::Borrowed("0000006b444bc2f2ffe627be9d9e7e7a0730000870ef6eb6da46c8eae389df90"),
    default_ports: MAINNET_PORTS,
    seeds: Cow::Borrowed(&[
        "rvn4lyfe.com v1.4 s50002 t50001",
        "aq7vuqykup2voklcrpqljf6jnjkzrouowsjfrmybdou5kdhrpr6sjjid.onion v1.4 s50002 t50001",
    ]),
    irc: None,
    pin: Some(pin(535_721, "000000000001217f58a594ca742c8635ecaaaf695d1a63f6ab06979f1c159e04", PinProof::NextHeader)),
    header: HeaderRule::Whole,
    work: WorkRule::Unchecked,
};

static ZCASH: ChainParams = ChainParams {
    name: ChainName::built_in("zcash"),
    genesis_hash: Cow::Borrowed("00040fe8ec8471911baa1db1266ea15dd06b4a8a5c453883c000b031973dce08"),
    default_ports: MAINNET_PORTS,
    seeds: Cow::Borrowed(&[]),
    irc: None,
    pin: Some(pin(1_046_400, "00000000002038016f976744c369dce7419fca30e7171dfac703af5e5f7ad1d4", PinProof::OwnHeader)),
    header: HeaderRule::Whole,
    work: WorkRule::Unchecked,
};
