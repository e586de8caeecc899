//! Bounded channel of messages to the task that owns the book.

use std::net::IpAddr;

use tokio::sync::{mpsc, oneshot};

use crate::api::AdminRequest;
use crate::book::{Event, Ingress, Side};
use crate::peer::Features;

/// Maximum number of queued messages. With a full queue drivers wait and `server.add_peer` fails.
pub const CAPACITY: usize = 1024;

/// Sender of messages to the book's task.
pub type Inbox = mpsc::Sender<BookMessage>;

/// Message to the book's task.
#[derive(Debug)]
pub enum BookMessage {
    /// Event from a driver, for the side that it concerns or for both.
    Event(Event),
    /// Event of one side from a driver.
    SideEvent(Side, Event),
    /// `server.add_peer` of a client.
    AddPeer {
        /// Ingress of the client.
        ingress: Ingress,
        /// Features that the client sent.
        features: Box<Features>,
        /// Address of the client; `None` through Tor.
        from: Option<IpAddr>,
        /// Receives true if the peer is accepted.
        reply: oneshot::Sender<bool>,
    },
    /// Request of an operator.
    Admin(AdminRequest),
}

/// The book's task has ended, because the daemon is stopping.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("the daemon is stopping")]
pub struct Stopping;

/// Sends a request to the book's task and waits for the reply.
///
/// `request` puts the reply's sender into the request.
pub async fn query<T>(inbox: &Inbox, request: impl FnOnce(oneshot::Sender<T>) -> AdminRequest) -> Result<T, Stopping> {
    let (reply, receiver) = oneshot::channel();
    inbox.send(BookMessage::Admin(request(reply))).await.map_err(|_| Stopping)?;
    receiver.await.map_err(|_| Stopping)
}
