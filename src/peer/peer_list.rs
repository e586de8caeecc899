//! Peer list of `server.peers.subscribe`: `[["5.9.0.1", "a.example", ["v1.4", "s50002"]], …]`.

use std::fmt;
use std::net::IpAddr;

use serde::de::{Deserialize, DeserializeSeed, Deserializer, IgnoredAny, SeqAccess, Visitor};
use serde::ser::{Serialize, Serializer};
use serde_json::value::RawValue;

use super::{LenientScalar, Ports, RealName};

/// Maximum number of entries read from a list; further ones are skipped.
///
/// Bounds the memory of one response.
pub const MAX_PEER_LIST_ENTRIES: usize = 1000;

/// Entry of a peer list: an address and the contents of a real name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerListEntry {
    /// Address of the peer; `None` for onion services, whose entries repeat the name here.
    pub ip: Option<IpAddr>,
    /// Host, ports and version.
    pub name: RealName,
}

/// Valid entries of a peer list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PeerList(pub Vec<PeerListEntry>);

impl PeerList {
    /// Parses a list and skips invalid entries; returns an error if it is no list.
    pub fn parse(json: &str, defaults: Ports) -> Result<PeerList, serde_json::Error> {
        let mut deserializer = serde_json::Deserializer::from_str(json);
        let list = PeerListSeed(defaults).deserialize(&mut deserializer)?;
        deserializer.end()?;
        Ok(list)
    }
}

/// Three elements: address, host, tokens. Electrum drops entries of any other form.
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
        let mut list = PeerList::default();
        for _ in 0..MAX_PEER_LIST_ENTRIES {
            // Each entry is parsed on its own, so that an invalid one does not invalidate the list.
            match seq.next_element::<&RawValue>()? {
                Some(entry) => {
                    let entry = serde_json::from_str::<RawEntry>(entry.get()).ok();
                    list.0.extend(entry.and_then(|entry| entry.into_entry(self.0)));
                }
                None => return Ok(list),
            }
        }
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(list)
    }
}

/// Elements of one entry, not yet validated.
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

/// Maximum number of tokens read from an entry. Servers send at most six.
const MAX_TOKENS: usize = 16;

/// Strings of an entry's third element, at most [`MAX_TOKENS`].
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
        while tokens.len() < MAX_TOKENS {
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
    use crate::chain::Chain;

    fn parse(json: &str) -> Result<PeerList, serde_json::Error> {
        PeerList::parse(json, Chain::BITCOIN.default_ports)
    }

    proptest! {
        #[test]
        fn parse_undoes_print(entries in vec((option::of(any::<IpAddr>()), any_real_name()), 0..5)) {
            let listed: Vec<PeerListEntry> = entries
                .into_iter()
                // The address element can't be empty, so a host that is an address repeats it
                // there.
                .map(|(ip, name)| PeerListEntry { ip: if let super::super::Host::Ip(ip) = name.host { Some(ip) } else { ip }, name })
                .collect();
            let json = serde_json::to_string(&listed).unwrap();
            prop_assert_eq!(parse(&json).unwrap().0, listed);
        }

        #[test]
        fn arbitrary_text_never_panics(text in "[\\[\\]{}\",:a-z0-9 ]{0,200}") {
            let _ = parse(&text);
        }
    }

    #[test]
    fn invalid_entries_are_skipped() {
        let list =
            r#"[["1.2.3.4","a.example",["v1.4","t"]],["1.2.3.4","b.example",[1,null]],["x","c.example",["s1"],7,8]]"#;
        let hosts: Vec<String> = parse(list).unwrap().0.into_iter().map(|entry| entry.name.to_string()).collect();
        assert_eq!(hosts, ["a.example v1.4 t50001", "c.example s1"]);
    }

    #[test]
    fn value_without_meaning_invalidates_its_entry_only() {
        let deep = format!("{}{}", "[".repeat(5000), "]".repeat(5000));
        for invalid in
            ["1", "null", "{}", r#""x""#, r#"["5.9.0.1","\ud800",["t"]]"#, r#"["5.9.0.1",1e999,["t"]]"#, &deep]
        {
            let list = format!(r#"[{invalid},["5.9.0.1","a.example",["t","\udc00",1e999]],{invalid}]"#);
            let hosts: Vec<String> = parse(&list).unwrap().0.iter().map(|entry| entry.name.to_string()).collect();
            assert_eq!(hosts, ["a.example t50001"], "{invalid:.40}");
        }
    }

    #[test]
    fn malformed_list_is_rejected() {
        for json in ["{}", "null", "\"x\"", "[1,2", "[[1,2,3]] x", "[[\"a\"]", "[[}]"] {
            assert!(parse(json).is_err(), "{json}");
        }
    }

    #[test]
    fn long_list_is_truncated() {
        let list = vec![r#"["5.9.0.1","a.example",["t"]]"#; 3000].join(",");
        assert_eq!(parse(&format!("[{list}]")).unwrap().0.len(), MAX_PEER_LIST_ENTRIES);
    }
}
