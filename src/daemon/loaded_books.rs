//! Books as loaded from the store: one for both ingresses, or one for each.

use std::sync::Arc;

use rand::RngExt;
use rand::rngs::StdRng;

use crate::ban_list::Bans;
use crate::book::{Action, BookConfig, Entry, Event, PeerBook, Side};
use crate::clock::Time;
use crate::route::RoutingPolicy;
use crate::store::LoadedState;

/// Books of the node, with the actions that their start requires.
pub(super) struct LoadedBooks {
    /// Book for both ingresses, or for clearnet alone.
    pub main: PeerBook,
    /// Book of the onion side; `None` if `main` serves both ingresses.
    pub onion: Option<PeerBook>,
    /// Actions of each side, in order.
    pub actions: Vec<(Side, Vec<Action>)>,
}

/// Whether both ingresses share a book.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Separation {
    /// The node has one name, or its operator links the two.
    Shared,
    /// The node has an onion service that must not be linked to its clearnet name.
    Separate,
}

impl Separation {
    /// Returns the separation of a node that has an onion service or not, and links its names or not.
    pub(super) fn of(has_onion: bool, link_identities: bool) -> Separation {
        if has_onion && !link_identities { Separation::Separate } else { Separation::Shared }
    }
}

impl LoadedBooks {
    /// Creates the books from the stored peers, and adds the seeds.
    pub(super) fn load(
        config: &BookConfig,
        separation: Separation,
        loaded: LoadedState,
        bans: &Arc<Bans>,
        now: Time,
        rng: &mut StdRng,
    ) -> LoadedBooks {
        let LoadedState { entries, working_time, onion_entries, onion_working_time, .. } = loaded;
        let mut actions = Vec::new();
        let (main, onion) = match separation {
            Separation::Shared => {
                let entries = merge(entries, onion_entries, &mut actions);
                (PeerBook::new(config.clone(), entries, working_time, now), None)
            }
            Separation::Separate => {
                let (entries, onion_entries) = divide(entries, onion_entries, now, rng, &mut actions);
                let main = PeerBook::new(for_side(config, Side::Clearnet), entries, working_time, now);
                let onion = PeerBook::new(for_side(config, Side::Onion), onion_entries, onion_working_time, now);
                (main, Some(onion))
            }
        };
        let mut books = LoadedBooks { main, onion, actions };
        for book in [Some(&mut books.main), books.onion.as_mut()].into_iter().flatten() {
            let mut actions = book.handle(Event::BansReplaced(Arc::clone(bans)), now, rng);
            actions.extend(book.add_seeds(now, rng));
            books.actions.push((book.config().side, actions));
        }
        books
    }
}

/// Returns the configuration of one side: each knows only its own name, and the onion side uses Tor for everything.
fn for_side(config: &BookConfig, side: Side) -> BookConfig {
    let is_onion = side == Side::Onion;
    let local_hosts = config.local_hosts.iter().filter(|host| host.is_onion() == is_onion).cloned().collect();
    let routing = if is_onion { RoutingPolicy::TorOnly } else { config.routing };
    BookConfig { side, routing, local_hosts, ..config.clone() }
}

/// Merges the peers of both sides, which the operator has linked.
fn merge(mut entries: Vec<Entry>, onion_entries: Vec<Entry>, actions: &mut Vec<(Side, Vec<Action>)>) -> Vec<Entry> {
    for entry in onion_entries {
        actions.push((Side::Onion, vec![Action::Remove(entry.host.clone())]));
        if !entries.iter().any(|known| known.host == entry.host) {
            actions.push((Side::Both, vec![Action::Upsert(Box::new(entry.clone()))]));
            entries.push(entry);
        }
    }
    entries
}

/// Divides the peers that a single book has stored.
///
/// Names learnt on the onion side move there. At the first division, the onion side also gets a copy of the
/// long-standing peers: until then both lists were drawn from them, so the copy reveals nothing new.
fn divide(
    entries: Vec<Entry>,
    mut onion_entries: Vec<Entry>,
    now: Time,
    rng: &mut StdRng,
    actions: &mut Vec<(Side, Vec<Action>)>,
) -> (Vec<Entry>, Vec<Entry>) {
    let is_first_division = onion_entries.is_empty();
    let (mut moved, kept): (Vec<Entry>, Vec<Entry>) =
        entries.into_iter().partition(|entry| Side::Onion.owns(&entry.source));
    for entry in &moved {
        actions.push((Side::Clearnet, vec![Action::Remove(entry.host.clone())]));
    }
    moved.retain(|entry| !onion_entries.iter().any(|known| known.host == entry.host));
    if is_first_division {
        moved.extend(kept.iter().filter(|entry| entry.is_long_standing(now)).cloned());
    }
    for mut entry in moved {
        // The two sides must not probe a peer at the same times.
        entry.next_probe_at = now + FIRST_PROBES.mul_f64(rng.random_range(0.0..1.0));
        actions.push((Side::Onion, vec![Action::Upsert(Box::new(entry.clone()))]));
        onion_entries.push(entry);
    }
    (kept, onion_entries)
}

/// Time within which the onion side probes the peers that it took over.
const FIRST_PROBES: std::time::Duration = std::time::Duration::from_hours(12);

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rand::SeedableRng;

    use super::*;
    use crate::book::Source;
    use crate::network::Network;
    use crate::peer::RealName;

    const NOW: Time = Time::from_secs(1_700_000_000);
    const ONION: &str = "explorerzydxu5ecjrkwceayqybizmpjjznk5izmitf2modhcusuqlid.onion";

    fn entry(name: &str, source: Source) -> Entry {
        let name = RealName::parse(&format!("{name} s50002"), Network::Bitcoin.default_ports()).unwrap();
        Entry::new(name, source, Duration::ZERO, NOW)
    }

    fn load(separation: Separation, loaded: LoadedState) -> LoadedBooks {
        let local_hosts = vec!["me.example".parse().unwrap(), ONION.parse().unwrap()];
        let config = BookConfig { seeds: Vec::new(), local_hosts, ..BookConfig::default() };
        LoadedBooks::load(&config, separation, loaded, &Arc::default(), NOW, &mut StdRng::seed_from_u64(1))
    }

    fn hosts(book: &PeerBook) -> Vec<String> {
        let mut hosts: Vec<String> = book.entries().map(|entry| entry.host.to_string()).collect();
        hosts.sort();
        hosts
    }

    #[test]
    fn stored_peers_are_divided_by_source_and_merged_again() {
        let entries = vec![
            entry("a.example", Source::Seed),
            entry("b.example", Source::AddPeer(None)),
            entry("c.example", Source::AddPeer(Some("5.9.0.1".parse().unwrap()))),
            entry("d.example", Source::Peer(ONION.parse().unwrap())),
            entry("e.example", Source::Peer("a.example".parse().unwrap())),
        ];
        let books = load(Separation::Separate, LoadedState { entries, ..LoadedState::default() });
        let onion = books.onion.unwrap();
        assert_eq!(hosts(&books.main), ["a.example", "c.example", "e.example"]);
        assert_eq!(hosts(&onion), ["b.example", "d.example"]);
        assert_eq!(onion.config().routing, RoutingPolicy::TorOnly);
        assert_eq!(onion.config().local_hosts, [ONION.parse().unwrap()]);
        let entries = books.main.entries().cloned().collect();
        let onion_entries = onion.entries().cloned().collect();
        let books = load(Separation::Shared, LoadedState { entries, onion_entries, ..LoadedState::default() });
        assert_eq!(hosts(&books.main).len(), 5);
        let saved = books.actions.iter().flat_map(|(side, actions)| actions.iter().map(move |action| (side, action)));
        let saved = saved.filter(|(side, action)| **side == Side::Both && matches!(action, Action::Upsert(_)));
        assert_eq!(saved.count(), 2, "the peers of the onion side move to the shared table");
    }

    #[test]
    fn first_division_copies_long_standing_peers() {
        let mut known = entry("a.example", Source::Seed);
        known.first_seen = NOW - Duration::from_hours(24 * 30);
        known.last_success = Some(NOW);
        known.uptime.record_result(true, NOW);
        let entries = vec![known, entry("b.example", Source::Seed)];
        let books = load(Separation::Separate, LoadedState { entries: entries.clone(), ..LoadedState::default() });
        let onion = books.onion.unwrap();
        assert_eq!((hosts(&books.main).len(), hosts(&onion)), (2, vec!["a.example".to_owned()]));
        let later =
            LoadedState { entries, onion_entries: vec![entry("c.example", Source::Irc)], ..LoadedState::default() };
        assert_eq!(hosts(&load(Separation::Separate, later).onion.unwrap()), ["c.example"]);
    }
}
