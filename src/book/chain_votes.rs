//! Votes on the chain, where no proof of work is checked.
//!
//! Each network group has one vote, as addresses in many networks cost something and names do not. All onion services
//! together have at most one eighth of the votes, except for those that the operator named.

use std::collections::BTreeMap;
use std::hash::Hash;

use super::PeerBook;
use super::entry::Entry;
use super::peer_group::PeerGroup;
use crate::clock::Time;
use crate::peer::Host;

/// Minimum number of votes for a verdict.
const QUORUM: f64 = 3.0;

/// Maximum share of the onion services in all votes is 1 to this number plus one.
const OTHERS_PER_ONION_VOTE: f64 = 7.0;

/// Maximum rounding error of a sum of weights.
const ROUNDING: f64 = 1e-6;

/// Peer whose reports on the chain count: long-standing, a seed, or named by the operator.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Voter {
    /// Host of the peer.
    pub host: Host,
    /// Whether the operator named the peer.
    pub is_trusted: bool,
    /// Network group; `None` for onion services and private addresses.
    group: Option<PeerGroup>,
}

/// Value that a voter reported.
#[derive(Debug, Clone, Copy)]
pub(super) struct Vote<'a, T> {
    /// Voter.
    pub voter: &'a Voter,
    /// Reported value.
    pub value: T,
}

impl PeerBook {
    /// Returns a peer as a voter; `None` if its reports do not count.
    pub(super) fn voter(&self, entry: &Entry, now: Time) -> Option<Voter> {
        let is_trusted = entry.source.is_operator();
        (is_trusted || entry.is_long_standing(now)).then(|| Voter {
            host: entry.host.clone(),
            is_trusted,
            group: PeerGroup::network_of(entry, self.config.as_map.as_deref()),
        })
    }
}

/// Returns the value with more than half of the votes of all voters; `None` without one, or below the quorum.
///
/// Voters that have not voted count as well, so that those who vote first decide nothing.
pub(super) fn majority<'a, T: Copy + Ord + 'a, U: Copy + 'a>(
    votes: impl Iterator<Item = Vote<'a, T>>,
    voters: impl Iterator<Item = Vote<'a, U>>,
) -> Option<T> {
    let mut weights: BTreeMap<T, f64> = BTreeMap::new();
    let total: f64 = weigh(voters).iter().map(|(_, weight)| weight).sum();
    for (value, weight) in weigh(votes) {
        *weights.entry(value).or_default() += weight;
    }
    let (value, weight) = weights.into_iter().max_by(|a, b| a.1.total_cmp(&b.1))?;
    // A rounding error is no majority.
    (total >= QUORUM && weight * 2.0 > total + ROUNDING).then_some(value)
}

/// Returns the weighted median of the votes; `None` below the quorum.
pub(super) fn median<'a, T: Copy + Ord + 'a>(votes: impl Iterator<Item = Vote<'a, T>>) -> Option<T> {
    let mut weighted = weigh(votes);
    weighted.sort_by_key(|(value, _)| *value);
    let total: f64 = weighted.iter().map(|(_, weight)| weight).sum();
    let mut below = 0.0;
    let middle = weighted.into_iter().find(|(_, weight)| {
        below += weight;
        below * 2.0 > total
    });
    middle.filter(|_| total >= QUORUM).map(|(value, _)| value)
}

/// Returns each vote with its weight: groups share one vote, and the onion services of others at most an eighth.
fn weigh<'a, T: Copy + 'a>(votes: impl Iterator<Item = Vote<'a, T>>) -> Vec<(T, f64)> {
    let mut members: BTreeMap<Ballot, Vec<T>> = BTreeMap::new();
    for vote in votes {
        members.entry(Ballot::of(vote.voter)).or_default().push(vote.value);
    }
    let others =
        f64::from(u32::try_from(members.keys().filter(|ballot| **ballot != Ballot::Onions).count()).unwrap_or(0));
    let mut weighted = Vec::new();
    for (ballot, values) in members {
        let share = f64::from(u32::try_from(values.len()).unwrap_or(u32::MAX));
        let weight = if ballot == Ballot::Onions { share.min(others / OTHERS_PER_ONION_VOTE) } else { 1.0 };
        weighted.extend(values.into_iter().map(|value| (value, weight / share)));
    }
    weighted
}

/// Voters that share votes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Ballot {
    /// Voters of one network.
    Network(PeerGroup),
    /// Voter with a vote of its own: an onion service that the operator named, or a private address.
    Single(Host),
    /// All other onion services.
    Onions,
}

impl Ballot {
    fn of(voter: &Voter) -> Ballot {
        match &voter.group {
            Some(group) => Ballot::Network(group.clone()),
            None if voter.host.is_onion() && !voter.is_trusted => Ballot::Onions,
            None => Ballot::Single(voter.host.clone()),
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::netgroup::Netgroup;
    use crate::peer::OnionAddress;

    fn in_network(n: usize, host: String, is_trusted: bool) -> Voter {
        let group = PeerGroup::Range(Netgroup::allocation(format!("5.{}.0.1", n % 256).parse().unwrap()));
        Voter { host: host.parse().unwrap(), is_trusted, group: Some(group) }
    }

    /// Long-standing peer in a network of its own.
    pub(in super::super) fn clearnet(n: usize) -> Voter {
        in_network(n, format!("h{n}.example"), false)
    }

    /// Seed in a network of its own.
    pub(in super::super) fn trusted(n: usize) -> Voter {
        in_network(n + 200, format!("seed{n}.example"), true)
    }

    /// Long-standing onion service.
    pub(in super::super) fn onion(n: u8) -> Voter {
        Voter { host: Host::Onion(OnionAddress::from_public_key([n; 32])), is_trusted: false, group: None }
    }

    fn decide(votes: &[(Voter, u32)]) -> (Option<u32>, Option<u32>) {
        let votes = || votes.iter().map(|(voter, value)| Vote { voter, value: *value });
        (majority(votes(), votes()), median(votes()))
    }

    #[test]
    fn network_has_one_vote() {
        let mut votes: Vec<(Voter, u32)> = (0..3).map(|n| (clearnet(n), 7)).collect();
        votes.extend((0..50).map(|n| (in_network(9, format!("x{n}.example"), false), 8)));
        assert_eq!(decide(&votes), (Some(7), Some(7)));
    }

    #[test]
    fn onions_have_an_eighth_of_the_votes() {
        let mut votes: Vec<(Voter, u32)> = (0..200).map(|n| (onion(n), 8)).collect();
        assert_eq!(decide(&votes), (None, None), "onions alone decide nothing");
        votes.extend((0..7).map(|n| (clearnet(n), if n < 4 { 7 } else { 8 })));
        assert_eq!(decide(&votes).0, None, "4 of 8");
        votes.push((clearnet(7), 7));
        assert_eq!(decide(&votes), (Some(7), Some(7)), "5 of 9.1");
    }

    #[test]
    fn divided_network_divides_its_vote() {
        let mut votes: Vec<(Voter, u32)> = (0..4).map(|n| (clearnet(n), if n < 2 { 7 } else { 8 })).collect();
        votes.extend([7, 8].map(|value| (in_network(9, format!("x{value}.example"), false), value)));
        assert_eq!(decide(&votes).0, None);
    }
}
