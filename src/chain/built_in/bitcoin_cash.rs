//! Bitcoin Cash and its test networks.
//!
//! The pins are checkpoints of Bitcoin Cash Node. The seeds and the ports of the newer test networks are those of the
//! Electron Cash wallet.

use std::borrow::Cow;

use super::{MAINNET_PORTS, TESTNET_PORTS, pin, ports};
use crate::chain::{Chain, ChainName, ChainParams, HeaderRule, PinProof, WorkRule};

impl Chain {
    /// Bitcoin Cash. Bitcoin SV split off at 556,767, and eCash at 661,648.
    pub const BITCOIN_CASH: Chain = Chain::BuiltIn(&BITCOIN_CASH);
    /// First test network of Bitcoin Cash, with the first blocks of Bitcoin's third.
    pub const BITCOIN_CASH_TESTNET3: Chain = Chain::BuiltIn(&BITCOIN_CASH_TESTNET3);
    /// Second test network of Bitcoin Cash, from which chipnet split off at 115,252.
    pub const BITCOIN_CASH_TESTNET4: Chain = Chain::BuiltIn(&BITCOIN_CASH_TESTNET4);
    /// Test network for coming rules of Bitcoin Cash.
    pub const CHIPNET: Chain = Chain::BuiltIn(&CHIPNET);
    /// Test network for large blocks of Bitcoin Cash. It is cut back to the pin now and then.
    pub const SCALENET: Chain = Chain::BuiltIn(&SCALENET);
}

static BITCOIN_CASH: ChainParams = ChainParams {
    name: ChainName::built_in("bitcoin-cash"),
    genesis_hash: Cow::Borrowed("000000000019d6689c085ae165831e934ff763ae46a2a6c172b3f1b60a8ce26f"),
    default_ports: MAINNET_PORTS,
    seeds: Cow::Borrowed(&[
        "bch.imaginary.cash v1.4 s50002 t50001",
        "electroncash.dk v1.4 s50002 t50001",
        "electrum.imaginary.cash v1.4 s50002 t50001",
        "bch.loping.net v1.4 s50002 t50001",
        "electroncash.de v1.4 s50002 t50001",
        "blackie.c3-soft.com v1.4 s50002 t50001",
        "j2tjfxntnsqpojaamnndgmfrc6lh3thattnlpc2xx53h2ojoi7agccid.onion v1.4 s50002 t50001",
        "jktsologn7uprtwn7gsgmwuddj6rxsqmwc2vaug7jwcwzm2bxqnfpwad.onion v1.4 s50002 t50001",
    ]),
    irc: None,
    pin: Some(pin(898_374, "00000000000000000157a0a3dcdc80f1acd809648d238c1e893b26247091b3b4", PinProof::OwnHeader)),
    header: HeaderRule::Exact,
    work: WorkRule::OwnTarget,
};

static BITCOIN_CASH_TESTNET3: ChainParams = ChainParams {
    name: ChainName::built_in("bitcoin-cash-testnet3"),
    genesis_hash: Cow::Borrowed("000000000933ea01ad0ee984209779baaec3ced90fa3f408719526f8d77f4943"),
    default_ports: TESTNET_PORTS,
    seeds: Cow::Borrowed(&[
        "bch0.kister.net v1.4 s51002",
        "testnet.imaginary.cash v1.4 s50002 t50001",
        "blackie.c3-soft.com v1.4 s60002 t60001",
        "electroncash.de v1.4 s50004 t50003",
        "tbch.loping.net v1.4 s60002 t60001",
        "fulcrum2.electroncash.de v1.4 s60002 t60001",
        "kisternet5tgeekwidrj7r7yd3n2l5j7y72b74y6xu3q2b6xdjrte6id.onion v1.4 s51002 t51001",
        "scgjgc67226l65u52wyvulioxixv34p5dth73oj35ej7ham2zavdtxid.onion v1.4 s60002 t60001",
    ]),
    irc: None,
    pin: Some(pin(1_421_482, "0000000023e0680a8a062b3cc289a4a341124ce7fcb6340ede207e194d73b60a", PinProof::OwnHeader)),
    header: HeaderRule::Exact,
    work: WorkRule::OwnTarget,
};

static BITCOIN_CASH_TESTNET4: ChainParams = ChainParams {
    name: ChainName::built_in("bitcoin-cash-testnet4"),
    genesis_hash: Cow::Borrowed("000000001dd410c49a788668ce26751718cc797474d3152a5fc073dd44fd9f7b"),
    default_ports: ports(62001, 62002),
    seeds: Cow::Borrowed(&["tbch4.loping.net v1.4 s62002", "blackie.c3-soft.com v1.4 s62002"]),
    irc: None,
    pin: Some(pin(115_252, "00000000ae25e85d9e22cd6c8d72c2f5d4b0222289d801b7f633aeae3f8c6367", PinProof::OwnHeader)),
    header: HeaderRule::Exact,
    work: WorkRule::OwnTarget,
};

static CHIPNET: ChainParams = ChainParams {
    name: ChainName::built_in("chipnet"),
    genesis_hash: Cow::Borrowed("000000001dd410c49a788668ce26751718cc797474d3152a5fc073dd44fd9f7b"),
    default_ports: ports(64001, 64002),
    seeds: Cow::Borrowed(&[
        "blackie.c3-soft.com v1.4 s64002 t64001",
        "chipnet.c3-soft.com v1.4 s64002 t64001",
        "chipnet.imaginary.cash v1.4 s50002 t50001",
        "chipnet.bch.ninja v1.4 s50002 t50001",
        "cbch.loping.net v1.4 s62102 t62101",
        "ryzen.electroncash.de v1.4 s50002 t50001",
    ]),
    irc: None,
    pin: Some(pin(121_957, "0000000056087dee73fb66178ca70da89dfd0be098b1a63cf6fe93934cd04c78", PinProof::OwnHeader)),
    header: HeaderRule::Exact,
    work: WorkRule::OwnTarget,
};

static SCALENET: ChainParams = ChainParams {
    name: ChainName::built_in("scalenet"),
    genesis_hash: Cow::Borrowed("00000000e6453dc2dfe1ffa19023f86002eb11dbb8e87d0291a4599f0430be52"),
    default_ports: ports(63001, 63002),
    seeds: Cow::Borrowed(&[
        "blackie.c3-soft.com v1.4 s63002 t63001",
        "sbch.loping.net v1.4 s63002 t63001",
        "ryzen.electroncash.de v1.4 s55004 t55003",
        "5g66mhfnm444pfbbjocrqatv65rrhq7g3hpnvsriu5xjfwcxjqathxid.onion v1.4 s63002 t63001",
    ]),
    irc: None,
    pin: Some(pin(10_000, "00000000b711dc753130e5083888d106f99b920b1b8a492eb5ac41d40e482905", PinProof::OwnHeader)),
    header: HeaderRule::Exact,
    work: WorkRule::OwnTarget,
};
