//! Reload of the configuration on SIGHUP, and of files when they change.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::Signal;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};

use super::file_watcher::{FileWatcher, ReloadOutcome};
use super::{DaemonError, as_map_file, backend_check, limits, service_manager};
use crate::backend::ServerList;
use crate::book::Event;
use crate::book_handle::{BookMessage, Inbox};
use crate::config::{Config, ConfigError};
use crate::dial::Dialer;
use crate::header_chain::HeaderChain;
use crate::server::{Limits, TrustedProxies};

/// Time between two checks whether a ban list or the certificate changed.
const POLL_INTERVAL: Duration = Duration::from_secs(5);

/// Steps of the start that a reload repeats, supplied by the command line.
pub struct ReloadHooks {
    /// Loads the configuration from the same sources as at the start.
    pub load: Box<dyn Fn() -> Result<Config, ConfigError> + Send>,
    /// Sets the level of the log, in the form of `log.level`.
    pub log_level: Box<dyn Fn(&str) + Send>,
}

impl fmt::Debug for ReloadHooks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ReloadHooks")
    }
}

/// Task that applies changes of the configuration and of watched files.
pub(crate) struct Reloader {
    /// Configuration in use.
    pub running: Config,
    /// Steps of the start to repeat.
    pub hooks: ReloadHooks,
    /// Limits that sessions read.
    pub limits: watch::Sender<Arc<Limits>>,
    /// Proxies that listeners trust.
    pub trusted_proxies: watch::Sender<Arc<TrustedProxies>>,
    /// Watcher of the ban lists and the certificate.
    pub files: FileWatcher,
    /// Servers of the backend; `None` without a backend.
    pub servers: Option<ServerReload>,
    /// Channel to the book's task; the reloader ends with it.
    pub inbox: Inbox,
}

/// What is needed to replace the servers of the backend.
pub(crate) struct ServerReload {
    /// Servers in use.
    pub list: Arc<ServerList>,
    /// Dialer of the node.
    pub dialer: Dialer,
    /// Known chain with the most work.
    pub chain: watch::Receiver<Option<Arc<HeaderChain>>>,
    /// Addresses on which the node listens.
    pub own_addresses: Vec<SocketAddr>,
}

impl ServerReload {
    /// Replaces the servers. Sessions of removed ones continue until they end.
    async fn apply(&self, updated: &Config) -> Result<(), DaemonError> {
        let servers = backend_check::create_servers(updated, &self.dialer.tls, &self.chain);
        for server in &servers {
            backend_check::check_server(server, &self.own_addresses, &self.dialer).await?;
        }
        self.list.replace(servers);
        Ok(())
    }
}

impl Reloader {
    /// Polls the files every `POLL_INTERVAL`, and reloads everything on SIGHUP.
    pub(crate) async fn run(mut self, mut sighup: Signal) {
        let mut polls = interval(POLL_INTERVAL);
        polls.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while !self.inbox.is_closed() {
            tokio::select! {
                _ = polls.tick() => self.files.poll().await,
                Some(()) = sighup.recv() => {
                    service_manager::reloading();
                    if let Err(error) = self.reload().await {
                        tracing::error!("configuration not reloaded, all settings are unchanged: {error}");
                    }
                    service_manager::ready();
                }
            }
        }
    }

    /// Applies the keys that can change at run time, and logs those that need a restart.
    ///
    /// A ban list or certificate that can't be read stays as it was. The rest is still applied.
    async fn reload(&mut self) -> Result<(), ReloadError> {
        let new = (self.hooks.load)()?;
        let mut updated = self.running.with_reloadable_from(&new);
        let mut changed = self.running.diff_keys(&updated)?;
        let pending = updated.diff_keys(&new)?;
        let any_changed = |keys: &[String], key: &str| keys.iter().any(|changed| changed.starts_with(key));

        if any_changed(&changed, "log.level") {
            (self.hooks.log_level)(&updated.log_level);
        }
        if any_changed(&changed, "limits.") {
            self.limits.send_replace(limits(&updated));
            changed.retain(|key| !key.starts_with("limits."));
            changed.push("limits".to_owned());
        }
        if any_changed(&changed, "listen.trusted_proxies") {
            self.trusted_proxies.send_replace(Arc::new(updated.listen.trusted_proxies.clone()));
        }
        if any_changed(&changed, "discovery.seeds") {
            let seeds = updated.book.seeds.clone();
            let _ = self.inbox.send(BookMessage::Event(Event::SeedsReplaced(seeds))).await;
        }
        if any_changed(&changed, "backend.electrum")
            && let Some(servers) = &self.servers
            && let Err(error) = servers.apply(&updated).await
        {
            tracing::warn!("{error}; the previous servers stay in use");
            updated.use_backend_of(&self.running);
            changed.retain(|key| key != "backend.electrum");
        }
        match as_map_file::read(updated.as_map_file.as_deref()) {
            Ok(as_map) => {
                if as_map != self.running.book.as_map {
                    changed.retain(|key| key != "discovery.asmap");
                    changed.push("AS map".to_owned());
                    let event = Event::AsMapReplaced(as_map.clone());
                    let _ = self.inbox.send(BookMessage::Event(event)).await;
                }
                updated.book.as_map = as_map;
            }
            Err(error) => {
                tracing::warn!("{error}; the previous map stays in use");
                updated.use_as_map_of(&self.running);
                changed.retain(|key| key != "discovery.asmap");
            }
        }
        match self.files.read_bans(updated.ban_files()).await {
            ReloadOutcome::Same => {}
            ReloadOutcome::Changed => changed.push("bans".to_owned()),
            ReloadOutcome::Failed => {
                updated.use_ban_lists_of(&self.running);
                changed.retain(|key| !key.starts_with("discovery.ban_"));
            }
        }
        match self.files.read_certificate(updated.listen.certificate.clone()) {
            ReloadOutcome::Same => {}
            ReloadOutcome::Changed => changed.push("certificate".to_owned()),
            ReloadOutcome::Failed => {
                updated.use_certificate_of(&self.running);
                changed.retain(|key| key != "listen.cert" && key != "listen.key");
            }
        }
        self.running = updated;
        report(changed, &pending);
        Ok(())
    }
}

/// Reason why a reload applied nothing.
#[derive(Debug, thiserror::Error)]
enum ReloadError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("comparison with the running configuration failed: {0}")]
    Compare(#[from] toml::ser::Error),
}

/// Logs the applied keys, and those that take effect at the next start.
fn report(mut changed: Vec<String>, pending: &[String]) {
    match pending {
        [] => {}
        [key] => tracing::warn!("{key}: changed, and takes effect at the next start"),
        keys => tracing::warn!("{}: changed, and take effect at the next start", keys.join(", ")),
    }
    changed.sort();
    if changed.is_empty() {
        tracing::info!("reloaded: nothing has changed");
    } else {
        tracing::info!("reloaded: {}", changed.join(", "));
    }
}
