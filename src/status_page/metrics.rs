//! Metrics for Prometheus in OpenMetrics' text format.

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

use super::status_cache::StatusSample;
use crate::api::{BanListStatus, ChainStatus, ClearnetStatus, Listings, PeerInfo, Status};
use crate::book::Side;
use crate::client_counters::ClientStats;
use crate::clock::{self, Time};
use crate::connect::{ProbeError, Verified};
use crate::route::Route;
use crate::tor_state::{OnionFailure, TorKind, TorState};

/// Media type of the response.
pub(crate) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Histogram buckets in seconds: probes take 0.1 s on a short path and up to a minute through Tor.
const PROBE_BUCKETS: [f64; 10] = [0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];

type Labels = Vec<(&'static str, String)>;

/// Results and durations of probes since the start.
#[derive(Debug, Clone)]
pub struct ProbeMetrics {
    outcomes: Family<Labels, Counter>,
    seconds: Family<Labels, Histogram>,
}

impl Default for ProbeMetrics {
    fn default() -> ProbeMetrics {
        let outcomes = Family::<Labels, Counter>::default();
        let seconds = Family::new_with_constructor(histogram as fn() -> Histogram);
        // Series start at zero, since a scraper cannot tell a missing series from a forgotten one.
        for via in Route::ALL {
            outcomes.get_or_create(&probe_labels(via, "verified")).inc_by(0);
            drop(seconds.get_or_create(&vec![route_label(via)]));
        }
        ProbeMetrics { outcomes, seconds }
    }
}

impl ProbeMetrics {
    /// Counts the result of a probe.
    pub fn count(&self, via: Route, outcome: &Result<Verified, ProbeError>) {
        let label = match outcome {
            Ok(verified) => {
                self.seconds.get_or_create(&vec![route_label(via)]).observe(verified.duration.as_secs_f64());
                "verified"
            }
            Err(error) => outcome_label(*error),
        };
        self.outcomes.get_or_create(&probe_labels(via, label)).inc();
    }
}

/// Encodes all metrics.
pub(crate) fn encode_metrics(sample: &StatusSample, probes: &ProbeMetrics) -> Result<String, fmt::Error> {
    let StatusSample { status, rows, .. } = sample;
    let mut registry = Registry::default();
    if let Some(bytes) = resident_bytes() {
        let gauge = Gauge::<u64, AtomicU64>::default();
        gauge.set(bytes);
        registry.register("process_resident_memory_bytes", "Resident memory of the process in bytes", gauge);
    }
    let mut writer = MetricsWriter(registry.sub_registry_with_prefix("waypost"));
    writer.info(status);
    writer.book(sample);
    writer.0.register("probes", "Finished probes by route and outcome", probes.outcomes.clone());
    writer.0.register("probe_seconds", "Duration of successful probes", probes.seconds.clone());
    if let Some(chain) = &status.chain {
        writer.chain(chain, clock::now());
    }
    writer.tor(status);
    if let Some(clearnet) = &status.clearnet {
        writer.clearnet(clearnet);
        let failing = status.other_names.iter().filter(|name| name.error.is_some()).count();
        writer.gauge("other_names", "Number of further clearnet names", count(status.other_names.len()));
        writer.gauge("other_names_failing", "Number of further clearnet names whose last test failed", count(failing));
    }
    writer.listings(status);
    writer.clients(&status.clients);
    if let Some(backend) = &status.backend {
        writer.bool_gauge("backend_up", "Whether the backend server works", backend.error.is_none());
        let help = "Blocks by which the backend's tip is below the chain with the most work; NaN if unknown";
        writer.float_gauge("backend_blocks_behind", help, backend.blocks_behind.map_or(f64::NAN, f64::from));
    }
    writer.ban_lists(&status.ban_lists);
    writer.peers(rows);
    let mut text = String::new();
    encode(&mut text, &registry)?;
    Ok(text)
}

/// Registry of one scrape, with helpers that register a value.
struct MetricsWriter<'a>(&'a mut Registry);

impl MetricsWriter<'_> {
    fn info(&mut self, status: &Status) {
        let labels = vec![("version", status.version.clone()), ("network", status.network.to_string())];
        self.0.register("build", "Version and network of this process", Info::new(labels));
        self.gauge("uptime_seconds", "Seconds since the start", status.uptime_secs);
        self.bool_gauge("network_up", "Whether the local network seems to work", !status.network_down);
    }

    fn book(&mut self, sample: &StatusSample) {
        let StatusSample { status: Status { peers, store, .. }, answered_in, waiting, .. } = sample;
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
        self.gauge_family("peers", "Known peers by state and kind", counts);
        self.gauge("probes_running", "Probes in flight", count(peers.probing));
        self.gauge("store_bytes", "Size of the store's file in bytes", store.bytes);
        self.gauge("store_pending_records", "Records that are not on disk yet", store.pending);
        self.bool_gauge("store_failing", "Whether the last write to the store failed", store.failing);
        self.counter("store_batches", "Committed transactions of the store", store.batches);
        self.gauge("book_queue_length", "Messages that wait for the book's task", count(*waiting));
        self.float_gauge(
            "book_latency_seconds",
            "Time that the book's task took to answer this scrape",
            seconds(*answered_in),
        );
    }

    fn chain(&mut self, chain: &ChainStatus, now: Time) {
        self.gauge("chain_height", "Height of the known chain with the most work", chain.height.into());
        self.float_gauge("chain_log2_work", "Binary logarithm of its work since the pinned block", chain.log2_work);
        if let Some(tip_time) = chain.tip_time {
            self.float_gauge(
                "chain_tip_age_seconds",
                "Age of its tip by the tip's header",
                seconds(now.since(tip_time)),
            );
        }
        let positions =
            [("level", chain.level), ("ahead", chain.ahead), ("behind", chain.behind), ("less_work", chain.less_work)];
        let counts = positions.map(|(position, peers)| (vec![("position", position.to_owned())], count(peers)));
        self.gauge_family("chain_peers", "Verified and bad peers by position relative to that chain", counts);
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
        self.gauge_family("tor_state", "1 for the current state of Tor, 0 for others", states);
        if let Some(source) = &status.tor_source {
            let kinds = TorKind::ALL.map(|kind| (vec![("kind", label(&kind))], u64::from(kind == source.kind)));
            self.gauge_family("tor_source", "1 for the kind of Tor in use, 0 for others", kinds);
        }
        self.bool_gauge(
            "tor_clearnet_blocked",
            "Whether Tor refuses clearnet peers while tor.only allows no other route",
            status.clearnet_blocked.is_some(),
        );
        if status.onion.is_some() || status.onion_error.is_some() {
            let is_reached =
                status.onion.as_ref().is_some_and(|onion| onion.last_reached.is_some() && onion.failures == 0);
            let is_up = is_reached && status.onion_error.is_none();
            self.bool_gauge("onion_up", "Whether the onion service runs and was reached at the last check", is_up);
            let failed = status.onion_error.as_ref().map(|error| error.stage);
            let stages =
                OnionFailure::ALL.map(|stage| (vec![("stage", label(&stage))], u64::from(failed == Some(stage))));
            self.gauge_family("onion_failed", "1 for the stage at which the embedded onion service fails", stages);
        }
        if let Some(onion) = &status.onion {
            let reached = onion.last_reached.map_or(0.0, unix_secs);
            self.float_gauge(
                "onion_reached_timestamp_seconds",
                "Time of the last successful self-probe of the onion service; 0 if never",
                reached,
            );
        }
    }

    /// Writes how many peers list the own names.
    fn listings(&mut self, status: &Status) {
        let onion = status.onion.as_ref().map(|onion| ("onion", onion.listings));
        let clearnet = status.clearnet.as_ref().map(|clearnet| ("clearnet", clearnet.listings));
        let names: Vec<_> = [onion, clearnet].into_iter().flatten().collect();
        let family = |of: fn(Listings) -> usize| -> Vec<_> {
            names.iter().map(|(kind, listings)| (vec![("kind", (*kind).to_owned())], count(of(*listings)))).collect()
        };
        let (listed_by, peers) = (family(|name| name.listed_by), family(|name| name.peers_of_its_kind));
        self.gauge_family("listed_by_peers", "Verified peers of the kind of an own name that list it", listed_by);
        self.gauge_family("peers_of_own_kind", "Verified peers of the kind of an own name", peers);
    }

    fn clearnet(&mut self, clearnet: &ClearnetStatus) {
        let reached = clearnet.last_reached.map_or(0.0, unix_secs);
        self.float_gauge(
            "clearnet_reached_timestamp_seconds",
            "Time of the last successful test of the clearnet name; 0 if never",
            reached,
        );
        self.bool_gauge(
            "clearnet_failing",
            "Whether the last test of the clearnet name failed",
            clearnet.error.is_some(),
        );
    }

    fn clients(&mut self, clients: &ClientStats) {
        self.gauge("sessions_open", "Open sessions of clients", clients.open_sessions);
        self.gauge("client_memory_bytes", "Bytes held for long requests and unread responses", clients.memory_bytes);
        let onion = clients.sessions_onion;
        let sessions = [("clearnet", clients.sessions.saturating_sub(onion)), ("onion", onion)];
        let sessions = sessions.map(|(ingress, count)| (vec![("ingress", ingress.to_owned())], count));
        self.counter_family("sessions", "Sessions since the start by ingress", sessions);
        let calls = clients.calls.iter().map(|call| {
            let labels = vec![
                ("ingress", label(&call.ingress)),
                ("method", call.method.name().to_owned()),
                ("result", label(&call.result)),
            ];
            (labels, call.count)
        });
        self.counter_family("requests", "Requests by ingress, method and result", calls);
        let limits = clients.limits();
        let limits = limits.iter().map(|limit| (vec![("limit", limit.limit.to_owned())], limit.count));
        self.counter_family("limits", "Clients rejected, disconnected or delayed, by limit", limits);
        self.counter("session_panics", "Sessions ended by a bug", clients.panicked_sessions);
        self.counter("backend_failures", "Times that the backend server failed a client", clients.backend_failures);
    }

    fn ban_lists(&mut self, lists: &[BanListStatus]) {
        let family = |of: fn(&BanListStatus) -> u64| -> Vec<_> {
            lists.iter().map(|list| (vec![("list", list.path.clone())], of(list))).collect()
        };
        let (patterns, failing) = (family(|list| count(list.patterns)), family(|list| u64::from(list.error.is_some())));
        self.gauge_family("ban_list_patterns", "Patterns in force by ban list", patterns);
        self.gauge_family("ban_list_failing", "Whether the last reading of a ban list failed", failing);
    }

    fn peers(&mut self, rows: &[PeerInfo]) {
        if rows.is_empty() {
            return;
        }
        let successes = Family::<Labels, Gauge<f64, AtomicU64>>::default();
        let uptimes = Family::<Labels, Gauge<f64, AtomicU64>>::default();
        // The clearnet side stands for both: a series per side would double the number of series.
        for row in rows.iter().filter(|row| row.side != Side::Onion) {
            let host = ("host", row.host.clone());
            if let Some(success) = row.last_success {
                successes.get_or_create(&vec![host.clone()]).set(unix_secs(success));
            }
            for (window, share) in &row.uptime {
                uptimes.get_or_create(&vec![host.clone(), ("window", window.clone())]).set(*share);
            }
        }
        self.0.register(
            "peer_last_success_timestamp_seconds",
            "Time of the last successful verification of a peer",
            successes,
        );
        self.0.register("peer_uptime_ratio", "Share of time during which a peer was reachable", uptimes);
    }

    fn gauge(&mut self, name: &str, help: &str, value: u64) {
        let gauge = Gauge::<u64, AtomicU64>::default();
        gauge.set(value);
        self.0.register(name, help, gauge);
    }

    fn bool_gauge(&mut self, name: &str, help: &str, value: bool) {
        self.gauge(name, help, u64::from(value));
    }

    fn float_gauge(&mut self, name: &str, help: &str, value: f64) {
        let gauge = Gauge::<f64, AtomicU64>::default();
        gauge.set(value);
        self.0.register(name, help, gauge);
    }

    fn gauge_family(&mut self, name: &str, help: &str, values: impl IntoIterator<Item = (Labels, u64)>) {
        let family = Family::<Labels, Gauge<u64, AtomicU64>>::default();
        for (labels, value) in values {
            family.get_or_create(&labels).set(value);
        }
        self.0.register(name, help, family);
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) {
        let counter = Counter::<u64>::default();
        counter.inc_by(value);
        self.0.register(name, help, counter);
    }

    fn counter_family(&mut self, name: &str, help: &str, values: impl IntoIterator<Item = (Labels, u64)>) {
        let family = Family::<Labels, Counter>::default();
        for (labels, value) in values {
            family.get_or_create(&labels).inc_by(value);
        }
        self.0.register(name, help, family);
    }
}

fn histogram() -> Histogram {
    Histogram::new(PROBE_BUCKETS)
}

fn probe_labels(via: Route, outcome: &str) -> Labels {
    vec![route_label(via), ("outcome", outcome.to_owned())]
}

fn route_label(via: Route) -> (&'static str, String) {
    let name = match via {
        Route::Direct => "direct",
        Route::Tor => "tor",
    };
    ("via", name.to_owned())
}

fn outcome_label(error: ProbeError) -> &'static str {
    match error {
        ProbeError::Refused => "refused",
        ProbeError::Unreachable => "unreachable",
        ProbeError::NameNotFound => "not_found",
        ProbeError::OnionDescriptorNotFound => "no_descriptor",
        ProbeError::Timeout => "silent",
        ProbeError::Closed => "closed",
        ProbeError::Tls => "tls",
        ProbeError::NotPublic => "not_public",
        ProbeError::ProtocolViolation(_) => "bad",
        ProbeError::TorUnavailable => "our_tor",
        ProbeError::Internal => "internal",
        ProbeError::LocalResourceExhausted => "our_limits",
        ProbeError::TorPolicy => "tor_policy",
        ProbeError::Unproven => "unproven",
        ProbeError::WebSocket => "web_socket",
    }
}

/// Returns the JSON string of a value without its quotes.
fn label(value: &impl serde::Serialize) -> String {
    serde_json::to_value(value).ok().and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
}

fn count(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}

fn seconds(time: Duration) -> f64 {
    time.as_secs_f64()
}

fn unix_secs(time: Time) -> f64 {
    Duration::from_millis(time.wall_millis()).as_secs_f64()
}

/// Reads the resident memory from procfs; `None` on systems without it.
fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()?.saturating_mul(1024))
}
