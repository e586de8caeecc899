//! Visits to an IRC channel, for servers that can be found nowhere else.
//!
//! A visit is short and rare. Whatever goes wrong makes the next one later, and who doesn't want us is asked ever more seldom.

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

use crate::book::{Attempt, Blame, Event, Failure, KeyHash, Snapshot};
use crate::clock::{self, Time};
use crate::conversation::irc::{Action, Dropped, Plan, Trouble, Visit};
use crate::dial::{Circle, Dialer, Stream, Tls};
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
    /// The server's TLS key, by its SHA-256, if it is known. A server that learns a password of ours either has this key, or a
    /// certificate for which an authority vouches.
    pub key: Option<KeyHash>,
    /// Where it is written down when the next visit is due, so that who starts us time and again doesn't annoy others.
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

/// After a long stay, or when our own way to it failed, it is tried again sooner.
const AGAIN: Duration = Duration::from_mins(10);

/// Nobody is asked less often than this.
const SELDOM: Duration = Duration::from_hours(7 * 24);

/// A line with its tags; some servers send more than the 512 bytes of old.
const LONGEST_LINE: usize = 8191 + 512;

/// Lines that a server may say in `PACE`; the largest channels have a tenth of it.
const FLOOD: u32 = 50_000;

/// What came of a visit.
enum Outcome {
    /// We left when we knew who is there.
    Looked,
    /// We were let stay for long.
    Stayed,
}

/// Why nothing came of it.
#[derive(Debug, thiserror::Error)]
enum Mishap {
    #[error("it can't be reached: {0}")]
    Call(#[from] Failure),
    #[error("its TLS key is not that of irc.key, but {0}")]
    OtherKey(String),
    #[error("no authority vouches for its certificate; if it is yours, put the SHA-256 of its key into irc.key")]
    Unvouched,
    #[error("it floods us")]
    Flood,
    #[error("{0}")]
    Trouble(#[from] Trouble),
    #[error("it takes too long")]
    Slow,
    #[error("the connection broke off")]
    Broken,
}

type Lines = Framed<Box<dyn Stream>, WholeLines>;

impl Visitor {
    /// Visits now and then, until nobody listens any more.
    pub async fn run(self, mut rng: StdRng) {
        let (mut next, mut missed) = self.first(&mut rng);
        while !self.inbox.is_closed() {
            self.visits.send_modify(|visits| visits.next = Some(next));
            sleep(next.since(clock::now())).await;
            self.wait_for_tor().await;
            // Should we be ended in the midst of it, that was a visit.
            self.write_down(clock::now() + self.settings.interval, missed);
            let outcome = self.visit(&mut rng).await;
            let trouble = outcome.as_ref().err().map(Mishap::to_string);
            self.visits.send_modify(|visits| {
                visits.last = Some(clock::now());
                visits.trouble.clone_from(&trouble);
            });
            missed = if outcome.is_ok() { 0 } else { missed.saturating_add(1) };
            if let Some(why) = &trouble
                && missed == 1
            {
                tracing::warn!(%why, "a visit to IRC came to nothing");
            }
            next = clock::now() + self.pause(&outcome, missed).mul_f64(rng.random_range(0.8..1.2));
            self.write_down(next, missed);
        }
    }

    /// When to begin, and how often in a row it went wrong before we were started.
    fn first(&self, rng: &mut StdRng) -> (Time, u32) {
        let [soonest, latest] = FIRST;
        let now = clock::now();
        let soon = now + Duration::from_secs(rng.random_range(soonest..=latest));
        let text = std::fs::read_to_string(&self.settings.visit_file).unwrap_or_default();
        let mut words = text.split_ascii_whitespace();
        let due = words.next().and_then(|word| word.parse().ok()).map_or(soon, Time::from_wall_millis);
        let missed = words.next().and_then(|word| word.parse().ok()).unwrap_or(0);
        // The file may be from a time when the clock was ahead: no pause is longer than this one.
        let longest = self.after_failures(missed).mul_f64(1.2);
        (due.max(soon).min(now + longest), missed)
    }

    /// Pause after so many failed visits in a row, before it is randomised.
    fn after_failures(&self, missed: u32) -> Duration {
        let interval = self.settings.interval;
        interval.saturating_mul(doublings(missed)).min(SELDOM.max(interval))
    }

    fn write_down(&self, next: Time, missed: u32) {
        let text = format!("{} {missed}\n", next.wall_millis());
        if let Err(error) = std::fs::write(&self.settings.visit_file, text) {
            tracing::warn!(%error, path = %self.settings.visit_file.display(), "can't write down when IRC is visited next");
        }
    }

    /// That our own Tor isn't ready is nothing to hold against anybody.
    async fn wait_for_tor(&self) {
        let Settings { server, tor, .. } = &self.settings;
        let mut snapshot = self.snapshot.clone();
        if *tor || server.host.is_onion() {
            // An end of the book's task ends us as well.
            let _ = snapshot.wait_for(|snapshot| snapshot.tor.is_ready()).await;
        }
    }

    fn pause(&self, outcome: &Result<Outcome, Mishap>, missed: u32) -> Duration {
        let interval = self.settings.interval;
        match outcome {
            Ok(Outcome::Stayed) => AGAIN,
            Ok(Outcome::Looked) => interval,
            Err(Mishap::Call(failure)) if matches!(failure.blame(), Blame::Us | Blame::Unclear) => {
                (AGAIN * doublings(missed)).min(interval)
            }
            // Whoever closes the door on us may mean it, and says so only sometimes.
            Err(_) => self.after_failures(missed),
        }
    }

    async fn visit(&self, rng: &mut StdRng) -> Result<Outcome, Mishap> {
        let mut plan = self.settings.plan.clone();
        if plan.advertise.is_some() && !self.snapshot.borrow().clearnet_reached {
            // A name that leads nowhere is no news.
            (plan.advertise, plan.stay) = (None, false);
        }
        let mut lines = timeout(CALL, self.call()).await.unwrap_or(Err(Failure::Unreachable.into()))?;
        let (mut visit, opening) = Visit::new(Arc::new(plan), rng);
        timeout(VISIT, self.talk(&mut lines, &mut visit, opening, rng)).await.unwrap_or(Err(Mishap::Slow))?;
        if !visit.is_leaving() {
            return self.stay(lines, visit, rng).await;
        }
        // The server is there to answer our goodbye, but we need not hear it.
        let _ = timeout(GOODBYE, async { while let Some(Ok(_)) = lines.next().await {} }).await;
        Ok(Outcome::Looked)
    }

    /// Until everybody who is there is known.
    async fn talk(
        &self,
        lines: &mut Lines,
        visit: &mut Visit,
        opening: Vec<Action>,
        rng: &mut StdRng,
    ) -> Result<(), Mishap> {
        self.act(lines, opening).await?;
        for _ in 0..FLOOD {
            let line = lines.next().await.ok_or(Mishap::Broken)?.map_err(|_| Mishap::Broken)?;
            if self.act(lines, visit.line(&line, rng)).await? {
                return Ok(());
            }
        }
        Err(Mishap::Flood)
    }

    /// Stays for those who come, until the server has enough of us.
    async fn stay(&self, lines: Lines, visit: Visit, rng: &mut StdRng) -> Result<Outcome, Mishap> {
        let began = Instant::now();
        self.write_down(clock::now() + AGAIN, 0);
        let Err(mishap) = self.listen(lines, visit, rng).await;
        match mishap {
            Mishap::Trouble(Trouble::Banned(_) | Trouble::SentAway(_)) | Mishap::Flood => Err(mishap),
            // Connections end some day.
            _ if began.elapsed() > LONG => Ok(Outcome::Stayed),
            _ => Err(mishap),
        }
    }

    async fn listen(&self, mut lines: Lines, mut visit: Visit, rng: &mut StdRng) -> Result<Infallible, Mishap> {
        let mut ask = Instant::now() + PACE;
        let (mut heard, mut since_asked) = (Instant::now(), 0);
        self.visits.send_modify(|visits| (visits.last, visits.next, visits.trouble) = (Some(clock::now()), None, None));
        loop {
            tokio::select! {
                line = lines.next() => {
                    let line = line.ok_or(Mishap::Broken)?.map_err(|_| Mishap::Broken)?;
                    heard = Instant::now();
                    since_asked += 1;
                    if since_asked > FLOOD {
                        return Err(Mishap::Flood);
                    }
                    let actions = visit.line(&line, rng);
                    self.act(&mut lines, actions).await?;
                }
                () = sleep_until(ask) => {
                    (ask, since_asked) = (Instant::now() + PACE, 0);
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
        let Settings { server: Endpoint { host, port }, tls, tor, plan, key, .. } = &self.settings;
        let via = if *tor { Via::Tor } else { Routing::Mixed.via(host) };
        let addresses = match host {
            Host::Ip(ip) => vec![*ip],
            Host::Dns(name) => self.dialer.resolve(name, via).await?,
            Host::Onion(_) => Vec::new(),
        };
        let door = (if *tls { Transport::Tls } else { Transport::Tcp }, *port);
        let attempt = Attempt::plain(host.clone(), via, addresses, vec![door]);
        let says_password = plan.password.is_some() || plan.sasl.is_some();
        let vouched = says_password && key.is_none();
        let tls = if vouched { Tls::by_authorities().map_err(|_| Failure::Internal)? } else { self.dialer.tls.clone() };
        let dialer = Dialer { circle: Circle::Irc, tls, ..self.dialer.clone() };
        let dialled = match dialer.dial(&attempt, door).await {
            Err(Failure::Tls) if vouched => return Err(Mishap::Unvouched),
            dialled => dialled?,
        };
        match (key, dialled.key) {
            (Some(known), Some(shown)) if *known != shown => Err(Mishap::OtherKey(hex::encode(shown))),
            _ => Ok(Framed::new(dialled.stream, WholeLines::default())),
        }
    }
}

/// Factor by which failed visits in a row lengthen a pause.
fn doublings(missed: u32) -> u32 {
    2_u32.saturating_pow(missed.saturating_sub(1).min(16))
}

/// Lines of any bytes. What has no end was cut off, and is none.
struct WholeLines(AnyDelimiterCodec);

impl Default for WholeLines {
    fn default() -> WholeLines {
        WholeLines(AnyDelimiterCodec::new_with_max_length(b"\n".to_vec(), b"\r\n".to_vec(), LONGEST_LINE))
    }
}

impl Decoder for WholeLines {
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

impl Encoder<String> for WholeLines {
    type Error = AnyDelimiterCodecError;

    fn encode(&mut self, line: String, bytes: &mut BytesMut) -> Result<(), AnyDelimiterCodecError> {
        self.0.encode(line, bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_without_an_end_is_none() {
        let mut codec = WholeLines::default();
        let mut bytes = BytesMut::from(&b"one\r\ntwo\nthr\xffe"[..]);
        assert_eq!(codec.decode(&mut bytes).unwrap().as_deref(), Some("one"));
        assert_eq!(codec.decode_eof(&mut bytes).unwrap().as_deref(), Some("two"));
        assert_eq!(codec.decode_eof(&mut bytes).unwrap(), None);
        assert!(bytes.is_empty());
        let mut bytes = BytesMut::from(&[b'x'; LONGEST_LINE + 1][..]);
        assert!(codec.decode(&mut bytes).is_err());
    }
}
