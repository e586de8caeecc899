//! Routes to hosts, and the rules that assign them.

use std::fmt;
use std::ops::{Index, IndexMut};

use serde::{Deserialize, Serialize};

use crate::peer::Host;
use crate::tor_state::ClearnetAccess;

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

/// Rules that assign a route to each host, and exclude the hosts that no route reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RouteRules {
    /// Route for each kind of host.
    pub policy: RoutingPolicy,
    /// Clearnet connections that Tor accepts.
    pub tor_clearnet: ClearnetAccess,
}

impl RouteRules {
    /// Returns the route to a host.
    pub fn route(self, host: &Host) -> Route {
        self.policy.via(host)
    }

    /// Returns why no clearnet host can be reached; `None` if they can.
    pub fn clearnet_refusal(self) -> Option<&'static str> {
        (self.policy == RoutingPolicy::TorOnly).then(|| self.tor_clearnet.refusal()).flatten()
    }

    /// Returns whether a route accepts this host.
    pub fn allows(self, host: &Host) -> bool {
        host.is_onion() || self.clearnet_refusal().is_none()
    }
}

/// One value for each route.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PerRoute<T> {
    /// Value of the direct route.
    pub direct: T,
    /// Value of the route through Tor.
    pub tor: T,
}

impl<T> Index<Route> for PerRoute<T> {
    type Output = T;

    fn index(&self, route: Route) -> &T {
        match route {
            Route::Direct => &self.direct,
            Route::Tor => &self.tor,
        }
    }
}

impl<T> IndexMut<Route> for PerRoute<T> {
    fn index_mut(&mut self, route: Route) -> &mut T {
        match route {
            Route::Direct => &mut self.direct,
            Route::Tor => &mut self.tor,
        }
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
