//! Snapshot of the advertised peers, which sessions read without locking the book.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rand::Rng;

use super::entry::PeerState;
use super::fallback::FallbackClasses;
use super::ingress::{Ingress, PerIngress};
use super::listable::Listable;
use super::selection::{MAX_LIST_ENTRIES, Selection, VerifiedPeers};
use super::self_announcement::VerifiedSelfEntry;
use super::side::Side;
use super::upstream_candidates::UpstreamCandidate;
use crate::as_map::AsMap;
use crate::clock::Time;
use crate::jsonrpc::SharedBuf;
use crate::peer::Host;
use crate::tor_state::TorState;

/// Prepared peer lists for clients, created when the book changes.
#[derive(Debug, Default)]
pub struct Snapshot {
    /// State of Tor.
    pub tor: TorState,
    /// Peers that may serve clients' sessions, best first. Empty unless peers are the backend.
    pub upstream_candidates: Vec<UpstreamCandidate>,
    /// Own names that Waypost recently reached.
    pub reached_names: Vec<Host>,
    rules: ListRules,
    /// Lists of the ingresses are shuffled independently, so that they can't be correlated.
    views: PerIngress<IngressView>,
    /// Every onion peer that isn't bad.
    fallback: FallbackClasses<EncodedEntry>,
}

/// Rules for composing lists.
#[derive(Debug, Clone, Default)]
pub(super) struct ListRules {
    /// Map of autonomous systems. `None`: each IPv4 /16 or IPv6 /32 counts as one.
    pub as_map: Option<Arc<AsMap>>,
    /// Maximum age of a verification.
    pub max_age: Duration,
    /// Number of onion peers advertised while Tor is unavailable.
    pub fallback_onions: usize,
}

/// Peers of one ingress, in random order.
#[derive(Debug, Default)]
struct IngressView {
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
    /// Whether the entry is a name of this node.
    is_own: bool,
}

impl Snapshot {
    /// Creates a snapshot of these peers and own names.
    ///
    /// Equal peers in equal order and equal randomness give equal snapshots.
    pub(super) fn new<'a>(
        side: Side,
        peers: impl Iterator<Item = Listable<'a>>,
        own: &[&VerifiedSelfEntry],
        tor: TorState,
        rules: ListRules,
        now: Time,
        rng: &mut impl Rng,
    ) -> Snapshot {
        let mut fallback: FallbackClasses<Listable<'_>> = FallbackClasses::default();
        let mut verified = VerifiedPeers::default();
        for peer in peers {
            let state = peer.facts.state(now, rules.max_age);
            if peer.facts.is_onion && peer.facts.is_known(now) && state != PeerState::Bad {
                fallback.add(peer, peer, now);
            }
            if state == PeerState::Verified {
                verified.add(peer, now);
            }
        }
        let fallback = fallback.map_some(|peer| EncodedEntry::new(peer, &rules, now), rng);
        let mut views = PerIngress::default();
        for ingress in Ingress::ALL.into_iter().filter(|ingress| side.serves(*ingress)) {
            let Selection { clearnet, onions } = Selection::new(&verified, ingress, rules.as_map.as_deref(), now, rng);
            let encoded =
                |peers: Vec<Listable<'_>>| peers.iter().map(|peer| EncodedEntry::new(*peer, &rules, now)).collect();
            views[ingress] =
                IngressView { clearnet: encoded(clearnet), onions: encoded(onions), cached: CachedList::default() };
        }
        // Clients of each own name find only that name in their list.
        for own in own {
            let json = serde_json::to_vec(&own.listed).unwrap_or_default().into();
            let encoded = EncodedEntry { json, fresh_until: own.reached + rules.max_age, is_own: true };
            match &own.listed.name.host {
                Host::Onion(_) => views.onion.onions.insert(0, encoded),
                Host::Dns(_) | Host::Ip(_) => views.clearnet.clearnet.insert(0, encoded),
            }
        }
        let reached_names = own.iter().map(|own| own.listed.name.host.clone()).collect();
        let upstream_candidates = Vec::new();
        let mut snapshot = Snapshot { tor, upstream_candidates, reached_names, rules, views, fallback };
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
        let fallback = encode_list(self.fallback.sample(self.rules.fallback_onions, rng).into_iter());
        match ingress {
            Ingress::Clearnet => concatenate(list, fallback),
            Ingress::Onion => concatenate(fallback, list),
        }
    }

    /// Returns when an advertised entry becomes too old; `None` if there are no entries.
    pub fn stale_after(&self) -> Option<Time> {
        Ingress::ALL.into_iter().filter_map(|ingress| self.views[ingress].cached.fresh_until).min()
    }

    /// Returns the verified peers in the list for an ingress as JSON, without own names and fallback onion peers.
    ///
    /// The result says less than [`Snapshot::peers`], so it may be published.
    pub fn verified_peers(&self, ingress: Ingress, now: Time) -> Bytes {
        encode_list(self.fresh_entries(ingress, now).into_iter().filter(|entry| !entry.is_own))
    }

    /// Builds the list for an ingress at this time.
    fn build_list(&self, ingress: Ingress, now: Time) -> CachedList {
        let entries = self.fresh_entries(ingress, now);
        let fresh_until = entries.iter().map(|entry| entry.fresh_until).min();
        CachedList { list: encode_list(entries.into_iter()), fresh_until }
    }

    /// Returns the entries of the list for an ingress at this time, in its order.
    fn fresh_entries(&self, ingress: Ingress, now: Time) -> Vec<&EncodedEntry> {
        let is_fresh = |entry: &&EncodedEntry| entry.fresh_until >= now;
        let view = &self.views[ingress];
        let mut clearnet: Vec<&EncodedEntry> = view.clearnet.iter().filter(is_fresh).collect();
        let mut onions = Vec::new();
        let mut max_clearnet = MAX_LIST_ENTRIES.saturating_sub(self.rules.fallback_onions);
        if self.tor.is_ready() {
            onions = view.onions.iter().filter(is_fresh).collect();
            max_clearnet = MAX_LIST_ENTRIES - onions.len();
        }
        clearnet.truncate(max_clearnet);
        let (first, second) = match ingress {
            Ingress::Clearnet => (clearnet, onions),
            Ingress::Onion => (onions, clearnet),
        };
        first.into_iter().chain(second).collect()
    }
}

impl EncodedEntry {
    fn new(peer: Listable<'_>, rules: &ListRules, now: Time) -> EncodedEntry {
        EncodedEntry {
            json: peer.json(),
            fresh_until: peer.facts.last_success.map_or(now, |success| success + rules.max_age),
            is_own: false,
        }
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

    use super::super::entry::Entry;
    use super::super::listable::ListFacts;
    use super::super::source::Source;
    use super::super::tests::{START, clearnet_entry, onion_entry};
    use super::*;
    use crate::chain::Chain;
    use crate::peer::{Host, PeerList};

    const NOW: Time = START;

    fn rules() -> ListRules {
        ListRules { as_map: None, max_age: Duration::from_hours(24), fallback_onions: 3 }
    }

    fn onion(n: u16, success: Option<Duration>) -> Entry {
        Entry { last_success: success.map(|ago| NOW - ago), ..onion_entry(n) }
    }

    fn clear(n: u32, ip: &str) -> Entry {
        Entry { source: Source::Seed, ..clearnet_entry(&format!("h{n}.example"), ip) }
    }

    fn text(list: &SharedBuf) -> String {
        String::from_utf8(list.to_vec()).unwrap()
    }

    fn snapshot(entries: &[Entry], own: &[&VerifiedSelfEntry], tor: TorState, rng: &mut StdRng) -> Snapshot {
        let facts: Vec<ListFacts> = entries.iter().map(ListFacts::of).collect();
        let peers = entries.iter().zip(&facts).map(|(entry, facts)| Listable { entry, facts });
        Snapshot::new(Side::Both, peers, own, tor, rules(), NOW, rng)
    }

    fn listed(entries: &[Entry], tor: TorState, ingress: Ingress, now: Time) -> Vec<Host> {
        let mut rng = StdRng::seed_from_u64(3);
        let snapshot = snapshot(entries, &[], tor, &mut rng);
        let listing =
            PeerList::parse(&text(&snapshot.peers(ingress, now, &mut rng)), Chain::BITCOIN.default_ports).unwrap();
        listing.0.into_iter().map(|listed| listed.name.host).collect()
    }

    #[test]
    fn lists_of_both_ingresses_are_shuffled_independently() {
        let entries: Vec<Entry> = (0..40).map(|n| clear(n, &format!("5.{n}.0.1"))).collect();
        let drawn = |ingress| listed(&entries, TorState::Ready, ingress, NOW);
        assert_eq!((drawn(Ingress::Clearnet).len(), drawn(Ingress::Onion).len()), (40, 40));
        assert_ne!(drawn(Ingress::Clearnet), drawn(Ingress::Onion));
    }

    #[test]
    fn peers_older_than_max_age_are_not_advertised() {
        let hours = |hours| NOW - Duration::from_hours(hours);
        let entries = [
            Entry { last_success: Some(hours(1)), ..clear(1, "5.9.0.1") },
            Entry { last_success: Some(hours(25)), ..clear(2, "88.99.0.1") },
        ];
        assert_eq!(listed(&entries, TorState::Ready, Ingress::Clearnet, NOW).len(), 1);
        // An old snapshot does not advertise peers that became too old since.
        assert_eq!(listed(&entries, TorState::Ready, Ingress::Clearnet, NOW + Duration::from_hours(23)).len(), 1);
        assert!(listed(&entries, TorState::Ready, Ingress::Clearnet, NOW + rules().max_age).is_empty());
    }

    #[test]
    fn onions_are_limited_and_last_for_clearnet_clients() {
        let recent = Some(Duration::from_hours(1));
        let mut entries: Vec<Entry> = (0..80).map(|n| Entry { source: Source::Seed, ..onion(n, recent) }).collect();
        entries.extend((0..60).map(|n| clear(n, &format!("{}.9.0.1", n + 20))));
        let list = listed(&entries, TorState::Ready, Ingress::Clearnet, NOW);
        assert_eq!((list.len(), list.iter().position(Host::is_onion)), (80, Some(60)));
        let list = listed(&entries, TorState::Ready, Ingress::Onion, NOW);
        assert_eq!((list.len(), list.iter().take_while(|host| host.is_onion()).count()), (110, 50));
        let list = listed(&entries[..83], TorState::Ready, Ingress::Clearnet, NOW);
        assert_eq!(list.len(), 3 + 10);
    }

    #[test]
    fn onions_are_a_quarter_of_a_full_list() {
        let recent = Some(Duration::from_hours(1));
        let mut entries: Vec<Entry> = (0..400).map(|n| Entry { source: Source::Seed, ..onion(n, recent) }).collect();
        entries.extend((0..2000).map(|n| clear(n, &format!("{}.{}.0.1", 11 + n / 200, n % 200))));
        let list = listed(&entries, TorState::Ready, Ingress::Clearnet, NOW);
        assert_eq!(
            (list.len(), list.iter().position(Host::is_onion)),
            (MAX_LIST_ENTRIES, Some(MAX_LIST_ENTRIES / 4 * 3))
        );
    }

    #[test]
    fn verified_peers_have_neither_own_names_nor_fallback_onions() {
        let entries: Vec<Entry> =
            (0..4).map(|n| clear(n, &format!("5.{n}.0.1"))).chain((0..9).map(|n| onion(n, None))).collect();
        let own = VerifiedSelfEntry { listed: clear(7, "5.7.0.1").listed(), reached: NOW, announced_from: NOW };
        let mut rng = StdRng::seed_from_u64(3);
        let snapshot = snapshot(&entries, &[&own], TorState::Off, &mut rng);
        let hosts = |list: &[u8]| -> HashSet<Host> {
            let list = PeerList::parse(std::str::from_utf8(list).unwrap(), Chain::BITCOIN.default_ports).unwrap();
            list.0.into_iter().map(|listed| listed.name.host).collect()
        };
        let listed = hosts(&snapshot.peers(Ingress::Clearnet, NOW, &mut rng).to_vec());
        assert_eq!((listed.len(), listed.contains(&own.listed.name.host)), (4 + 1 + 3, true));
        let verified = hosts(&snapshot.verified_peers(Ingress::Clearnet, NOW));
        assert_eq!(verified, entries[..4].iter().map(|entry| entry.host.clone()).collect());
        assert!(snapshot.verified_peers(Ingress::Clearnet, NOW + rules().max_age * 2).starts_with(b"[]"));
    }

    #[test]
    fn list_without_tor_has_three_onions_with_a_version() {
        let mut entries: Vec<Entry> = (0..20).map(|n| onion(n, None)).collect();
        entries[1].violation = Some(crate::connect::ProbeError::Closed);
        let bad = entries[1].host.clone();
        let down = TorState::Down { since: NOW, reason: String::new() };
        let mut rng = StdRng::seed_from_u64(3);
        for tor in [TorState::Off, TorState::Starting { percent: None, waiting_for: String::new() }, down] {
            let snapshot = snapshot(&entries, &[], tor, &mut rng);
            let mut seen = HashSet::new();
            for _ in 0..200 {
                let list = text(&snapshot.peers(Ingress::Clearnet, NOW, &mut rng));
                let hosts = PeerList::parse(&list, Chain::BITCOIN.default_ports).unwrap().0;
                assert_eq!(hosts.len(), 3);
                assert!(hosts.iter().all(|listed| listed.name.version.is_some()));
                seen.extend(hosts.into_iter().map(|listed| listed.name.host));
            }
            assert_eq!(seen.len(), 19);
            assert!(!seen.contains(&bad));
        }
    }
}
