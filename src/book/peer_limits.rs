//! Peers that close the connection or fall silent at `server.features`, as some servers do.
//!
//! The request costs such a peer a second connection in each visit, so it is left out for some days. A peer without
//! features names no host, so any server could be behind its name. The exception therefore holds only for the address
//! where it was found out. Otherwise a name could be verified at an address of its owner, and then be pointed at the
//! servers of others.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use crate::clock::Time;
use crate::peer::Host;

/// Time for which the request is left out. A peer may be upgraded meanwhile.
const RETRY_AFTER: Duration = Duration::from_hours(72);

/// Peers for which `server.features` is left out.
#[derive(Debug, Default)]
pub(super) struct WithoutFeatures(HashMap<Host, Exception>);

#[derive(Debug)]
struct Exception {
    /// Address of the peer; `None` for onion services.
    ip: Option<IpAddr>,
    until: Time,
}

impl WithoutFeatures {
    /// Adds a peer that was verified without features. A known one keeps its end at the same address.
    pub(super) fn add(&mut self, host: &Host, ip: Option<IpAddr>, now: Time) {
        if self.address(host, now) != Some(ip) {
            self.0.insert(host.clone(), Exception { ip, until: now + RETRY_AFTER });
        }
    }

    /// Has features requested from a peer again.
    pub(super) fn remove(&mut self, host: &Host) {
        self.0.remove(host);
    }

    /// Returns the address at which features are left out, which is `None` for onion services; `None` if they are not.
    pub(super) fn address(&self, host: &Host, now: Time) -> Option<Option<IpAddr>> {
        self.0.get(host).filter(|exception| now < exception.until).map(|exception| exception.ip)
    }
}
