//! Visits to an IRC channel, for servers that can be found nowhere else.
//!
//! A visit is short and rare. Whatever goes wrong makes the next one later, and who doesn't want us is asked ever more seldom.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use rand::RngExt;
use rand::rngs::StdRng;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};
use tokio_util::codec::{AnyDelimiterCodec, Framed};

use crate::book::{Attempt, Event, Failure, Snapshot};
use crate::clock::{self, Time};
use crate::conversation::irc::{Action, Dropped, Plan, Trouble, Visit};
use crate::dial::{Circle, Dialer, KeyError, Stream, check_key};
use crate::inbox::{Inbox, Input};
use crate::peer::{Endpoint, Host, RealName, Transport};
use crate::route::{Routing, Via};

#[derive(Debug, Clone)]
pub struct Settings {
    pub server: Endpoint,
    pub tls: bool,
    /// Whether it is called through Tor.
    pub tor: bool,
    /// From one visit to the next, more or less.
    pub interval: Duration,
    pub plan: Plan,
    /// Where the TLS key of a server is remembered that learns a password of ours.
    pub key_file: PathBuf,
    /// A file whose age is that of the last visit, so that who starts us time and again doesn't annoy others.
    pub visit_file: PathBuf,
}

/// What came of the visits.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Visits {
    /// The server's name and port.
    pub server: String,
    pub last: Option<Time>,
    /// Why the last one came to nothing.
    pub trouble: Option<String>,
    pub next: Option<Time>,
    /// Real names of servers; and names under the prefix that were cut off, had control codes, or were none of a server's.
    pub found: u64,
    pub cut_off: u64,
    pub control_codes: u64,
    pub unreadable: u64,
}

/// What the visitor needs.
#[derive(Debug)]
pub struct Visitor {
    pub settings: Settings,
    pub dialer: Dialer,
    pub inbox: Inbox,
    pub snapshot: watch::Receiver<Arc<Snapshot>>,
    pub visits: watch::Sender<Visits>,
}

/// One visit, from the first word to the last; to call the server through Tor may take as long again.
const VISIT: Duration = Duration::from_secs(50);
const CALL: Duration = Duration::from_secs(60);

/// The first visit is not at once after the start, as Tor and the seeds come first.
const FIRST: [u64; 2] = [5, 20];

/// How long a goodbye may take.
const GOODBYE: Duration = Duration::from_secs(3);

/// While we stay: between two questions of ours, and between two signs of life of the server's.
const PACE: Duration = Duration::from_secs(15);
const SILENCE: Duration = Duration::from_secs(600);

/// Who could stay for this long is welcome.
const LONG: Duration = Duration::from_hours(1);

/// When our own way to it failed, it is tried again sooner.
const AGAIN: Duration = Duration::from_mins(10);

/// Nobody is asked less often than this.
const SELDOM: Duration = Duration::from_hours(7 * 24);

/// A line with its tags; some servers send more than the 512 bytes of old.
const LONGEST_LINE: usize = 8191 + 512;

/// Why nothing came of a visit.
#[derive(Debug, thiserror::Error)]
enum Mishap {
    #[error("it can't be reached: {0}")]
    Call(#[from] Failure),
    #[error("{0}")]
    Key(#[from] KeyError),
    #[error("{0}")]
    Trouble(#[from] Trouble),
    #[error("it takes too long")]
    Slow,
    #[error("the connection broke off")]
    Broken,
}

type Lines = Framed<Box<dyn Stream>, AnyDelimiterCodec>;

impl Visitor {
    /// Visits now and then, until nobody listens any more.
    pub async fn run(self, mut rng: StdRng) {
        let mut pause = self.first_pause(&mut rng);
        let mut missed = 0_u32;
        while !self.inbox.is_closed() {
            self.visits.send_modify(|visits| visits.next = Some(clock::now() + pause));
            sleep(pause).await;
            // Its age is all that matters of it.
            let _ = std::fs::write(&self.settings.visit_file, "");
            let outcome = self.visit(&mut rng).await;
            let trouble = outcome.as_ref().err().map(Mishap::to_string);
            self.visits.send_modify(|visits| {
                visits.last = Some(clock::now());
                visits.trouble.clone_from(&trouble);
            });
            missed = if outcome.is_ok() { 0 } else { missed + 1 };
            if let Some(why) = &trouble
                && missed == 1
            {
                tracing::warn!(%why, "a visit to IRC came to nothing");
            }
            pause = self.pause(&outcome, missed).mul_f64(rng.random_range(0.8..1.2));
        }
    }

    fn first_pause(&self, rng: &mut StdRng) -> Duration {
        let [soonest, latest] = FIRST;
        let soon = Duration::from_secs(rng.random_range(soonest..=latest));
        let metadata = std::fs::metadata(&self.settings.visit_file);
        let since = metadata.ok().and_then(|metadata| metadata.modified().ok()?.elapsed().ok());
        let rest = since.map_or(Duration::ZERO, |since| self.settings.interval.saturating_sub(since));
        soon.max(rest)
    }

    fn pause(&self, outcome: &Result<(), Mishap>, missed: u32) -> Duration {
        let interval = self.settings.interval;
        let doubling = 2_u32.saturating_pow(missed.saturating_sub(1).min(16));
        match outcome {
            Ok(()) if self.settings.plan.stay => AGAIN,
            Ok(()) => interval,
            Err(Mishap::Call(_) | Mishap::Broken | Mishap::Slow) => (AGAIN * doubling).min(interval),
            // As often as before would be pushing it.
            Err(Mishap::Key(_) | Mishap::Trouble(_)) => {
                (interval * 2).saturating_mul(doubling).min(SELDOM.max(interval))
            }
        }
    }

    async fn visit(&self, rng: &mut StdRng) -> Result<(), Mishap> {
        let mut plan = self.settings.plan.clone();
        if plan.advertise.is_some() && !self.snapshot.borrow().clearnet_reached {
            // A name that leads nowhere is no news. We come again when it leads somewhere.
            (plan.advertise, plan.stay) = (None, false);
        }
        let mut lines = timeout(CALL, self.call()).await.unwrap_or(Err(Failure::Unreachable.into()))?;
        let (mut visit, opening) = Visit::new(Arc::new(plan), rng);
        let end = Instant::now() + VISIT;
        self.act(&mut lines, opening).await?;
        loop {
            let line = timeout_at(end, lines.next()).await.map_err(|_| Mishap::Slow)?;
            let Some(line) = line else { return if visit.is_leaving() { Ok(()) } else { Err(Mishap::Broken) } };
            let line = line.map_err(|_| Mishap::Broken)?;
            let actions = visit.line(String::from_utf8_lossy(&line).trim_end_matches('\r'), rng);
            if self.act(&mut lines, actions).await? {
                break;
            }
        }
        if !visit.is_leaving() {
            return self.stay(lines, visit, rng).await;
        }
        // It is there to answer our goodbye, but we need not hear it.
        let _ = timeout(GOODBYE, async { while let Some(Ok(_)) = lines.next().await {} }).await;
        Ok(())
    }

    /// Stays for those who come, until the server has enough of us.
    async fn stay(&self, lines: Lines, visit: Visit, rng: &mut StdRng) -> Result<(), Mishap> {
        let began = Instant::now();
        match self.listen(lines, visit, rng).await {
            Err(Mishap::Broken | Mishap::Slow) if began.elapsed() > LONG => Ok(()),
            outcome => outcome,
        }
    }

    async fn listen(&self, mut lines: Lines, mut visit: Visit, rng: &mut StdRng) -> Result<(), Mishap> {
        let mut ask = Instant::now() + PACE;
        let mut heard = Instant::now();
        self.visits.send_modify(|visits| (visits.last, visits.next, visits.trouble) = (Some(clock::now()), None, None));
        loop {
            tokio::select! {
                line = lines.next() => {
                    let line = line.ok_or(Mishap::Broken)?.map_err(|_| Mishap::Broken)?;
                    heard = Instant::now();
                    let actions = visit.line(String::from_utf8_lossy(&line).trim_end_matches('\r'), rng);
                    self.act(&mut lines, actions).await?;
                }
                () = sleep_until(ask) => {
                    ask = Instant::now() + PACE;
                    let question = visit.next_newcomer();
                    self.act(&mut lines, question.into_iter().collect()).await?;
                }
                () = sleep_until(heard + SILENCE) => return Err(Mishap::Broken),
            }
        }
    }

    /// Does what the conversation wants; whether it has come to its end is the answer.
    async fn act(&self, lines: &mut Lines, actions: Vec<Action>) -> Result<bool, Mishap> {
        let mut over = false;
        for action in actions {
            match action {
                Action::Say(line) => {
                    let sending = timeout(VISIT, lines.send(line));
                    sending.await.map_err(|_| Mishap::Slow)?.map_err(|_| Mishap::Broken)?;
                }
                Action::Found(name) => self.found(name).await,
                Action::Dropped(why) => self.visits.send_modify(|visits| match why {
                    Dropped::CutOff => visits.cut_off += 1,
                    Dropped::ControlCodes => visits.control_codes += 1,
                    Dropped::Unreadable => visits.unreadable += 1,
                }),
                Action::Told => over = true,
                Action::End(outcome) => {
                    outcome?;
                    over = true;
                }
            }
        }
        Ok(over)
    }

    async fn found(&self, name: RealName) {
        tracing::debug!(host = %name.host, "met on IRC");
        self.visits.send_modify(|visits| visits.found += 1);
        let _ = self.inbox.send(Input::Event(Event::MetOnIrc(name))).await;
    }

    async fn call(&self) -> Result<Lines, Mishap> {
        let Settings { server: Endpoint { host, port }, tls, tor, plan, key_file, .. } = &self.settings;
        let via = if *tor { Via::Tor } else { Routing::Mixed.via(host) };
        let addresses = match host {
            Host::Ip(ip) => vec![*ip],
            Host::Dns(name) => self.dialer.resolve(name, via).await?,
            Host::Onion(_) => Vec::new(),
        };
        let door = (if *tls { Transport::Tls } else { Transport::Tcp }, *port);
        let attempt = Attempt {
            host: host.clone(),
            via,
            addresses,
            doors: vec![door],
            believed: 1,
            announce: false,
            compare: None,
        };
        let dialer = Dialer { circle: Circle::Irc, ..self.dialer.clone() };
        let dialled = dialer.dial(&attempt, door).await?;
        if plan.password.is_some() || plan.sasl.is_some() {
            check_key(key_file, dialled.key.ok_or(Failure::Tls)?)?;
        }
        let codec = AnyDelimiterCodec::new_with_max_length(b"\n".to_vec(), b"\r\n".to_vec(), LONGEST_LINE);
        Ok(Framed::new(dialled.stream, codec))
    }
}
