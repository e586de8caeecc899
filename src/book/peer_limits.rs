//! Peers that don't respond to all requests of a visit.
//!
//! Finding that out costs such a peer a second connection, so it is remembered for some days. A peer without features
//! names no host, so any server could be behind its name. That exception therefore holds only for the address where it
//! was found out. Otherwise a name could be verified at an address of its owner, and then be pointed at the servers of
//! others.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use crate::clock::Time;
use crate::connect::PeerLimits;
use crate::peer::Host;

/// Time for which the limits hold. A peer may be upgraded meanwhile.
const RETRY_AFTER: Duration = Duration::from_hours(72);

/// Limits of peers, as they were found out.
#[derive(Debug, Default)]
pub(super) struct KnownLimits(HashMap<Host, Limited>);

#[derive(Debug)]
struct Limited {
    limits: PeerLimits,
    /// Address of the peer; `None` for onion services.
    ip: Option<IpAddr>,
    until: Time,
}

impl KnownLimits {
    /// Records how a peer was verified. Known limits keep their end at the same address.
    pub(super) fn record(&mut self, host: &Host, limits: PeerLimits, ip: Option<IpAddr>, now: Time) {
        if limits == PeerLimits::default() {
            self.0.remove(host);
        } else if self.get(host, now) != Some((limits, ip)) {
            self.0.insert(host.clone(), Limited { limits, ip, until: now + RETRY_AFTER });
        }
    }

    /// Forgets the limits of a peer.
    pub(super) fn remove(&mut self, host: &Host) {
        self.0.remove(host);
    }

    /// Returns the limits of a peer, and the address where they were found out, which is `None` for onion services.
    ///
    /// `None` if none are known.
    pub(super) fn get(&self, host: &Host, now: Time) -> Option<(PeerLimits, Option<IpAddr>)> {
        self.0.get(host).filter(|known| now < known.until).map(|known| (known.limits, known.ip))
    }
}
