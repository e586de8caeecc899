//! Peers that may serve clients' sessions as backend, best first.

use std::time::Duration;

use rand::Rng;
use rand::seq::SliceRandom;

use super::entry::{Entry, PeerState};
use super::{PeerBook, policy};
use crate::clock::Time;
use crate::connect::{KeyHash, ProbeTarget};
use crate::jsonrpc::USER_AGENT;
use crate::peer::{Transport, Version};
use crate::route::Route;

/// More than anybody tries one after the other; some of them by another way than Tor, should that not lead anywhere.
const MAX_CANDIDATES: usize = 16;
const MOST_ONIONS: usize = 12;

/// Minimum age of a changed key before it is trusted.
const KEY_PROBATION: Duration = Duration::from_hours(24);

/// A verified peer that knows the chain that most know.
#[derive(Debug, Clone)]
pub struct UpstreamCandidate {
    /// How it is dialled: where, and as what, it was verified.
    pub target: ProbeTarget,
    /// The key that it showed then, if it was reached by TLS.
    pub key: Option<KeyHash>,
    /// The newest protocol version that it speaks.
    pub newest: Version,
}

impl PeerBook {
    pub(super) fn upstream_candidates(&self, now: Time, rng: &mut impl Rng) -> Vec<UpstreamCandidate> {
        let mut fit: Vec<&Entry> =
            self.entries.values().filter(|entry| self.is_upstream_eligible(entry, now)).collect();
        fit.sort_unstable_by(|a, b| a.host.cmp(&b.host));
        // Among equals chance decides, so that no one of them gets all there is.
        fit.shuffle(rng);
        fit.sort_by_key(|entry| self.upstream_sort_key(entry, now));
        let carriers: Vec<UpstreamCandidate> = fit.into_iter().filter_map(|entry| self.carrier(entry)).collect();
        let (mut onions, mut others): (Vec<_>, Vec<_>) =
            carriers.into_iter().enumerate().partition(|(_, carrier)| carrier.target.host.is_onion());
        onions.truncate(if others.is_empty() { MAX_CANDIDATES } else { MOST_ONIONS });
        others.truncate(MAX_CANDIDATES - onions.len());
        onions.append(&mut others);
        onions.sort_by_key(|(place, _)| *place);
        onions.into_iter().map(|(_, carrier)| carrier).collect()
    }

    fn is_upstream_eligible(&self, entry: &Entry, now: Time) -> bool {
        let reachable = self.via(&entry.host) == Route::Direct || self.tor.is_ready();
        // Another Waypost may use its peers as backend too, which could forward sessions in a loop.
        let kindred = || entry.software.as_deref().is_some_and(|software| software.starts_with(software_name()));
        reachable
            && entry.state(now, self.settings.max_advertised_age) == PeerState::Verified
            && entry.tip.is_some()
            && entry.genesis_hash.is_some()
            && !kindred()
    }

    /// Sort key; lower is better.
    ///
    /// In this order: those that didn't fail since, those that are who they were, onion services, those of long standing,
    /// the reliable, the fast.
    fn upstream_sort_key(&self, entry: &Entry, now: Time) -> impl Ord + use<> {
        let is_sure = entry.host.is_onion()
            || entry.key.is_some_and(|key| key.rotation_count == 0 || now.since(key.since) >= KEY_PROBATION);
        let failures = entry.history.iter().filter(|past| past.failure.is_some()).count() * 8;
        let latency = entry.latency().map_or(u128::MAX, |latency| latency.as_millis());
        (
            !self.is_healthy(entry, now),
            !is_sure,
            !entry.host.is_onion(),
            !entry.is_long_standing(now),
            now.since(entry.first_seen) < Duration::from_hours(24),
            failures.div_ceil(entry.history.len().max(1)),
            latency.checked_ilog2(),
        )
    }

    fn carrier(&self, entry: &Entry) -> Option<UpstreamCandidate> {
        let via = self.via(&entry.host);
        // An onion service's name is its key, and TLS on top of it costs two ways there and back more. Others are called as they
        // were verified; that one of them has TLS now and then would be for anybody on the way to decide.
        let wanted = if entry.host.is_onion() || entry.key.is_none() { Transport::Tcp } else { Transport::Tls };
        let ports = entry.permitted_ports()?;
        let mut doors: Vec<_> = ports.iter().filter(|door| policy::is_dialable(&entry.host, via, *door)).collect();
        doors.sort_by_key(|(transport, _)| *transport != wanted);
        doors.truncate(1);
        if doors.is_empty() {
            return None;
        }
        // The address on which it was verified, and no new look at its name.
        let addresses: Vec<_> = entry.ip.into_iter().collect();
        let attempt = ProbeTarget::without_extras(entry.host.clone(), via, addresses, doors);
        let key = entry.key.map(|key| key.sha256);
        Some(UpstreamCandidate { key, newest: entry.protocol?, target: attempt })
    }
}

fn software_name() -> &'static str {
    USER_AGENT.split(' ').next().unwrap_or(USER_AGENT)
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::super::{BookConfig, Event, PinnedKey, ProbeRecord, Source};
    use super::*;
    use crate::network::Network;
    use crate::peer::RealName;
    use crate::tor_state::TorProbe;

    const NOW: Time = Time::from_secs(1_700_000_000);
    const ONION: &str = "explorerzydxu5ecjrkwceayqybizmpjjznk5izmitf2modhcusuqlid.onion";

    fn entry(name: &str, days: u64, millis: u32) -> Entry {
        let name = RealName::parse(name, Network::Bitcoin.default_ports()).unwrap();
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

    fn carriers(entries: Vec<Entry>, tor: bool) -> Vec<UpstreamCandidate> {
        let mut rng = StdRng::seed_from_u64(7);
        let settings = BookConfig { seeds: Vec::new(), peers_as_backend: true, ..BookConfig::default() };
        let mut book = PeerBook::new(settings, entries, Duration::ZERO, Duration::ZERO, NOW);
        if tor {
            book.handle(Event::Tor(TorProbe::Reachable), NOW, &mut rng);
            book.handle(Event::TorPathProven, NOW, &mut rng);
        }
        book.snapshot(NOW, &mut rng).upstream_candidates
    }

    fn hosts(carriers: &[UpstreamCandidate]) -> Vec<String> {
        carriers.iter().map(|carrier| carrier.target.host.to_string()).collect()
    }

    #[test]
    fn the_best_come_first() {
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
        assert_eq!(hosts(&carriers(entries(), false)), clear);
        assert_eq!(hosts(&carriers(entries(), true)), [&[ONION], &clear[..]].concat());
    }

    #[test]
    fn who_is_not_what_a_wallet_needs_carries_nobody() {
        let wrong = |change: fn(&mut Entry)| {
            let mut wrong = entry("a.example v1.4 s50002", 100, 100);
            change(&mut wrong);
            carriers(vec![wrong], true).is_empty()
        };
        assert!(!wrong(|_| {}));
        assert!(wrong(|entry| entry.tip = None), "tells of peers only");
        assert!(wrong(|entry| entry.genesis_hash = None));
        assert!(wrong(|entry| entry.software = Some(USER_AGENT.to_owned())), "might come back to us");
        assert!(wrong(|entry| entry.last_success = None));
    }

    #[test]
    fn who_may_be_somebody_else_comes_last() {
        let mut plain = entry("plain.example v1.4 s50002 t50001", 100, 100);
        plain.key = None;
        let mut changed = entry("changed.example v1.4 s50002", 100, 200);
        changed.key = Some(PinnedKey { sha256: [2; 32], since: NOW, rotation_count: 1 });
        let slow = entry("slow.example v1.4 s50002", 2, 9000);
        let carriers = carriers(vec![plain, changed, slow], false);
        assert_eq!(hosts(&carriers), ["slow.example", "plain.example", "changed.example"]);
        assert_eq!(carriers[1].target.endpoints[0].0, Transport::Tcp, "as it was verified");
    }

    #[test]
    fn clearnet_is_reached_by_tls_and_onions_without() {
        let both = [entry("a.example v1.4 s50002 t50001", 1, 1), entry(&format!("{ONION} s50002 t50001"), 1, 1)];
        let carriers = carriers(both.to_vec(), true);
        let transports: Vec<_> = carriers.iter().map(|carrier| carrier.target.endpoints[0].0).collect();
        assert_eq!(transports, [Transport::Tcp, Transport::Tls]);
        assert_eq!(carriers[1].target.addresses.len(), 1);
        assert!(carriers[0].target.addresses.is_empty());
    }
}
