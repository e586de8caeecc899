//! Waypost: a Tor-aware peer-discovery proxy for the Electrum server network.
//!
//! ARCHITECTURE.md describes the layers and which imports are allowed between them.

pub mod accept_loop;
pub mod api;
pub mod as_map;
pub mod atomic_file;
pub mod backend;
pub mod backoff;
pub mod ban_files;
pub mod ban_list;
pub mod block_header;
pub mod book;
pub mod book_handle;
pub mod chain;
pub mod cli;
pub mod client_counters;
pub mod clock;
pub mod config;
pub mod connect;
pub mod control;
pub mod daemon;
pub mod dial;
pub mod doctor;
pub mod electrum;
pub mod header_chain;
pub mod irc_discovery;
pub mod jsonrpc;
pub mod netgroup;
pub mod networks;
pub mod peer;
pub mod probe;
pub mod route;
pub mod secret;
pub mod server;
pub mod socks_address;
pub mod status_page;
pub mod store;
pub mod tor;
pub mod tor_state;
pub mod trends;
