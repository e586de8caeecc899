//! Waypost: a Tor-aware peer-discovery proxy for the Electrum server network.
//!
//! ARCHITECTURE.md shows the layers and which way the arrows go.

pub mod book;
pub mod clock;
pub mod conversation;
pub mod netgroup;
pub mod network;
pub mod peer;
pub mod protocol;
pub mod route;
