//! HTTP/1 connections of one listener, within limits.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::timeout;

use crate::accept_loop::AcceptLoop;
use crate::netgroup::Netgroup;

/// Limits of one listener.
#[derive(Debug, Clone, Copy)]
pub(super) struct HttpLimits {
    /// Maximum number of concurrent connections. A further one ends an older one, which may be silent.
    pub max_connections: usize,
    /// Maximum size of a request's header, and of the buffered part of a response, in bytes.
    pub max_buffer_bytes: usize,
    /// Time within which a request's header must arrive.
    pub header_timeout: Duration,
    /// Maximum lifetime of a connection.
    pub connection_timeout: Duration,
    /// Whether responses state the time of this machine.
    pub sends_date: bool,
}

/// Serves a listener until the future is dropped. The name is for the log.
pub(super) async fn serve(listener: TcpListener, name: &'static str, limits: HttpLimits, router: Router) {
    let mut listener = AcceptLoop::new(listener, name);
    let mut tasks = JoinSet::new();
    let mut connections: VecDeque<(Netgroup, AbortHandle)> = VecDeque::new();
    loop {
        let (stream, address) = listener.next().await;
        while tasks.try_join_next().is_some() {}
        connections.retain(|(_, connection)| !connection.is_finished());
        let source = Netgroup::rate_limit_subnet(address.ip());
        if connections.len() >= limits.max_connections
            && let Some(index) = connection_to_end(connections.iter().map(|(source, _)| *source), source)
            && let Some((_, connection)) = connections.remove(index)
        {
            connection.abort();
        }
        connections.push_back((source, tasks.spawn(serve_connection(stream, limits, router.clone()))));
    }
}

async fn serve_connection(stream: TcpStream, limits: HttpLimits, router: Router) {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(limits.header_timeout);
    http.max_buf_size(limits.max_buffer_bytes).auto_date_header(limits.sends_date);
    let connection = http.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    // A client that disconnects early is no error.
    let _ = timeout(limits.connection_timeout, connection).await;
}

/// Returns the index of the oldest connection of the source that has most of them, with a newcomer.
///
/// `sources` are ordered from the oldest connection to the newest.
fn connection_to_end(sources: impl Iterator<Item = Netgroup> + Clone, newcomer: Netgroup) -> Option<usize> {
    let mut counts: HashMap<Netgroup, usize> = HashMap::from([(newcomer, 1)]);
    for source in sources.clone() {
        *counts.entry(source).or_default() += 1;
    }
    let count = |source: Netgroup| counts.get(&source).copied().unwrap_or_default();
    let most = sources.clone().map(count).max()?;
    sources.map(count).position(|count| count == most)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(ip: &str) -> Netgroup {
        Netgroup::rate_limit_subnet(ip.parse().unwrap())
    }

    fn ended(sources: &[&str], newcomer: &str) -> Option<usize> {
        let sources: Vec<Netgroup> = sources.iter().map(|ip| source(ip)).collect();
        connection_to_end(sources.into_iter(), source(newcomer))
    }

    #[test]
    fn largest_source_loses_its_oldest_connection() {
        let sources = ["5.9.0.1", "88.99.0.1", "88.99.0.2", "8.8.0.1"];
        assert_eq!(ended(&sources, "5.10.0.1"), Some(1));
        assert_eq!(ended(&sources, "88.99.0.3"), Some(1));
        assert_eq!(ended(&["5.9.0.1", "88.99.0.1"], "88.99.0.2"), Some(1), "the newcomer counts");
        assert_eq!(ended(&["127.0.0.1", "127.0.0.1"], "127.0.0.1"), Some(0));
        assert_eq!(ended(&[], "127.0.0.1"), None);
    }
}
