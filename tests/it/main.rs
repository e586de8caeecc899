//! All integration tests, linked once: sixteen binaries took longer to link than most of them to run.
//!
//! `cargo test --test it tor::` runs one file's tests.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a test fails by panicking, and prints what it measured"
)]

mod attack;
mod backend;
mod commands;
mod configuration;
mod discovery;
mod edge;
#[path = "../../benches/filled.rs"]
mod filled;
mod health;
mod irc;
mod json;
mod kill;
mod mistakes;
mod network;
#[cfg(feature = "embedded-tor")]
mod onion_failure;
mod only_tor;
mod own_name;
mod package;
mod page;
mod reload;
mod simulator;
mod support;
mod terminal;
mod tidy;
#[cfg(feature = "embedded-tor")]
mod tor;
mod tor_ports;
