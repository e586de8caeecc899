//! Facts by which lists choose peers, apart from the entries.
//!
//! A snapshot looks at every peer, and an entry takes hundreds of bytes. These facts are small and contiguous, so that
//! only the entries of chosen and of settled peers are read.

use std::sync::OnceLock;
use std::time::Duration;

use bytes::Bytes;

use super::entry::{Entry, PeerState};
use super::peer_group::PeerGroup;
use super::standing::Tier;
use crate::as_map::AsMap;
use crate::clock::Time;
use crate::netgroup;

/// Facts of one peer, derived from its entry.
#[derive(Debug)]
pub(super) struct ListFacts {
    pub first_seen: Time,
    pub last_success: Option<Time>,
    /// Whether the peer is an onion service.
    pub is_onion: bool,
    /// State if the last success were recent.
    state_if_recent: PeerState,
    was_tried: bool,
    next_probe_at: Time,
    /// Whether its address is public or unknown.
    has_public_address: bool,
    /// Whether it has a port that may be dialled.
    has_permitted_port: bool,
    /// Values of a settled peer; `None` for others.
    ///
    /// Lists show settled peers again and again, and other peers only by chance.
    settled: Option<Box<SettledValues>>,
}

/// Values of a settled peer that are computed when they are first used.
#[derive(Debug, Default)]
struct SettledValues {
    /// List entry as JSON.
    json: OnceLock<Bytes>,
    /// Groups by which lists are limited, with the AS map in use.
    groups: OnceLock<Vec<PeerGroup>>,
}

/// Peer that a list may show.
#[derive(Debug, Clone, Copy)]
pub(super) struct Listable<'a> {
    /// Entry of the peer.
    pub entry: &'a Entry,
    /// Facts of the same entry.
    pub facts: &'a ListFacts,
}

impl ListFacts {
    /// Derives the facts of an entry.
    pub(super) fn of(entry: &Entry) -> ListFacts {
        ListFacts {
            first_seen: entry.first_seen,
            last_success: entry.last_success,
            is_onion: entry.host.is_onion(),
            state_if_recent: entry.state(entry.last_success.unwrap_or_default(), Duration::MAX),
            was_tried: entry.last_try.is_some(),
            next_probe_at: entry.next_probe_at,
            has_public_address: entry.ip.is_none_or(netgroup::is_public),
            has_permitted_port: entry.permitted_ports().is_some(),
            settled: entry.is_settled().then(Box::default),
        }
    }

    /// Returns the state of the peer, as [`Entry::state`] does.
    pub(super) fn state(&self, now: Time, max_age: Duration) -> PeerState {
        let is_recent = self.last_success.is_some_and(|success| now.since(success) <= max_age);
        match self.state_if_recent {
            PeerState::Verified if !is_recent => PeerState::Stale,
            state => state,
        }
    }

    /// Returns whether the peer was tried, or is due.
    pub(super) fn is_known(&self, now: Time) -> bool {
        self.was_tried || self.next_probe_at <= now
    }

    /// Returns whether the peer may be advertised where private addresses are allowed or not.
    pub(super) fn may_be_advertised(&self, allow_private: bool) -> bool {
        (allow_private || self.has_public_address) && self.has_permitted_port
    }

    /// Returns whether the peer is trusted, or was promoted in whatever network.
    pub(super) fn is_settled(&self) -> bool {
        self.settled.is_some()
    }

    /// Forgets values that depend on the AS map.
    pub(super) fn on_new_as_map(&mut self) {
        if let Some(values) = &mut self.settled {
            values.groups.take();
        }
    }
}

impl<'a> Listable<'a> {
    /// Returns the tier of the peer. Only entries of settled peers are read.
    pub(super) fn tier(&self, now: Time) -> Tier {
        if self.facts.is_settled() { self.entry.tier(now) } else { Tier::Newcomer }
    }

    /// Returns the list entry as JSON.
    pub(super) fn json(&self) -> Bytes {
        let encode = || serde_json::to_vec(&self.entry.listed()).unwrap_or_default().into();
        match &self.facts.settled {
            Some(values) => values.json.get_or_init(encode).clone(),
            None => encode(),
        }
    }

    /// Returns the groups of a settled peer; an empty slice for other peers.
    pub(super) fn settled_groups(&self, as_map: Option<&AsMap>) -> &'a [PeerGroup] {
        let values = self.facts.settled.as_deref();
        values.map_or(&[], |values| values.groups.get_or_init(|| PeerGroup::all_of(self.entry, as_map)))
    }
}
