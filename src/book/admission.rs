//! Reasons for rejecting a name, and the sample taken from a peer list.

use rand::Rng;
use rand::seq::IteratorRandom;

use crate::ban_list::Ban;
use crate::peer::{Host, PeerList, RealName};

/// Maximum number of new names taken from one peer list.
pub const MAX_NAMES_PER_PEER_LIST: usize = 2;

/// Reason for rejecting a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IntakeError {
    /// No host with a port is named.
    #[error("no host with a port is named")]
    NoHost,
    /// The server follows another chain.
    #[error("the server follows another chain")]
    WrongGenesis,
    /// The address is not public.
    #[error("the host isn't public")]
    NotPublic,
    /// An address may only be named by a client that connects from it.
    #[error("the host has another address than the client")]
    NotTheClient,
    /// The name belongs to this node.
    #[error("the host is this node")]
    LocalHost,
    /// The host is on a ban list.
    #[error("the host is banned by {0}")]
    Banned(Ban),
    /// All ports are blocked for untrusted names.
    #[error("its ports belong to other services, and are not dialled on a host that the operator did not name")]
    NoDialablePort,
    /// The configuration names the host twice.
    #[error("an earlier seed names the same host")]
    Duplicate,
    /// The peer is marked bad.
    #[error("the peer misbehaved when last probed")]
    KnownMisbehaving,
    /// The source has used up its budget.
    #[error("too many names from the same source")]
    SourceBudget,
    /// The registrable domain has used up its budget.
    #[error("too many names of the same domain")]
    DomainBudget,
    /// Names without a traceable origin have used up their budget.
    #[error("too many new onion names, or names through Tor")]
    OnionBudget,
    /// All sources of the same kind have used up their budget.
    #[error("too many new names")]
    OverallBudget,
    /// The table of candidates is full, and none of them may be evicted.
    #[error("the book holds too many names that were never verified")]
    CandidateTableFull,
    /// The route requires TLS.
    #[error("no TLS port is named, and clearnet hosts are dialled with TLS only through Tor")]
    TlsRequired,
}

/// Samples unknown names of a peer list.
///
/// The choice is random, so that a peer cannot influence it by order.
pub(super) fn sample_new_names(
    listing: PeerList,
    unknown: impl Fn(&Host) -> bool,
    rng: &mut (impl Rng + ?Sized),
) -> Vec<RealName> {
    let mut names: Vec<RealName> =
        listing.0.into_iter().map(|listed| listed.name).filter(|name| unknown(&name.host)).collect();
    names.sort_by(|a, b| a.host.cmp(&b.host));
    names.dedup_by(|a, b| a.host == b.host);
    names.into_iter().sample(rng, MAX_NAMES_PER_PEER_LIST)
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;
    use crate::chain::Chain;

    #[test]
    fn peer_list_yields_at_most_two_names() {
        let mut rng = StdRng::seed_from_u64(7);
        let entry = |n: u32| format!("[\"5.9.0.1\",\"h{n}.example\",[\"t\"]]");
        let list = (0..100).map(|n| entry(n / 2)).collect::<Vec<_>>().join(",");
        let listing = PeerList::parse(&format!("[{list}]"), Chain::BITCOIN.default_ports).unwrap();
        let known: Host = "h1.example".parse().unwrap();
        let picked = sample_new_names(listing, |host| *host != known, &mut rng);
        assert_eq!(picked.len(), MAX_NAMES_PER_PEER_LIST);
        assert_ne!(picked[0].host, picked[1].host);
    }
}
