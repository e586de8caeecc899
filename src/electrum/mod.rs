//! Both ends of an Electrum connection, without the connection: lines in, lines out.

pub mod identity;
pub mod irc;
pub mod prober;
pub mod responder;
