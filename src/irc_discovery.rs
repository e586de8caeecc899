//! Visits to an IRC channel, for servers that can be found nowhere else.
//!
//! A visit is short and rare. Whatever goes wrong makes the next one later, and who doesn't want us is asked ever more seldom.

use data_encoding::HEXLOWER;
use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use futures_util::{SinkExt, StreamExt};
use rand::RngExt;
use rand::rngs::StdRng;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::codec::{AnyDelimiterCodec, AnyDelimiterCodecError, Decoder, Encoder, Framed};

use crate::atomic_file::{self, Readers};
use crate::backoff::Backoff;
use crate::book::{Event, Snapshot};
use crate::book_handle::{BookMessage, Inbox};
use crate::clock::{self, Time};
use crate::connect::{FailureOrigin, KeyHash, ProbeError, ProbeTarget};
use crate::dial::{Dialer, Isolation, Stream, Tls};
use crate::electrum::irc::{IrcAction, IrcError, IrcSession, IrcVisitConfig, RejectReason};
use crate::peer::{Endpoint, Host, RealName, Transport};
use crate::route::{Route, RoutingPolicy};

#[derive(Debug, Clone)]
pub struct IrcConfig {
    pub server: Endpoint,
    pub tls: bool,
    /// Whether it is called through Tor.
    pub tor: bool,
    /// From one visit to the next, more or less.
    pub interval: Duration,
    pub visit: IrcVisitConfig,
    /// The server's TLS key, by its SHA-256, if it is known. A server that learns a configured password either has this key, or a
    /// certificate for which an authority vouches.
    pub key: Option<KeyHash>,
    /// Where it is written down when the next visit is due, so that who starts us time and again doesn't annoy others.
    pub visit_file: PathBuf,
}

/// What came of the visits.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct IrcStatus {
    /// The server's name and port.
    pub server: String,
    pub last: Option<Time>,
    /// Why the last one came to nothing.
    pub error: Option<String>,
    pub next: Option<Time>,
    /// Real names of servers; and names under the prefix that were cut off, had control codes, or were none of a server's.
    pub found: u64,
    pub cut_off: u64,
    pub control_codes: u64,
    pub unreadable: u64,
}

/// What the visitor needs.
#[derive(Debug)]
pub struct IrcTask {
    pub settings: IrcConfig,
    pub dialer: Dialer,
    pub inbox: Inbox,
    pub snapshot: watch::Receiver<Arc<Snapshot>>,
    pub status: watch::Sender<IrcStatus>,
}

/// One visit, from the first word to the last; to call the server through Tor may take as long again.
const VISIT_TIMEOUT: Duration = Duration::from_secs(50);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(60);

/// The first visit is not at once after the start, as Tor and the seeds come first.
const START_DELAY_SECS: [u64; 2] = [5, 20];

/// How long a goodbye may take.
const QUIT_TIMEOUT: Duration = Duration::from_secs(3);

/// While we stay: between two requests, and between two signs of life of the server's.
const WHO_INTERVAL: Duration = Duration::from_secs(15);
const IDLE_TIMEOUT: Duration = Duration::from_secs(600);

/// Who could stay for this long is welcome.
const LONG_STAY: Duration = Duration::from_hours(1);

/// After a long stay, or when our own way to it failed, it is tried again sooner.
const QUICK_RETRY: Duration = Duration::from_mins(10);

/// Nobody is asked less often than this.
const MAX_INTERVAL: Duration = Duration::from_hours(7 * 24);

/// A line with its tags; some servers send more than the 512 bytes of old.
const MAX_LINE_BYTES: usize = 8191 + 512;

/// Lines that a server may say in `PACE`; the largest channels have a tenth of it.
const MAX_LINES: u32 = 50_000;

/// What came of a visit.
enum VisitOutcome {
    /// We left when we knew who is there.
    Completed,
    /// We were let stay for long.
    Stayed,
}

/// Why nothing came of it.
#[derive(Debug, thiserror::Error)]
enum VisitError {
    #[error("it can't be reached: {0}")]
    Connect(#[from] ProbeError),
    #[error("its TLS key is not that of irc.key, but {0}")]
    OtherKey(String),
    #[error("no authority vouches for its certificate; if it is yours, put the SHA-256 of its key into irc.key")]
    UntrustedCertificate,
    #[error("it floods us")]
    Flood,
    #[error("{0}")]
    Irc(#[from] IrcError),
    #[error("it takes too long")]
    Timeout,
    #[error("the connection broke off")]
    Closed,
}

type Lines = Framed<Box<dyn Stream>, CompleteLineCodec>;

impl IrcTask {
    /// Visits now and then, until nobody listens any more.
    pub async fn run(self, mut rng: StdRng) {
        let (mut next, mut consecutive_failures) = self.initial_schedule(&mut rng);
        while !self.inbox.is_closed() {
            self.status.send_modify(|status| status.next = Some(next));
            sleep(next.since(clock::now())).await;
            self.wait_for_tor().await;
            // Should we be ended in the midst of it, that was a visit.
            self.persist_schedule(clock::now() + self.settings.interval, consecutive_failures);
            let outcome = self.run_once(&mut rng).await;
            let problem = outcome.as_ref().err().map(VisitError::to_string);
            self.status.send_modify(|status| {
                status.last = Some(clock::now());
                status.error.clone_from(&problem);
            });
            consecutive_failures = if outcome.is_ok() { 0 } else { consecutive_failures.saturating_add(1) };
            if let Some(reason) = &problem
                && consecutive_failures == 1
            {
                tracing::warn!(%reason, "a visit to IRC came to nothing");
            }
            next = clock::now() + self.pause(&outcome, consecutive_failures).mul_f64(rng.random_range(0.8..1.2));
            self.persist_schedule(next, consecutive_failures);
        }
    }

    /// When to begin, and how often in a row it went wrong before we were started.
    fn initial_schedule(&self, rng: &mut StdRng) -> (Time, u32) {
        let [soonest, latest] = START_DELAY_SECS;
        let now = clock::now();
        let soon = now + Duration::from_secs(rng.random_range(soonest..=latest));
        let text = std::fs::read_to_string(&self.settings.visit_file).unwrap_or_default();
        let mut fields = text.split_ascii_whitespace();
        let due = fields.next().and_then(|field| field.parse().ok()).map_or(soon, Time::from_wall_millis);
        let consecutive_failures = fields.next().and_then(|field| field.parse().ok()).unwrap_or(0);
        // The file may be from a time when the clock was ahead: no pause is longer than this one.
        let longest = self.after_failures(consecutive_failures).mul_f64(1.2);
        (due.max(soon).min(now + longest), consecutive_failures)
    }

    /// Pause after so many failed visits in a row, before it is randomised.
    fn after_failures(&self, consecutive_failures: u32) -> Duration {
        let interval = self.settings.interval;
        Backoff::new(interval, MAX_INTERVAL.max(interval)).after(consecutive_failures)
    }

    fn persist_schedule(&self, next: Time, consecutive_failures: u32) {
        let text = format!("{} {consecutive_failures}\n", next.wall_millis());
        if let Err(error) = atomic_file::write(&self.settings.visit_file, text.as_bytes(), Readers::Owner) {
            tracing::warn!(%error, path = %self.settings.visit_file.display(), "can't write down when IRC is visited next");
        }
    }

    /// That our own Tor isn't ready is nothing to hold against anybody.
    async fn wait_for_tor(&self) {
        let IrcConfig { server, tor, .. } = &self.settings;
        let mut snapshot = self.snapshot.clone();
        if *tor || server.host.is_onion() {
            // An end of the book's task ends us as well.
            let _ = snapshot.wait_for(|snapshot| snapshot.tor.is_ready()).await;
        }
    }

    fn pause(&self, outcome: &Result<VisitOutcome, VisitError>, consecutive_failures: u32) -> Duration {
        let interval = self.settings.interval;
        match outcome {
            Ok(VisitOutcome::Stayed) => QUICK_RETRY,
            Ok(VisitOutcome::Completed) => interval,
            Err(VisitError::Connect(failure))
                if matches!(failure.blame(), FailureOrigin::Local | FailureOrigin::Ambiguous) =>
            {
                Backoff::new(QUICK_RETRY, interval).after(consecutive_failures)
            }
            // A server that closes the connection may mean a ban, and does not always say so.
            Err(_) => self.after_failures(consecutive_failures),
        }
    }

    async fn run_once(&self, rng: &mut StdRng) -> Result<VisitOutcome, VisitError> {
        let mut visit = self.settings.visit.clone();
        if visit.advertise.is_some() && !self.snapshot.borrow().clearnet_reached {
            // A name that leads nowhere is no news.
            (visit.advertise, visit.persistent) = (None, false);
        }
        let mut lines =
            timeout(CONNECT_TIMEOUT, self.connect()).await.unwrap_or(Err(ProbeError::Unreachable.into()))?;
        let (mut session, opening) = IrcSession::new(Arc::new(visit), rng);
        timeout(VISIT_TIMEOUT, self.run_visit(&mut lines, &mut session, opening, rng))
            .await
            .unwrap_or(Err(VisitError::Timeout))?;
        if !session.is_leaving() {
            return self.stay(lines, session, rng).await;
        }
        // The server is there to answer our goodbye, but we need not hear it.
        let _ = timeout(QUIT_TIMEOUT, async { while let Some(Ok(_)) = lines.next().await {} }).await;
        Ok(VisitOutcome::Completed)
    }

    /// Until everybody who is there is known.
    async fn run_visit(
        &self,
        lines: &mut Lines,
        session: &mut IrcSession,
        opening: Vec<IrcAction>,
        rng: &mut StdRng,
    ) -> Result<(), VisitError> {
        self.apply_actions(lines, opening).await?;
        for _ in 0..MAX_LINES {
            let line = lines.next().await.ok_or(VisitError::Closed)?.map_err(|_| VisitError::Closed)?;
            if self.apply_actions(lines, session.handle_line(&line, rng)).await? {
                return Ok(());
            }
        }
        Err(VisitError::Flood)
    }

    /// Stays for those who come, until the server has enough of us.
    async fn stay(&self, lines: Lines, session: IrcSession, rng: &mut StdRng) -> Result<VisitOutcome, VisitError> {
        let started_at = Instant::now();
        self.persist_schedule(clock::now() + QUICK_RETRY, 0);
        let Err(error) = self.listen(lines, session, rng).await;
        match error {
            VisitError::Irc(IrcError::Banned(_) | IrcError::Kicked(_)) | VisitError::Flood => Err(error),
            // Connections end some day.
            _ if started_at.elapsed() > LONG_STAY => Ok(VisitOutcome::Stayed),
            _ => Err(error),
        }
    }

    async fn listen(
        &self,
        mut lines: Lines,
        mut session: IrcSession,
        rng: &mut StdRng,
    ) -> Result<Infallible, VisitError> {
        let mut next_who = Instant::now() + WHO_INTERVAL;
        let (mut last_line, mut lines_since_who) = (Instant::now(), 0);
        self.status.send_modify(|status| (status.last, status.next, status.error) = (Some(clock::now()), None, None));
        loop {
            tokio::select! {
                line = lines.next() => {
                    let line = line.ok_or(VisitError::Closed)?.map_err(|_| VisitError::Closed)?;
                    last_line = Instant::now();
                    lines_since_who += 1;
                    if lines_since_who > MAX_LINES {
                        return Err(VisitError::Flood);
                    }
                    let actions = session.handle_line(&line, rng);
                    self.apply_actions(&mut lines, actions).await?;
                }
                () = sleep_until(next_who) => {
                    (next_who, lines_since_who) = (Instant::now() + WHO_INTERVAL, 0);
                    let request = session.next_who();
                    self.apply_actions(&mut lines, request.into_iter().collect()).await?;
                }
                () = sleep_until(last_line + IDLE_TIMEOUT) => return Err(VisitError::Closed),
            }
        }
    }

    /// Does what the conversation wants; whether it has come to its end is the answer.
    async fn apply_actions(&self, lines: &mut Lines, actions: Vec<IrcAction>) -> Result<bool, VisitError> {
        let mut is_over = false;
        for action in actions {
            match action {
                IrcAction::Send(line) => {
                    let sending = timeout(VISIT_TIMEOUT, lines.send(line));
                    sending.await.map_err(|_| VisitError::Timeout)?.map_err(|_| VisitError::Closed)?;
                }
                IrcAction::Found(name) => self.found(name).await,
                IrcAction::Rejected(reason) => self.status.send_modify(|status| match reason {
                    RejectReason::CutOff => status.cut_off += 1,
                    RejectReason::ControlCodes => status.control_codes += 1,
                    RejectReason::Unreadable => status.unreadable += 1,
                }),
                IrcAction::WhoComplete => is_over = true,
                IrcAction::End(outcome) => {
                    outcome?;
                    is_over = true;
                }
            }
        }
        Ok(is_over)
    }

    async fn found(&self, name: RealName) {
        tracing::debug!(host = %name.host, "met on IRC");
        self.status.send_modify(|status| status.found += 1);
        let _ = self.inbox.send(BookMessage::Event(Event::IrcPeerFound(name))).await;
    }

    async fn connect(&self) -> Result<Lines, VisitError> {
        let IrcConfig { server: Endpoint { host, port }, tls, tor, visit, key, .. } = &self.settings;
        let via = if *tor { Route::Tor } else { RoutingPolicy::Split.via(host) };
        let addresses = match host {
            Host::Ip(ip) => vec![*ip],
            Host::Dns(name) => self.dialer.resolve(name, via).await?,
            Host::Onion(_) => Vec::new(),
        };
        let endpoint = (if *tls { Transport::Tls } else { Transport::Tcp }, *port);
        let attempt = ProbeTarget::without_extras(host.clone(), via, addresses, vec![endpoint]);
        let sends_password = visit.password.is_some() || visit.sasl.is_some();
        let needs_certificate = sends_password && key.is_none();
        let tls = if needs_certificate {
            Tls::with_webpki_roots().map_err(|_| ProbeError::Internal)?
        } else {
            self.dialer.tls.clone()
        };
        let dialer = Dialer { isolation: Isolation::Irc, tls, ..self.dialer.clone() };
        let connection = match dialer.dial(&attempt, endpoint).await {
            Err(ProbeError::Tls) if needs_certificate => return Err(VisitError::UntrustedCertificate),
            connection => connection?,
        };
        match (key, connection.key) {
            (Some(known), Some(shown)) if *known != shown => Err(VisitError::OtherKey(HEXLOWER.encode(&shown))),
            _ => Ok(Framed::new(connection.stream, CompleteLineCodec::default())),
        }
    }
}

/// Lines of any bytes. What has no end was cut off, and is none.
struct CompleteLineCodec(AnyDelimiterCodec);

impl Default for CompleteLineCodec {
    fn default() -> CompleteLineCodec {
        CompleteLineCodec(AnyDelimiterCodec::new_with_max_length(b"\n".to_vec(), b"\r\n".to_vec(), MAX_LINE_BYTES))
    }
}

impl Decoder for CompleteLineCodec {
    type Item = String;
    type Error = AnyDelimiterCodecError;

    fn decode(&mut self, bytes: &mut BytesMut) -> Result<Option<String>, AnyDelimiterCodecError> {
        let line = self.0.decode(bytes)?;
        Ok(line.map(|line| String::from_utf8_lossy(&line).trim_end_matches('\r').to_owned()))
    }

    fn decode_eof(&mut self, bytes: &mut BytesMut) -> Result<Option<String>, AnyDelimiterCodecError> {
        let line = self.decode(bytes)?;
        if line.is_none() {
            bytes.clear();
        }
        Ok(line)
    }
}

impl Encoder<String> for CompleteLineCodec {
    type Error = AnyDelimiterCodecError;

    fn encode(&mut self, line: String, bytes: &mut BytesMut) -> Result<(), AnyDelimiterCodecError> {
        self.0.encode(line, bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unterminated_line_is_dropped() {
        let mut codec = CompleteLineCodec::default();
        let mut bytes = BytesMut::from(&b"one\r\ntwo\nthr\xffe"[..]);
        assert_eq!(codec.decode(&mut bytes).unwrap().as_deref(), Some("one"));
        assert_eq!(codec.decode_eof(&mut bytes).unwrap().as_deref(), Some("two"));
        assert_eq!(codec.decode_eof(&mut bytes).unwrap(), None);
        assert!(bytes.is_empty());
        let mut bytes = BytesMut::from(&[b'x'; MAX_LINE_BYTES + 1][..]);
        assert!(codec.decode(&mut bytes).is_err());
    }
}
