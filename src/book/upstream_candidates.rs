//! Peers that may serve clients' sessions as backend, best first.

use std::time::Duration;

use rand::Rng;
use rand::seq::SliceRandom;

use super::entry::{Entry, PeerState};
use super::standing::Tier;
use super::{PeerBook, dial_policy};
use crate::clock::Time;
use crate::connect::{KeyHash, ProbeTarget};
use crate::jsonrpc::is_waypost;
use crate::peer::{Transport, Version};
use crate::route::Route;

/// Maximum number of candidates, more than a session ever tries.
const MAX_CANDIDATES: usize = 16;

/// Number of candidates up to which peers with less standing are added to the trusted and older ones.
const MIN_CANDIDATES: usize = 6;

/// Maximum number of onion services among them, so that some remain if Tor fails.
const MAX_ONION_CANDIDATES: usize = 12;

/// Minimum age of a changed key before it is trusted.
const KEY_PROBATION: Duration = Duration::from_hours(24);

/// Age below which a peer ranks behind others that are not long-standing either.
const NEWCOMER_AGE: Duration = Duration::from_hours(24);

/// Verified peer that may serve clients' sessions.
#[derive(Debug, Clone)]
pub struct UpstreamCandidate {
    /// Target of a connection: the address and endpoint at which the peer was verified.
    pub target: ProbeTarget,
    /// TLS key at the last success; `None` if the peer was reached without TLS.
    pub key: Option<KeyHash>,
    /// Newest protocol version of the peer.
    pub newest: Version,
    /// Whether it is healthy, and trusted or of the older half of the long-standing peers.
    pub is_senior: bool,
}

impl PeerBook {
    /// Returns the candidates, best first. Equal ones are in random order.
    pub(super) fn upstream_candidates(&self, now: Time, rng: &mut impl Rng) -> Vec<UpstreamCandidate> {
        let is_eligible = |entry: &&Entry| self.is_upstream_eligible(entry, now);
        // Senior peers are settled, and of those there are few.
        let settled: Vec<&Entry> = self.peers.settled().filter(is_eligible).collect();
        let limit = median_first_seen(&settled, now);
        let is_first_choice = |entry: &&Entry| self.is_healthy(entry, now) && is_senior(entry, limit, now);
        let mut rank = |peers: &mut Vec<&Entry>| {
            // Among equals the order is random, so that the load is shared.
            peers.shuffle(rng);
            peers.sort_by_cached_key(|entry| self.upstream_sort_key(entry, limit, now));
        };
        let (mut chosen, mut rest): (Vec<&Entry>, Vec<&Entry>) = settled.into_iter().partition(is_first_choice);
        rank(&mut chosen);
        // Peers with less standing only serve where others are missing.
        let missing = MIN_CANDIDATES.saturating_sub(chosen.len());
        if missing > 0 {
            rest.extend(self.peers.entries().filter(|entry| !entry.is_settled()).filter(is_eligible));
            rank(&mut rest);
            chosen.extend(rest.into_iter().take(missing));
        }
        let candidates = chosen.into_iter().filter_map(|entry| self.upstream_candidate(entry, is_first_choice(&entry)));
        let (mut onions, mut others): (Vec<_>, Vec<_>) =
            candidates.enumerate().partition(|(_, candidate)| candidate.target.host.is_onion());
        onions.truncate(if others.is_empty() { MAX_CANDIDATES } else { MAX_ONION_CANDIDATES });
        others.truncate(MAX_CANDIDATES - onions.len());
        onions.append(&mut others);
        onions.sort_by_key(|(rank, _)| *rank);
        onions.into_iter().map(|(_, candidate)| candidate).collect()
    }

    fn is_upstream_eligible(&self, entry: &Entry, now: Time) -> bool {
        let is_reachable = self.peers.route(&entry.host) == Route::Direct || self.paths.tor().is_ready();
        // Another Waypost may use its peers as backend too, which could forward sessions in a loop.
        let is_waypost = || entry.software.as_deref().is_some_and(is_waypost);
        is_reachable
            && entry.state(now, self.config.max_advertised_age) == PeerState::Verified
            && entry.tip.is_some()
            && entry.genesis_hash.is_some()
            && (entry.self_reported || entry.source.is_operator())
            && !is_waypost()
    }

    /// Returns the sort key of a candidate; lower is better.
    ///
    /// The criteria, in this order: no failure since the last success, trusted or of the older half of long-standing
    /// peers, long-standing, a key that did not change lately, onion service, not a newcomer, share of failed probes,
    /// latency.
    fn upstream_sort_key(&self, entry: &Entry, first_seen_limit: Option<Time>, now: Time) -> impl Ord + use<> {
        let has_stable_key = entry.host.is_onion()
            || entry.key.is_some_and(|key| key.rotation_count == 0 || now.since(key.since) >= KEY_PROBATION);
        let failures = entry.history.iter().filter(|past| past.failure.is_some()).count() * 8;
        let latency = entry.latency().map_or(u128::MAX, |latency| latency.as_millis());
        (
            !self.is_healthy(entry, now),
            !is_senior(entry, first_seen_limit, now),
            entry.tier(now) == Tier::Newcomer,
            !has_stable_key,
            !entry.host.is_onion(),
            now.since(entry.first_seen) < NEWCOMER_AGE,
            failures.div_ceil(entry.history.len().max(1)),
            latency.checked_ilog2(),
        )
    }

    fn upstream_candidate(&self, entry: &Entry, is_senior: bool) -> Option<UpstreamCandidate> {
        let route = self.peers.route(&entry.host);
        // The name of an onion service is its key, and TLS on top would cost two more round trips. Other peers are
        // dialled as they were verified: an attacker on the path could block TLS to force plain text.
        let wanted = if entry.host.is_onion() || entry.key.is_none() { Transport::Tcp } else { Transport::Tls };
        let ports = entry.verified_ports()?;
        let dialable = ports.iter().filter(|endpoint| dial_policy::is_dialable(&entry.host, route, *endpoint));
        let endpoint = dialable.min_by_key(|(transport, _)| *transport != wanted)?;
        // The address at which the peer was verified, without another name lookup.
        let addresses: Vec<_> = entry.ip.into_iter().collect();
        let target = ProbeTarget::without_extras(entry.host.clone(), route, addresses, vec![endpoint]);
        Some(UpstreamCandidate { key: entry.key.map(|key| key.sha256), newest: entry.protocol?, target, is_senior })
    }
}

/// Returns whether a peer is trusted, or of the older half of the long-standing peers.
fn is_senior(entry: &Entry, first_seen_limit: Option<Time>, now: Time) -> bool {
    match entry.tier(now) {
        Tier::Trusted => true,
        Tier::LongStanding => first_seen_limit.is_some_and(|limit| entry.first_seen <= limit),
        Tier::Newcomer => false,
    }
}

/// Returns the time by which the older half of the long-standing peers was known; `None` without any.
///
/// An attacker has to outlast half of the population to serve clients.
fn median_first_seen(entries: &[&Entry], now: Time) -> Option<Time> {
    let mut times: Vec<Time> =
        entries.iter().filter(|entry| entry.tier(now) == Tier::LongStanding).map(|entry| entry.first_seen).collect();
    times.sort_unstable();
    times.get(times.len().saturating_sub(1) / 2).copied()
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::super::{BookConfig, Event, PinnedKey, ProbeRecord, Source};
    use super::*;
    use crate::chain::Chain;
    use crate::jsonrpc::{USER_AGENT, software_in_front_of};
    use crate::peer::RealName;
    use crate::route::PerRoute;
    use crate::tor_state::TorProbe;

    const NOW: Time = Time::from_secs(1_700_000_000);
    const ONION: &str = "explorerzydxu5ecjrkwceayqybizmpjjznk5izmitf2modhcusuqlid.onion";

    fn entry(name: &str, days: u64, millis: u32) -> Entry {
        let name = RealName::parse(name, Chain::BITCOIN.default_ports).unwrap();
        let mut entry = Entry::new(name, Source::Seed, Duration::ZERO, NOW);
        entry.first_seen = Time::from_secs(1_700_000_000 - days * 86_400);
        entry.protocol = Some(Version::new(1, 4));
        entry.key = (!entry.host.is_onion()).then_some(PinnedKey { sha256: [1; 32], since: NOW, rotation_count: 0 });
        entry.software = Some("ElectrumX 1.18".to_owned());
        entry.genesis_hash = Some([0; 32]);
        (entry.tip, entry.last_success) = (Some(900_000), Some(NOW));
        entry.history.push_back(ProbeRecord { at: NOW, failure: None, duration_ms: millis });
        entry.uptime.record_result(true, NOW);
        entry.ip = (!entry.host.is_onion()).then(|| "5.9.0.1".parse().unwrap());
        entry
    }

    fn candidates(entries: Vec<Entry>, tor: bool) -> Vec<UpstreamCandidate> {
        let mut rng = StdRng::seed_from_u64(7);
        let settings = BookConfig { seeds: Vec::new(), peers_as_backend: true, ..BookConfig::default() };
        let mut book = PeerBook::new(settings, entries, PerRoute::default(), NOW);
        if tor {
            book.handle(Event::Tor(TorProbe::Reachable), NOW, &mut rng);
            book.handle(Event::TorPathProven, NOW, &mut rng);
        }
        book.snapshot(NOW, &mut rng).upstream_candidates
    }

    fn hosts(candidates: &[UpstreamCandidate]) -> Vec<String> {
        candidates.iter().map(|candidate| candidate.target.host.to_string()).collect()
    }

    #[test]
    fn best_candidate_comes_first() {
        let mut flaky = entry("flaky.example v1.4 s50002", 100, 100);
        flaky.failures = 1;
        let entries = || {
            vec![
                entry("new.example v1.4 s50002", 0, 100),
                entry("slow.example v1.4 s50002", 100, 9000),
                entry("fast.example v1.4 s50002", 100, 100),
                entry(&format!("{ONION} v1.4 t50001"), 2, 3000),
                flaky.clone(),
            ]
        };
        let clear = ["fast.example", "slow.example", "new.example", "flaky.example"];
        assert_eq!(hosts(&candidates(entries(), false)), clear);
        assert_eq!(hosts(&candidates(entries(), true)), [&[ONION], &clear[..]].concat());
    }

    #[test]
    fn peer_without_chain_data_is_not_eligible() {
        let wrong = |change: &dyn Fn(&mut Entry)| {
            let mut wrong = entry("a.example v1.4 s50002", 100, 100);
            change(&mut wrong);
            candidates(vec![wrong], true).is_empty()
        };
        assert!(!wrong(&|_| {}));
        assert!(wrong(&|entry| entry.tip = None), "serves peers only");
        assert!(wrong(&|entry| entry.genesis_hash = None));
        for software in [USER_AGENT.to_owned(), software_in_front_of("Fulcrum 2.1.1")] {
            assert!(wrong(&|entry| entry.software = Some(software.clone())), "could forward the session back");
        }
        assert!(wrong(&|entry| entry.last_success = None));
    }

    #[test]
    fn peer_without_stable_key_comes_last() {
        let mut plain = entry("plain.example v1.4 s50002 t50001", 100, 100);
        plain.key = None;
        let mut changed = entry("changed.example v1.4 s50002", 100, 200);
        changed.key = Some(PinnedKey { sha256: [2; 32], since: NOW, rotation_count: 1 });
        let slow = entry("slow.example v1.4 s50002", 2, 9000);
        let candidates = candidates(vec![plain, changed, slow], false);
        assert_eq!(hosts(&candidates), ["slow.example", "plain.example", "changed.example"]);
        assert_eq!(candidates[1].target.endpoints[0].0, Transport::Tcp, "as it was verified");
    }

    #[test]
    fn clearnet_is_dialled_with_tls_and_onions_without() {
        let both = [entry("a.example v1.4 s50002 t50001", 1, 1), entry(&format!("{ONION} s50002 t50001"), 1, 1)];
        let candidates = candidates(both.to_vec(), true);
        let transports: Vec<_> = candidates.iter().map(|candidate| candidate.target.endpoints[0].0).collect();
        assert_eq!(transports, [Transport::Tcp, Transport::Tls]);
        assert_eq!(candidates[1].target.addresses.len(), 1);
        assert!(candidates[0].target.addresses.is_empty());
    }
}
