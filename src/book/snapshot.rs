//! Snapshot of the advertised peers, which sessions read without locking the book.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use rand::seq::IndexedRandom;
use rand::{Rng, RngExt};
use serde::{Deserialize, Serialize};

use super::entry::{Entry, PeerState};
use super::self_announcement::VerifiedSelfEntry;
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
/// Onion names cost nothing, so they are limited. Clients of the onion service get more of them.
const MAX_ONIONS_CLEARNET: usize = 10;
const ONIONS_FOR_ONION_CALLERS: usize = 50;

/// Entries in all: about 110 KB, where Fulcrum reads 256 KiB.
const MAX_LIST_ENTRIES: usize = 1000;

/// How much sooner than a newcomer a peer of long standing comes in the list.
const LONG_STANDING_WEIGHT: f64 = 4.0;

/// Ingress through which a client connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ingress {
    Clearnet,
    Onion,
}

/// Prepared peer lists for clients, created when the book changes.
#[derive(Debug, Default)]
pub struct Snapshot {
    pub tor: TorState,
    /// Peers that may serve clients' sessions, best first. Empty unless peers are the backend.
    pub upstream_candidates: Vec<UpstreamCandidate>,
    /// Whether Waypost recently reached its own clearnet name.
    pub clearnet_reached: bool,
    fallback_onions: usize,
    /// Lists of the ingresses are shuffled independently, so that they can't be correlated.
    for_clearnet: IngressView,
    for_onion: IngressView,
    /// Every onion peer that isn't bad, with its weight when a few are drawn.
    fallback_candidates: Vec<(EncodedEntry, u32)>,
}

/// Verified peers in random order.
#[derive(Debug, Default)]
struct IngressView {
    /// Clearnet peers, limited by network group.
    clearnet: Vec<EncodedEntry>,
    onions: Vec<EncodedEntry>,
    /// What is told while all of them are fresh.
    told: CachedList,
}

/// A list in JSON, brackets and all.
#[derive(Debug)]
struct CachedList {
    /// Complete list; without fallback onion peers, which are sampled for each client.
    list: Bytes,
    /// The first of them is too old after this.
    fresh_until: Option<Time>,
}

impl Default for CachedList {
    fn default() -> CachedList {
        CachedList { list: Bytes::from_static(EMPTY), fresh_until: None }
    }
}

const EMPTY: &[u8] = b"[]";

/// An entry of the list as it goes on the wire, good until that time.
#[derive(Debug, Clone)]
struct EncodedEntry {
    json: Bytes,
    fresh_until: Time,
}

impl Snapshot {
    pub fn new<'a>(
        entries: impl Iterator<Item = &'a Entry>,
        own: &[&VerifiedSelfEntry],
        tor: TorState,
        fallback_onions: usize,
        recent: Duration,
        now: Time,
        rng: &mut impl Rng,
    ) -> Snapshot {
        let mut known_onions = Vec::new();
        let mut verified = Vec::new();
        for entry in entries {
            let state = entry.state(now, recent);
            let is_advertised = match state {
                PeerState::Bad => false,
                PeerState::Verified => true,
                _ => entry.host.is_onion(),
            };
            if !is_advertised {
                continue;
            }
            let until = entry.last_success.map_or(now, |success| success + recent);
            let line = EncodedEntry {
                json: serde_json::to_vec(&entry.listed()).unwrap_or_default().into(),
                fresh_until: until,
            };
            if entry.host.is_onion() {
                known_onions.push((line.clone(), weight(entry, now)));
            }
            if state == PeerState::Verified {
                verified.push((entry, line));
            }
        }
        // In an order that is always the same, whatever the book's own: chance alone must decide.
        verified.sort_unstable_by(|a, b| a.0.host.cmp(&b.0.host));
        known_onions.sort_unstable_by(|a, b| a.0.json.cmp(&b.0.json));
        let (mut for_clearnet, mut for_onion) =
            (IngressView::new(&verified, now, rng), IngressView::new(&verified, now, rng));
        // Clients of each own name find only that name in their list.
        for own in own {
            let json = serde_json::to_vec(&own.listed).unwrap_or_default().into();
            let line = EncodedEntry { json, fresh_until: own.reached + recent };
            match &own.listed.name.host {
                Host::Onion(_) => for_onion.onions.insert(0, line),
                Host::Dns(_) | Host::Ip(_) => for_clearnet.clearnet.insert(0, line),
            }
        }
        let clearnet_reached = own.iter().any(|own| !own.listed.name.host.is_onion());
        let carriers = Vec::new();
        let mut snapshot = Snapshot {
            tor,
            upstream_candidates: carriers,
            clearnet_reached,
            fallback_onions,
            for_clearnet,
            for_onion,
            fallback_candidates: known_onions,
        };
        snapshot.for_clearnet.told = snapshot.build_list(Ingress::Clearnet, now);
        snapshot.for_onion.told = snapshot.build_list(Ingress::Onion, now);
        snapshot
    }

    /// The answer to `server.peers.subscribe`, as JSON.
    ///
    /// Onion names stand last in a clearnet client's list, as Fulcrum reads on no further than to the first new one.
    pub fn peers(&self, caller: Ingress, now: Time, rng: &mut impl Rng) -> SharedBuf {
        let prepared = &self.view(caller).told;
        let list = if prepared.fresh_until.is_none_or(|until| until >= now) {
            prepared.list.clone()
        } else {
            self.build_list(caller, now).list
        };
        if self.tor.is_ready() {
            return list.into();
        }
        let few = encode_list(self.sample_fallback(rng).into_iter());
        match caller {
            Ingress::Clearnet => concatenate(list, few),
            Ingress::Onion => concatenate(few, list),
        }
    }

    /// When this is to be rebuilt, though nothing else should have changed.
    pub fn stale_after(&self) -> Option<Time> {
        [&self.for_clearnet, &self.for_onion].into_iter().filter_map(|view| view.told.fresh_until).min()
    }

    fn view(&self, caller: Ingress) -> &IngressView {
        match caller {
            Ingress::Clearnet => &self.for_clearnet,
            Ingress::Onion => &self.for_onion,
        }
    }

    /// Builds the list for a client at this time.
    fn build_list(&self, caller: Ingress, now: Time) -> CachedList {
        let fit = |line: &&EncodedEntry| line.fresh_until >= now;
        let view = self.view(caller);
        let mut clear: Vec<&EncodedEntry> = view.clearnet.iter().filter(fit).collect();
        let (mut onions, mut longest) = (Vec::new(), MAX_LIST_ENTRIES.saturating_sub(self.fallback_onions));
        if self.tor.is_ready() {
            let most = match caller {
                // A quarter of the whole list is a third of its other part.
                Ingress::Clearnet => MAX_ONIONS_CLEARNET.max(clear.len() / 3).min(MAX_LIST_ENTRIES / 4),
                Ingress::Onion => ONIONS_FOR_ONION_CALLERS,
            };
            onions = view.onions.iter().filter(fit).take(most).collect();
            longest = MAX_LIST_ENTRIES - onions.len();
        }
        clear.truncate(longest);
        let (first, second) = match caller {
            Ingress::Clearnet => (clear, onions),
            Ingress::Onion => (onions, clear),
        };
        let lines = || first.iter().chain(&second).copied();
        CachedList { list: encode_list(lines()), fresh_until: lines().map(|line| line.fresh_until).min() }
    }

    /// Samples onion peers to advertise while Tor can't verify them.
    fn sample_fallback(&self, rng: &mut impl Rng) -> Vec<&EncodedEntry> {
        let few = self.fallback_candidates.sample_weighted(rng, self.fallback_onions, |(_, weight)| f64::from(*weight));
        few.map(|few| few.map(|(line, _)| line).collect()).unwrap_or_default()
    }
}

impl IngressView {
    fn new(verified: &[(&Entry, EncodedEntry)], now: Time, rng: &mut impl Rng) -> IngressView {
        let mut view = IngressView::default();
        let mut regions: HashMap<Netgroup, usize> = HashMap::new();
        for (entry, line) in weighted_shuffle(verified, now, rng) {
            if entry.host.is_onion() {
                view.onions.push(line.clone());
                continue;
            }
            // Private addresses are peers only in a network of the operator's own, which may be a single subnet.
            let public = entry.ip.filter(|ip| netgroup::is_public(*ip));
            let in_region = public.map(|ip| regions.entry(Netgroup::diversity_group(ip)).or_default());
            if in_region.is_none_or(|count| {
                *count += 1;
                *count <= MAX_PER_NETGROUP
            }) {
                view.clearnet.push(line.clone());
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
    let waits = |entry: &Entry| if entry.is_long_standing(now) { 1.0 / LONG_STANDING_WEIGHT } else { 1.0 };
    let mut peers: Vec<_> = verified.iter().map(|peer| (-rng.random::<f64>().ln() * waits(peer.0), peer)).collect();
    peers.sort_by(|a, b| a.0.total_cmp(&b.0));
    peers.into_iter().map(|(_, peer)| peer)
}

/// An onion peer that was verified lately is more likely to be there still.
fn weight(entry: &Entry, now: Time) -> u32 {
    match entry.last_success.map(|success| now.since(success)) {
        None => 1,
        Some(ago) if ago <= Duration::from_hours(24) => 16,
        Some(ago) if ago <= Duration::from_hours(24 * 7) => 8,
        Some(_) => 4,
    }
}

fn encode_list<'a>(lines: impl Iterator<Item = &'a EncodedEntry>) -> Bytes {
    let mut list = vec![b'['];
    for line in lines {
        if list.len() > 1 {
            list.push(b',');
        }
        list.extend_from_slice(&line.json);
    }
    list.push(b']');
    list.into()
}

/// One list of two, neither of which is copied.
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
    const RECENT: Duration = Duration::from_hours(24);

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

    fn told(entries: &[Entry], tor: TorState, caller: Ingress, now: Time) -> Vec<Host> {
        let mut rng = StdRng::seed_from_u64(3);
        let snapshot = Snapshot::new(entries.iter(), &[], tor, 3, RECENT, NOW, &mut rng);
        let listing =
            PeerList::parse(&text(&snapshot.peers(caller, now, &mut rng)), Network::Bitcoin.default_ports()).unwrap();
        listing.0.into_iter().map(|listed| listed.name.host).collect()
    }

    #[test]
    fn two_at_most_of_one_region() {
        let mut entries: Vec<Entry> = (0..9).map(|n| clear(n, &format!("5.9.{n}.1"))).collect();
        entries.push(clear(9, "88.99.0.1"));
        entries.push(clear(10, "2a01:4f8:0:1::1"));
        entries.push(clear(11, "2a01:4f8:0:2::1"));
        entries.push(clear(12, "2a01:4f8:0:3::1"));
        assert_eq!(told(&entries, TorState::Ready, Ingress::Clearnet, NOW).len(), 2 + 1 + 2);
    }

    #[test]
    fn the_lists_of_our_two_names_are_drawn_apart() {
        let entries: Vec<Entry> = (0..40).map(|n| clear(n, &format!("5.9.{n}.1"))).collect();
        let drawn = |caller| told(&entries, TorState::Ready, caller, NOW);
        assert_eq!((drawn(Ingress::Clearnet).len(), drawn(Ingress::Onion).len()), (2, 2));
        assert_ne!(drawn(Ingress::Clearnet), drawn(Ingress::Onion));
    }

    #[test]
    fn peers_older_than_max_age_are_not_advertised() {
        let entries = [
            clear(1, "5.9.0.1"),
            entry("h2.example".parse().unwrap(), Some("88.99.0.1"), Some(Duration::from_hours(25))),
        ];
        assert_eq!(told(&entries, TorState::Ready, Ingress::Clearnet, NOW).len(), 1);
        // The picture grows old, and what it tells with it.
        assert_eq!(told(&entries, TorState::Ready, Ingress::Clearnet, NOW + Duration::from_hours(23)).len(), 1);
        assert!(told(&entries, TorState::Ready, Ingress::Clearnet, NOW + RECENT).is_empty());
    }

    #[test]
    fn onions_are_few_and_last_for_clearnet_callers() {
        let mut entries: Vec<Entry> = (0..80).map(|n| onion(n, Some(Duration::from_hours(1)))).collect();
        entries.extend((0..60).map(|n| clear(n, &format!("{}.9.0.1", n + 20))));
        let list = told(&entries, TorState::Ready, Ingress::Clearnet, NOW);
        assert_eq!((list.len(), list.iter().position(Host::is_onion)), (80, Some(60)));
        let list = told(&entries, TorState::Ready, Ingress::Onion, NOW);
        assert_eq!((list.len(), list.iter().take_while(|host| host.is_onion()).count()), (110, 50));
        let list = told(&entries[..83], TorState::Ready, Ingress::Clearnet, NOW);
        assert_eq!(list.len(), 3 + MAX_ONIONS_CLEARNET);
    }

    #[test]
    fn onions_are_a_quarter_of_the_longest_list_as_well() {
        let recent = Some(Duration::from_hours(1));
        let mut entries: Vec<Entry> = (0..400).map(|n| onion(n, recent)).collect();
        entries.extend((0..2000).map(|n| clear(n, &format!("{}.{}.0.1", 11 + n / 200, n % 200))));
        let list = told(&entries, TorState::Ready, Ingress::Clearnet, NOW);
        assert_eq!(
            (list.len(), list.iter().position(Host::is_onion)),
            (MAX_LIST_ENTRIES, Some(MAX_LIST_ENTRIES / 4 * 3))
        );
    }

    #[test]
    fn without_tor_three_at_random_of_all_known() {
        let mut entries: Vec<Entry> = (0..20).map(|n| onion(n, None)).collect();
        entries[0].last_success = Some(NOW - Duration::from_hours(100));
        entries[1].violation = Some(crate::connect::ProbeError::Closed);
        let bad = entries[1].host.clone();
        let down = TorState::Down { since: NOW, reason: String::new() };
        let mut rng = StdRng::seed_from_u64(3);
        for tor in [TorState::Off, TorState::Starting { percent: None, waiting_for: String::new() }, down] {
            let snapshot = Snapshot::new(entries.iter(), &[], tor, 3, RECENT, NOW, &mut rng);
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
    fn onions_verified_lately_are_drawn_more_often() {
        let mut entries: Vec<Entry> = (0..30).map(|n| onion(n, None)).collect();
        entries[7].last_success = Some(NOW - Duration::from_hours(2));
        let good = entries[7].host.to_string();
        let mut rng = StdRng::seed_from_u64(3);
        let snapshot = Snapshot::new(entries.iter(), &[], TorState::Off, 3, RECENT, NOW, &mut rng);
        let drawn = (0..1000)
            .map(|_| text(&snapshot.peers(Ingress::Clearnet, NOW, &mut rng)))
            .filter(|list| list.contains(&good))
            .count();
        // Three of thirty would be a hundred.
        assert!(drawn > 500, "{drawn}");
    }
}
