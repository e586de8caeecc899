//! The operator's servers as upstream: new sessions go to the least loaded one that works.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::timeout;

use super::{BackendError, Server, UpstreamAddr, UpstreamConnection, UpstreamLease};
use crate::book_handle::Inbox;
use crate::connect::ProbeError;
use crate::electrum::identity::BackendInfo;

/// Timeout for a server to accept a session if another one can serve it.
const OPEN_TIMEOUT: Duration = Duration::from_secs(5);

/// Number of blocks by which a server may be behind the others and still be at the tip.
///
/// A new block reaches servers at different times.
const MAX_TIP_LAG: u32 = 1;

/// The operator's servers, in the order of the configuration.
#[derive(Debug)]
pub struct ServerList {
    servers: watch::Sender<Vec<Arc<Server>>>,
    /// Changes with each poll of a server.
    polls: watch::Sender<u64>,
}

/// Counts a session at a server, until dropped.
#[derive(Debug)]
pub struct ServerLease(Arc<Server>);

impl ServerList {
    /// Creates a list without sessions.
    pub fn new(servers: Vec<Server>) -> ServerList {
        let servers = servers.into_iter().map(Arc::new).collect();
        ServerList { servers: watch::Sender::new(servers), polls: watch::Sender::new(0) }
    }

    /// Replaces the servers. Known ones are kept; sessions of removed ones continue until they end.
    pub fn replace(&self, servers: Vec<Server>) {
        self.servers.send_modify(|known| {
            let kept = |server: Server| {
                let same = known.iter().find(|known| known.address == server.address);
                same.map_or_else(|| Arc::new(server), Arc::clone)
            };
            *known = servers.into_iter().map(kept).collect();
        });
        self.polls.send_modify(|polls| *polls += 1);
    }

    /// Returns the servers.
    pub fn servers(&self) -> Vec<Arc<Server>> {
        self.servers.borrow().clone()
    }

    /// Returns the number of servers.
    pub fn len(&self) -> usize {
        self.servers.borrow().len()
    }

    /// Returns whether there is no server.
    pub fn is_empty(&self) -> bool {
        self.servers.borrow().is_empty()
    }

    /// Returns the addresses of the servers.
    pub fn addresses(&self) -> impl Iterator<Item = UpstreamAddr> {
        self.servers().into_iter().map(|server| server.address.clone())
    }

    /// Opens a connection to one of the servers that fulfil the condition: first those at the tip, then the least loaded.
    pub(super) async fn open(
        &self,
        version: &str,
        client: Option<IpAddr>,
        condition: impl Fn(&Server) -> bool,
    ) -> Result<UpstreamConnection, BackendError> {
        let (mut servers, best_tip) = (self.servers(), self.best_tip());
        servers.retain(|server| condition(server));
        servers.sort_by_key(|server| (rank(server, best_tip), server.sessions()));
        let mut failure = BackendError::NoServer;
        let count = servers.len();
        for (position, server) in servers.into_iter().enumerate() {
            let opening = server.open(version, client);
            let opened = if position + 1 < count {
                timeout(OPEN_TIMEOUT, opening).await.unwrap_or(Err(ProbeError::Timeout.into()))
            } else {
                opening.await
            };
            match opened {
                Ok(stream) => {
                    let lease = UpstreamLease::Server(ServerLease::new(server));
                    return Ok(UpstreamConnection { stream, lease });
                }
                Err(error) => {
                    tracing::debug!(backend = %server.address, %error, "no connection for a session");
                    if !matches!(error, BackendError::Versions) {
                        server.doubt();
                    }
                    failure = error;
                }
            }
        }
        Err(failure)
    }

    /// Polls all servers until shutdown, also those that are added later.
    pub async fn monitor(&self, inbox: Inbox) {
        let mut changes = self.servers.subscribe();
        let mut polled: BTreeMap<String, AbortHandle> = BTreeMap::new();
        let mut monitors = JoinSet::new();
        loop {
            let servers = changes.borrow_and_update().clone();
            polled.retain(|address, monitor| {
                let is_kept = servers.iter().any(|server| server.address.to_string() == *address);
                if !is_kept {
                    monitor.abort();
                }
                is_kept
            });
            for server in servers {
                let (servers, polls, inbox) = (self.servers.clone(), self.polls.clone(), inbox.clone());
                polled.entry(server.address.to_string()).or_insert_with(|| {
                    monitors.spawn(async move {
                        let changed = || polls.send_modify(|polls| *polls += 1);
                        let leads = || leader(&servers.borrow()).is_some_and(|leader| Arc::ptr_eq(leader, &server));
                        server.monitor(inbox, changed, leads).await;
                    })
                });
            }
            while monitors.try_join_next().is_some() {}
            tokio::select! {
                changed = changes.changed() => if changed.is_err() { return },
                () = inbox.closed() => return,
            }
        }
    }

    /// Returns a receiver that is notified of each poll.
    pub(super) fn polls(&self) -> watch::Receiver<u64> {
        self.polls.subscribe()
    }

    /// Returns why no server is usable; `None` if one is.
    pub(super) fn last_error(&self) -> Option<String> {
        let servers = self.servers();
        let mut errors = servers.iter().map(|server| server.status().error);
        let first = errors.next().flatten()?;
        if errors.any(|error| error.is_none()) {
            return None;
        }
        Some(if servers.len() > 1 { format!("no server is usable; the first: {first}") } else { first })
    }

    /// Returns the properties that all known servers share; `None` if none was reached yet.
    pub(super) fn info(&self) -> Option<BackendInfo> {
        let servers = self.servers();
        let leader = leader(&servers)?.status().info?;
        let usable = servers.iter().map(|server| server.status()).filter(|status| status.error.is_none());
        Some(usable.filter_map(|status| status.info).fold(leader, common_info))
    }

    fn best_tip(&self) -> Option<u32> {
        let usable = self.servers().into_iter().map(|server| server.status()).filter(|status| status.error.is_none());
        usable.filter_map(|status| status.info?.tip).max()
    }
}

impl ServerLease {
    fn new(server: Arc<Server>) -> ServerLease {
        server.add_session();
        ServerLease(server)
    }

    /// Returns the address of the server.
    pub fn address(&self) -> &UpstreamAddr {
        &self.0.address
    }

    /// Polls the server at once, as it failed within the session.
    pub fn failed(&self) {
        self.0.doubt();
    }
}

impl Drop for ServerLease {
    fn drop(&mut self) {
        self.0.remove_session();
    }
}

/// Returns the first server that works; if none does, the first that worked.
fn leader(servers: &[Arc<Server>]) -> Option<&Arc<Server>> {
    let usable = servers.iter().find(|server| server.status().error.is_none());
    usable.or_else(|| servers.iter().find(|server| server.status().info.is_some()))
}

/// Returns the rank of a server: 0 at the tip, 1 behind it, 2 unusable.
fn rank(server: &Server, best_tip: Option<u32>) -> u8 {
    let status = server.status();
    let tip = status.info.and_then(|info| info.tip);
    match (status.error, tip, best_tip) {
        (Some(_), ..) => 2,
        (None, Some(tip), Some(best)) if tip.saturating_add(MAX_TIP_LAG) < best => 1,
        (None, ..) => 0,
    }
}

/// Combines the properties of two servers. A session may move from one to the other.
fn common_info(one: BackendInfo, other: BackendInfo) -> BackendInfo {
    let ((oldest, newest), (other_oldest, other_newest)) = (one.versions, other.versions);
    let oldest = if other_oldest.cmp_semver(&oldest).is_gt() { other_oldest } else { oldest };
    let newest = if other_newest.cmp_semver(&newest).is_lt() { other_newest } else { newest };
    // Without a common version, sessions of the first server can't move.
    let versions = if oldest.cmp_semver(&newest).is_gt() { one.versions } else { (oldest, newest) };
    BackendInfo {
        software: one.software,
        versions,
        pruning: one.pruning.into_iter().chain(other.pruning).min(),
        tip: one.tip.max(other.tip),
    }
}
