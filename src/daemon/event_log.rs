//! Log lines of book events, and errors with advice for names that are rejected.

use crate::book::{BookNotice, IntakeError};
use crate::peer::{RealName, RealNameError};
use crate::route::TorState;

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
        IntakeError::NotTheClient => "",
    }
}
