//! Log lines of book events, and errors with advice for rejected names.

use crate::book::{BookNotice, IntakeError, Side};
use crate::peer::{RealName, RealNameError};
use crate::tor_state::TorState;

/// Logs an event of the book.
///
/// Events that clients can cause are logged at debug level.
pub(crate) fn log(notice: &BookNotice, side: Side) {
    // Both sides share Tor and the configuration, so the clearnet side alone reports on them.
    let is_shared = matches!(notice, BookNotice::Tor(_) | BookNotice::TorClearnet(_) | BookNotice::SeedRefused { .. });
    if side == Side::Onion {
        if !is_shared {
            tracing::debug!(?notice, "onion side");
        }
        return;
    }
    match notice {
        BookNotice::Verified { host, software } => {
            tracing::info!(%host, software = software.as_deref().unwrap_or("unknown"), "verified");
        }
        BookNotice::NoLongerAdvertised { host, reason } => tracing::info!(%host, %reason, "no longer advertised"),
        BookNotice::Misbehaved { host, reason } => tracing::info!(%host, %reason, "marked bad, not advertised"),
        BookNotice::Forgotten { host } => tracing::info!(%host, "removed: expired or evicted"),
        BookNotice::AddPeerSpoofed { host } => {
            tracing::debug!(%host, "host of an add_peer request does not resolve to the client's address");
        }
        BookNotice::Banned { host, ban } => {
            tracing::info!(%host, pattern = %ban.pattern, list = %ban.list, "removed: banned");
        }
        BookNotice::BansApplied { list, removed } => tracing::info!(%list, removed, "removed the banned peers"),
        BookNotice::KeyChanged { host } => tracing::info!(%host, "TLS key changed"),
        BookNotice::NetworkDown => {
            tracing::warn!(
                "no peer reachable: the local network seems to be down; check the connection and the firewall of this machine"
            );
        }
        BookNotice::NetworkUp => tracing::info!("peers reachable again: the local network is up"),
        BookNotice::Tor(state @ TorState::Down { .. }) => {
            tracing::warn!("Tor is {state}; `waypost doctor` looks for the cause");
        }
        BookNotice::Tor(state) => tracing::info!("Tor is {state}"),
        BookNotice::TorClearnet(access) => match access.refusal() {
            Some(reason) => {
                tracing::warn!("clearnet peers are not dialled, as tor.only permits no direct route: {reason}");
            }
            None => tracing::info!("Tor accepts clearnet connections again; clearnet peers are dialled"),
        },
        BookNotice::SeedRefused { name, reason } => tracing::warn!("{}", refused_seed(name, reason)),
        BookNotice::SeedsReused => tracing::info!("no verified peer is left; the seeds are probed again"),
    }
}

/// Error for a line that is not a real name, with its expected form.
pub(crate) fn no_real_name(line: &str, error: RealNameError) -> String {
    let advice = match error {
        RealNameError::NoPort | RealNameError::OnlyHttp => "",
        RealNameError::Host(_) => "; write a host and its ports, for example a.example s50002 t50001",
    };
    format!("{line:?} is not a real name: {error}{advice}")
}

/// Error for a seed that the book rejected, with advice.
pub(crate) fn refused_seed(name: &RealName, reason: &IntakeError) -> String {
    format!("discovery.seeds: {:?} is not accepted: {reason}{}", name.to_string(), advice(reason))
}

/// Advice for a rejected name, to be appended to the error.
///
/// Starts with a semicolon. Empty if the operator can do nothing.
pub(crate) fn advice(refusal: &IntakeError) -> &'static str {
    match refusal {
        IntakeError::Banned(ban) if ban.list.is_own => "; remove the ban with `waypost unban`",
        IntakeError::Banned(_) => "; remove the pattern from that list, which `waypost unban` can't edit",
        IntakeError::NotPublic => "; discovery.allow_private accepts such hosts, in a test network",
        IntakeError::WrongGenesis => "; set network to its chain",
        IntakeError::LocalHost => "; identity and the onion service define the names of this node",
        IntakeError::TlsRequired => "; write s and its TLS port after the host",
        IntakeError::NoDialablePort | IntakeError::NoHost => {
            "; write its ports after the host, for example s50002 t50001"
        }
        IntakeError::KnownMisbehaving => {
            "; `waypost peers` shows the violation, and `waypost forget` allows a new probe"
        }
        IntakeError::Duplicate => "; write all ports of a host into one seed",
        IntakeError::CandidateTableFull => {
            "; list candidates with `waypost peers --state candidate`, and remove one with `waypost forget`"
        }
        IntakeError::SourceBudget
        | IntakeError::DomainBudget
        | IntakeError::OnionBudget
        | IntakeError::OverallBudget => "; add it again in an hour",
        IntakeError::NotTheClient => "",
    }
}
