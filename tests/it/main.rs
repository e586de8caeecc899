//! Integration tests, as one binary, since linking one per file takes longer than most tests.
//!
//! `cargo test --test it tor::` runs the tests of one file.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::string_slice,
    clippy::disallowed_methods,
    reason = "a test fails by panicking, and prints its measurements"
)]

mod architecture;
#[path = "support/as_map_encoder.rs"]
mod as_map_encoder;
mod attack;
mod attack_in_front;
mod backend;
mod backend_versions;
mod bans;
mod behind_proxy;
mod chain_work;
mod chains;
mod cli_output;
mod commands;
mod configuration;
mod crash_recovery;
mod deployment;
mod discovery;
mod doctor;
mod documents;
#[path = "../../benches/fixture.rs"]
mod fixture;
mod health;
mod irc;
mod json;
mod listeners;
mod network;
#[cfg(feature = "embedded-tor")]
mod onion_failure;
mod onion_setups;
mod only_tor;
mod own_name;
mod package;
mod peer_pages;
mod real_lists;
mod reload;
mod server_corpus;
mod simulator;
mod startup_errors;
mod status_page;
mod support;
#[path = "../../benches/table.rs"]
mod table;
mod tls_servers;
#[cfg(feature = "embedded-tor")]
mod tor;
mod tor_ports;
mod two_sides;
mod upstream_failures;
mod web_socket_peers;
mod wording;
