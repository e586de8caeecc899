//! Ingress of clients.

use std::ops::{Index, IndexMut};

use serde::{Deserialize, Serialize};

use crate::peer::Host;

/// Ingress through which a client connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ingress {
    /// A listener of the node.
    Clearnet,
    /// The onion service.
    Onion,
}

impl Ingress {
    /// Both ingresses.
    pub const ALL: [Ingress; 2] = [Ingress::Clearnet, Ingress::Onion];

    /// Returns the ingress to which an own name leads.
    pub fn of(own: &Host) -> Ingress {
        if own.is_onion() { Ingress::Onion } else { Ingress::Clearnet }
    }
}

/// One value for each ingress.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PerIngress<T> {
    /// Value for clearnet clients.
    pub clearnet: T,
    /// Value for clients of the onion service.
    pub onion: T,
}

impl<T: Clone> PerIngress<T> {
    /// Creates the same value for both ingresses.
    pub fn both(value: T) -> PerIngress<T> {
        PerIngress { clearnet: value.clone(), onion: value }
    }
}

impl<T> Index<Ingress> for PerIngress<T> {
    type Output = T;

    fn index(&self, ingress: Ingress) -> &T {
        match ingress {
            Ingress::Clearnet => &self.clearnet,
            Ingress::Onion => &self.onion,
        }
    }
}

impl<T> IndexMut<Ingress> for PerIngress<T> {
    fn index_mut(&mut self, ingress: Ingress) -> &mut T {
        match ingress {
            Ingress::Clearnet => &mut self.clearnet,
            Ingress::Onion => &mut self.onion,
        }
    }
}
