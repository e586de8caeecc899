//! Unverified reports of a peer's ports.

use std::collections::HashMap;
use std::net::IpAddr;

use crate::peer::{Host, Ports};

/// Maximum number of reports kept for one host.
const MAX_CLAIMS: usize = 2;

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
    /// Adds a report. The oldest one is dropped if the host has [`MAX_CLAIMS`].
    pub(super) fn add(&mut self, host: &Host, claim: PortClaim) {
        let claims = self.0.entry(host.clone()).or_default();
        claims.retain(|known| known.ports != claim.ports);
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

    /// Returns the reported ports of a host, newest first.
    pub(super) fn ports(&self, host: &Host) -> impl Iterator<Item = Ports> {
        self.0.get(host).into_iter().flatten().map(|claim| claim.ports)
    }
}
