//! Unverified reports of a peer's ports.

use std::collections::HashMap;
use std::net::IpAddr;

use crate::netgroup::Netgroup;
use crate::peer::{Host, Ports};

/// Maximum number of reports kept for one host, each from another subnet.
///
/// Reports of clients without the host's address are dropped after the lookup. Until then they must not displace the
/// owner's report cheaply.
const MAX_CLAIMS: usize = 8;

/// Maximum number of reports dialled at one visit.
const MAX_DIALLED: usize = 2;

/// Report of a peer's ports by another party, dialled after the peer's known ports.
#[derive(Debug)]
pub(super) struct PortClaim {
    /// Ports, already restricted to those that may be dialled.
    pub ports: Ports,
    /// Address to which the host must resolve for the claim to hold; `None` if any will do.
    pub from: Option<IpAddr>,
}

/// Reports of ports by host, newest first.
#[derive(Debug, Default)]
pub(super) struct PortClaims(HashMap<Host, Vec<PortClaim>>);

impl PortClaims {
    /// Adds a report. It replaces one from the same subnet, and the oldest one if the host has [`MAX_CLAIMS`].
    pub(super) fn add(&mut self, host: &Host, claim: PortClaim) {
        let claims = self.0.entry(host.clone()).or_default();
        let subnet = |claim: &PortClaim| claim.from.map(Netgroup::rate_limit_subnet);
        if claim.from.is_some() {
            claims.retain(|known| subnet(known) != subnet(&claim));
        } else {
            claims.retain(|known| known.from.is_some() || known.ports != claim.ports);
            // Reports without an address are free, so only as many are kept as are dialled.
            let mut others = 0;
            claims.retain(|known| {
                others += usize::from(known.from.is_none());
                known.from.is_some() || others < MAX_DIALLED
            });
        }
        claims.truncate(MAX_CLAIMS - 1);
        claims.insert(0, claim);
    }

    /// Drops all reports about a host.
    pub(super) fn remove(&mut self, host: &Host) {
        self.0.remove(host);
    }

    /// Drops the reports about a host that the predicate rejects.
    pub(super) fn retain(&mut self, host: &Host, keep: impl Fn(&PortClaim) -> bool) {
        if let Some(claims) = self.0.get_mut(host) {
            claims.retain(keep);
        }
    }

    /// Returns the reported ports to dial: those of its own address first, then the newest.
    pub(super) fn ports(&self, host: &Host) -> impl Iterator<Item = Ports> {
        let claims = || self.0.get(host).into_iter().flatten();
        let own = claims().filter(|claim| claim.from.is_some());
        own.chain(claims().filter(|claim| claim.from.is_none())).map(|claim| claim.ports).take(MAX_DIALLED)
    }

    /// Returns the newest report from an address; `None` if there is none.
    pub(super) fn claim_with_address(&self, host: &Host) -> Option<&PortClaim> {
        self.0.get(host)?.iter().find(|claim| claim.from.is_some())
    }
}
