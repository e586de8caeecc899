//! Whom to tell callers of: a picture of the book that sessions read without asking it.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use rand::seq::IndexedRandom;
use rand::{Rng, RngExt};
use serde::{Deserialize, Serialize};

use super::carriers::Carrier;
use super::entry::{Entry, PeerState};
use super::own::Own;
use crate::clock::Time;
use crate::netgroup::{self, Netgroup};
use crate::peer::Host;
use crate::protocol::Pieces;
use crate::route::TorState;

/// Peers of one region (an IPv4 /16 or an IPv6 /56) that a list names, so that nobody fills it from one rented block.
const PER_REGION: usize = 2;

/// Onion names cost nothing, so a clearnet caller is told of so many, or a quarter of the list if that is more. A
/// caller who came by an onion name of ours gets more of them.
const ONIONS: usize = 10;
const ONIONS_FOR_ONION_CALLERS: usize = 50;

/// Entries in all: about 110 KB, where Fulcrum reads 256 KiB.
const LONGEST: usize = 1000;

/// How much sooner than a newcomer a peer of long standing comes in the list.
const PREFERRED: f64 = 4.0;

/// How a caller came to us.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Caller {
    Clearnet,
    Onion,
}

/// What callers are told, drawn up when the book changed: an answer costs no more than pointing at it.
#[derive(Debug, Default)]
pub struct Snapshot {
    pub tor: TorState,
    /// Who may carry callers' sessions, best first, where our peers are to do that.
    pub carriers: Vec<Carrier>,
    /// Whether we reached our own name on clearnet lately, so that others may hear of it.
    pub clearnet_reached: bool,
    fallback_onions: usize,
    /// Callers of each of our names see a picture of their own: who compares the lists of two names must not find that they
    /// were drawn by one hand.
    for_clearnet: View,
    for_onion: View,
    /// Every onion peer that isn't bad, with its weight when a few are drawn.
    known_onions: Vec<(Line, u32)>,
}

/// Verified peers in random order.
#[derive(Debug, Default)]
struct View {
    /// On clearnet, and no more of a region than may be told of.
    clear: Vec<Line>,
    onions: Vec<Line>,
    /// What is told while all of them are fresh.
    told: Told,
}

/// A list in JSON, brackets and all.
#[derive(Debug)]
struct Told {
    /// All of it; without the onion names, where those are drawn for each caller.
    list: Bytes,
    /// The first of them is too old after this.
    until: Option<Time>,
}

impl Default for Told {
    fn default() -> Told {
        Told { list: Bytes::from_static(EMPTY), until: None }
    }
}

const EMPTY: &[u8] = b"[]";

/// An entry of the list as it goes on the wire, good until that time.
#[derive(Debug, Clone)]
struct Line {
    json: Bytes,
    until: Time,
}

impl Snapshot {
    pub fn new<'a>(
        entries: impl Iterator<Item = &'a Entry>,
        own: &[&Own],
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
            let told_of = match state {
                PeerState::Bad => false,
                PeerState::Verified => true,
                _ => entry.host.is_onion(),
            };
            if !told_of {
                continue;
            }
            let until = entry.last_success.map_or(now, |success| success + recent);
            let line = Line { json: serde_json::to_vec(&entry.listed()).unwrap_or_default().into(), until };
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
        let (mut for_clearnet, mut for_onion) = (View::new(&verified, now, rng), View::new(&verified, now, rng));
        // Callers of each of our names find that one in their list, and not the other.
        for own in own {
            let json = serde_json::to_vec(&own.listed).unwrap_or_default().into();
            let line = Line { json, until: own.reached + recent };
            match &own.listed.name.host {
                Host::Onion(_) => for_onion.onions.insert(0, line),
                Host::Dns(_) | Host::Ip(_) => for_clearnet.clear.insert(0, line),
            }
        }
        let clearnet_reached = own.iter().any(|own| !own.listed.name.host.is_onion());
        let carriers = Vec::new();
        let mut snapshot =
            Snapshot { tor, carriers, clearnet_reached, fallback_onions, for_clearnet, for_onion, known_onions };
        snapshot.for_clearnet.told = snapshot.tell(Caller::Clearnet, now);
        snapshot.for_onion.told = snapshot.tell(Caller::Onion, now);
        snapshot
    }

    /// The answer to `server.peers.subscribe`, as JSON.
    ///
    /// Onion names stand last in a clearnet caller's list, as Fulcrum reads on no further than to the first new one.
    pub fn peers(&self, caller: Caller, now: Time, rng: &mut impl Rng) -> Pieces {
        let prepared = &self.view(caller).told;
        let list = if prepared.until.is_none_or(|until| until >= now) {
            prepared.list.clone()
        } else {
            self.tell(caller, now).list
        };
        if self.tor.is_ready() {
            return list.into();
        }
        let few = join(self.few_onions(rng).into_iter());
        match caller {
            Caller::Clearnet => concatenate(list, few),
            Caller::Onion => concatenate(few, list),
        }
    }

    /// When this is to be drawn up anew, though nothing else should have changed.
    pub fn stale_after(&self) -> Option<Time> {
        [&self.for_clearnet, &self.for_onion].into_iter().filter_map(|view| view.told.until).min()
    }

    fn view(&self, caller: Caller) -> &View {
        match caller {
            Caller::Clearnet => &self.for_clearnet,
            Caller::Onion => &self.for_onion,
        }
    }

    /// What a caller is told at this time.
    fn tell(&self, caller: Caller, now: Time) -> Told {
        let fit = |line: &&Line| line.until >= now;
        let view = self.view(caller);
        let mut clear: Vec<&Line> = view.clear.iter().filter(fit).collect();
        let (mut onions, mut longest) = (Vec::new(), LONGEST.saturating_sub(self.fallback_onions));
        if self.tor.is_ready() {
            let most = match caller {
                // A quarter of the whole list is a third of its other part.
                Caller::Clearnet => ONIONS.max(clear.len() / 3).min(LONGEST / 4),
                Caller::Onion => ONIONS_FOR_ONION_CALLERS,
            };
            onions = view.onions.iter().filter(fit).take(most).collect();
            longest = LONGEST - onions.len();
        }
        clear.truncate(longest);
        let (first, second) = match caller {
            Caller::Clearnet => (clear, onions),
            Caller::Onion => (onions, clear),
        };
        let lines = || first.iter().chain(&second).copied();
        Told { list: join(lines()), until: lines().map(|line| line.until).min() }
    }

    /// Without Tor we can't know which onion peers are alive, and tell of a few that may be.
    fn few_onions(&self, rng: &mut impl Rng) -> Vec<&Line> {
        let few = self.known_onions.sample_weighted(rng, self.fallback_onions, |(_, weight)| f64::from(*weight));
        few.map(|few| few.map(|(line, _)| line).collect()).unwrap_or_default()
    }
}

impl View {
    fn new(verified: &[(&Entry, Line)], now: Time, rng: &mut impl Rng) -> View {
        let mut view = View::default();
        let mut regions: HashMap<Netgroup, usize> = HashMap::new();
        for (entry, line) in in_order(verified, now, rng) {
            if entry.host.is_onion() {
                view.onions.push(line.clone());
                continue;
            }
            // Private addresses are peers only in a network of the operator's own, which may be a single subnet.
            let public = entry.ip.filter(|ip| netgroup::is_public(*ip));
            let in_region = public.map(|ip| regions.entry(Netgroup::region(ip)).or_default());
            if in_region.is_none_or(|count| {
                *count += 1;
                *count <= PER_REGION
            }) {
                view.clear.push(line.clone());
            }
        }
        view
    }
}

/// Peers in a random order in which those of long standing are more likely to come first: where not all can be told of, newcomers
/// get a share. Each waits for a while that is random and, on average, shorter for those.
fn in_order<'a>(
    verified: &'a [(&Entry, Line)],
    now: Time,
    rng: &mut impl Rng,
) -> impl Iterator<Item = &'a (&'a Entry, Line)> {
    let waits = |entry: &Entry| if entry.is_long_standing(now) { 1.0 / PREFERRED } else { 1.0 };
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

fn join<'a>(lines: impl Iterator<Item = &'a Line>) -> Bytes {
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
fn concatenate(first: Bytes, second: Bytes) -> Pieces {
    match (&*first, &*second) {
        (_, EMPTY) => return first.into(),
        (EMPTY, _) => return second.into(),
        _ => {}
    }
    let mut all = Pieces::from(first.slice(..first.len() - 1));
    all.push(&b","[..]);
    all.push(second.slice(1..));
    all
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::super::entry::Source;
    use super::*;
    use crate::network::Network;
    use crate::peer::{Host, Listing, Onion, RealName};

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
        entry(Host::Onion(Onion::from_public_key(key)), None, success)
    }

    fn clear(n: u32, ip: &str) -> Entry {
        entry(format!("h{n}.example").parse().unwrap(), Some(ip), Some(Duration::from_hours(1)))
    }

    fn text(list: &Pieces) -> String {
        String::from_utf8(list.to_vec()).unwrap()
    }

    fn told(entries: &[Entry], tor: TorState, caller: Caller, now: Time) -> Vec<Host> {
        let mut rng = StdRng::seed_from_u64(3);
        let snapshot = Snapshot::new(entries.iter(), &[], tor, 3, RECENT, NOW, &mut rng);
        let listing =
            Listing::parse(&text(&snapshot.peers(caller, now, &mut rng)), Network::Bitcoin.default_ports()).unwrap();
        listing.0.into_iter().map(|listed| listed.name.host).collect()
    }

    #[test]
    fn two_at_most_of_one_region() {
        let mut entries: Vec<Entry> = (0..9).map(|n| clear(n, &format!("5.9.{n}.1"))).collect();
        entries.push(clear(9, "88.99.0.1"));
        entries.push(clear(10, "2a01:4f8:0:1::1"));
        entries.push(clear(11, "2a01:4f8:0:2::1"));
        entries.push(clear(12, "2a01:4f8:0:3::1"));
        assert_eq!(told(&entries, TorState::Ready, Caller::Clearnet, NOW).len(), 2 + 1 + 2);
    }

    #[test]
    fn the_lists_of_our_two_names_are_drawn_apart() {
        let entries: Vec<Entry> = (0..40).map(|n| clear(n, &format!("5.9.{n}.1"))).collect();
        let drawn = |caller| told(&entries, TorState::Ready, caller, NOW);
        assert_eq!((drawn(Caller::Clearnet).len(), drawn(Caller::Onion).len()), (2, 2));
        assert_ne!(drawn(Caller::Clearnet), drawn(Caller::Onion));
    }

    #[test]
    fn nothing_older_than_recent_is_told_of() {
        let entries = [
            clear(1, "5.9.0.1"),
            entry("h2.example".parse().unwrap(), Some("88.99.0.1"), Some(Duration::from_hours(25))),
        ];
        assert_eq!(told(&entries, TorState::Ready, Caller::Clearnet, NOW).len(), 1);
        // The picture grows old, and what it tells with it.
        assert_eq!(told(&entries, TorState::Ready, Caller::Clearnet, NOW + Duration::from_hours(23)).len(), 1);
        assert!(told(&entries, TorState::Ready, Caller::Clearnet, NOW + RECENT).is_empty());
    }

    #[test]
    fn onions_are_few_and_last_for_clearnet_callers() {
        let mut entries: Vec<Entry> = (0..80).map(|n| onion(n, Some(Duration::from_hours(1)))).collect();
        entries.extend((0..60).map(|n| clear(n, &format!("{}.9.0.1", n + 20))));
        let list = told(&entries, TorState::Ready, Caller::Clearnet, NOW);
        assert_eq!((list.len(), list.iter().position(Host::is_onion)), (80, Some(60)));
        let list = told(&entries, TorState::Ready, Caller::Onion, NOW);
        assert_eq!((list.len(), list.iter().take_while(|host| host.is_onion()).count()), (110, 50));
        let list = told(&entries[..83], TorState::Ready, Caller::Clearnet, NOW);
        assert_eq!(list.len(), 3 + ONIONS);
    }

    #[test]
    fn onions_are_a_quarter_of_the_longest_list_as_well() {
        let recent = Some(Duration::from_hours(1));
        let mut entries: Vec<Entry> = (0..400).map(|n| onion(n, recent)).collect();
        entries.extend((0..2000).map(|n| clear(n, &format!("{}.{}.0.1", 11 + n / 200, n % 200))));
        let list = told(&entries, TorState::Ready, Caller::Clearnet, NOW);
        assert_eq!((list.len(), list.iter().position(Host::is_onion)), (LONGEST, Some(LONGEST / 4 * 3)));
    }

    #[test]
    fn without_tor_three_at_random_of_all_known() {
        let mut entries: Vec<Entry> = (0..20).map(|n| onion(n, None)).collect();
        entries[0].last_success = Some(NOW - Duration::from_hours(100));
        entries[1].bad = Some(super::super::outcome::Failure::Closed);
        let bad = entries[1].host.clone();
        let down = TorState::Down { since: NOW, why: String::new() };
        let mut rng = StdRng::seed_from_u64(3);
        for tor in [TorState::Off, TorState::Starting { percent: None, waits_for: String::new() }, down] {
            let snapshot = Snapshot::new(entries.iter(), &[], tor, 3, RECENT, NOW, &mut rng);
            let mut seen = HashSet::new();
            for _ in 0..200 {
                let list = text(&snapshot.peers(Caller::Clearnet, NOW, &mut rng));
                let hosts = Listing::parse(&list, Network::Bitcoin.default_ports()).unwrap().0;
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
            .map(|_| text(&snapshot.peers(Caller::Clearnet, NOW, &mut rng)))
            .filter(|list| list.contains(&good))
            .count();
        // Three of thirty would be a hundred.
        assert!(drawn > 500, "{drawn}");
    }
}
