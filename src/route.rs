//! Routes to hosts, and the policy that assigns them.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::peer::Host;

/// Path on which a host is dialled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Route {
    /// Connection without a proxy.
    Direct,
    /// Connection through Tor.
    Tor,
}

impl Route {
    /// All routes.
    pub const ALL: [Route; 2] = [Route::Direct, Route::Tor];
}

/// Rule that assigns a route to each host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RoutingPolicy {
    /// Onion services through Tor, all else directly.
    #[default]
    Split,
    /// All hosts through Tor. Tor's exits resolve names and connect to clearnet hosts.
    TorOnly,
}

impl RoutingPolicy {
    /// Returns the route to a host.
    pub fn via(self, host: &Host) -> Route {
        if host.is_onion() || self == RoutingPolicy::TorOnly { Route::Tor } else { Route::Direct }
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Route::Direct => "directly",
            Route::Tor => "through Tor",
        })
    }
}
