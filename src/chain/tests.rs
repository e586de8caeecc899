use super::*;

#[test]
fn default_seeds_are_all_parsed() {
    for chain in Chain::BUILT_IN {
        assert_eq!(chain.default_seeds().len(), chain.seeds.len(), "{chain}");
    }
    let onions = Chain::BITCOIN.default_seeds().iter().filter(|name| name.host.is_onion()).count();
    assert_eq!((Chain::BITCOIN.seeds.len(), onions), (13, 5));
}

#[test]
fn names_and_hashes_of_built_in_chains_are_valid() {
    for chain in Chain::BUILT_IN {
        assert_eq!(chain.name.as_str().parse(), Ok(chain.name.clone()));
        assert_eq!(Chain::built_in(&chain.name), Some(chain.clone()));
        assert!(hash_from_hex(&chain.genesis_hash).is_some(), "{chain}");
        assert!(chain.genesis_hash.bytes().all(|digit| !digit.is_ascii_uppercase()), "{chain}");
        let pin_is_reached = chain.pin.is_none_or(|pin| pin.min_tip >= pin.height && pin.hash != BlockHash::default());
        assert!(pin_is_reached, "{chain}");
    }
}

/// Without a pin, servers of the other chain would be taken for servers of this one.
#[test]
fn chains_with_the_same_first_block_have_different_pins() {
    for chain in Chain::BUILT_IN {
        for other in Chain::BUILT_IN.into_iter().filter(|other| other.name != chain.name) {
            if other.genesis_hash == chain.genesis_hash {
                let pins = chain.pin.zip(other.pin);
                assert!(pins.is_some_and(|(pin, other)| pin.hash != other.hash), "{chain} and {other}");
            }
        }
    }
}

#[test]
fn default_ports_depend_on_the_chain() {
    let name = |chain: Chain| RealName::parse("a.example s t", chain.default_ports).unwrap().to_string();
    assert_eq!(name(Chain::BITCOIN), "a.example s50002 t50001");
    assert_eq!(name(Chain::REGTEST), "a.example s51002 t51001");
}

#[test]
fn name_with_other_characters_is_invalid() {
    for text in ["", "Bitcoin", "../etc", "bit coin", "-x", "1coin", "a.b", &"a".repeat(33)] {
        assert_eq!(text.parse::<ChainName>(), Err(InvalidChainName), "{text}");
    }
    assert_eq!("litecoin-testnet".parse::<ChainName>().unwrap().to_string(), "litecoin-testnet");
}

#[test]
fn header_rules_differ_in_the_compared_bytes() {
    let [basic, longer] = [80, 164].map(|bytes| "01".repeat(bytes));
    let length = |rule: HeaderRule, hex: &str| rule.parse(hex).map(|header| (header.id(), header.basic_bytes().len()));
    assert!(length(HeaderRule::Exact, &basic).is_some() && length(HeaderRule::Exact, &longer).is_none());
    assert_eq!(length(HeaderRule::First80, &longer), length(HeaderRule::First80, &basic));
    assert_ne!(length(HeaderRule::Whole, &longer), length(HeaderRule::Whole, &basic));
    let [longest, too_long] = [4096, 4097].map(|bytes| "01".repeat(bytes));
    assert!(length(HeaderRule::Whole, &longest).is_some() && length(HeaderRule::Whole, &too_long).is_none());
    for rule in [HeaderRule::Exact, HeaderRule::First80, HeaderRule::Whole] {
        for hex in ["", "01", &"01".repeat(79), &"zz".repeat(80), &format!("{}é", "0".repeat(159)), &"é".repeat(80)] {
            assert_eq!(rule.parse(hex), None, "{rule:?} {hex}");
        }
    }
}

#[test]
fn next_header_shows_a_pin_by_the_hash_it_contains() {
    let pin = Pin { height: 7, hash: [0xab; 32], shown_by: PinProof::NextHeader, min_tip: 7 };
    let hex = format!("01000000{}{}", "ab".repeat(32), "00".repeat(44));
    assert_eq!(pin.header_height(), 8);
    assert!(pin.is_shown_by(&HeaderRule::Whole.parse(&hex).unwrap()));
    let own = Pin { shown_by: PinProof::OwnHeader, ..pin };
    assert!(own.header_height() == 7 && !own.is_shown_by(&HeaderRule::Whole.parse(&hex).unwrap()));
}

/// Returns the row of a chain in `docs/chains.md`.
fn row(chain: &Chain) -> String {
    let port = |port: Option<crate::peer::Port>| port.map_or(0, crate::peer::Port::get);
    let (tcp, tls) = (port(chain.default_ports.tcp()), port(chain.default_ports.tls()));
    let header = match chain.header {
        HeaderRule::Exact => "exactly 80 bytes",
        HeaderRule::First80 => "first 80 bytes",
        HeaderRule::Whole => "all bytes",
    };
    let pin = match chain.pin {
        None => "nothing".to_owned(),
        Some(Pin { height: 0, .. }) => "the first block".to_owned(),
        Some(pin) => format!("block {}", pin.height),
    };
    let work = match chain.work {
        WorkRule::Unchecked => "not checked",
        WorkRule::OwnTarget => "own target",
        WorkRule::Followed { .. } => "followed",
    };
    format!("| `{chain}` | {tcp}, {tls} | {pin} | {header} | {work} | {} |", chain.seeds.len())
}

#[test]
fn documented_table_has_a_row_for_each_chain() {
    let document = include_str!("../../docs/chains.md");
    let missing: Vec<_> = Chain::BUILT_IN.iter().map(row).filter(|row| !document.contains(row)).collect();
    assert!(missing.is_empty(), "docs/chains.md lacks:\n{}", missing.join("\n"));
    assert_eq!(document.lines().filter(|line| line.starts_with("| `")).count(), Chain::BUILT_IN.len());
}
