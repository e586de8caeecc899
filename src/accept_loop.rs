//! Accepting connections, with one back-off for all listeners of the daemon.

use std::io::{Error, ErrorKind, Result};
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::time::sleep;

use crate::backoff::Backoff;

/// Delay after failed accepts.
///
/// They fail without file descriptors or memory, which ending sessions release.
const RETRY: Backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(1));

/// Listener of an [`AcceptLoop`].
pub trait Listener {
    /// What an accept returns.
    type Connection;

    /// Accepts one connection. Cancel safe.
    fn accept(&self) -> impl Future<Output = Result<Self::Connection>> + Send;
}

impl Listener for TcpListener {
    type Connection = (TcpStream, SocketAddr);

    async fn accept(&self) -> Result<(TcpStream, SocketAddr)> {
        TcpListener::accept(self).await
    }
}

impl Listener for UnixListener {
    type Connection = UnixStream;

    async fn accept(&self) -> Result<UnixStream> {
        UnixListener::accept(self).await.map(|(stream, _)| stream)
    }
}

/// Connections of a listener. Failures are logged once, and retried with a back-off.
#[derive(Debug)]
pub struct AcceptLoop<L> {
    listener: L,
    /// Name of the listener in the log.
    name: &'static str,
    /// Consecutive failures.
    failures: u32,
}

impl<L: Listener> AcceptLoop<L> {
    /// Wraps a listener. The name is for the log.
    pub fn new(listener: L, name: &'static str) -> AcceptLoop<L> {
        AcceptLoop { listener, name, failures: 0 }
    }

    /// Returns the next connection. Cancel safe.
    pub async fn next(&mut self) -> L::Connection {
        let listener = self.name;
        loop {
            match self.listener.accept().await {
                Ok(connection) => {
                    if std::mem::take(&mut self.failures) > 0 {
                        tracing::info!(listener, "accepting connections again");
                    }
                    return connection;
                }
                Err(error) if is_connection_error(&error) => {}
                Err(error) => {
                    if self.failures == 0 {
                        tracing::warn!(
                            %error,
                            listener,
                            "can't accept connections; retrying until file descriptors or memory are free"
                        );
                    }
                    self.failures = self.failures.saturating_add(1);
                    sleep(RETRY.after(self.failures)).await;
                }
            }
        }
    }
}

/// Returns whether an error concerns one connection, not the listener.
fn is_connection_error(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset | ErrorKind::Interrupted)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use tokio::time::Instant;

    use super::*;

    /// Listener that fails this many times before each accept.
    struct Failing(AtomicU32, ErrorKind);

    impl Listener for Failing {
        type Connection = ();

        async fn accept(&self) -> Result<()> {
            match self.0.fetch_sub(1, Ordering::Relaxed) {
                0 => Ok(()),
                _ => Err(self.1.into()),
            }
        }
    }

    async fn delay(failures: u32, kind: ErrorKind) -> Duration {
        let start = Instant::now();
        AcceptLoop::new(Failing(AtomicU32::new(failures), kind), "test").next().await;
        start.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn failed_accept_is_retried_after_a_delay() {
        assert_eq!(delay(2, ErrorKind::OutOfMemory).await.as_millis(), 200 + 400);
        assert_eq!(delay(5, ErrorKind::OutOfMemory).await.as_millis(), 200 + 400 + 800 + 1000 + 1000);
    }

    #[tokio::test(start_paused = true)]
    async fn aborted_connection_is_skipped_without_a_delay() {
        assert_eq!(delay(2, ErrorKind::ConnectionAborted).await, Duration::ZERO);
    }
}
