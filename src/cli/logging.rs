//! The log: what of it is shown, and how.
//!
//! The crates of an embedded Tor log for those who work on Tor. What they do all day is of no use to an operator, and one
//! trouble of theirs can be a hundred warnings. So by default they are asked for warnings only, and one place in their
//! code speaks three times in ten minutes.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::io::{self, IsTerminal, Write, stderr};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tracing::callsite::Identifier;
use tracing::level_filters::LevelFilter;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt, registry, reload};

use crate::clock::{self, Time};
use crate::config::{Config, LogFormat};

/// How the targets of an embedded Tor's crates begin.
const TOR_CRATES: &[&str] = &["arti_", "tor_", "fs_mistrust", "fslock_guard", "retry_error", "safelog"];

/// So many lines of one place are let through within [`SPELL`].
const THROTTLE_BURST: usize = 3;
const THROTTLE_WINDOW: Duration = Duration::from_mins(10);

/// What of the log is shown, to be changed while it is written.
pub struct LogReload(reload::Handle<EnvFilter, Registry>);

impl LogReload {
    pub fn change(&self, level: &str) {
        // It fails only where there is no log any more to be changed.
        let _ = self.0.reload(filter(level));
    }
}

/// From here on the log is written to standard error.
pub fn start_log(config: &Config) -> LogReload {
    let (filter, handle) = reload::Layer::new(filter(&config.log_level));
    let lines = fmt::layer().with_writer(|| SingleLineWriter(stderr())).with_target(false);
    let log = registry().with(filter).with(ThrottleLayer::default());
    match config.log_format {
        LogFormat::Text => log.with(lines.with_ansi(stderr().is_terminal())).init(),
        LogFormat::Json => log.with(lines.json()).init(),
    }
    LogReload(handle)
}

fn filter(level: &str) -> EnvFilter {
    EnvFilter::builder().parse_lossy(with_tor_defaults(level))
}

/// The operator's directives, with defaults before them: no more than warnings from Tor's crates, except those he names.
fn with_tor_defaults(level: &str) -> String {
    let directives: Vec<&str> = level.split(',').map(str::trim).collect();
    let general = directives.iter().filter_map(|directive| directive.parse::<LevelFilter>().ok()).next_back();
    // A directive for one target overrides a general one, and must not make the log louder.
    if general.is_none_or(|general| general <= LevelFilter::WARN) {
        return level.to_owned();
    }
    let named = |name: &str| {
        let target = |directive: &str| directive.split(['=', '[']).next().unwrap_or_default().to_owned();
        let directives = directives.iter().filter(|directive| directive.parse::<LevelFilter>().is_err());
        directives.map(|directive| target(directive)).any(|target| !target.is_empty() && name.starts_with(&target))
    };
    let defaults = TOR_CRATES.iter().filter(|name| !named(name)).map(|name| format!("{name}=warn,"));
    defaults.chain([level.to_owned()]).collect()
}

/// Holds back what Tor's crates say again and again.
#[derive(Default)]
struct ThrottleLayer {
    throttle: Mutex<Throttle<Identifier>>,
}

impl<S: Subscriber> Layer<S> for ThrottleLayer {
    fn event_enabled(&self, event: &Event<'_>, _: Context<'_, S>) -> bool {
        let metadata = event.metadata();
        let is_throttled =
            *metadata.level() <= Level::WARN && TOR_CRATES.iter().any(|name| metadata.target().starts_with(name));
        if !is_throttled {
            return true;
        }
        let now = clock::now();
        let decision = self.throttle.lock().unwrap_or_else(PoisonError::into_inner).allow(metadata.callsite(), now);
        match (decision, *metadata.level()) {
            (None, _) => return false,
            (Some(0), _) => {}
            (Some(held_back), Level::ERROR) => {
                tracing::error!(held_back, "lines of Tor's like the next were held back")
            }
            (Some(held_back), _) => tracing::warn!(held_back, "lines of Tor's like the next were held back"),
        }
        true
    }
}

/// An event is one line: what an error of Tor's has on lines of its own, or a stranger put into a text, follows on the
/// same one.
struct SingleLineWriter<W>(W);

impl<W: Write> Write for SingleLineWriter<W> {
    /// The log hands over a whole event at once.
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let text = event.strip_suffix(b"\n").unwrap_or(event);
        let mut line: Vec<u8> =
            text.iter().map(|byte| if matches!(byte, b'\n' | b'\r') { b' ' } else { *byte }).collect();
        line.extend(event.get(text.len()..).unwrap_or_default());
        self.0.write_all(&line).map(|()| event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// Who spoke how often of late.
struct Throttle<Place> {
    places: HashMap<Place, CallsiteWindow>,
}

#[derive(Default)]
struct CallsiteWindow {
    let_through: VecDeque<Time>,
    held_back: u64,
}

impl<Place: Hash + Eq> Throttle<Place> {
    /// Whether this place may speak now, and if so, how often it was held back since it last spoke.
    fn allow(&mut self, place: Place, now: Time) -> Option<u64> {
        let window = self.places.entry(place).or_default();
        // A line from the future is from before the clock was set back.
        window.let_through.retain(|then| *then <= now && now.since(*then) < THROTTLE_WINDOW);
        if window.let_through.len() >= THROTTLE_BURST {
            window.held_back = window.held_back.saturating_add(1);
            return None;
        }
        window.let_through.push_back(now);
        Some(std::mem::take(&mut window.held_back))
    }
}

impl<Place> Default for Throttle<Place> {
    fn default() -> Throttle<Place> {
        Throttle { places: HashMap::new() }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::Arc;

    use super::*;

    #[test]
    fn an_event_is_one_line() {
        let mut log = Vec::new();
        SingleLineWriter(&mut log).write_all(b"a\nb\r\nc\n").unwrap();
        assert_eq!(log, b"a b  c\n");
    }

    #[test]
    fn a_place_speaks_thrice_and_then_waits() {
        let mut throttle = Throttle::default();
        let at = |secs: u64| Time::from_secs(1_000_000 + secs);
        for secs in [0, 60, 120] {
            assert_eq!(throttle.allow("a", at(secs)), Some(0));
        }
        for secs in [121, 300, 599] {
            assert_eq!(throttle.allow("a", at(secs)), None);
        }
        assert_eq!(throttle.allow("b", at(599)), Some(0), "another place is not held back");
        assert_eq!(throttle.allow("a", at(600)), Some(3), "the first line is ten minutes old");
        assert_eq!(throttle.allow("a", at(601)), None);
        assert_eq!(throttle.allow("a", at(660)), Some(1));
        assert_eq!(throttle.allow("a", at(5000)), Some(0));
    }

    #[test]
    fn a_clock_set_back_silences_nobody() {
        let mut throttle = Throttle::default();
        for _ in 0..5 {
            throttle.allow("a", Time::from_secs(1_000_000));
        }
        assert_eq!(throttle.allow("a", Time::from_secs(1000)), Some(2));
    }

    #[test]
    fn what_the_operator_asks_of_tors_crates_he_gets() {
        assert!(with_tor_defaults("info").starts_with("arti_=warn,tor_=warn,"));
        assert!(with_tor_defaults("info").ends_with(",info"));
        for quiet in ["off", "error", "WARN", "", "waypost=debug"] {
            assert_eq!(with_tor_defaults(quiet), quiet, "defaults would make it louder");
        }
        let some = with_tor_defaults("info,tor_dirmgr=debug");
        assert!(some.contains("tor_=warn,") && some.ends_with(",info,tor_dirmgr=debug"), "{some}");
        let all = with_tor_defaults("debug, tor=trace");
        assert!(!all.contains("tor_=warn") && all.contains("arti_=warn"), "{all}");
    }

    #[test]
    fn tors_chatter_is_left_out() {
        let log = lines("info,tor_dirmgr=debug", || {
            tracing::info!(target: "waypost::daemon", "defaults");
            tracing::info!(target: "tor_guardmgr::guard", "chatter");
            tracing::info!(target: "arti_client", "chatter");
            tracing::debug!(target: "tor_dirmgr::bootstrap", "asked for");
            for n in 0..9 {
                tracing::warn!(target: "tor_circmgr", n, "again and again");
                tracing::warn!(target: "waypost::store", n, "defaults again");
            }
        });
        let count = |text: &str| log.lines().filter(|line| line.contains(text)).count();
        assert_eq!((count("defaults again"), count("again and again")), (9, 3), "{log}");
        assert_eq!((count("chatter"), count("asked for"), log.lines().count()), (0, 1, 14), "{log}");
    }

    /// What is logged meanwhile.
    fn lines(level: &str, work: impl FnOnce()) -> String {
        #[derive(Clone, Default)]
        struct Buffer(Arc<Mutex<Vec<u8>>>);
        impl Write for Buffer {
            fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
                self.0.lock().unwrap().write(bytes)
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        let buffer = Buffer::default();
        let writer = buffer.clone();
        let layer = fmt::layer().with_ansi(false).with_writer(move || writer.clone());
        let log = registry().with(EnvFilter::new(with_tor_defaults(level))).with(ThrottleLayer::default()).with(layer);
        tracing::subscriber::with_default(log, work);
        String::from_utf8(buffer.0.lock().unwrap().clone()).unwrap()
    }
}
