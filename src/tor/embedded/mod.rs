//! A Tor of our own: one client after the other, each led from its first relay to its end.

mod ctor;
mod keys;
mod lock;
mod service;
mod settings;
mod vital;

use std::fmt;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use arti_client::TorClient;
use futures_util::StreamExt;
use tokio::runtime::{self, Runtime};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use tor_rtcompat::tokio::TokioRustlsRuntime;

pub use self::keys::{KeyError, import, onion_address};
pub use self::lock::{DirLock, LockError};
pub use self::settings::{SettingsError, check};
use self::settings::{client_config, whole};
use self::vital::{Verdict, Vital};
use super::{Outlets, OwnName, Settings, tell};
use crate::book::Event;
use crate::clock::{self, Time};
use crate::dial::{Arti, Client, Tor};
use crate::inbox::Input;
use crate::peer::Host;
use crate::route::{TorSign, TorState};

/// How long a client may take to find a relay that answers; the second for all but the first, as a bridge may be slow.
/// Arti itself would ask a relay that failed again after half a minute at the earliest.
const WINDOW: Duration = Duration::from_secs(25);
const LONGEST_WINDOW: Duration = Duration::from_secs(40);

/// How long a connection that stands may take to become one of Tor's.
const HANDSHAKE: Duration = Duration::from_secs(30);

/// How long a download of the directory may make no headway.
const HEADWAY: Duration = Duration::from_secs(90);

/// How Arti's account goes on once a relay has answered.
const DIRECTORY: &str = "directory";

/// Between a client and the next; the second after a number in vain.
const PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// Between two looks at how a client does. Who finds that many of them went by at once has slept.
const LOOK: Duration = Duration::from_secs(5);
const SLEPT: Duration = Duration::from_mins(5);

/// Whether we ever had an onion service, and so a name that others may know.
pub fn has_key(dir: &Path) -> bool {
    matches!(onion_address(&settings::state_dir(dir)), Ok(Some(_)) | Err(_))
}

/// Leads clients for as long as there is somebody to tell of it.
pub async fn run(settings: Settings, outlets: Outlets) {
    // Whoever uses rustls without saying whose cryptography needs one to be named.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut care = Care { settings, outlets, lock: None, was_ready: false, vain: 0, fruitless: 0 };
    while !care.outlets.inbox.is_closed() {
        let why = match care.life().await {
            Err(why) => why,
            Ok(()) => "it reached nobody any more, and is built anew".to_owned(),
        };
        care.outlets.way.send_replace(None);
        tracing::debug!(%why, "the embedded Tor is built anew");
        let sign = if care.was_ready {
            TorSign::Gone { why }
        } else {
            TorSign::Starting { percent: 0, waits_for: format!("{why}; trying again and again") }
        };
        if !tell(&care.outlets.inbox, sign).await {
            return;
        }
        sleep((PAUSE * 2u32.pow(care.vain.min(4))).min(LONGEST_PAUSE)).await;
        settings::until_let_go(&care.settings.dir).await;
    }
}

/// A client for a command that needs Tor once.
pub struct Once {
    pub tor: Tor,
    _alive: Alive,
    _lock: DirLock,
}

impl fmt::Debug for Once {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Once")
    }
}

/// Makes such a client. It gives up where a daemon would begin anew.
pub async fn once(dir: &Path, arti: &str, progress: impl FnMut(u8, &str)) -> Result<Once, String> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    // A daemon may be at work in the directory; then another one, with guards of its own, has to do.
    let (lock, dir) = match DirLock::take(dir) {
        Ok(lock) => (lock, dir.to_owned()),
        Err(LockError::Held(_)) => {
            let dir = dir.join("probe");
            (DirLock::take(&dir).map_err(|error| error.to_string())?, dir)
        }
        Err(error) => return Err(error.to_string()),
    };
    let alive = Alive::make(&dir, arti).await?;
    awaken(&alive.client, HEADWAY, progress).await?;
    Ok(Once { tor: alive.way(), _alive: alive, _lock: lock })
}

/// A client, and all that goes on in it.
///
/// It has a runtime of its own: a client leaves tasks behind that hold its files for minutes while its relays are
/// silent, and would keep its successor from writing down its guards. With their runtime they end at once.
struct Alive {
    client: Arc<Client>,
    given_up: CancellationToken,
    runtime: Option<Runtime>,
}

impl Alive {
    async fn make(dir: &Path, arti: &str) -> Result<Alive, String> {
        let config = client_config(dir, arti).map_err(|error| error.to_string())?;
        let runtime = runtime::Builder::new_multi_thread().worker_threads(2).thread_name("tor").enable_all().build();
        let runtime = runtime.map_err(|error| error.to_string())?;
        let builder = TorClient::with_runtime(TokioRustlsRuntime::from(runtime.handle().clone())).config(config);
        match builder.create_unbootstrapped_async().await {
            Ok(client) => Ok(Alive { client, given_up: CancellationToken::new(), runtime: Some(runtime) }),
            Err(error) => {
                runtime.shutdown_background();
                Err(mend(whole(&error)))
            }
        }
    }

    fn way(&self) -> Tor {
        Tor::Arti(Arti::new(Arc::clone(&self.client), self.given_up.clone()))
    }
}

impl Drop for Alive {
    fn drop(&mut self) {
        self.given_up.cancel();
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

struct Care {
    settings: Settings,
    outlets: Outlets,
    /// What keeps others from the directory, once we have it.
    lock: Option<DirLock>,
    /// Whether any client got as far.
    was_ready: bool,
    /// How many clients in a row found no relay.
    vain: u32,
    /// How many in a row found relays, and nobody behind them.
    fruitless: u32,
}

impl Care {
    /// One client, from its making until it has to be replaced; or why it came to nothing.
    async fn life(&mut self) -> Result<(), String> {
        let alive = match self.make().await {
            Ok(alive) => alive,
            Err(why) => {
                self.vain += 1;
                tracing::error!("our own Tor can't start: {why}");
                return Err(why);
            }
        };
        let window = (WINDOW * (self.vain + 1)).min(LONGEST_WINDOW);
        // The beginning of another one is no news before a relay answers it.
        let is_first = self.vain == 0 && !self.was_ready;
        let inbox = self.outlets.inbox.clone();
        let awake = awaken(&alive.client, window, |percent, waits_for| {
            if is_first || waits_for.starts_with(DIRECTORY) {
                let sign = TorSign::Starting { percent, waits_for: waits_for.to_owned() };
                // Nobody misses a step.
                let _ = inbox.try_send(Input::Event(Event::Tor(sign)));
            }
        });
        if let Err(why) = awake.await {
            self.vain += 1;
            return Err(why);
        }
        self.vain = 0;
        self.was_ready = true;
        self.outlets.way.send_replace(Some(alive.way()));
        let born = clock::now();
        if tell(&self.outlets.inbox, TorSign::Answers).await {
            self.lead(&alive.client, born).await;
        }
        Ok(())
    }

    async fn make(&mut self) -> Result<Alive, String> {
        if self.lock.is_none() {
            self.lock = Some(DirLock::take(&self.settings.dir).map_err(|error| error.to_string())?);
        }
        Alive::make(&self.settings.dir, &self.settings.arti).await
    }

    /// Runs the service on this client, and looks after both until the client has to go.
    async fn lead(&mut self, client: &Client, born: Time) {
        let mut service = self.launch(client).await;
        let (mut down_since, mut missed_since, mut relaunched) = (None, None, 0);
        let mut last_look = born;
        loop {
            sleep(LOOK).await;
            let now = clock::now();
            if now.since(std::mem::replace(&mut last_look, now)) >= SLEPT {
                tracing::info!("this machine seems to have slept; building new circuits");
                return;
            }
            if self.outlets.inbox.is_closed() {
                return;
            }
            let health = self.outlets.health.borrow().clone();
            let name = self.outlets.name.borrow().clone();
            let missed = name.as_ref().map_or(0, |name| name.missed);
            if !matches!(health.state, TorState::Down { .. }) {
                down_since = None;
            } else if down_since.is_none() {
                down_since = Some(now);
            }
            missed_since = if missed == 0 { None } else { missed_since.or(Some(now)) };
            let reached = health.reached.max(name.and_then(|name| name.reached));
            let vital = Vital { born, reached, down_since, missed, missed_since, fruitless: self.fruitless };
            if vital.bore_fruit() {
                self.fruitless = 0;
            }
            match vital.verdict(now) {
                Verdict::Fine => {}
                Verdict::Relaunch if relaunched == missed => {}
                Verdict::Relaunch => {
                    relaunched = missed;
                    tracing::warn!("our onion service can't be reached, though Tor works; launching it anew");
                    drop(service);
                    service = self.launch(client).await;
                }
                Verdict::Replace => {
                    self.fruitless = if vital.bore_fruit() { 0 } else { self.fruitless.saturating_add(1) };
                    return;
                }
            }
        }
    }

    /// Puts our service on the network, where we are to have one. The one before may take a moment to let go of its
    /// files.
    async fn launch(&self, client: &Client) -> Option<service::Running> {
        let settings = self.settings.service?;
        let mut why = String::new();
        for _ in 0..20 {
            match service::launch(client, settings, self.outlets.callers.clone()) {
                Ok((service, name)) => {
                    let name = Host::Onion(name);
                    if self.outlets.name.borrow().as_ref().is_none_or(|known| known.host != name) {
                        tracing::info!(%name, port = settings.port.get(), "our onion service begins");
                        self.outlets.name.send_replace(Some(OwnName::new(name, settings.port)));
                    }
                    return Some(service);
                }
                Err(error) => why = error,
            }
            sleep(Duration::from_millis(500)).await;
        }
        tracing::error!("our onion service can't be launched: {why}");
        None
    }
}

/// Waits until a client has a directory and a relay that answers, for as long as it gets on; says every ten per cent
/// how far it is, and what it waits for.
async fn awaken(client: &Client, window: Duration, mut progress: impl FnMut(u8, &str)) -> Result<(), String> {
    let mut events = client.bootstrap_events();
    let mut bootstrap = pin!(client.bootstrap());
    let (mut done, mut best, mut told) = (false, client.bootstrap_status().as_frac(), None);
    let mut deadline = Instant::now() + window;
    loop {
        let status = client.bootstrap_status();
        if done && status.ready_for_traffic() {
            return Ok(());
        }
        let text = status.to_string();
        let (percent, waits_for) = account(&text);
        if status.as_frac() > best {
            best = status.as_frac();
            let more = if waits_for.starts_with(DIRECTORY) { HEADWAY } else { HANDSHAKE };
            deadline = deadline.max(Instant::now() + more);
        }
        if told != Some(percent / 10) {
            told = Some(percent / 10);
            progress(percent, waits_for);
        }
        tokio::select! {
            outcome = &mut bootstrap, if !done => {
                outcome.map_err(|error| whole(&error))?;
                done = true;
            }
            Some(_) = events.next() => {}
            () = sleep_until(deadline) => return Err(match status.blocked() {
                Some(blocked) => blocked.message().to_string(),
                None => "no relay answers".to_owned(),
            }),
        }
    }
}

/// Arti keeps its secrets in no directory that others may write to, and says which.
fn mend(why: String) -> String {
    if why.contains("permissions") { format!("{why}; mend it with chmod, or choose another data_dir") } else { why }
}

/// Arti's own account of its beginning, taken apart: "17%: connecting to the internet; directory is …", or "Stuck at
/// 17%: …".
fn account(text: &str) -> (u8, &str) {
    let (percent, state) = text.split_once("%: ").unwrap_or(("0", text));
    let digits = percent.trim_start_matches(|c: char| !c.is_ascii_digit());
    let waits_for = match state.split_once("; ") {
        // Such an account begins with DIRECTORY.
        Some(("connecting successfully", directory)) => directory,
        Some((connection, _)) => connection,
        None => state,
    };
    (digits.parse().unwrap_or(0), waits_for.split(", ").next().unwrap_or(waits_for))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn artis_account_is_shortened() {
        let text = "17%: connecting to the internet; directory is usable, fresh until 2026-11-23 03:17:36 UTC";
        assert_eq!(account(text), (17, "connecting to the internet"));
        let text = "45%: connecting successfully; directory is fetching microdescriptors (0/7)";
        assert_eq!(account(text), (45, "directory is fetching microdescriptors (0/7)"));
        assert_eq!(account("Stuck at 3%: We seem to be offline"), (3, "We seem to be offline"));
        assert_eq!(account(""), (0, ""));
    }
}
