//! Order in which peers are tried as upstream, and what sessions and checks have shown of each.

use std::collections::BTreeMap;
use std::time::Duration;

use rand::Rng;
use tokio::time::Instant;

use crate::book::UpstreamCandidate;
use crate::netgroup::Netgroup;
use crate::peer::{Host, Version};

/// Time for which a peer is ranked last after a failure that is its own. It doubles with each strike.
pub(super) const PENALTY: Duration = Duration::from_secs(600);

/// Number of doublings of the penalty: at most some ten hours.
const MAX_DOUBLINGS: u32 = 6;

/// Time after which one strike is forgotten.
const STRIKE_LIFETIME: Duration = Duration::from_hours(6);

/// Time for which an answer shows that a peer serves sessions.
const ANSWER_LIFETIME: Duration = Duration::from_secs(600);

/// Number of sessions of a peer that lower its rank by one.
///
/// A peer that drops its sessions must not get the next ones for this reason, so few sessions have no effect.
const SESSIONS_PER_RANK: usize = 16;

/// What is known of the peers that serve or served sessions.
#[derive(Debug, Default)]
pub(super) struct PeerRecords(BTreeMap<Host, PeerRecord>);

#[derive(Debug, Default, Clone, Copy)]
struct PeerRecord {
    /// Number of sessions that the peer serves.
    sessions: usize,
    /// Time until which the peer is ranked last; `None` if it is not penalized.
    penalized_until: Option<Instant>,
    /// Failures that were the peer's own.
    strikes: u32,
    /// Time of the last strike; `None` without any.
    last_strike: Option<Instant>,
    /// Time of the last answer to a request; `None` if there was none.
    last_answer: Option<Instant>,
}

impl PeerRecords {
    /// Counts one more session of a peer.
    pub(super) fn add_session(&mut self, host: &Host) {
        self.record(host).sessions += 1;
    }

    /// Counts one session less, and forgets peers of which nothing is to be remembered.
    pub(super) fn remove_session(&mut self, host: &Host, now: Instant) {
        let record = self.record(host);
        record.sessions = record.sessions.saturating_sub(1);
        self.0.retain(|_, record| !record.is_obsolete(now));
    }

    /// Records that a peer has answered a request of a session.
    pub(super) fn record_answer(&mut self, host: &Host, now: Instant) {
        self.record(host).last_answer = Some(now);
    }

    /// Ranks a peer last for a while.
    pub(super) fn penalize(&mut self, host: &Host, now: Instant) {
        let record = self.record(host);
        record.penalized_until = record.penalized_until.max(Some(now + PENALTY));
    }

    /// Records a failure that is the peer's own, whatever clients request. Each further one penalizes it for longer.
    pub(super) fn strike(&mut self, host: &Host, now: Instant) {
        let record = self.record(host);
        let strikes = record.strikes_at(now);
        record.penalized_until = Some(now + PENALTY * (1 << strikes.min(MAX_DOUBLINGS)));
        (record.strikes, record.last_strike, record.last_answer) = (strikes + 1, Some(now), None);
    }

    /// Returns the number of sessions for each peer that serves any.
    pub(super) fn session_counts(&self) -> Vec<(Host, usize)> {
        let serving = self.0.iter().filter(|(_, record)| record.sessions > 0);
        serving.map(|(host, record)| (host.clone(), record.sessions)).collect()
    }

    /// Sorts candidates into the order in which they are tried for a session.
    ///
    /// `failed` are those that failed within this session. Among equals the order is random: otherwise the peers that
    /// look best would get all sessions, which is what an attacker's peers would do.
    pub(super) fn sort(
        &self,
        candidates: &mut [UpstreamCandidate],
        wanted: Option<Version>,
        failed: &[Host],
        now: Instant,
        rng: &mut impl Rng,
    ) {
        let failed_groups: Vec<Netgroup> =
            candidates.iter().filter(|candidate| failed.contains(&candidate.target.host)).flat_map(groups).collect();
        candidates.sort_by_cached_key(|candidate| {
            let host = &candidate.target.host;
            let record = self.0.get(host).copied().unwrap_or_default();
            let lacks_version = wanted.is_some_and(|wanted| candidate.newest.cmp_semver(&wanted).is_lt());
            let is_related = groups(candidate).any(|group| failed_groups.contains(&group));
            (
                lacks_version,
                failed.contains(host),
                record.is_penalized(now),
                !host.is_onion(),
                is_related,
                // After a failure, a peer that answers other sessions comes first.
                !failed.is_empty() && !record.has_answered(now),
                !candidate.is_senior,
                record.sessions / SESSIONS_PER_RANK,
                rng.next_u64(),
            )
        });
    }

    fn record(&mut self, host: &Host) -> &mut PeerRecord {
        self.0.entry(host.clone()).or_default()
    }
}

impl PeerRecord {
    fn is_penalized(&self, now: Instant) -> bool {
        self.penalized_until.is_some_and(|until| until > now)
    }

    fn has_answered(&self, now: Instant) -> bool {
        self.last_answer.is_some_and(|answer| now < answer + ANSWER_LIFETIME)
    }

    fn strikes_at(&self, now: Instant) -> u32 {
        let age = self.last_strike.map_or(Duration::ZERO, |last| now - last);
        let forgotten = age.as_secs() / STRIKE_LIFETIME.as_secs();
        self.strikes.saturating_sub(u32::try_from(forgotten).unwrap_or(u32::MAX))
    }

    fn is_obsolete(&self, now: Instant) -> bool {
        self.sessions == 0 && !self.is_penalized(now) && !self.has_answered(now) && self.strikes_at(now) == 0
    }
}

/// Returns the group of a candidate. Onion services have none, as their names say nothing of their operators.
fn groups(candidate: &UpstreamCandidate) -> impl Iterator<Item = Netgroup> {
    candidate.target.addresses.iter().map(|ip| Netgroup::allocation(*ip))
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;
    use crate::connect::ProbeTarget;
    use crate::peer::{Port, Transport};
    use crate::route::Route;

    fn candidate(name: &str, ip: &str) -> UpstreamCandidate {
        let endpoint = (Transport::Tls, Port::new(50002).unwrap());
        let addresses: Vec<IpAddr> = vec![ip.parse().unwrap()];
        let target = ProbeTarget::without_extras(name.parse().unwrap(), Route::Direct, addresses, vec![endpoint]);
        UpstreamCandidate { target, key: None, newest: Version::new(1, 4), is_senior: true }
    }

    fn three() -> Vec<UpstreamCandidate> {
        vec![candidate("a.example", "5.9.0.1"), candidate("b.example", "5.9.200.1"), candidate("c.example", "91.7.0.1")]
    }

    fn first(records: &PeerRecords, failed: &[Host], now: Instant, seed: u64) -> String {
        let mut candidates = three();
        records.sort(&mut candidates, None, failed, now, &mut StdRng::seed_from_u64(seed));
        candidates[0].target.host.to_string()
    }

    #[test]
    fn equal_peers_share_the_sessions() {
        let (records, now) = (PeerRecords::default(), Instant::now());
        let counts = (0..300).map(|seed| first(&records, &[], now, seed)).filter(|host| host == "a.example").count();
        assert!((60..140).contains(&counts), "{counts}");
    }

    #[test]
    fn next_candidate_is_of_another_group_and_answers_other_sessions() {
        let (mut records, now) = (PeerRecords::default(), Instant::now());
        let failed = ["a.example".parse().unwrap()];
        for seed in 0..20 {
            assert_eq!(first(&records, &failed, now, seed), "c.example", "b is in the network of a");
        }
        let failed = ["c.example".parse().unwrap()];
        records.record_answer(&"b.example".parse().unwrap(), now);
        for seed in 0..20 {
            assert_eq!(first(&records, &failed, now, seed), "b.example");
        }
    }

    #[test]
    fn strikes_add_up_and_are_forgotten() {
        let (mut records, now) = (PeerRecords::default(), Instant::now());
        let host: Host = "a.example".parse().unwrap();
        let is_last = |records: &PeerRecords, at| (0..50).all(|seed| first(records, &[], at, seed) != "a.example");
        records.penalize(&host, now);
        assert!(is_last(&records, now) && !is_last(&records, now + PENALTY));
        records.strike(&host, now);
        records.strike(&host, now);
        assert!(is_last(&records, now + PENALTY) && !is_last(&records, now + 2 * PENALTY));
        (0..40).for_each(|_| records.strike(&host, now));
        assert!(!is_last(&records, now + Duration::from_hours(11)));
        assert_eq!(records.0[&host].strikes_at(now + 42 * STRIKE_LIFETIME), 0);
        records.remove_session(&host, now + 42 * STRIKE_LIFETIME);
        assert!(records.0.is_empty());
    }
}
