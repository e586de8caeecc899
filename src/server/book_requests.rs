//! Requests of clients to the book, limited for each ingress.

use std::net::IpAddr;
use std::sync::Arc;

use tokio::sync::{Semaphore, oneshot};

use crate::book::Ingress;
use crate::book_handle::{BookMessage, CAPACITY, Inbox};
use crate::peer::Features;

/// Maximum number of requests of one ingress that wait for the book: a quarter of its queue.
const MAX_WAITING: usize = CAPACITY / 4;

/// Pool of permits for the requests of one ingress that wait for the book.
///
/// Clients of one ingress can't fill the queue, so their load does not make requests of the other fail.
#[derive(Debug, Clone)]
pub struct BookRequestPool(Arc<Semaphore>);

impl Default for BookRequestPool {
    fn default() -> BookRequestPool {
        BookRequestPool(Arc::new(Semaphore::new(MAX_WAITING)))
    }
}

impl BookRequestPool {
    /// Submits a `server.add_peer`, and returns whether the book accepts it.
    ///
    /// It fails at once if too many requests of the ingress wait.
    pub(super) async fn add_peer(
        &self,
        inbox: &Inbox,
        ingress: Ingress,
        features: Box<Features>,
        from: Option<IpAddr>,
    ) -> bool {
        let Ok(_permit) = self.0.try_acquire() else { return false };
        let (reply, accepted) = oneshot::channel();
        match inbox.try_send(BookMessage::AddPeer { ingress, features, from, reply }) {
            Ok(()) => accepted.await.unwrap_or(false),
            Err(_) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use tokio::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn waiting_requests_of_one_ingress_leave_the_other_alone() {
        let (inbox, mut messages) = mpsc::channel(CAPACITY);
        let (onion, clearnet) = (BookRequestPool::default(), BookRequestPool::default());
        let submit = |pool: &BookRequestPool, ingress| {
            let (pool, inbox) = (pool.clone(), inbox.clone());
            async move { pool.add_peer(&inbox, ingress, Box::default(), None).await }.boxed()
        };
        let mut flood: Vec<_> = (0..2 * CAPACITY).map(|_| submit(&onion, Ingress::Onion)).collect();
        let refused = flood.iter_mut().filter_map(|request| request.now_or_never());
        assert_eq!(refused.filter(|accepted| !accepted).count(), 2 * CAPACITY - MAX_WAITING);
        let mut other = submit(&clearnet, Ingress::Clearnet);
        assert_eq!((&mut other).now_or_never(), None, "it waits for the book");
        drop(flood);
        while let Ok(BookMessage::AddPeer { reply, .. }) = messages.try_recv() {
            let _ = reply.send(true);
        }
        assert!(other.await);
        assert_eq!(submit(&onion, Ingress::Onion).now_or_never(), None, "the permits are back");
    }
}
