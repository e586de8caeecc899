//! Conversion of the daemon's state into the status types of `api`.

use data_encoding::HEXLOWER;
use std::path::Path;
use std::sync::Arc;

use super::clearnet_monitor::NameState;
use crate::api::{
    BackendServerStatus, BackendStatus, ChainStatus, ClearnetStatus, DayVisits, OnionStatus, OwnListingInfo,
    PeerDetails, PeerInfo, PeerSummary, ReachedEndpoint, StoreStatus, Visit,
};
use crate::backend::{Backend, PeerPool, ServerStatus};
use crate::book::{
    ChainSummary, DayCounts, Entry, Ingress, ListingCount, OwnListing, PeerBook, ReachedEndpoints, WEEK,
};
use crate::clock::Time;
use crate::connect::ProbeError;
use crate::electrum::identity::Identity;
use crate::header_chain::HeaderChain;
use crate::netgroup;
use crate::peer::{Host, Port, Ports};
use crate::store::WriterStatus;
use crate::tor::OnionServiceState;

/// Status of the backend, with the software and tip that it reported.
pub(crate) fn backend(backend: &Backend, identity: &Identity, chain: Option<&Arc<HeaderChain>>) -> BackendStatus {
    let upstream = identity.backend_info(Ingress::Clearnet);
    let tip = upstream.and_then(|upstream| upstream.tip);
    let servers = backend.servers.servers().into_iter().map(|server| {
        let ServerStatus { error, info } = server.status();
        let tip = info.and_then(|info| info.tip);
        BackendServerStatus { address: server.address.to_string(), error, tip, sessions: server.sessions() }
    });
    let sessions = backend.peers.iter().flat_map(PeerPool::session_counts);
    let (checks_agreed, checks_differed) = backend.peers.as_ref().map(PeerPool::check_counts).unwrap_or_default();
    BackendStatus {
        electrum: backend.targets(),
        error: backend.last_error(),
        servers: servers.collect(),
        software: upstream.and_then(|upstream| upstream.software.clone()),
        tip,
        blocks_behind: chain.zip(tip).map(|(chain, tip)| chain.height().saturating_sub(tip)),
        sessions: sessions.map(|(host, sessions)| (host.to_string(), sessions)).collect(),
        checks_agreed,
        checks_differed,
    }
}

/// Status of the known chain.
pub(crate) fn chain(summary: &ChainSummary) -> ChainStatus {
    let ChainSummary { chain, level, ahead, behind, less_work } = summary;
    let mut hash = chain.tip_hash();
    hash.reverse();
    ChainStatus {
        height: chain.height(),
        hash: HEXLOWER.encode(&hash),
        log2_work: round(chain.log2_work()),
        tip_time: chain.tip_time().map(|secs| Time::from_wall_millis(u64::from(secs) * 1000)),
        level: *level,
        ahead: *ahead,
        behind: *behind,
        less_work: *less_work,
    }
}

/// Status of the store's writer, with the size of the file at `path`.
///
/// The size is 0 if the file can't be read.
pub(crate) fn store(writer: &WriterStatus, path: &Path) -> StoreStatus {
    let bytes = std::fs::metadata(path).map_or(0, |metadata| metadata.len());
    StoreStatus { failing: writer.is_failing(), pending: writer.waiting(), batches: writer.batches(), bytes }
}

/// Status of the onion service and of its self-checks.
pub(crate) fn onion(state: &OnionServiceState, listings: ListingCount) -> OnionStatus {
    OnionStatus {
        host: state.host.to_string(),
        port: state.ports.tcp().map_or(0, Port::get),
        restricted: state.is_restricted,
        tls_port: state.ports.tls().map(Port::get),
        tls_error: state.tls.last_error.clone(),
        last_reached: state.last_reached,
        failures: state.failures,
        error: state.last_error.clone(),
        listings: listings.into(),
    }
}

/// Status of an own clearnet name.
///
/// `last_reached` is the book's time of the last success; `None` if there was none.
pub(crate) fn clearnet(
    host: &Host,
    ports: Ports,
    state: &NameState,
    last_reached: Option<Time>,
    listings: ListingCount,
) -> ClearnetStatus {
    let NameState { address, via, failures, last_error, warnings } = state.clone();
    ClearnetStatus {
        host: host.to_string(),
        ports: ports.into(),
        address: address.map(|ip| ip.to_string()),
        via,
        // Without a path, the name is advertised untested, and the book's time is no success.
        last_reached: last_reached.filter(|_| via.is_some()),
        failures,
        error: last_error,
        warnings,
        listings: listings.into(),
    }
}

/// All peers of a book, for operators.
pub(crate) fn peers(book: &PeerBook, now: Time) -> impl Iterator<Item = PeerInfo> {
    book.entries().map(move |entry| peer_info(book, entry, now))
}

/// Values by which the peers of a book are sorted.
pub(crate) fn summaries(book: &PeerBook, now: Time) -> impl Iterator<Item = PeerSummary> {
    book.entries().map(move |entry| PeerSummary {
        host: entry.host.clone(),
        side: book.config().side,
        state: entry.state(now, book.config().max_advertised_age),
        software: entry.software.as_deref().map(Box::from),
        source: entry.source.clone(),
        latency_ms: entry.latency().and_then(|latency| u32::try_from(latency.as_millis()).ok()),
        weekly_uptime: entry.uptime.share(WEEK),
        last_success: entry.last_success,
    })
}

/// Everything that the book stores about a peer, for operators.
pub(crate) fn peer_info(book: &PeerBook, entry: &Entry, now: Time) -> PeerInfo {
    let last_failure = entry.violation.or_else(|| entry.history.back().and_then(|record| record.failure));
    let tls_failed = || entry.tls_failed.then(|| format!("{}; verified over TCP only", ProbeError::Tls));
    let ports = entry.verified_ports().unwrap_or(entry.ports);
    PeerInfo {
        host: entry.host.to_string(),
        side: book.config().side,
        state: entry.state(now, book.config().max_advertised_age),
        ip: entry.ip.map(|ip| netgroup::canonical(ip).to_string()),
        ports: ports.into(),
        protocol: entry.protocol.map(|version| version.to_string()),
        pruning: entry.pruning,
        software: entry.software.clone(),
        genesis_hash: entry.genesis_hash.map(|bytes| HEXLOWER.encode(&bytes)),
        key: entry.key.map(|key| HEXLOWER.encode(&key.sha256)),
        key_since: entry.key.map(|key| key.since),
        key_changes: entry.key.map_or(0, |key| key.rotation_count),
        tip: entry.tip,
        lists: entry.own_listings.iter().map(own_listing).collect(),
        announcement_accepted: entry.announcement_accepted,
        source: entry.source.to_string(),
        self_reported: entry.self_reported,
        first_seen: entry.first_seen,
        last_try: entry.last_try,
        last_success: entry.last_success,
        next_try: entry.next_probe_at,
        waiting_for: book.waiting(entry, now).map(|waiting| waiting.to_string()),
        failures: entry.failures,
        error: last_failure.map(|error| error.to_string()).or_else(tls_failed),
        latency_ms: entry.latency().and_then(|latency| u64::try_from(latency.as_millis()).ok()),
        uptime: entry.uptime.shares().map(|(window, share)| (window.to_owned(), round(share))).collect(),
        history: entry.history.iter().map(|record| record.failure.is_none()).collect(),
    }
}

/// One peer of a book with its history; `None` if the host is unknown.
pub(crate) fn peer_details(book: &PeerBook, host: &Host, now: Time) -> Option<PeerDetails> {
    let entry = book.entry(host)?;
    let reached = |is_web_socket, endpoints: &ReachedEndpoints| {
        endpoints.iter().map(move |((transport, port), at)| ReachedEndpoint { transport, port, is_web_socket, at })
    };
    let days = entry.days.days().map(|(start, DayCounts { successes, failures, mean_ms })| DayVisits {
        start,
        successes,
        failures,
        mean_ms: (successes > 0).then_some(mean_ms),
    });
    let visits = entry.history.iter().map(|record| Visit {
        at: record.at,
        error: record.failure.map(|failure| failure.to_string()),
        duration_ms: record.duration_ms,
    });
    Some(PeerDetails {
        info: peer_info(book, entry, now),
        claimed_ports: entry.ports.into(),
        endpoints: reached(false, &entry.reached).chain(reached(true, &entry.reached_web_sockets)).collect(),
        days: days.collect(),
        visits: visits.collect(),
    })
}

fn own_listing(listing: &OwnListing) -> OwnListingInfo {
    OwnListingInfo { host: listing.host.to_string(), ports: listing.ports.into(), since: listing.since }
}

/// Rounds to three decimals.
fn round(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}
