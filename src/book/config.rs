//! Configuration of the peer book.

use std::sync::Arc;
use std::time::Duration;

use super::side::Side;
use crate::as_map::AsMap;
use crate::ban_list::Bans;
use crate::chain::Chain;
use crate::peer::{Host, RealName};
use crate::route::RoutingPolicy;

/// Configuration of the peer book.
#[derive(Debug, Clone)]
pub struct BookConfig {
    /// Chain whose peers are kept.
    pub chain: Chain,
    /// Side on which the book learns names and advertises them; both by default.
    pub side: Side,
    /// Route for each kind of host.
    pub routing: RoutingPolicy,
    /// Peers added at every start.
    pub seeds: Vec<RealName>,
    /// Names of this node, which are never accepted as peers.
    pub local_hosts: Vec<Host>,
    /// Whether Waypost announces itself to peers that do not list it.
    pub announce: bool,
    /// Whether peers serve clients' sessions as backend.
    pub peers_as_backend: bool,
    /// Whether this node offers nothing of its own, so that its names are not in its lists.
    pub omits_itself: bool,
    /// Maximum time between two probes of a verified peer; 24 hours by default.
    pub recheck_interval: Duration,
    /// Maximum age of a verification for a peer to be advertised; 24 hours by default.
    pub max_advertised_age: Duration,
    /// Time without success after which a peer is removed; 14 days by default.
    pub expire_after: Duration,
    /// Delay from the first failure to the next probe; 5 minutes by default.
    pub initial_retry: Duration,
    /// Number of onion peers advertised while Tor is unavailable; 3 by default.
    pub fallback_onions: usize,
    /// Whether loopback and private addresses may be peers; false by default.
    pub allow_private: bool,
    /// Maximum number of concurrent probes; 32 by default.
    pub max_probes: usize,
    /// Maximum number of concurrent probes through Tor; 8 by default.
    pub max_tor_probes: usize,
    /// Maximum number of never-verified peers; a further one displaces one of the largest group. 5000 by default.
    pub max_candidates: usize,
    /// Ban lists of the operator.
    pub bans: Arc<Bans>,
    /// Map of autonomous systems. `None` without one: each IPv4 /16 or IPv6 /32 counts as one.
    pub as_map: Option<Arc<AsMap>>,
}

impl Default for BookConfig {
    fn default() -> BookConfig {
        let day = Duration::from_hours(24);
        BookConfig {
            chain: Chain::default(),
            side: Side::default(),
            routing: RoutingPolicy::default(),
            seeds: Chain::default().default_seeds(),
            local_hosts: Vec::new(),
            announce: false,
            peers_as_backend: false,
            omits_itself: false,
            recheck_interval: day,
            max_advertised_age: day,
            expire_after: day * 14,
            initial_retry: Duration::from_mins(5),
            fallback_onions: 3,
            allow_private: false,
            max_probes: 32,
            max_tor_probes: 8,
            max_candidates: 5000,
            bans: Arc::default(),
            as_map: None,
        }
    }
}
