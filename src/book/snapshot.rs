//! Snapshot of the advertised peers, which sessions read without locking the book.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use rand::seq::IndexedRandom;
use rand::{Rng, RngExt};

use super::entry::{Entry, PeerState};
use super::ingress::{Ingress, PerIngress};
use super::self_announcement::VerifiedSelfEntry;
use super::side::Side;
use super::upstream_candidates::UpstreamCandidate;
use crate::clock::Time;
use crate::jsonrpc::SharedBuf;
use crate::netgroup::{self, Netgroup};
use crate::peer::Host;
use crate::tor_state::TorState;

/// Maximum peers per network group (an IPv4 /16 or an IPv6 /56) in a list.
///
/// It prevents filling a list from one rented address block.
const MAX_PER_NETGROUP: usize = 2;

/// Maximum onion peers for a clearnet client, unless a quarter of the list is more.
///
/// Onion names cost nothing, so they are limited.
const MAX_ONIONS_CLEARNET: usize = 10;

/// Maximum onion peers for a client of the onion service.
const MAX_ONIONS_ONION: usize = 50;

/// Maximum entries of a list: about 110 KB, while Fulcrum reads 256 KiB.
const MAX_LIST_ENTRIES: usize = 1000;

/// How many times more often a long-standing peer precedes a newcomer than the reverse.
const LONG_STANDING_WEIGHT: f64 = 4.0;

/// Prepared peer lists for clients, created when the book changes.
#[derive(Debug, Default)]
pub struct Snapshot {
    /// State of Tor.
    pub tor: TorState,
    /// Peers that may serve clients' sessions, best first. Empty unless peers are the backend.
    pub upstream_candidates: Vec<UpstreamCandidate>,
    /// Whether Waypost recently reached its own clearnet name.
    pub clearnet_reached: bool,
    rules: ListRules,
    /// Lists of the ingresses are shuffled independently, so that they can't be correlated.
    views: PerIngress<IngressView>,
    /// Every onion peer that isn't bad, with its weight in a random sample.
    fallback_candidates: Vec<(EncodedEntry, u32)>,
}

/// Rules for composing lists.
#[derive(Debug, Clone, Copy, Default)]
pub struct ListRules {
    /// Maximum age of a verification.
    pub max_age: Duration,
    /// Number of onion peers advertised while Tor is unavailable.
    pub fallback_onions: usize,
}

/// Verified peers in random order.
#[derive(Debug, Default)]
struct IngressView {
    /// Clearnet peers, limited by network group.
    clearnet: Vec<EncodedEntry>,
    onions: Vec<EncodedEntry>,
    /// List that is served while all its entries are fresh.
    cached: CachedList,
}

/// List as a JSON array.
#[derive(Debug)]
struct CachedList {
    /// Complete list; without fallback onion peers, which are sampled for each client.
    list: Bytes,
    /// Earliest time at which an entry becomes too old; `None` for an empty list.
    fresh_until: Option<Time>,
}

impl Default for CachedList {
    fn default() -> CachedList {
        CachedList { list: Bytes::from_static(EMPTY), fresh_until: None }
    }
}

const EMPTY: &[u8] = b"[]";

/// List entry as JSON.
#[derive(Debug, Clone)]
struct EncodedEntry {
    json: Bytes,
    /// Time until which the entry may be advertised.
    fresh_until: Time,
}

impl Snapshot {
    /// Creates a snapshot of these entries and own names.
    pub fn new<'a>(
        side: Side,
        entries: impl Iterator<Item = &'a Entry>,
        own: &[&VerifiedSelfEntry],
        tor: TorState,
        rules: ListRules,
        now: Time,
        rng: &mut impl Rng,
    ) -> Snapshot {
        let mut fallback_candidates = Vec::new();
        let mut verified = Vec::new();
        for entry in entries {
            let state = entry.state(now, rules.max_age);
            let is_advertised = match state {
                PeerState::Bad => false,
                PeerState::Verified => true,
                _ => entry.host.is_onion(),
            };
            if !is_advertised {
                continue;
            }
            let fresh_until = entry.last_success.map_or(now, |success| success + rules.max_age);
            let json = serde_json::to_vec(&entry.listed()).unwrap_or_default().into();
            let encoded = EncodedEntry { json, fresh_until };
            let is_known = entry.last_try.is_some() || entry.next_probe_at <= now;
            if entry.host.is_onion() && is_known {
                fallback_candidates.push((encoded.clone(), fallback_weight(entry, now)));
            }
            if state == PeerState::Verified {
                verified.push((entry, encoded));
            }
        }
        // A fixed order before the shuffle makes the result depend on the random generator alone.
        verified.sort_unstable_by(|a, b| a.0.host.cmp(&b.0.host));
        fallback_candidates.sort_unstable_by(|a, b| a.0.json.cmp(&b.0.json));
        let mut views = PerIngress::default();
        for ingress in Ingress::ALL.into_iter().filter(|ingress| side.serves(*ingress)) {
            views[ingress] = IngressView::new(&verified, now, rng);
        }
        // Clients of each own name find only that name in their list.
        for own in own {
            let json = serde_json::to_vec(&own.listed).unwrap_or_default().into();
            let encoded = EncodedEntry { json, fresh_until: own.reached + rules.max_age };
            match &own.listed.name.host {
                Host::Onion(_) => views.onion.onions.insert(0, encoded),
                Host::Dns(_) | Host::Ip(_) => views.clearnet.clearnet.insert(0, encoded),
            }
        }
        let clearnet_reached = own.iter().any(|own| !own.listed.name.host.is_onion());
        let upstream_candidates = Vec::new();
        let mut snapshot = Snapshot { tor, upstream_candidates, clearnet_reached, rules, views, fallback_candidates };
        for ingress in Ingress::ALL {
            snapshot.views[ingress].cached = snapshot.build_list(ingress, now);
        }
        snapshot
    }

    /// Returns the result of `server.peers.subscribe` as JSON.
    ///
    /// Onion names come last for clearnet clients, as Fulcrum stops reading at the first new one.
    pub fn peers(&self, ingress: Ingress, now: Time, rng: &mut impl Rng) -> SharedBuf {
        let cached = &self.views[ingress].cached;
        let list = if cached.fresh_until.is_none_or(|until| until >= now) {
            cached.list.clone()
        } else {
            self.build_list(ingress, now).list
        };
        if self.tor.is_ready() {
            return list.into();
        }
        let fallback = encode_list(self.sample_fallback(rng).into_iter());
        match ingress {
            Ingress::Clearnet => concatenate(list, fallback),
            Ingress::Onion => concatenate(fallback, list),
        }
    }

    /// Returns when an advertised entry becomes too old; `None` if there are no entries.
    pub fn stale_after(&self) -> Option<Time> {
        Ingress::ALL.into_iter().filter_map(|ingress| self.views[ingress].cached.fresh_until).min()
    }

    /// Builds the list for an ingress at this time.
    fn build_list(&self, ingress: Ingress, now: Time) -> CachedList {
        let is_fresh = |entry: &&EncodedEntry| entry.fresh_until >= now;
        let view = &self.views[ingress];
        let mut clearnet: Vec<&EncodedEntry> = view.clearnet.iter().filter(is_fresh).collect();
        let mut onions = Vec::new();
        let mut max_clearnet = MAX_LIST_ENTRIES.saturating_sub(self.rules.fallback_onions);
        if self.tor.is_ready() {
            let max_onions = match ingress {
                // A quarter of the whole list is a third of its other part.
                Ingress::Clearnet => MAX_ONIONS_CLEARNET.max(clearnet.len() / 3).min(MAX_LIST_ENTRIES / 4),
                Ingress::Onion => MAX_ONIONS_ONION,
            };
            onions = view.onions.iter().filter(is_fresh).take(max_onions).collect();
            max_clearnet = MAX_LIST_ENTRIES - onions.len();
        }
        clearnet.truncate(max_clearnet);
        let (first, second) = match ingress {
            Ingress::Clearnet => (clearnet, onions),
            Ingress::Onion => (onions, clearnet),
        };
        let entries = || first.iter().chain(&second).copied();
        CachedList { list: encode_list(entries()), fresh_until: entries().map(|entry| entry.fresh_until).min() }
    }

    /// Samples onion peers to advertise while Tor can't verify them.
    fn sample_fallback(&self, rng: &mut impl Rng) -> Vec<&EncodedEntry> {
        let count = self.rules.fallback_onions;
        let sample = self.fallback_candidates.sample_weighted(rng, count, |(_, weight)| f64::from(*weight));
        sample.map(|sample| sample.map(|(entry, _)| entry).collect()).unwrap_or_default()
    }
}

impl IngressView {
    fn new(verified: &[(&Entry, EncodedEntry)], now: Time, rng: &mut impl Rng) -> IngressView {
        let mut view = IngressView::default();
        let mut per_netgroup: HashMap<Netgroup, usize> = HashMap::new();
        for (entry, encoded) in weighted_shuffle(verified, now, rng) {
            if entry.host.is_onion() {
                view.onions.push(encoded.clone());
                continue;
            }
            // Private addresses are peers only in the operator's own network, which may be a single subnet.
            let public = entry.ip.filter(|ip| netgroup::is_public(*ip));
            let in_group = public.map(|ip| per_netgroup.entry(Netgroup::diversity_group(ip)).or_default());
            if in_group.is_none_or(|count| {
                *count += 1;
                *count <= MAX_PER_NETGROUP
            }) {
                view.clearnet.push(encoded.clone());
            }
        }
        view
    }
}

/// Shuffles peers, preferring long-standing ones.
///
/// Each peer gets a random delay, shorter on average for long-standing peers. Newcomers still get a share.
fn weighted_shuffle<'a>(
    verified: &'a [(&Entry, EncodedEntry)],
    now: Time,
    rng: &mut impl Rng,
) -> impl Iterator<Item = &'a (&'a Entry, EncodedEntry)> {
    let mean = |entry: &Entry| if entry.is_long_standing(now) { 1.0 / LONG_STANDING_WEIGHT } else { 1.0 };
    let mut peers: Vec<_> = verified.iter().map(|peer| (-rng.random::<f64>().ln() * mean(peer.0), peer)).collect();
    peers.sort_by(|a, b| a.0.total_cmp(&b.0));
    peers.into_iter().map(|(_, peer)| peer)
}

/// Returns the weight of an onion peer in the fallback sample: recently verified peers are more likely to answer.
fn fallback_weight(entry: &Entry, now: Time) -> u32 {
    match entry.last_success.map(|success| now.since(success)) {
        None => 1,
        Some(age) if age <= Duration::from_hours(24) => 16,
        Some(age) if age <= Duration::from_hours(24 * 7) => 8,
        Some(_) => 4,
    }
}

fn encode_list<'a>(entries: impl Iterator<Item = &'a EncodedEntry>) -> Bytes {
    let mut list = vec![b'['];
    for entry in entries {
        if list.len() > 1 {
            list.push(b',');
        }
        list.extend_from_slice(&entry.json);
    }
    list.push(b']');
    list.into()
}

/// Joins two lists without copying them.
fn concatenate(first: Bytes, second: Bytes) -> SharedBuf {
    match (&*first, &*second) {
        (_, EMPTY) => return first.into(),
        (EMPTY, _) => return second.into(),
        _ => {}
    }
    let mut all = SharedBuf::from(first.slice(..first.len() - 1));
    all.push(&b","[..]);
    all.push(second.slice(1..));
    all
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::super::source::Source;
    use super::*;
    use crate::network::Network;
    use crate::peer::{Host, OnionAddress, PeerList, RealName};

    const NOW: Time = Time::from_secs(1_700_000_000);
    const RULES: ListRules = ListRules { max_age: Duration::from_hours(24), fallback_onions: 3 };

    fn entry(host: Host, ip: Option<&str>, success: Option<Duration>) -> Entry {
        let name = RealName { host, version: None, pruning: None, ports: Network::Bitcoin.default_ports() };
        let mut entry = Entry::new(name, Source::Seed, Duration::ZERO, NOW);
        entry.ip = ip.map(|ip| ip.parse().unwrap());
        entry.last_success = success.map(|ago| NOW - ago);
        entry
    }

    fn onion(n: u16, success: Option<Duration>) -> Entry {
        let key = n.to_be_bytes().repeat(16).try_into().unwrap();
        entry(Host::Onion(OnionAddress::from_public_key(key)), None, success)
    }

    fn clear(n: u32, ip: &str) -> Entry {
        entry(format!("h{n}.example").parse().unwrap(), Some(ip), Some(Duration::from_hours(1)))
    }

    fn text(list: &SharedBuf) -> String {
        String::from_utf8(list.to_vec()).unwrap()
    }

    fn listed(entries: &[Entry], tor: TorState, ingress: Ingress, now: Time) -> Vec<Host> {
        let mut rng = StdRng::seed_from_u64(3);
        let snapshot = Snapshot::new(Side::Both, entries.iter(), &[], tor, RULES, NOW, &mut rng);
        let listing =
            PeerList::parse(&text(&snapshot.peers(ingress, now, &mut rng)), Network::Bitcoin.default_ports()).unwrap();
        listing.0.into_iter().map(|listed| listed.name.host).collect()
    }

    #[test]
    fn list_has_two_peers_per_network_group() {
        let mut entries: Vec<Entry> = (0..9).map(|n| clear(n, &format!("5.9.{n}.1"))).collect();
        entries.push(clear(9, "88.99.0.1"));
        entries.push(clear(10, "2a01:4f8:0:1::1"));
        entries.push(clear(11, "2a01:4f8:0:2::1"));
        entries.push(clear(12, "2a01:4f8:0:3::1"));
        assert_eq!(listed(&entries, TorState::Ready, Ingress::Clearnet, NOW).len(), 2 + 1 + 2);
    }

    #[test]
    fn lists_of_both_ingresses_are_shuffled_independently() {
        let entries: Vec<Entry> = (0..40).map(|n| clear(n, &format!("5.9.{n}.1"))).collect();
        let drawn = |ingress| listed(&entries, TorState::Ready, ingress, NOW);
        assert_eq!((drawn(Ingress::Clearnet).len(), drawn(Ingress::Onion).len()), (2, 2));
        assert_ne!(drawn(Ingress::Clearnet), drawn(Ingress::Onion));
    }

    #[test]
    fn peers_older_than_max_age_are_not_advertised() {
        let entries = [
            clear(1, "5.9.0.1"),
            entry("h2.example".parse().unwrap(), Some("88.99.0.1"), Some(Duration::from_hours(25))),
        ];
        assert_eq!(listed(&entries, TorState::Ready, Ingress::Clearnet, NOW).len(), 1);
        // An old snapshot does not advertise peers that became too old since.
        assert_eq!(listed(&entries, TorState::Ready, Ingress::Clearnet, NOW + Duration::from_hours(23)).len(), 1);
        assert!(listed(&entries, TorState::Ready, Ingress::Clearnet, NOW + RULES.max_age).is_empty());
    }

    #[test]
    fn onions_are_limited_and_last_for_clearnet_clients() {
        let mut entries: Vec<Entry> = (0..80).map(|n| onion(n, Some(Duration::from_hours(1)))).collect();
        entries.extend((0..60).map(|n| clear(n, &format!("{}.9.0.1", n + 20))));
        let list = listed(&entries, TorState::Ready, Ingress::Clearnet, NOW);
        assert_eq!((list.len(), list.iter().position(Host::is_onion)), (80, Some(60)));
        let list = listed(&entries, TorState::Ready, Ingress::Onion, NOW);
        assert_eq!((list.len(), list.iter().take_while(|host| host.is_onion()).count()), (110, 50));
        let list = listed(&entries[..83], TorState::Ready, Ingress::Clearnet, NOW);
        assert_eq!(list.len(), 3 + MAX_ONIONS_CLEARNET);
    }

    #[test]
    fn onions_are_a_quarter_of_a_full_list() {
        let recent = Some(Duration::from_hours(1));
        let mut entries: Vec<Entry> = (0..400).map(|n| onion(n, recent)).collect();
        entries.extend((0..2000).map(|n| clear(n, &format!("{}.{}.0.1", 11 + n / 200, n % 200))));
        let list = listed(&entries, TorState::Ready, Ingress::Clearnet, NOW);
        assert_eq!(
            (list.len(), list.iter().position(Host::is_onion)),
            (MAX_LIST_ENTRIES, Some(MAX_LIST_ENTRIES / 4 * 3))
        );
    }

    #[test]
    fn fallback_samples_three_of_all_onions_without_tor() {
        let mut entries: Vec<Entry> = (0..20).map(|n| onion(n, None)).collect();
        entries[0].last_success = Some(NOW - Duration::from_hours(100));
        entries[1].violation = Some(crate::connect::ProbeError::Closed);
        let bad = entries[1].host.clone();
        let down = TorState::Down { since: NOW, reason: String::new() };
        let mut rng = StdRng::seed_from_u64(3);
        for tor in [TorState::Off, TorState::Starting { percent: None, waiting_for: String::new() }, down] {
            let snapshot = Snapshot::new(Side::Both, entries.iter(), &[], tor, RULES, NOW, &mut rng);
            let mut seen = HashSet::new();
            for _ in 0..200 {
                let list = text(&snapshot.peers(Ingress::Clearnet, NOW, &mut rng));
                let hosts = PeerList::parse(&list, Network::Bitcoin.default_ports()).unwrap().0;
                assert_eq!(hosts.len(), 3);
                seen.extend(hosts.into_iter().map(|listed| listed.name.host));
            }
            assert_eq!(seen.len(), 19);
            assert!(!seen.contains(&bad));
        }
    }

    #[test]
    fn recently_verified_onion_is_sampled_more_often() {
        let mut entries: Vec<Entry> = (0..30).map(|n| onion(n, None)).collect();
        entries[7].last_success = Some(NOW - Duration::from_hours(2));
        let good = entries[7].host.to_string();
        let mut rng = StdRng::seed_from_u64(3);
        let snapshot = Snapshot::new(Side::Both, entries.iter(), &[], TorState::Off, RULES, NOW, &mut rng);
        let drawn = (0..1000)
            .map(|_| text(&snapshot.peers(Ingress::Clearnet, NOW, &mut rng)))
            .filter(|list| list.contains(&good))
            .count();
        // Equal weights would give 100.
        assert!(drawn > 500, "{drawn}");
    }
}
