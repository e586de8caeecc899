//! Scheduled visits to an IRC channel, where some servers advertise themselves.
//!
//! Visits are short and rare. Every failure delays the next one with a back-off.

use data_encoding::HEXLOWER;
use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use futures_util::{SinkExt, StreamExt};
use rand::RngExt;
use rand::rngs::StdRng;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::codec::{AnyDelimiterCodec, AnyDelimiterCodecError, Decoder, Encoder, Framed};

use crate::api::IrcStatus;
use crate::atomic_file::{self, Readers};
use crate::backoff::Backoff;
use crate::book::{Event, Side, Snapshot};
use crate::book_handle::{BookMessage, Inbox};
use crate::clock::{self, Time};
use crate::connect::{FailureOrigin, KeyHash, ProbeError, ProbeTarget};
use crate::dial::{Dialer, Isolation, Stream, Tls};
use crate::electrum::irc::{IrcAction, IrcError, IrcSession, IrcVisitConfig, RejectReason};
use crate::peer::{Endpoint, Host, RealName, Transport};
use crate::route::{Route, RoutingPolicy};

/// Options of the IRC task.
#[derive(Debug, Clone)]
pub struct IrcConfig {
    /// Host and port of the IRC server.
    pub server: Endpoint,
    /// Whether the connection uses TLS.
    pub tls: bool,
    /// Whether the server is dialled through Tor. Onion hosts always are.
    pub tor: bool,
    /// Mean interval between visits, which is randomised by a fifth.
    pub interval: Duration,
    /// What a visit does.
    pub visit: IrcVisitConfig,
    /// SHA-256 of the server's TLS key. `None`: any key, unless a password is sent.
    ///
    /// A server that receives a password needs this key or a certificate of a public authority.
    pub key: Option<KeyHash>,
    /// File with the time of the next visit, so that restarts cause no additional visits.
    pub visit_file: PathBuf,
}

/// Task that visits the channel.
#[derive(Debug)]
pub struct IrcTask {
    /// Options of the task.
    pub settings: IrcConfig,
    /// Dialer for the IRC server.
    pub dialer: Dialer,
    /// Messages to the book.
    pub inbox: Inbox,
    /// State of the node, to wait for Tor.
    pub snapshot: watch::Receiver<Arc<Snapshot>>,
    /// Side that learns the names.
    pub side: Side,
    /// Results for operators.
    pub status: watch::Sender<IrcStatus>,
}

/// Timeout of a visit, without connecting.
const VISIT_TIMEOUT: Duration = Duration::from_secs(50);
/// Timeout of connecting to the server, which may be through Tor.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(60);

/// Range of the delay of the first visit in seconds, as Tor and the seeds come first.
const START_DELAY_SECS: [u64; 2] = [5, 20];

/// Time for the server to close the connection after QUIT.
const QUIT_TIMEOUT: Duration = Duration::from_secs(3);

/// Interval between two WHO of a persistent session.
const WHO_INTERVAL: Duration = Duration::from_secs(15);
/// Time without a line after which a persistent session is closed.
const IDLE_TIMEOUT: Duration = Duration::from_secs(600);

/// Duration after which the end of a persistent session is no failure.
const LONG_STAY: Duration = Duration::from_hours(1);

/// Pause after a long session, or after a failure of the local path.
const QUICK_RETRY: Duration = Duration::from_mins(10);

/// Longest pause after failures.
const MAX_INTERVAL: Duration = Duration::from_hours(7 * 24);

/// Maximum length of a line in bytes, with IRCv3 tags; RFC 1459 allows 512.
const MAX_LINE_BYTES: usize = 8191 + 512;

/// Maximum number of lines per visit or [`WHO_INTERVAL`]. Large channels need a tenth.
const MAX_LINES: u32 = 50_000;

/// Result of a successful visit.
enum VisitOutcome {
    /// The visit ended after WHO.
    Completed,
    /// The session lasted for [`LONG_STAY`].
    Stayed,
}

/// Why a visit failed.
#[derive(Debug, thiserror::Error)]
enum VisitError {
    #[error("server can't be reached: {0}")]
    Connect(#[from] ProbeError),
    #[error("TLS key {0} differs from irc.key; update irc.key if the change is expected")]
    OtherKey(String),
    #[error(
        "certificate is not signed by a public authority; set irc.key to the SHA-256 of the server's key to accept it"
    )]
    UntrustedCertificate,
    #[error("server sends too many lines")]
    Flood,
    #[error("{0}")]
    Irc(#[from] IrcError),
    #[error("timed out waiting for the server")]
    Timeout,
    #[error("connection closed")]
    Closed,
}

/// When the next visit is due.
#[derive(Debug, Clone, Copy)]
struct Schedule {
    next: Time,
    /// Number of failed visits in a row.
    consecutive_failures: u32,
}

type Lines = Framed<Box<dyn Stream>, CompleteLineCodec>;

impl IrcTask {
    /// Visits the channel periodically until the daemon shuts down.
    pub async fn run(self, mut rng: StdRng) {
        let mut schedule = self.initial_schedule(&mut rng);
        while !self.inbox.is_closed() {
            self.status.send_modify(|status| status.next = Some(schedule.next));
            sleep(schedule.next.since(clock::now())).await;
            self.wait_for_tor().await;
            // If the process ends during the visit, it counts as one.
            self.persist_schedule(Schedule { next: clock::now() + self.settings.interval, ..schedule });
            let outcome = self.run_once(&mut rng).await;
            let problem = outcome.as_ref().err().map(VisitError::to_string);
            self.status.send_modify(|status| {
                status.last = Some(clock::now());
                status.error.clone_from(&problem);
            });
            let failures = if outcome.is_ok() { 0 } else { schedule.consecutive_failures.saturating_add(1) };
            if let Some(reason) = &problem
                && failures == 1
            {
                tracing::warn!(%reason, "a visit to IRC failed");
            }
            let pause = self.pause(&outcome, failures).mul_f64(rng.random_range(0.8..1.2));
            schedule = Schedule { next: clock::now() + pause, consecutive_failures: failures };
            self.persist_schedule(schedule);
        }
    }

    /// Returns the schedule of the last run, with a first visit soon after the start at the earliest.
    fn initial_schedule(&self, rng: &mut StdRng) -> Schedule {
        let [soonest, latest] = START_DELAY_SECS;
        let now = clock::now();
        let soon = now + Duration::from_secs(rng.random_range(soonest..=latest));
        let text = std::fs::read_to_string(&self.settings.visit_file).unwrap_or_default();
        let mut fields = text.split_ascii_whitespace();
        let due = fields.next().and_then(|field| field.parse().ok()).map_or(soon, Time::from_wall_millis);
        let consecutive_failures = fields.next().and_then(|field| field.parse().ok()).unwrap_or(0);
        // The clock may have been ahead when the file was written: no pause exceeds this one.
        let longest = self.after_failures(consecutive_failures).mul_f64(1.2);
        Schedule { next: due.max(soon).min(now + longest), consecutive_failures }
    }

    /// Pause after a number of failures in a row, before it is randomised.
    fn after_failures(&self, consecutive_failures: u32) -> Duration {
        let interval = self.settings.interval;
        Backoff::new(interval, MAX_INTERVAL.max(interval)).after(consecutive_failures)
    }

    /// Stores the schedule for the next start.
    fn persist_schedule(&self, schedule: Schedule) {
        let Schedule { next, consecutive_failures } = schedule;
        let text = format!("{} {consecutive_failures}\n", next.wall_millis());
        if let Err(error) = atomic_file::write(&self.settings.visit_file, text.as_bytes(), Readers::Owner) {
            tracing::warn!(%error, path = %self.settings.visit_file.display(), "can't store the time of the next IRC visit");
        }
    }

    /// Waits until Tor is ready if the server is dialled through it.
    async fn wait_for_tor(&self) {
        let IrcConfig { server, tor, .. } = &self.settings;
        let mut snapshot = self.snapshot.clone();
        if *tor || server.host.is_onion() {
            // If the book's task ends, this task is ended too.
            let _ = snapshot.wait_for(|snapshot| snapshot.tor.is_ready()).await;
        }
    }

    /// Returns the pause after an outcome, before it is randomised.
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
            // A server may close the connection because of a ban, without saying so.
            Err(_) => self.after_failures(consecutive_failures),
        }
    }

    /// Connects, visits the channel and, if configured, stays there.
    async fn run_once(&self, rng: &mut StdRng) -> Result<VisitOutcome, VisitError> {
        let mut visit = self.settings.visit.clone();
        let reached = |own: &RealName| self.snapshot.borrow().reached_names.contains(&own.host);
        if visit.advertise.as_ref().is_some_and(|own| !reached(own)) {
            // A name that was not reached is not advertised.
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
        // Lets the server close the connection.
        let _ = timeout(QUIT_TIMEOUT, async { while let Some(Ok(_)) = lines.next().await {} }).await;
        Ok(VisitOutcome::Completed)
    }

    /// Runs the session until WHO is complete.
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

    /// Keeps the session open, and queries servers that join, until the connection ends.
    async fn stay(&self, lines: Lines, session: IrcSession, rng: &mut StdRng) -> Result<VisitOutcome, VisitError> {
        let started_at = Instant::now();
        self.persist_schedule(Schedule { next: clock::now() + QUICK_RETRY, consecutive_failures: 0 });
        let Err(error) = self.listen(lines, session, rng).await;
        match error {
            VisitError::Irc(IrcError::Banned(_) | IrcError::Kicked(_)) | VisitError::Flood => Err(error),
            // Any connection ends at some time.
            _ if started_at.elapsed() > LONG_STAY => Ok(VisitOutcome::Stayed),
            _ => Err(error),
        }
    }

    /// Handles lines and sends pending WHO requests until an error ends the session.
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

    /// Executes the session's actions. Returns whether the visit is complete.
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

    /// Reports a server to the book.
    async fn found(&self, name: RealName) {
        tracing::debug!(host = %name.host, "found a server on IRC");
        self.status.send_modify(|status| status.found += 1);
        let _ = self.inbox.send(BookMessage::SideEvent(self.side, Event::IrcPeerFound(name))).await;
    }

    /// Connects to the server and checks its TLS key.
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
        match (key, connection.certificate.map(|certificate| certificate.key)) {
            (Some(known), Some(shown)) if *known != shown => Err(VisitError::OtherKey(HEXLOWER.encode(&shown))),
            _ => Ok(Framed::new(connection.stream, CompleteLineCodec::default())),
        }
    }
}

/// Codec of lines in any encoding. A line without an end is truncated, and is dropped.
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
