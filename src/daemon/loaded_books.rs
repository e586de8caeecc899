//! Books as loaded from the store: one for both ingresses, or one for each.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use rand::RngExt;
use rand::rngs::StdRng;

use crate::ban_list::Bans;
use crate::book::{Action, BookConfig, Entry, Event, PeerBook, Side};
use crate::clock::Time;
use crate::peer::Host;
use crate::route::RoutingPolicy;
use crate::store::{Change, LoadedState};
use crate::trends::Trends;

/// Time within which the onion side probes the peers that it took over.
const FIRST_PROBES: Duration = Duration::from_hours(12);

/// Books of the node, with the actions that their start requires.
pub(super) struct LoadedBooks {
    /// Book for both ingresses, or for clearnet alone.
    pub main: PeerBook,
    /// Book of the onion side; `None` if `main` serves both ingresses.
    pub onion: Option<PeerBook>,
    /// Peers that move between the tables of the store.
    pub moves: Vec<Change>,
    /// Samples of the last thirty days.
    pub trends: Trends,
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
        mut loaded: LoadedState,
        bans: &Arc<Bans>,
        now: Time,
        rng: &mut StdRng,
    ) -> LoadedBooks {
        let mut moves = Vec::new();
        let mut trends = std::mem::take(&mut loaded.trends);
        trends.correct_times(now);
        let (main, onion) = match separation {
            Separation::Shared => {
                let entries = merge(loaded.entries, loaded.onion_entries, &mut moves);
                let book = PeerBook::new(config.clone(), entries, loaded.working_time, now).with_chain(loaded.chain);
                (book, None)
            }
            Separation::Separate => {
                moves = divide(&mut loaded, now, rng);
                let LoadedState { entries, working_time, onion_entries, onion_working_time, .. } = loaded;
                let main = PeerBook::new(for_side(config, Side::Clearnet), entries, working_time, now);
                let onion = PeerBook::new(for_side(config, Side::Onion), onion_entries, onion_working_time, now);
                (main.with_chain(loaded.chain), Some(onion.with_chain(loaded.onion_chain)))
            }
        };
        let mut books = LoadedBooks { main, onion, moves, trends, actions: Vec::new() };
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
fn merge(mut entries: Vec<Entry>, onion_entries: Vec<Entry>, moves: &mut Vec<Change>) -> Vec<Entry> {
    let known = hosts(&entries);
    for entry in onion_entries {
        moves.push(Change::Remove(Side::Onion, entry.host.clone()));
        if !known.contains(&entry.host) {
            moves.push(Change::Save(Side::Both, Box::new(entry.clone())));
            entries.push(entry);
        }
    }
    entries
}

/// Divides the peers that a single book has stored: names learnt on the onion side move there.
///
/// When an older store is divided, the onion side also gets a copy of the long-standing peers. Until then both lists
/// were drawn from them, so the copy reveals nothing new. Later no peer crosses over.
fn divide(loaded: &mut LoadedState, now: Time, rng: &mut StdRng) -> Vec<Change> {
    let mut moves = Vec::new();
    let (mut moved, kept): (Vec<Entry>, Vec<Entry>) =
        std::mem::take(&mut loaded.entries).into_iter().partition(|entry| Side::Onion.owns(&entry.source));
    moves.extend(moved.iter().map(|entry| Change::Remove(Side::Clearnet, entry.host.clone())));
    let known = hosts(&loaded.onion_entries);
    moved.retain(|entry| !known.contains(&entry.host));
    if loaded.has_new_onion_table {
        moved.extend(kept.iter().filter(|entry| entry.is_long_standing(now)).cloned());
    }
    for mut entry in moved {
        // The two sides must not probe a peer at the same times.
        entry.next_probe_at = now + FIRST_PROBES.mul_f64(rng.random_range(0.0..1.0));
        moves.push(Change::Save(Side::Onion, Box::new(entry.clone())));
        loaded.onion_entries.push(entry);
    }
    loaded.entries = kept;
    moves
}

fn hosts(entries: &[Entry]) -> HashSet<Host> {
    entries.iter().map(|entry| entry.host.clone()).collect()
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;
    use crate::book::{Promotion, Source};
    use crate::chain::Chain;
    use crate::peer::RealName;

    const NOW: Time = Time::from_secs(1_700_000_000);
    const ONION: &str = "explorerzydxu5ecjrkwceayqybizmpjjznk5izmitf2modhcusuqlid.onion";

    fn entry(name: &str, source: Source) -> Entry {
        let name = RealName::parse(&format!("{name} s50002"), Chain::BITCOIN.default_ports).unwrap();
        Entry::new(name, source, Duration::ZERO, NOW)
    }

    fn load(separation: Separation, loaded: LoadedState) -> LoadedBooks {
        let local_hosts = vec!["me.example".parse().unwrap(), ONION.parse().unwrap()];
        let config = BookConfig { seeds: Vec::new(), local_hosts, ..BookConfig::default() };
        LoadedBooks::load(&config, separation, loaded, &Arc::default(), NOW, &mut StdRng::seed_from_u64(1))
    }

    fn names(book: &PeerBook) -> Vec<String> {
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
        assert_eq!(names(&books.main), ["a.example", "c.example", "e.example"]);
        assert_eq!(names(&onion), ["b.example", "d.example"]);
        assert_eq!(onion.config().routing, RoutingPolicy::TorOnly);
        assert_eq!(onion.config().local_hosts, [ONION.parse().unwrap()]);
        let entries = books.main.entries().cloned().collect();
        let onion_entries = onion.entries().cloned().collect();
        let books = load(Separation::Shared, LoadedState { entries, onion_entries, ..LoadedState::default() });
        assert_eq!(names(&books.main).len(), 5);
        let saved = books.moves.iter().filter(|change| matches!(change, Change::Save(Side::Both, _)));
        let removed = books.moves.iter().filter(|change| matches!(change, Change::Remove(Side::Onion, _)));
        assert_eq!((saved.count(), removed.count()), (2, 2), "the peers of the onion side move to the shared table");
    }

    #[test]
    fn only_an_older_store_gives_the_onion_side_long_standing_peers() {
        let mut known = entry("a.example", Source::Seed);
        known.first_seen = NOW - Duration::from_hours(24 * 30);
        known.last_success = Some(NOW);
        known.uptime.record_result(true, NOW);
        known.promotion = Some(Promotion { at: NOW, ip: known.ip });
        let entries = vec![known, entry("b.example", Source::Seed)];
        let older = LoadedState { entries: entries.clone(), has_new_onion_table: true, ..LoadedState::default() };
        let books = load(Separation::Separate, older);
        assert_eq!((names(&books.main).len(), names(&books.onion.unwrap())), (2, vec!["a.example".to_owned()]));
        let later = LoadedState { entries, ..LoadedState::default() };
        assert!(
            names(&load(Separation::Separate, later).onion.unwrap()).is_empty(),
            "an empty table is no first division"
        );
    }
}
