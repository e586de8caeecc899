//! Groups of sources that share budgets and room in the table of candidates.
//!
//! Names are free, so a name never pays. The party that reported it pays: its addresses, at two widths, or its domain.
//! Parties that show neither share one group.

use std::net::IpAddr;

use super::entry::Entry;
use super::source::Source;
use crate::netgroup::{self, Netgroup};
use crate::peer::{DnsName, Host};

/// Way by which a name arrived. Each has its own budgets and its own share of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Provenance {
    /// `server.add_peer` of a client with an address.
    ClearnetClient,
    /// `server.add_peer` of a client through Tor.
    OnionClient,
    /// Peer list of a peer.
    PeerList,
    /// IRC channel.
    Irc,
}

/// Party that pays for a name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Payer {
    /// Address of a client or a peer.
    Network {
        /// IPv4 /16 or IPv6 /32, which contains `subnet`.
        allocation: Netgroup,
        /// IPv4 /24 or IPv6 /48.
        subnet: Netgroup,
    },
    /// Registrable domain of a peer without a known address, as through an exit.
    Domain(DnsName),
    /// Peer that the operator named.
    OperatorsPeer(Host),
    /// All parties without an address: onion peers, clients through Tor, users of IRC.
    Anonymous,
}

/// Provenance of a name and the party that pays for it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct SourceGroup {
    /// Way by which the name arrived.
    pub provenance: Provenance,
    /// Party that pays.
    pub payer: Payer,
}

impl SourceGroup {
    /// Returns the group of a source; `None` for the operator, who has no limits.
    ///
    /// `find` returns the entry of a peer that reported a name; `None` if it is unknown.
    pub(super) fn of<'a>(source: &Source, find: impl FnOnce(&Host) -> Option<&'a Entry>) -> Option<SourceGroup> {
        let (provenance, payer) = match source {
            Source::Seed | Source::Operator => return None,
            Source::AddPeer(Some(ip)) => (Provenance::ClearnetClient, Payer::network(*ip)),
            Source::AddPeer(None) => (Provenance::OnionClient, Payer::Anonymous),
            Source::Peer(host) => (Provenance::PeerList, Payer::of_peer(host, find(host))),
            Source::Irc => (Provenance::Irc, Payer::Anonymous),
        };
        Some(SourceGroup { provenance, payer })
    }
}

impl Payer {
    /// Returns the party behind an address.
    pub(super) fn network(ip: IpAddr) -> Payer {
        Payer::Network { allocation: Netgroup::allocation(ip), subnet: Netgroup::rate_limit_subnet(ip) }
    }

    /// Returns the party behind a peer. `entry` is `None` if the peer is unknown.
    pub(super) fn of_peer(host: &Host, entry: Option<&Entry>) -> Payer {
        let ip = entry.and_then(|entry| entry.ip).filter(|ip| netgroup::is_public(*ip));
        match (host, ip) {
            _ if entry.is_some_and(|entry| entry.source.is_operator()) => Payer::OperatorsPeer(host.clone()),
            (Host::Onion(_), _) => Payer::Anonymous,
            (Host::Ip(ip), _) => Payer::network(*ip),
            (Host::Dns(_), Some(ip)) => Payer::network(ip),
            (Host::Dns(name), None) => Payer::Domain(name.registrable()),
        }
    }

    /// Returns the wide group, by which groups nest.
    pub(super) fn allocation(&self) -> Option<Netgroup> {
        match self {
            Payer::Network { allocation, .. } => Some(*allocation),
            _ => None,
        }
    }
}
