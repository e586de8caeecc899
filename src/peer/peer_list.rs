//! A peers list, as `server.peers.subscribe` answers it: `[["5.9.0.1", "a.example", ["v1.4", "s50002"]], …]`.

use std::fmt;
use std::net::IpAddr;

use serde::de::{Deserialize, DeserializeSeed, Deserializer, IgnoredAny, SeqAccess, Visitor};
use serde::ser::{Serialize, Serializer};

use super::{LenientScalar, Ports, RealName};

/// How many entries of a list are looked at; the rest is passed over.
pub const MAX_PEER_LIST_ENTRIES: usize = 1000;

/// One entry: an address and the contents of a real name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerListEntry {
    /// None for onion services, in whose entries the name stands twice.
    pub ip: Option<IpAddr>,
    pub name: RealName,
}

/// The entries that could be read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PeerList(pub Vec<PeerListEntry>);

impl PeerList {
    /// Entries that can't be read are left out; what isn't a list is an error.
    pub fn parse(json: &str, defaults: Ports) -> Result<PeerList, serde_json::Error> {
        let mut deserializer = serde_json::Deserializer::from_str(json);
        let listing = PeerListSeed(defaults).deserialize(&mut deserializer)?;
        deserializer.end()?;
        Ok(listing)
    }
}

/// Three elements, each a text or a list of texts: Electrum drops an entry where anything else stands.
impl Serialize for PeerListEntry {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let host = self.name.host.to_string();
        let ip = self.ip.map_or_else(|| host.clone(), |ip| ip.to_string());
        let tokens: Vec<String> = self.name.tokens().collect();
        (ip, host, tokens).serialize(serializer)
    }
}

struct PeerListSeed(Ports);

impl<'de> DeserializeSeed<'de> for PeerListSeed {
    type Value = PeerList;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<PeerList, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for PeerListSeed {
    type Value = PeerList;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of peers")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<PeerList, A::Error> {
        let mut listing = PeerList::default();
        for _ in 0..MAX_PEER_LIST_ENTRIES {
            match seq.next_element::<RawEntry>()? {
                Some(entry) => listing.0.extend(entry.into_entry(self.0)),
                None => return Ok(listing),
            }
        }
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(listing)
    }
}

/// The elements of an entry that is a list; anything else leaves it empty.
#[derive(Default)]
struct RawEntry {
    ip: LenientScalar,
    host: LenientScalar,
    tokens: Tokens,
}

impl RawEntry {
    fn into_entry(self, defaults: Ports) -> Option<PeerListEntry> {
        let host = self.host.text()?;
        let name = RealName::from_tokens(&host, self.tokens.0.iter().map(String::as_str), defaults).ok()?;
        Some(PeerListEntry { ip: self.ip.text().and_then(|ip| ip.parse().ok()), name })
    }
}

impl<'de> Deserialize<'de> for RawEntry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<RawEntry, D::Error> {
        deserializer.deserialize_any(EntryVisitor)
    }
}

struct EntryVisitor;

impl<'de> Visitor<'de> for EntryVisitor {
    type Value = RawEntry;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a peer")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<RawEntry, A::Error> {
        let entry = RawEntry {
            ip: seq.next_element()?.unwrap_or_default(),
            host: seq.next_element()?.unwrap_or_default(),
            tokens: seq.next_element()?.unwrap_or_default(),
        };
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(entry)
    }
}

/// A few texts. Servers have six tokens at most; what comes after sixteen is passed over.
#[derive(Default)]
struct Tokens(Vec<String>);

impl<'de> Deserialize<'de> for Tokens {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Tokens, D::Error> {
        deserializer.deserialize_any(TokensVisitor)
    }
}

struct TokensVisitor;

impl<'de> Visitor<'de> for TokensVisitor {
    type Value = Tokens;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of tokens")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Tokens, A::Error> {
        let mut tokens = Vec::new();
        while tokens.len() < 16 {
            match seq.next_element::<LenientScalar>()? {
                Some(token) => tokens.extend(token.text()),
                None => return Ok(Tokens(tokens)),
            }
        }
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Tokens(tokens))
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::option;
    use proptest::prelude::*;

    use super::super::real_name::tests::any_real_name;
    use super::*;
    use crate::network::Network;

    fn parse(json: &str) -> Result<PeerList, serde_json::Error> {
        PeerList::parse(json, Network::Bitcoin.default_ports())
    }

    proptest! {
        #[test]
        fn parse_undoes_print(entries in vec((option::of(any::<IpAddr>()), any_real_name()), 0..5)) {
            let listed: Vec<PeerListEntry> = entries
                .into_iter()
                // The address's place can't be empty, so a host that is an address is its own.
                .map(|(ip, name)| PeerListEntry { ip: if let super::super::Host::Ip(ip) = name.host { Some(ip) } else { ip }, name })
                .collect();
            let json = serde_json::to_string(&listed).unwrap();
            prop_assert_eq!(parse(&json).unwrap().0, listed);
        }

        #[test]
        fn any_text_is_parsed_or_refused(text in "[\\[\\]{}\",:a-z0-9 ]{0,200}") {
            let _ = parse(&text);
        }
    }

    #[test]
    fn one_bad_entry_spoils_no_other() {
        let list =
            r#"[["1.2.3.4","a.example",["v1.4","t"]],["1.2.3.4","b.example",[1,null]],["x","c.example",["s1"],7,8]]"#;
        let hosts: Vec<String> = parse(list).unwrap().0.into_iter().map(|listed| listed.name.to_string()).collect();
        assert_eq!(hosts, ["a.example v1.4 t50001", "c.example s1"]);
    }

    #[test]
    fn the_shape_must_be_right() {
        for json in ["{}", "null", "\"x\"", "[1,2]", "[\"a\"]", "[[1,2,3]] x", "[[\"a\"]"] {
            assert!(parse(json).is_err(), "{json}");
        }
    }

    #[test]
    fn only_so_many_are_read() {
        let list = vec![r#"["5.9.0.1","a.example",["t"]]"#; 3000].join(",");
        assert_eq!(parse(&format!("[{list}]")).unwrap().0.len(), MAX_PEER_LIST_ENTRIES);
    }
}
