//! What the task that owns the book is told: everything that happens arrives here, on one bounded channel.

use std::net::IpAddr;

use tokio::sync::{mpsc, oneshot};

use crate::book::Event;
use crate::peer::Features;

/// Inputs that may wait. Beyond that, callers are told no and drivers wait.
pub const CAPACITY: usize = 1024;

pub type Inbox = mpsc::Sender<BookMessage>;

#[derive(Debug)]
pub enum BookMessage {
    /// From the drivers of the book's actions.
    Event(Event),
    /// A caller's `server.add_peer`; true if it is taken up. The address is None for callers through Tor.
    AddPeer { features: Box<Features>, from: Option<IpAddr>, reply: oneshot::Sender<bool> },
    /// From the operator, whose answer is JSON or the reason why not.
    Query { request: AdminRequest, reply: oneshot::Sender<Result<serde_json::Value, String>> },
}

/// What an operator may ask of a running daemon.
#[derive(Debug)]
pub enum AdminRequest {
    Status,
    Peers,
    /// A real name to be taken in.
    Add(String),
    /// A host to be dropped.
    Forget(String),
}
