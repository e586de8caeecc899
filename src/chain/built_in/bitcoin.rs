//! Bitcoin and its test networks.
//!
//! The pins are the newest checkpoints of the Electrum wallet 4.8. The seeds are long-standing servers of its lists.

use std::borrow::Cow;

use super::{ELECTRUM_CHANNEL, MAINNET_PORTS, TESTNET_PORTS, pin};
use crate::chain::{Chain, ChainName, ChainParams, HeaderRule, IrcParams, Pin, PinProof, Retargets, WorkRule};

impl Chain {
    /// Mainnet.
    pub const BITCOIN: Chain = Chain::BuiltIn(&BITCOIN);
    /// Third test network.
    pub const TESTNET3: Chain = Chain::BuiltIn(&TESTNET3);
    /// Fourth test network (BIP 94).
    pub const TESTNET4: Chain = Chain::BuiltIn(&TESTNET4);
    /// Test network with signed blocks (BIP 325).
    pub const SIGNET: Chain = Chain::BuiltIn(&SIGNET);
    /// Network with blocks signed every 30 seconds.
    pub const MUTINYNET: Chain = Chain::BuiltIn(&MUTINYNET);
    /// Private chain for tests.
    pub const REGTEST: Chain = Chain::BuiltIn(&REGTEST);
}

/// Bitcoin Cash and its descendants have the same first blocks, up to 478,558, and Bitcoin Gold up to 491,406. A chain
/// with BLAKE2b headers split off at 961,640, so the tip must be above that height.
static BITCOIN: ChainParams = ChainParams {
    name: ChainName::built_in("bitcoin"),
    genesis_hash: Cow::Borrowed("000000000019d6689c085ae165831e934ff763ae46a2a6c172b3f1b60a8ce26f"),
    default_ports: MAINNET_PORTS,
    seeds: Cow::Borrowed(&[
        "electrum.blockstream.info v1.4 s50002 t50001",
        "electrum.emzy.de v1.4.2 s50002",
        "electrum.bitaroo.net v1.4.2 s50002 t50001",
        "electrum.jhoenicke.de v1.6 s50002 t50001",
        "fortress.qtornado.com v1.5 s443",
        "bitcoin.lu.ke v1.4.2 s50002 t50001",
        "bitcoin.aranguren.org v1.4.2 s50002 t50001",
        "blackie.c3-soft.com v1.4.5 s57002 t57001",
        "explorerzydxu5ecjrkwceayqybizmpjjznk5izmitf2modhcusuqlid.onion v1.4 t110",
        "kittycp2gatrqhlwpmbczk5rblw62enrpo2rzwtkfrrr27hq435d4vid.onion v1.4.2 s50002 t50001",
        "qly7g5n5t3f3h23xvbp44vs6vpmayurno4basuu5rcvrupli7y2jmgid.onion v1.4.2 s50002 t50001",
        "rzspa374ob3hlyjptkdgz6a62wim2mpanuw6m3shlwn2cxg2smy3p7yd.onion v1.4.2 s50004 t50003",
        "udfpzbte2hommnvag5f3qlouqkhvp3xybhlus2yvfeqdwlhjroe4bbyd.onion v1.4.5 s60002 t60001",
    ]),
    irc: Some(IrcParams { channel: ELECTRUM_CHANNEL, nick_prefix: "E_" }),
    pin: Some(Pin {
        min_tip: 961_760,
        ..pin(953_567, "00000000000000000001b315e72169bef4867bf780527aa97c625ee9c001dc5d", PinProof::OwnHeader)
    }),
    header: HeaderRule::Exact,
    work: WorkRule::Followed { bits: 0x1702_40c3, retargets: Retargets::EveryPeriod },
};

static TESTNET3: ChainParams = ChainParams {
    name: ChainName::built_in("testnet3"),
    genesis_hash: Cow::Borrowed("000000000933ea01ad0ee984209779baaec3ced90fa3f408719526f8d77f4943"),
    default_ports: TESTNET_PORTS,
    seeds: Cow::Borrowed(&[
        "electrum.blockstream.info v1.4 s60002 t60001",
        "blackie.c3-soft.com v1.4.5 s57006 t57005",
        "testnet.aranguren.org v1.6 s51002 t51001",
        "testnet.qtornado.com v1.6.0 s51002 t51001",
        "explorerzydxu5ecjrkwceayqybizmpjjznk5izmitf2modhcusuqlid.onion v1.4 t143",
        "gsw6sn27quwf6u3swgra6o7lrp5qau6kt3ymuyoxgkth6wntzm2bjwyd.onion v1.6 s51002 t51001",
    ]),
    irc: Some(IrcParams { channel: ELECTRUM_CHANNEL, nick_prefix: "ET_" }),
    pin: Some(pin(5_011_775, "000000000000041b511bf0b926371d5045f70bbc30d36b66f1c84ed30d765886", PinProof::OwnHeader)),
    header: HeaderRule::Exact,
    work: WorkRule::OwnTarget,
};

/// A chain with BLAKE2b headers split off at 150,308.
static TESTNET4: ChainParams = ChainParams {
    name: ChainName::built_in("testnet4"),
    genesis_hash: Cow::Borrowed("00000000da84f2bafbbc53dee25a72ae507ff4914b867c565be350b0da8bf043"),
    default_ports: TESTNET_PORTS,
    seeds: Cow::Borrowed(&[
        "blackie.c3-soft.com v1.6 s57010 t57009",
        "testnet4.qtornado.com v1.6.0 s51012 t51011",
        "bitcoin.stagemole.eu v1.6.0 s5010 t5000",
        "gsw6sn27quwf6u3swgra6o7lrp5qau6kt3ymuyoxgkth6wntzm2bjwyd.onion v1.5.3 s52002 t52001",
    ]),
    irc: Some(IrcParams { channel: ELECTRUM_CHANNEL, nick_prefix: "ET_" }),
    pin: Some(Pin {
        min_tip: 150_420,
        ..pin(139_103, "000000000001fa52cf7346a418640560743e051f8096a21ca452f3569bfe4f9e", PinProof::OwnHeader)
    }),
    header: HeaderRule::Exact,
    work: WorkRule::OwnTarget,
};

/// Other networks with signed blocks have the same first block, and other keys.
static SIGNET: ChainParams = ChainParams {
    name: ChainName::built_in("signet"),
    genesis_hash: Cow::Borrowed("00000008819873e925422c1ff0f99f7cc9bbb232af63a077a480a3633bee1ef6"),
    default_ports: TESTNET_PORTS,
    seeds: Cow::Borrowed(&[
        "electrum.emzy.de v1.4 s53002",
        "mempool.space v1.4 s60602",
        "signet-electrumx.wakiyamap.dev v1.4 s50002 t50001",
    ]),
    irc: Some(IrcParams { channel: ELECTRUM_CHANNEL, nick_prefix: "ET_" }),
    pin: Some(pin(308_447, "0000000fce481bd689af96794ea36ad8e80bc4635f068104aeff53bc17326ecf", PinProof::OwnHeader)),
    header: HeaderRule::Exact,
    work: WorkRule::OwnTarget,
};

/// It has signet's genesis, and another first block after it.
static MUTINYNET: ChainParams = ChainParams {
    name: ChainName::built_in("mutinynet"),
    genesis_hash: Cow::Borrowed("00000008819873e925422c1ff0f99f7cc9bbb232af63a077a480a3633bee1ef6"),
    default_ports: TESTNET_PORTS,
    seeds: Cow::Borrowed(&["electrum.mutinynet.com v1.4 t50001", "5.9.83.108 v1.4 s51234"]),
    irc: Some(IrcParams { channel: ELECTRUM_CHANNEL, nick_prefix: "ET_" }),
    pin: Some(pin(1, "000002855893a0a9b24eaffc5efc770558a326fee4fc10c9da22fc19cd2954f9", PinProof::OwnHeader)),
    header: HeaderRule::Exact,
    work: WorkRule::OwnTarget,
};

/// Its work is followed for tests. All its blocks have the target of the first.
static REGTEST: ChainParams = ChainParams {
    name: ChainName::built_in("regtest"),
    genesis_hash: Cow::Borrowed("0f9188f13cb7b2c71f2a335e3a4fc328bf5beb436012afca590b1a11466e2206"),
    default_ports: TESTNET_PORTS,
    seeds: Cow::Borrowed(&[]),
    irc: Some(IrcParams { channel: ELECTRUM_CHANNEL, nick_prefix: "ET_" }),
    pin: None,
    header: HeaderRule::Exact,
    work: WorkRule::Followed { bits: 0x207f_ffff, retargets: Retargets::Never },
};
