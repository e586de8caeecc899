//! Both ends of an Electrum connection, and an IRC visit, without I/O: lines in, lines out.

mod forwarded_call;
pub mod identity;
pub mod irc;
pub mod prober;
pub mod responder;
