//! Supervision of the embedded Tor: one Arti client after another, from bootstrap to replacement.

mod c_tor_key;
mod client;
mod client_config;
mod client_health;
mod dir_lock;
mod key_files;
mod keys;
mod service;
mod status_text;

use std::path::Path;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use self::client::{ClientHandle, bootstrap};
pub use self::client::{EphemeralClient, bootstrap_ephemeral};
pub use self::client_config::{ArtiConfigError, check};
use self::client_health::{ClientHealth, Verdict};
pub use self::dir_lock::{DirLock, LockError};
pub use self::keys::{ExistingKey, OnionKeyError, export, generate, import, onion_address};
use self::status_text::Phase;
use super::{OnionServiceState, TorChannels, TorOptions, report_probe};
use crate::backoff::Backoff;
use crate::book::Event;
use crate::book_handle::BookMessage;
use crate::clock::{self, Time};
use crate::dial::Client;
use crate::peer::{Host, Port};
use crate::tor_state::{OnionError, OnionFailure, TorKind, TorProbe, TorSource, TorState};

/// Time for a client to find a relay that answers.
///
/// Arti itself retries a failed relay after half a minute at the earliest.
const BOOTSTRAP_TIMEOUT: Duration = Duration::from_secs(25);
/// The same after a failed start, as a bridge may be slow.
const MAX_BOOTSTRAP_TIMEOUT: Duration = Duration::from_secs(40);

/// Pause between two clients; it doubles up to [`MAX_RESTART_PAUSE`].
const RESTART_PAUSE: Duration = Duration::from_secs(1);
/// Longest pause after clients that found no relay.
const MAX_RESTART_PAUSE: Duration = Duration::from_secs(10);

/// Interval between two checks of a client.
const CHECK_INTERVAL: Duration = Duration::from_secs(5);
/// Gap between two checks after which the machine is assumed to have been suspended.
const SUSPEND_THRESHOLD: Duration = Duration::from_mins(5);

/// Number of failed service launches before an error is reported.
///
/// The previous client may hold the files of the service for some seconds.
const QUIET_LAUNCHES: u32 = 20;
/// Pause between these launches.
const QUIET_LAUNCH_PAUSE: Duration = Duration::from_millis(500);

/// Pause after later failures; it doubles up to [`MAX_LAUNCH_PAUSE`].
///
/// The operator may fix the cause at any time.
const LAUNCH_PAUSE: Duration = Duration::from_secs(5);
/// Longest pause between two launches.
const MAX_LAUNCH_PAUSE: Duration = Duration::from_mins(1);

/// Whether the directory contains an onion key, readable or not, so peers may know the name.
pub(super) fn has_key(dir: &Path) -> bool {
    matches!(onion_address(&client_config::state_dir(dir)), Ok(Some(_)) | Err(_))
}

/// Runs clients until the daemon shuts down.
pub(super) async fn run(settings: TorOptions, channels: TorChannels) {
    // rustls without an explicit provider needs a default one.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let source = TorSource::new(TorKind::Embedded, Vec::new());
    channels.report.send_modify(|report| report.source = Some(source));
    let mut supervisor = Supervisor {
        settings,
        channels,
        lock: None,
        was_ready: false,
        logged_error: None,
        failed_starts: 0,
        unproductive_clients: 0,
    };
    while !supervisor.channels.inbox.is_closed() {
        let reason = supervisor.run_client().await;
        supervisor.channels.connector.send_replace(None);
        tracing::debug!(%reason, "replacing the embedded Tor's client");
        let tor_probe = if supervisor.was_ready || supervisor.logged_error.is_some() {
            TorProbe::Unavailable { reason }
        } else {
            TorProbe::Starting { percent: 0, waiting_for: format!("{reason}; retrying") }
        };
        if !report_probe(&supervisor.channels.inbox, tor_probe).await {
            return;
        }
        sleep(Backoff::new(RESTART_PAUSE, MAX_RESTART_PAUSE).after(supervisor.failed_starts.saturating_add(1))).await;
        client_config::wait_for_unlock(&supervisor.settings.dir).await;
    }
}

struct Supervisor {
    settings: TorOptions,
    channels: TorChannels,
    /// Lock of the directory, once it is held.
    lock: Option<DirLock>,
    /// Whether any client has finished its bootstrap.
    was_ready: bool,
    /// Error of the last client that could not be created, as it was logged.
    logged_error: Option<String>,
    /// Number of clients in a row that found no relay.
    failed_starts: u32,
    /// Number of clients in a row that found relays but reached no peer.
    unproductive_clients: u32,
}

impl Supervisor {
    /// Runs one client until it must be replaced, and returns the reason.
    async fn run_client(&mut self) -> String {
        let handle = match self.create_client().await {
            Ok(handle) => handle,
            Err(reason) => {
                self.failed_starts = self.failed_starts.saturating_add(1);
                if self.logged_error.as_ref() != Some(&reason) {
                    tracing::error!("the embedded Tor can't start: {reason}");
                    self.logged_error = Some(reason.clone());
                }
                if self.settings.service.is_some() {
                    self.report_onion(Some(OnionError { stage: OnionFailure::TorStart, reason: reason.clone() }));
                }
                return reason;
            }
        };
        // Whether the service can be launched shows only when Tor is ready.
        self.channels.report.send_if_modified(|report| {
            report.onion_error.take_if(|error| error.stage == OnionFailure::TorStart).is_some()
        });
        let relay_timeout =
            (BOOTSTRAP_TIMEOUT * self.failed_starts.saturating_add(1).min(2)).min(MAX_BOOTSTRAP_TIMEOUT);
        // A further client is reported only once a relay has answered it.
        let is_first = self.failed_starts == 0 && !self.was_ready;
        let inbox = self.channels.inbox.clone();
        let bootstrapping = bootstrap(&handle.client, relay_timeout, |progress| {
            if is_first || progress.phase == Phase::Directory {
                let tor_probe = TorProbe::Starting { percent: progress.percent, waiting_for: progress.waiting_for };
                // Dropping a progress report is harmless.
                let _ = inbox.try_send(BookMessage::Event(Event::Tor(tor_probe)));
            }
        });
        if let Err(reason) = bootstrapping.await {
            self.failed_starts = self.failed_starts.saturating_add(1);
            return reason;
        }
        (self.failed_starts, self.was_ready, self.logged_error) = (0, true, None);
        self.channels.connector.send_replace(Some(handle.connector()));
        let ready_at = clock::now();
        report_probe(&self.channels.inbox, TorProbe::Reachable).await;
        self.supervise(&handle.client, ready_at).await.to_owned()
    }

    async fn create_client(&mut self) -> Result<ClientHandle, String> {
        if self.lock.is_none() {
            self.lock = Some(DirLock::take(&self.settings.dir).map_err(|error| error.to_string())?);
        }
        let TorOptions { dir, arti, peer_keys, service, .. } = &self.settings;
        let is_restricted = service.as_ref().is_some_and(|service| service.clients.is_some());
        let peer_keys = if is_restricted || !peer_keys.is_empty() { Some(peer_keys.as_slice()) } else { None };
        ClientHandle::create(dir, arti, peer_keys).await
    }

    /// Runs the service on this client and checks both until the client must be replaced.
    async fn supervise(&mut self, client: &Client, ready_at: Time) -> &'static str {
        let mut launcher = Launcher::default();
        let (mut down_since, mut recovered, mut failing_since, mut relaunched_at) = (None, None, None, 0);
        let mut last_check = ready_at;
        loop {
            self.launch(client, &mut launcher);
            // Wakes at each change of health, so a failure of one second is seen too.
            let _ = timeout(launcher.pause().min(CHECK_INTERVAL), self.channels.health.changed()).await;
            let now = clock::now();
            if now.since(std::mem::replace(&mut last_check, now)) >= SUSPEND_THRESHOLD {
                return "the machine was suspended, and its circuits are closed";
            }
            if self.channels.inbox.is_closed() {
                return "the daemon shuts down";
            }
            let health = self.channels.health.borrow_and_update().clone();
            let name = self.channels.onion_service.borrow().clone();
            // Failures count only while the service runs: a new client can't fix a failed launch.
            let failures = name.as_ref().filter(|_| launcher.running.is_some()).map_or(0, |name| name.failures);
            if !matches!(health.state, TorState::Down { .. }) {
                recovered = down_since.take().map(|_| now).or(recovered);
            } else if down_since.is_none() {
                down_since = Some(now);
            }
            failing_since = if failures == 0 { None } else { failing_since.or(Some(now)) };
            let last_reached = health.last_reached.max(name.and_then(|name| name.last_reached));
            let unproductive = self.unproductive_clients;
            let client_health = ClientHealth {
                ready_at,
                last_reached,
                down_since,
                recovered,
                failures,
                failing_since,
                unproductive_clients: unproductive,
            };
            if client_health.has_connected() {
                self.unproductive_clients = 0;
            }
            match client_health.verdict(now) {
                Verdict::Fine => {}
                Verdict::Relaunch if relaunched_at == failures => {}
                Verdict::Relaunch => {
                    relaunched_at = failures;
                    tracing::warn!("the onion service is unreachable although Tor works; launching it again");
                    launcher = Launcher::default();
                }
                Verdict::Replace => {
                    self.unproductive_clients =
                        if client_health.has_connected() { 0 } else { self.unproductive_clients.saturating_add(1) };
                    return "no peer was reachable through it";
                }
            }
        }
    }

    /// Launches the service if one is configured and a launch is due.
    fn launch(&self, client: &Client, launcher: &mut Launcher) {
        let Some(service) = self.settings.service.as_ref().filter(|_| launcher.is_due()) else { return };
        let Some(ports) = service.advertised() else { return };
        match service::launch(client, service, &self.settings.dir, self.channels.onion_streams.clone()) {
            Ok((running, name)) => {
                launcher.running = Some(running);
                self.report_onion(None);
                let name = Host::Onion(name);
                if self.channels.onion_service.borrow().as_ref().is_none_or(|known| known.host != name) {
                    let port = ports.tcp().map(Port::get);
                    tracing::info!(%name, port, "the onion service was launched");
                    let is_restricted = service.clients.is_some();
                    let state = OnionServiceState { is_restricted, ..OnionServiceState::new(name, ports) };
                    self.channels.onion_service.send_replace(Some(state));
                }
            }
            Err(reason) => {
                launcher.fail();
                if launcher.failures >= QUIET_LAUNCHES {
                    let dir = keys::key_dir(&client_config::state_dir(&self.settings.dir));
                    let advice = "restore the key from a copy, owned by this user with mode 0600, in";
                    let reason = format!("{reason}; {advice} {}", dir.display());
                    self.report_onion(Some(OnionError { stage: OnionFailure::Launch, reason }));
                }
            }
        }
    }

    /// Reports to operators whether the service runs, and logs changes.
    fn report_onion(&self, error: Option<OnionError>) {
        self.channels.report.send_if_modified(|report| {
            if report.onion_error == error {
                return false;
            }
            match &error {
                // A Tor that can't start is logged by `run_client`.
                Some(OnionError { stage: OnionFailure::TorStart, .. }) => {}
                Some(error) => tracing::error!("the onion service can't be launched, retrying: {error}"),
                None => tracing::info!("the onion service was launched after failures"),
            }
            report.onion_error = error;
            true
        });
    }
}

/// The running service, or the time of its next launch.
#[derive(Default)]
struct Launcher {
    running: Option<service::Running>,
    /// Number of failed launches in a row.
    failures: u32,
    /// Time of the next launch. `None`: at once.
    next: Option<Instant>,
}

impl Launcher {
    fn is_due(&self) -> bool {
        self.running.is_none() && self.next.is_none_or(|next| next <= Instant::now())
    }

    /// Returns the time until the next launch.
    fn pause(&self) -> Duration {
        match (&self.running, self.next) {
            (None, Some(next)) => next.saturating_duration_since(Instant::now()),
            _ => Duration::MAX,
        }
    }

    fn fail(&mut self) {
        self.failures = self.failures.saturating_add(1);
        let pause = match self.failures.checked_sub(QUIET_LAUNCHES) {
            None => QUIET_LAUNCH_PAUSE,
            Some(failures) => Backoff::new(LAUNCH_PAUSE, MAX_LAUNCH_PAUSE).after(failures.saturating_add(1)),
        };
        self.next = Some(Instant::now() + pause);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn failed_launches_back_off_to_a_minute() {
        let mut launcher = Launcher::default();
        let mut pauses = Vec::new();
        for _ in 0..QUIET_LAUNCHES + 10 {
            assert!(launcher.is_due());
            launcher.fail();
            pauses.push(launcher.pause());
            tokio::time::advance(launcher.pause()).await;
        }
        let (quiet, rest) = pauses.split_at(QUIET_LAUNCHES as usize - 1);
        assert!(quiet.iter().all(|pause| *pause == QUIET_LAUNCH_PAUSE));
        assert_eq!(rest[..3], [LAUNCH_PAUSE, LAUNCH_PAUSE * 2, LAUNCH_PAUSE * 4]);
        assert!(rest[4..].iter().all(|pause| *pause == MAX_LAUNCH_PAUSE));
    }
}
