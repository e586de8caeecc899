//! Which peers list the own names.
//!
//! Each verification reads the peer's list anyway. Operators ask most often why they are not listed.

use super::entry::{Entry, OwnListing, PeerState};
use super::{PeerBook, Side};
use crate::clock::Time;
use crate::peer::{Host, PeerList};

/// Maximum number of own names that are recorded for a peer. A node has four clearnet names and an onion name.
const MAX_LISTINGS: usize = 5;

/// Number of peers that list an own name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ListingCount {
    /// Verified peers of the name's kind, onion or clearnet, that list it.
    pub listed_by: usize,
    /// Verified peers of that kind.
    pub peers: usize,
}

impl PeerBook {
    /// Returns how many of the verified peers of its kind list an own name.
    pub fn listing_count(&self, own: &Host, now: Time) -> ListingCount {
        let max_age = self.config.max_advertised_age;
        let verified = self.peers.entries().filter(|entry| {
            entry.host.is_onion() == own.is_onion() && entry.state(now, max_age) == PeerState::Verified
        });
        verified.fold(ListingCount::default(), |count, entry| ListingCount {
            listed_by: count.listed_by + usize::from(entry.lists(own)),
            peers: count.peers + 1,
        })
    }

    /// Returns the own names in the list of a peer, with the times since which they are there.
    pub(super) fn own_listings(&self, entry: &Entry, list: &PeerList, now: Time) -> Vec<OwnListing> {
        let is_own = |host: &Host| match self.config.side {
            Side::Onion if !host.is_onion() => false,
            _ => self.config.local_hosts.contains(host),
        };
        let mut found: Vec<OwnListing> = Vec::new();
        for name in list.0.iter().map(|listed| &listed.name).filter(|name| is_own(&name.host)) {
            if found.len() < MAX_LISTINGS && !found.iter().any(|known| known.host == name.host) {
                let known = entry.own_listings.iter().find(|known| known.host == name.host);
                let since = known.map_or(now, |known| known.since);
                found.push(OwnListing { host: name.host.clone(), ports: name.ports, since });
            }
        }
        found
    }
}
