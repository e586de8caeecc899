//! What the book has to say, put into the words of a log line or a table's row.

use data_encoding::HEXLOWER;
use std::collections::BTreeMap;
use std::path::Path;

use super::clearnet_monitor::NameState;
use crate::backend::Backend;
use crate::book::{BookNotice, Entry, IntakeError, PeerBook, Uptime, WINDOWS};
use crate::clock::Time;
use crate::control::{BackendStatus, ClearnetStatus, OnionStatus, PeerInfo, StoreStatus};
use crate::electrum::identity::Identity;
use crate::netgroup;
use crate::peer::{Host, Port, Ports, RealName, RealNameError};
use crate::route::TorState;
use crate::store::WriterStatus;
use crate::tor::OnionServiceState;

/// One line for what an operator wants to know; nothing of callers at this level.
pub fn log(notice: &BookNotice) {
    match notice {
        BookNotice::Verified { host, software } => {
            tracing::info!(%host, software = software.as_deref().unwrap_or("unknown"), "verified");
        }
        BookNotice::NoLongerAdvertised { host, reason } => {
            tracing::info!(%host, %reason, "lost: not advertised any more")
        }
        BookNotice::Misbehaved { host, reason } => tracing::info!(%host, %reason, "bad: not advertised"),
        BookNotice::Forgotten { host } => tracing::info!(%host, "forgotten: no success for too long"),
        BookNotice::AddPeerSpoofed { host } => tracing::debug!(%host, "an add_peer named a host of another address"),
        BookNotice::Banned { host } => tracing::info!(%host, "banned: dropped"),
        BookNotice::KeyChanged { host } => tracing::info!(%host, "its TLS key has changed"),
        BookNotice::NetworkDown => {
            tracing::warn!("nobody answers, not even peers that were fine lately: our own network seems to be down");
        }
        BookNotice::NetworkUp => tracing::info!("our network is back"),
        BookNotice::Tor(state @ TorState::Down { .. }) => tracing::warn!("Tor is {state}"),
        BookNotice::Tor(state) => tracing::info!("Tor is {state}"),
        BookNotice::TorClearnet(access) => match access.refusal() {
            Some(reason) => tracing::warn!("clearnet peers wait, as tor.only leaves no other route: {reason}"),
            None => tracing::info!("Tor accepts clearnet connections again; clearnet peers are tried"),
        },
        BookNotice::SeedRefused { name, reason } => tracing::warn!("{}", refused_seed(name, *reason)),
        BookNotice::SeedsReused => tracing::info!("no verified peer is left; asking the seeds again"),
    }
}

pub fn no_real_name(line: &str, error: RealNameError) -> String {
    let advice = match error {
        RealNameError::NoPort => "",
        RealNameError::Host(_) => "; it is a host and its ports, as a.example s50002 t50001",
    };
    format!("{line:?} is no real name: {error}{advice}")
}

/// Why a seed is not taken in, and what the operator may do.
pub fn refused_seed(name: &RealName, reason: IntakeError) -> String {
    format!("discovery.seeds: {:?} is not taken in: {reason}{}", name.to_string(), advice(reason))
}

/// What an operator may do about a server that isn't taken in.
pub fn advice(refusal: IntakeError) -> &'static str {
    match refusal {
        IntakeError::Banned => "; `waypost unban` takes that back",
        IntakeError::NotPublic => "; discovery.allow_private lets such hosts be peers, in a network for tests",
        IntakeError::WrongGenesis => "; network says which chain is wanted",
        IntakeError::LocalHost => "; identity and our onion service say which names are",
        IntakeError::TlsRequired => "; write s and its TLS port after the host",
        IntakeError::NoDialablePort | IntakeError::NoHost => {
            "; write s50002, t50001 or what its ports are after the host"
        }
        IntakeError::KnownMisbehaving => "; `waypost peers` says in what, and `waypost forget` has it tried again",
        IntakeError::Duplicate => "; write all ports of a host into one seed",
        IntakeError::CandidateTableFull => {
            "; `waypost peers --state candidate` shows them, and `waypost forget` drops one"
        }
        IntakeError::SourceBudget
        | IntakeError::DomainBudget
        | IntakeError::OnionBudget
        | IntakeError::OverallBudget => "; add it again in an hour",
        IntakeError::NotTheCaller => "",
    }
}

/// What stands behind us, and how it does.
pub fn backend(backend: &Backend, identity: &Identity) -> BackendStatus {
    let behind = identity.behind();
    BackendStatus {
        electrum: backend.target(),
        error: backend.last_error(),
        software: behind.and_then(|behind| behind.software.clone()),
        tip: behind.and_then(|behind| behind.tip),
        sessions: backend.session_counts().into_iter().map(|(host, sessions)| (host.to_string(), sessions)).collect(),
    }
}

pub fn store(writer: &WriterStatus, path: &Path) -> StoreStatus {
    let bytes = std::fs::metadata(path).map_or(0, |metadata| metadata.len());
    StoreStatus { failing: writer.is_failing(), pending: writer.waiting(), batches: writer.batches(), bytes }
}

pub fn onion(name: &OnionServiceState) -> OnionStatus {
    OnionStatus {
        host: name.host.to_string(),
        port: name.port.get(),
        last_reached: name.reached,
        failures: name.failures,
        error: name.last_error.clone(),
    }
}

/// How the own clearnet name is shown.
pub fn clearnet(host: &Host, ports: Ports, state: &NameState, reached: Option<Time>) -> ClearnetStatus {
    let NameState { address, via, missed, problem, warnings } = state.clone();
    ClearnetStatus {
        host: host.to_string(),
        tcp_port: ports.tcp().map(Port::get),
        ssl_port: ports.tls().map(Port::get),
        address: address.map(|ip| ip.to_string()),
        via,
        // Where there is no path, it is advertised without having been reached.
        last_reached: reached.filter(|_| via.is_some()),
        failures: missed,
        error: problem,
        warnings,
    }
}

pub fn peer_info(book: &PeerBook, entry: &Entry, now: Time) -> PeerInfo {
    let recent = book.settings().max_advertised_age;
    let problem = entry.violation.or_else(|| entry.history.back().and_then(|past| past.failure));
    PeerInfo {
        host: entry.host.to_string(),
        state: entry.state(now, recent),
        ip: entry.ip.map(|ip| netgroup::canonical(ip).to_string()),
        tcp_port: entry.ports.tcp().map(Into::into),
        ssl_port: entry.ports.tls().map(Into::into),
        protocol: entry.protocol.map(|version| version.to_string()),
        pruning: entry.pruning,
        software: entry.software.clone(),
        genesis_hash: entry.genesis_hash.map(|bytes| HEXLOWER.encode(&bytes)),
        key: entry.key.map(|key| HEXLOWER.encode(&key.sha256)),
        key_since: entry.key.map(|key| key.since),
        key_changes: entry.key.map_or(0, |key| key.rotation_count),
        tip: entry.tip,
        source: entry.source.to_string(),
        self_reported: entry.self_reported,
        first_seen: entry.first_seen,
        last_try: entry.last_try,
        last_success: entry.last_success,
        next_try: entry.next_probe_at,
        waiting_for: book.waiting(entry, now).map(|waiting| waiting.to_string()),
        failures: entry.failures,
        error: problem.map(|failure| failure.to_string()),
        latency_ms: entry.latency().and_then(|latency| u64::try_from(latency.as_millis()).ok()),
        uptime: uptime(&entry.uptime),
        history: entry.history.iter().map(|past| past.failure.is_none()).collect(),
    }
}

/// What is known of it, to three digits.
fn uptime(uptime: &Uptime) -> BTreeMap<String, f64> {
    let share = |window| uptime.share(window).map(|share| (share * 1000.0).round() / 1000.0);
    let known = WINDOWS.iter().enumerate().filter_map(|(window, (name, _))| Some(((*name).to_owned(), share(window)?)));
    known.collect()
}
