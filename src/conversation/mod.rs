//! Both ends of an Electrum connection, without the connection: lines in, lines out.

pub mod client;
pub mod identity;
pub mod irc;
pub mod server;
