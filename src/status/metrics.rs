//! Numbers for Prometheus, in OpenMetrics' text format.

use std::fmt;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

use super::reading::Reading;
use crate::book::{Failure, Verified};
use crate::clock::Time;
use crate::control::{CallerStatus, ClearnetStatus, PeerRow, Status};
use crate::route::{OnionFailure, TorKind, TorState, Via};

pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// A verification takes from a tenth of a second nearby to a minute through Tor.
const SECONDS: [f64; 10] = [0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];

type Labels = Vec<(&'static str, String)>;

/// What became of probes since the start.
#[derive(Debug, Clone)]
pub struct ProbeTally {
    outcomes: Family<Labels, Counter>,
    seconds: Family<Labels, Histogram>,
}

impl Default for ProbeTally {
    fn default() -> ProbeTally {
        let outcomes = Family::<Labels, Counter>::default();
        let seconds = Family::new_with_constructor(histogram as fn() -> Histogram);
        // A number that isn't there yet can't be told from one that was forgotten.
        for via in Via::ALL {
            outcomes.get_or_create(&of_probe(via, "verified")).inc_by(0);
            drop(seconds.get_or_create(&vec![way(via)]));
        }
        ProbeTally { outcomes, seconds }
    }
}

impl ProbeTally {
    pub fn count(&self, via: Via, outcome: &Result<Verified, Failure>) {
        let name = match outcome {
            Ok(verified) => {
                self.seconds.get_or_create(&vec![way(via)]).observe(verified.took.as_secs_f64());
                "verified"
            }
            Err(failure) => name(*failure),
        };
        self.outcomes.get_or_create(&of_probe(via, name)).inc();
    }
}

pub fn text(reading: &Reading, probes: &ProbeTally) -> Result<String, fmt::Error> {
    let Reading { status, rows, .. } = reading;
    let mut registry = Registry::default();
    if let Some(bytes) = resident() {
        let gauge = Gauge::<u64, AtomicU64>::default();
        gauge.set(bytes);
        registry.register("process_resident_memory_bytes", "Memory that the process has, in bytes", gauge);
    }
    let mut sheet = Sheet(registry.sub_registry_with_prefix("waypost"));
    sheet.info(status);
    sheet.book(reading);
    sheet.0.register("probes", "Probes that are over", probes.outcomes.clone());
    sheet.0.register("probe_seconds", "How long verifications took that succeeded", probes.seconds.clone());
    sheet.tor(status);
    if let Some(name) = &status.clearnet {
        sheet.clearnet(name);
    }
    sheet.callers(&status.callers);
    if let Some(backend) = &status.backend {
        sheet.truth("backend_up", "Whether the server behind us is of use", backend.trouble.is_none());
    }
    sheet.peers(rows);
    let mut text = String::new();
    encode(&mut text, &registry)?;
    Ok(text)
}

/// All numbers of one scrape.
struct Sheet<'a>(&'a mut Registry);

impl Sheet<'_> {
    fn info(&mut self, status: &Status) {
        let labels = vec![("version", status.version.clone()), ("network", status.network.to_string())];
        self.0.register("build", "This program", Info::new(labels));
        self.number("uptime_seconds", "Time since the start", status.uptime_secs);
        self.truth("network_up", "Whether our own network seems to work", !status.network_down);
    }

    fn book(&mut self, reading: &Reading) {
        let Reading { status: Status { peers, store, .. }, answered_in, waiting, .. } = reading;
        let by_state = [
            ("verified", peers.verified, peers.verified_onion),
            ("stale", peers.stale, peers.stale_onion),
            ("candidate", peers.candidate, peers.candidate_onion),
            ("bad", peers.bad, peers.bad_onion),
        ];
        let labels = |state: &str, kind: &str| vec![("state", state.to_owned()), ("kind", kind.to_owned())];
        let counts = by_state.into_iter().flat_map(|(state, all, onion)| {
            [(labels(state, "clearnet"), count(all.saturating_sub(onion))), (labels(state, "onion"), count(onion))]
        });
        self.numbers("peers", "Peers in the book", counts);
        self.number("probes_running", "Probes under way", count(peers.probing));
        self.number("store_bytes", "How long the store's file is", store.bytes);
        self.number("store_records_waiting", "Records that are not on disk yet", store.waiting);
        self.truth("store_failing", "Whether the last write to the store failed", store.failing);
        self.total("store_batches", "Transactions of the store", store.batches);
        self.number("inbox_waiting", "Inputs that wait for the book's task", count(*waiting));
        self.float("book_answer_seconds", "How long the book's task took to answer this scrape", seconds(*answered_in));
    }

    fn tor(&mut self, status: &Status) {
        let state = match &status.tor {
            TorState::Off => "off",
            TorState::Starting { .. } => "starting",
            TorState::Ready => "ready",
            TorState::Down { .. } => "down",
        };
        let states = ["off", "starting", "ready", "down"];
        let states = states.map(|name| (vec![("state", name.to_owned())], u64::from(name == state)));
        self.numbers("tor_state", "1 for the state that Tor is in", states);
        if let Some(source) = &status.tor_source {
            let kinds = TorKind::ALL.map(|kind| (vec![("kind", word(&kind))], u64::from(kind == source.kind)));
            self.numbers("tor_source", "1 for the kind of Tor in use", kinds);
        }
        self.truth(
            "tor_clearnet_blocked",
            "Whether Tor refuses clearnet peers, to which tor.only leaves no other route",
            status.clearnet_blocked.is_some(),
        );
        if status.onion.is_some() || status.onion_error.is_some() {
            let is_reached = status.onion.as_ref().is_some_and(|onion| onion.reached.is_some() && onion.missed == 0);
            let is_up = is_reached && status.onion_error.is_none();
            self.truth("onion_up", "Whether the onion service runs and was reached at the last check", is_up);
            let failed = status.onion_error.as_ref().map(|error| error.stage);
            let stages =
                OnionFailure::ALL.map(|stage| (vec![("stage", word(&stage))], u64::from(failed == Some(stage))));
            self.numbers("onion_failed", "1 for the stage at which the embedded onion service fails", stages);
        }
        if let Some(onion) = &status.onion {
            let reached = onion.reached.map_or(0.0, moment);
            self.float(
                "onion_reached_timestamp_seconds",
                "When our onion service was last reached; 0 if never",
                reached,
            );
        }
    }

    fn clearnet(&mut self, name: &ClearnetStatus) {
        let reached = name.reached.map_or(0.0, moment);
        self.float(
            "clearnet_reached_timestamp_seconds",
            "When the clearnet name was last reached; 0 if never",
            reached,
        );
        self.truth("clearnet_failing", "Whether the last test of the clearnet name failed", name.trouble.is_some());
    }

    fn callers(&mut self, callers: &CallerStatus) {
        self.number("sessions_open", "Sessions of callers that are open", callers.open_sessions);
        let onion = callers.sessions_onion;
        let sessions = [("clearnet", callers.sessions.saturating_sub(onion)), ("onion", onion)];
        let sessions = sessions.map(|(caller, count)| (vec![("caller", caller.to_owned())], count));
        self.counter("sessions", "Sessions since the start", sessions);
        let calls = callers.calls.iter().map(|call| {
            let labels = vec![
                ("caller", word(&call.caller)),
                ("method", call.method.name().to_owned()),
                ("result", word(&call.result)),
            ];
            (labels, call.count)
        });
        self.counter("requests", "Calls, by which of our names they were made, and what became of them", calls);
        let limits = [
            ("full", callers.refused_full),
            ("source", callers.refused_source),
            ("banned", callers.refused_banned),
            ("evicted", callers.evicted),
            ("handshake", callers.failed_handshakes),
            ("delayed", callers.delayed_requests),
            ("requests", callers.excessive_requests),
            ("bytes", callers.excessive_bytes),
            ("unreadable", callers.unreadable_lines),
            ("slow", callers.slow),
            ("idle", callers.idle),
        ];
        let limits = limits.map(|(limit, count)| (vec![("limit", limit.to_owned())], count));
        self.counter("limits", "Callers turned away, sent off or delayed", limits);
        self.total("sessions_broken", "Sessions ended by a bug", callers.broken_sessions);
        self.total("backend_failures", "Times that the server behind us failed a caller", callers.backend_failures);
    }

    fn peers(&mut self, rows: &[PeerRow]) {
        if rows.is_empty() {
            return;
        }
        let successes = Family::<Labels, Gauge<f64, AtomicU64>>::default();
        let uptimes = Family::<Labels, Gauge<f64, AtomicU64>>::default();
        for row in rows {
            let host = ("host", row.host.clone());
            if let Some(success) = row.last_success {
                successes.get_or_create(&vec![host.clone()]).set(moment(success));
            }
            for (window, share) in &row.uptime {
                uptimes.get_or_create(&vec![host.clone(), ("window", window.clone())]).set(*share);
            }
        }
        self.0.register("peer_last_success_timestamp_seconds", "When a peer was last verified", successes);
        self.0.register("peer_uptime_ratio", "How much of the time a peer was there", uptimes);
    }

    fn number(&mut self, name: &str, help: &str, value: u64) {
        let gauge = Gauge::<u64, AtomicU64>::default();
        gauge.set(value);
        self.0.register(name, help, gauge);
    }

    fn truth(&mut self, name: &str, help: &str, value: bool) {
        self.number(name, help, u64::from(value));
    }

    fn float(&mut self, name: &str, help: &str, value: f64) {
        let gauge = Gauge::<f64, AtomicU64>::default();
        gauge.set(value);
        self.0.register(name, help, gauge);
    }

    fn numbers(&mut self, name: &str, help: &str, values: impl IntoIterator<Item = (Labels, u64)>) {
        let family = Family::<Labels, Gauge<u64, AtomicU64>>::default();
        for (labels, value) in values {
            family.get_or_create(&labels).set(value);
        }
        self.0.register(name, help, family);
    }

    fn total(&mut self, name: &str, help: &str, value: u64) {
        let counter = Counter::<u64>::default();
        counter.inc_by(value);
        self.0.register(name, help, counter);
    }

    fn counter(&mut self, name: &str, help: &str, values: impl IntoIterator<Item = (Labels, u64)>) {
        let family = Family::<Labels, Counter>::default();
        for (labels, value) in values {
            family.get_or_create(&labels).inc_by(value);
        }
        self.0.register(name, help, family);
    }
}

fn histogram() -> Histogram {
    Histogram::new(SECONDS)
}

fn of_probe(via: Via, outcome: &str) -> Labels {
    vec![way(via), ("outcome", outcome.to_owned())]
}

fn way(via: Via) -> (&'static str, String) {
    let name = match via {
        Via::Direct => "direct",
        Via::Tor => "tor",
    };
    ("via", name.to_owned())
}

fn name(failure: Failure) -> &'static str {
    match failure {
        Failure::Refused => "refused",
        Failure::Unreachable => "unreachable",
        Failure::NotFound => "not_found",
        Failure::NoDescriptor => "no_descriptor",
        Failure::Silent => "silent",
        Failure::Closed => "closed",
        Failure::Tls => "tls",
        Failure::NotPublic => "not_public",
        Failure::Bad(_) => "bad",
        Failure::OurTor => "our_tor",
        Failure::Internal => "internal",
        Failure::OurLimits => "our_limits",
        Failure::TorPolicy => "tor_policy",
    }
}

/// As JSON has it, without the quotes.
fn word(value: &impl serde::Serialize) -> String {
    serde_json::to_value(value).ok().and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
}

fn count(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}

fn seconds(time: Duration) -> f64 {
    time.as_secs_f64()
}

fn moment(time: Time) -> f64 {
    Duration::from_millis(time.wall_millis()).as_secs_f64()
}

/// What the kernel says of this process, where there is such a kernel.
fn resident() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()?.saturating_mul(1024))
}
