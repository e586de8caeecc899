//! Side of the node on which a book learns names.

use serde::{Deserialize, Serialize};

use super::ingress::Ingress;
use super::source::Source;
use crate::peer::Host;

/// Side of the node on which a book learns names and advertises them.
///
/// A node with two names that must not be linked has one book for each side. The books share nothing: what clients of
/// one name cause never changes what clients of the other name see.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Side {
    /// One book for both ingresses: the node has one name, or its operator links the two.
    #[default]
    Both,
    /// Book of the clearnet name.
    Clearnet,
    /// Book of the onion service, which is used through Tor only.
    Onion,
}

impl Side {
    /// Returns the side of the book that serves an ingress of a node with two books.
    pub fn of(ingress: Ingress) -> Side {
        match ingress {
            Ingress::Clearnet => Side::Clearnet,
            Ingress::Onion => Side::Onion,
        }
    }

    /// Returns whether this side advertises peers to an ingress.
    pub fn serves(self, ingress: Ingress) -> bool {
        match self {
            Side::Both => true,
            Side::Clearnet => ingress == Ingress::Clearnet,
            Side::Onion => ingress == Ingress::Onion,
        }
    }

    /// Returns whether this side learns names from the peer list of this host.
    ///
    /// An onion peer can give each visitor a fresh name. The clearnet side would look it up and dial it directly, which
    /// tells the peer the address behind a visit through Tor.
    pub(super) fn learns_from(self, host: &Host) -> bool {
        self != Side::Clearnet || !host.is_onion()
    }

    /// Returns whether a stored peer belongs to this side, by the source of its name.
    ///
    /// It divides the peers that a single book has stored.
    pub fn owns(self, source: &Source) -> bool {
        let is_from_onion_side = match source {
            Source::AddPeer(from) => from.is_none(),
            Source::Peer(host) => host.is_onion(),
            Source::Seed | Source::Operator | Source::Irc => false,
        };
        match self {
            Side::Both => true,
            Side::Clearnet => !is_from_onion_side,
            Side::Onion => is_from_onion_side,
        }
    }
}
