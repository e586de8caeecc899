//! Log output: filter, format and throttling.
//!
//! The crates of the embedded Tor log for Tor developers, and one fault can cause hundreds of warnings. By default only
//! their warnings are logged, at most [`THROTTLE_BURST`] per callsite within [`THROTTLE_WINDOW`].

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

/// Prefixes of the log targets of the embedded Tor's crates.
const TOR_CRATES: &[&str] = &["arti_", "tor_", "fs_mistrust", "fslock_guard", "retry_error", "safelog"];

/// Maximum number of lines of one callsite within [`THROTTLE_WINDOW`].
const THROTTLE_BURST: usize = 3;

/// Period over which lines of a callsite are counted.
const THROTTLE_WINDOW: Duration = Duration::from_mins(10);

/// Handle that changes the log filter at run time.
pub(super) struct LogReload(reload::Handle<EnvFilter, Registry>);

impl LogReload {
    /// Replaces the filter.
    pub(super) fn change(&self, level: &str) {
        // An error means that the log no longer exists.
        let _ = self.0.reload(filter(level));
    }
}

/// Starts the log on standard error.
pub(super) fn start_log(config: &Config) -> LogReload {
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

/// Returns the operator's directives, preceded by `warn` for each Tor crate that they do not name.
fn with_tor_defaults(level: &str) -> String {
    let directives: Vec<&str> = level.split(',').map(str::trim).collect();
    let general = directives.iter().filter_map(|directive| directive.parse::<LevelFilter>().ok()).next_back();
    // A directive for one target overrides the general level, and must not raise it.
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

/// Layer that throttles repeated lines of the Tor crates.
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
            (Some(suppressed), Level::ERROR) => {
                tracing::error!(suppressed, "similar lines of Tor were suppressed")
            }
            (Some(suppressed), _) => tracing::warn!(suppressed, "similar lines of Tor were suppressed"),
        }
        true
    }
}

/// Writer that prints each event as a single line.
///
/// Errors of Tor and texts of untrusted sources may contain line breaks, which become spaces.
struct SingleLineWriter<W>(W);

impl<W: Write> Write for SingleLineWriter<W> {
    /// Writes an event. The log passes each event in a single call.
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

/// Number of recent lines of each callsite.
struct Throttle<Callsite> {
    windows: HashMap<Callsite, CallsiteWindow>,
}

/// Recent lines of one callsite.
#[derive(Default)]
struct CallsiteWindow {
    /// Times of the lines within [`THROTTLE_WINDOW`].
    logged: VecDeque<Time>,
    /// Number of lines suppressed since the last logged one.
    suppressed: u64,
}

impl<Callsite: Hash + Eq> Throttle<Callsite> {
    /// Returns the number of lines suppressed since the last one, or `None` to suppress this line.
    fn allow(&mut self, callsite: Callsite, now: Time) -> Option<u64> {
        let window = self.windows.entry(callsite).or_default();
        // A time in the future precedes a backward step of the clock.
        window.logged.retain(|time| *time <= now && now.since(*time) < THROTTLE_WINDOW);
        if window.logged.len() >= THROTTLE_BURST {
            window.suppressed = window.suppressed.saturating_add(1);
            return None;
        }
        window.logged.push_back(now);
        Some(std::mem::take(&mut window.suppressed))
    }
}

impl<Callsite> Default for Throttle<Callsite> {
    fn default() -> Throttle<Callsite> {
        Throttle { windows: HashMap::new() }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::Arc;

    use super::*;

    #[test]
    fn event_with_line_breaks_is_one_line() {
        let mut log = Vec::new();
        SingleLineWriter(&mut log).write_all(b"a\nb\r\nc\n").unwrap();
        assert_eq!(log, b"a b  c\n");
    }

    #[test]
    fn fourth_line_of_a_callsite_is_suppressed_for_ten_minutes() {
        let mut throttle = Throttle::default();
        let at = |secs: u64| Time::from_secs(1_000_000 + secs);
        for secs in [0, 60, 120] {
            assert_eq!(throttle.allow("a", at(secs)), Some(0));
        }
        for secs in [121, 300, 599] {
            assert_eq!(throttle.allow("a", at(secs)), None);
        }
        assert_eq!(throttle.allow("b", at(599)), Some(0), "another callsite is not suppressed");
        assert_eq!(throttle.allow("a", at(600)), Some(3), "the first line is ten minutes old");
        assert_eq!(throttle.allow("a", at(601)), None);
        assert_eq!(throttle.allow("a", at(660)), Some(1));
        assert_eq!(throttle.allow("a", at(5000)), Some(0));
    }

    #[test]
    fn backward_clock_step_suppresses_no_line() {
        let mut throttle = Throttle::default();
        for _ in 0..5 {
            throttle.allow("a", Time::from_secs(1_000_000));
        }
        assert_eq!(throttle.allow("a", Time::from_secs(1000)), Some(2));
    }

    #[test]
    fn operator_directives_override_tor_defaults() {
        assert!(with_tor_defaults("info").starts_with("arti_=warn,tor_=warn,"));
        assert!(with_tor_defaults("info").ends_with(",info"));
        for quiet in ["off", "error", "WARN", "", "waypost=debug"] {
            assert_eq!(with_tor_defaults(quiet), quiet, "defaults would raise the level");
        }
        let some = with_tor_defaults("info,tor_dirmgr=debug");
        assert!(some.contains("tor_=warn,") && some.ends_with(",info,tor_dirmgr=debug"), "{some}");
        let all = with_tor_defaults("debug, tor=trace");
        assert!(!all.contains("tor_=warn") && all.contains("arti_=warn"), "{all}");
    }

    #[test]
    fn tor_crates_log_only_throttled_warnings_by_default() {
        let log = lines("info,tor_dirmgr=debug", || {
            tracing::info!(target: "waypost::daemon", "of waypost");
            tracing::info!(target: "tor_guardmgr::guard", "suppressed");
            tracing::info!(target: "arti_client", "suppressed");
            tracing::debug!(target: "tor_dirmgr::bootstrap", "requested");
            for n in 0..9 {
                tracing::warn!(target: "tor_circmgr", n, "tor repeats");
                tracing::warn!(target: "waypost::store", n, "waypost repeats");
            }
        });
        let count = |text: &str| log.lines().filter(|line| line.contains(text)).count();
        assert_eq!((count("waypost repeats"), count("tor repeats")), (9, 3), "{log}");
        assert_eq!((count("suppressed"), count("requested"), log.lines().count()), (0, 1, 14), "{log}");
    }

    /// Returns the log of `work`.
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
