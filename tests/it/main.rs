//! All integration tests, linked once: sixteen binaries took longer to link than most of them to run.
//!
//! `cargo test --test it tor::` runs one file's tests.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::string_slice,
    clippy::disallowed_methods,
    reason = "a test fails by panicking, and prints what it measured"
)]

mod architecture;
mod attack;
mod backend;
mod cli_output;
mod commands;
mod configuration;
mod crash_recovery;
mod discovery;
#[path = "../../benches/fixture.rs"]
mod fixture;
mod health;
mod irc;
mod json;
mod listeners;
mod network;
#[cfg(feature = "embedded-tor")]
mod onion_failure;
mod only_tor;
mod own_name;
mod package;
mod reload;
mod simulator;
mod startup_errors;
mod status_page;
mod support;
#[cfg(feature = "embedded-tor")]
mod tor;
mod tor_ports;
