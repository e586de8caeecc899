//! Ban lists: hosts, domains and ranges of addresses that are never peers, with the list of each.

mod list;
mod pattern;
mod signature;

use std::collections::BTreeSet;
use std::collections::hash_map::{Entry, HashMap};
use std::fmt;
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

pub use self::list::{BanError, BanList, ListFormat, MAX_PATTERNS, SkipReason, SkippedEntry};
pub use self::pattern::{Pattern, remove_pattern};
pub use self::signature::{KeyError, ListKey, SignatureError, SignedAt};
use crate::netgroup;
use crate::peer::{DnsName, Host};

/// Name of a ban list, as messages show it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListName {
    /// Path of the file.
    pub path: String,
    /// Whether `waypost ban` and `waypost unban` edit the list.
    pub is_own: bool,
}

impl fmt::Display for ListName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.path)
    }
}

/// Pattern that bans a host, and its list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ban {
    /// Pattern that matches.
    pub pattern: Pattern,
    /// List that has the pattern.
    pub list: Arc<ListName>,
}

impl fmt::Display for Ban {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} in {}", self.pattern, self.list)
    }
}

/// Patterns of all ban lists.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Bans {
    lists: Vec<Source>,
    hosts: HashMap<Host, ListIndex>,
    domains: HashMap<DnsName, ListIndex>,
    nets: HashMap<IpNet, ListIndex>,
    /// Lengths of the prefixes in `nets`: a look-up costs one step for each.
    v4_lens: BTreeSet<u8>,
    v6_lens: BTreeSet<u8>,
}

/// List from which patterns come.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Source {
    name: Arc<ListName>,
    format: ListFormat,
}

/// Index into [`Bans::lists`].
type ListIndex = usize;

impl Bans {
    /// Combines lists. Of equal patterns, that of the first list counts.
    pub fn new<'a>(lists: impl IntoIterator<Item = (Arc<ListName>, &'a BanList)>) -> Bans {
        let mut bans = Bans::default();
        for (name, list) in lists {
            bans.lists.push(Source { name, format: list.format });
            for pattern in &list.patterns {
                bans.add(pattern.clone(), bans.lists.len() - 1);
            }
        }
        bans
    }

    /// Parses one list, named `bans`, as the operator's own.
    pub fn parse(text: &str) -> Result<Bans, BanError> {
        let name = Arc::new(ListName { path: "bans".to_owned(), is_own: true });
        Ok(Bans::new([(name, &BanList::parse(text.as_bytes())?)]))
    }

    /// Returns the number of different patterns.
    pub fn len(&self) -> usize {
        self.hosts.len() + self.domains.len() + self.nets.len()
    }

    /// Returns whether there are no patterns.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns whether a host is banned as a peer, by name or as an address.
    pub fn bans_host(&self, host: &Host) -> bool {
        self.find_host(host).is_some()
    }

    /// Returns the ban of a host as a peer, by name or as an address.
    pub fn find_host(&self, host: &Host) -> Option<Ban> {
        if let Host::Ip(ip) = host {
            return self.find_ip(*ip);
        }
        if let Some(index) = self.hosts.get(host) {
            return self.ban(Pattern::Host(host.clone()), *index);
        }
        let Host::Dns(name) = host else { return None };
        if self.domains.is_empty() {
            return None;
        }
        let (domain, index) = name.ancestors().find_map(|domain| {
            let index = *self.domains.get(&domain)?;
            Some((domain, index))
        })?;
        self.ban(Pattern::Domain(domain), index)
    }

    /// Returns the ban of an address as that of a peer.
    pub fn find_ip(&self, ip: IpAddr) -> Option<Ban> {
        let (net, index) = self.nets_of(ip).next()?;
        self.ban(Pattern::Net(net), index)
    }

    /// Returns whether clients from an address are refused.
    ///
    /// A JSON list is about peers only, as in ElectrumX.
    pub fn bans_client(&self, ip: IpAddr) -> bool {
        self.nets_of(ip).any(|(_, index)| self.applies_to_clients(index))
    }

    /// Returns the banned ranges that contain an address, smallest first.
    fn nets_of(&self, ip: IpAddr) -> impl Iterator<Item = (IpNet, ListIndex)> {
        // A list may name a NAT64 range or the IPv4 range that it wraps.
        let forms = [ip.to_canonical(), netgroup::canonical(ip)];
        forms.into_iter().flat_map(move |ip| {
            let lens = if ip.is_ipv4() { &self.v4_lens } else { &self.v6_lens };
            lens.iter().rev().filter_map(move |len| {
                let net = IpNet::new(ip, *len).ok()?.trunc();
                Some((net, *self.nets.get(&net)?))
            })
        })
    }

    fn ban(&self, pattern: Pattern, index: ListIndex) -> Option<Ban> {
        let list = Arc::clone(&self.lists.get(index)?.name);
        Some(Ban { pattern, list })
    }

    fn applies_to_clients(&self, index: ListIndex) -> bool {
        self.lists.get(index).is_some_and(|list| list.format == ListFormat::Text)
    }

    fn add(&mut self, pattern: Pattern, index: ListIndex) {
        match pattern {
            Pattern::Host(host) => insert_first(&mut self.hosts, host, index),
            Pattern::Domain(domain) => insert_first(&mut self.domains, domain, index),
            Pattern::Net(net) => {
                let net = net.trunc();
                let lens = if net.addr().is_ipv4() { &mut self.v4_lens } else { &mut self.v6_lens };
                lens.insert(net.prefix_len());
                // A list that applies to clients too must not be hidden by one that does not.
                match self.nets.get(&net) {
                    Some(known) if self.applies_to_clients(*known) || !self.applies_to_clients(index) => {}
                    _ => drop(self.nets.insert(net, index)),
                }
            }
        }
    }
}

/// Inserts a value unless the key has one.
fn insert_first<K: Eq + Hash>(map: &mut HashMap<K, ListIndex>, key: K, index: ListIndex) {
    if let Entry::Vacant(vacant) = map.entry(key) {
        vacant.insert(index);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const FILE: &str = "# spies\nspy.example.com  # seen in June\n*.evil.example\n192.0.2.7\n198.51.100.9/24\n\n\
         2001:db8::/32\nexplorerzydxu5ecjrkwceayqybizmpjjznk5izmitf2modhcusuqlid.onion\n";

    /// Combines lists with these contents, named `0`, `1` and so on. The first is the own one.
    fn combined(lists: &[&str]) -> Bans {
        let lists: Vec<BanList> = lists.iter().map(|text| BanList::parse(text.as_bytes()).unwrap()).collect();
        let name = |index: usize| Arc::new(ListName { path: index.to_string(), is_own: index == 0 });
        Bans::new(lists.iter().enumerate().map(|(index, list)| (name(index), list)))
    }

    fn found(bans: &Bans, host: &str) -> Option<String> {
        bans.find_host(&host.parse().unwrap()).map(|ban| ban.to_string())
    }

    #[test]
    fn every_kind_of_pattern_bans() {
        let bans = Bans::parse(FILE).unwrap();
        assert_eq!(bans.len(), 6);
        let banned = |host: &str| bans.bans_host(&host.parse().unwrap());
        for host in [
            "SPY.example.com.",
            "evil.example",
            "a.b.evil.example",
            "192.0.2.7",
            "::ffff:192.0.2.7",
            "64:ff9b::192.0.2.7",
            "198.51.100.200",
            "2001:db8:1::1",
            "explorerzydxu5ecjrkwceayqybizmpjjznk5izmitf2modhcusuqlid.onion",
        ] {
            assert!(banned(host), "{host}");
        }
        for host in ["example.com", "a.spy.example.com", "notevil.example", "192.0.2.8", "2001:db9::1"] {
            assert!(!banned(host), "{host}");
        }
    }

    #[test]
    fn ban_names_its_list_and_pattern() {
        let bans =
            combined(&["a.example\n10.0.0.0/8\n", "[\"a.example\", \"*.spy.example\"]", "b.example\n10.1.0.0/16\n"]);
        assert_eq!(found(&bans, "a.example").unwrap(), "a.example in 0", "the first list counts");
        assert_eq!(found(&bans, "x.y.spy.example").unwrap(), "*.spy.example in 1");
        assert_eq!(found(&bans, "b.example").unwrap(), "b.example in 2");
        assert_eq!(found(&bans, "10.1.2.3").unwrap(), "10.1.0.0/16 in 2", "the smallest range counts");
        assert_eq!(found(&bans, "10.2.2.3").unwrap(), "10.0.0.0/8 in 0");
        assert_eq!(found(&bans, "c.example"), None);
    }

    #[test]
    fn json_list_bans_peers_and_no_clients() {
        let (json, text, ip) = ("[\"192.0.2.7\"]", "192.0.2.7\n", "192.0.2.7".parse().unwrap());
        let bans = combined(&["", json]);
        assert!(bans.find_ip(ip).is_some() && !bans.bans_client(ip));
        for lists in [["", json, text], ["", text, json]] {
            assert!(combined(&lists).bans_client(ip), "{lists:?}");
        }
        assert!(combined(&["192.0.2.0/24", json]).bans_client(ip), "a wider range of a text list counts");
    }

    proptest! {
        #[test]
        fn look_up_equals_search_of_all_ranges(
            nets in prop::collection::vec((any::<IpAddr>(), 0_u8..=128), 0..20),
            ips in prop::collection::vec(any::<IpAddr>(), 1..10),
            picked in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..10),
        ) {
            let nets: Vec<IpNet> = nets.into_iter().filter_map(|(ip, len)| IpNet::new(ip, len).ok()).collect();
            let list = BanList { patterns: nets.iter().copied().map(Pattern::Net).collect(), ..BanList::default() };
            let name = Arc::new(ListName { path: "x".to_owned(), is_own: true });
            let bans = Bans::new([(name, &list)]);
            // Random addresses are in few ranges, so addresses of the ranges are tried too.
            let inside = picked.iter().filter(|_| !nets.is_empty()).filter_map(|(index, step)| {
                index.get(&nets).hosts().nth(usize::from(*step))
            });
            for ip in ips.iter().copied().chain(inside) {
                let forms = [ip.to_canonical(), netgroup::canonical(ip)];
                let expected = nets.iter().any(|net| forms.iter().any(|ip| net.contains(ip)));
                prop_assert_eq!(bans.find_ip(ip).is_some(), expected, "{} {:?}", ip, nets);
                prop_assert_eq!(bans.bans_client(ip), expected);
            }
        }
    }
}
