//! Waypost: a Tor-aware peer-discovery proxy for the Electrum server network.
//!
//! ARCHITECTURE.md shows the layers and which way the arrows go.

pub mod backend;
pub mod bans;
pub mod book;
pub mod cli;
pub mod clock;
pub mod config;
pub mod control;
pub mod conversation;
pub mod daemon;
pub mod dial;
pub mod inbox;
pub mod irc;
pub mod netgroup;
pub mod network;
pub mod peer;
pub mod probe;
pub mod protocol;
pub mod route;
pub mod serve;
pub mod status;
pub mod store;
pub mod tor;
