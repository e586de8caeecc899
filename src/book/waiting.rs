//! What a peer waits for before it is probed.

use std::fmt;

use super::{Entry, PathUsability, PeerBook};
use crate::clock::Time;
use crate::netgroup::Netgroup;
use crate::route::Route;

/// Condition that holds back the next probe of a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Waiting {
    /// None of the ports may be dialled.
    Port,
    /// The dial budget of the subnet is used up.
    DialBudget(Netgroup),
    /// The route does not work.
    Route(Route),
    /// The maximum number of probes is in flight.
    Probes,
    /// The peer was never probed, and its time has not come.
    FirstProbe,
}

impl PeerBook {
    /// Returns what a peer waits for; `None` if that is only the time of its next probe.
    pub fn waiting(&self, entry: &Entry, now: Time) -> Option<Waiting> {
        if self.peers.probe(&entry.host).is_some() {
            return None;
        }
        if !self.peers.has_dialable_endpoint(entry) {
            return Some(Waiting::Port);
        }
        if let Some(subnet) = self.peers.deferred_by(&entry.host) {
            return Some(Waiting::DialBudget(subnet));
        }
        let (route, is_untried) = (self.peers.route(&entry.host), entry.last_try.is_none());
        match self.paths.usability(route) {
            _ if entry.next_probe_at > now && !is_untried => None,
            PathUsability::Unavailable | PathUsability::Testing => Some(Waiting::Route(route)),
            PathUsability::Usable if entry.next_probe_at <= now => Some(Waiting::Probes),
            PathUsability::Usable => Some(Waiting::FirstProbe),
        }
    }
}

impl fmt::Display for Waiting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Waiting::Port => f.write_str("a port that may be dialled"),
            Waiting::DialBudget(subnet) => write!(f, "the dial budget of {subnet}"),
            Waiting::Route(Route::Tor) => f.write_str("Tor"),
            Waiting::Route(Route::Direct) => f.write_str("the local network"),
            Waiting::Probes => f.write_str("other probes to end"),
            Waiting::FirstProbe => f.write_str("its first probe"),
        }
    }
}
