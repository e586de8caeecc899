//! Rules about probes, lookups and admitted names, checked at each action of the book.

use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;
use std::net::IpAddr;
use std::time::Duration;

use waypost::book::{BookConfig, Entry, Source};
use waypost::clock::Time;
use waypost::connect::ProbeTarget;
use waypost::netgroup::{self, Netgroup};
use waypost::peer::Host;
use waypost::route::{Route, RoutingPolicy};

use super::outages::OutageSchedule;

/// Probes of one peer. A peer that changes state every two hours is retried three or four times each time, and a healthy
/// peer may be probed once an hour to test the path.
const MAX_PEER_PROBES_PER_HOUR: u32 = 12;
const MAX_PEER_PROBES_PER_DAY: u32 = 24 + 48;

/// Lookups of one name. A peer that waits for the budget of its subnet is looked up again before its probe.
const MAX_LOOKUPS_PER_HOUR: u32 = 16;

/// Probes in one /24 or /48: a burst of eight, and one per two minutes.
const MAX_SUBNET_PROBES_PER_HOUR: u32 = 8 + 30;
const MAX_SUBNET_PROBES_PER_DAY: u32 = 8 + 720;

/// New names by source: the burst and the daily budget.
const MAX_NAMES_PER_PEER_PER_DAY: u32 = 4 + 8;
const MAX_NAMES_PER_CLIENT_SUBNET_PER_DAY: u32 = 5 + 24;
/// Clients through Tor have one budget for onion names and one for others.
const MAX_NAMES_THROUGH_TOR_PER_DAY: u32 = 2 * (5 + 720);
const MAX_NAMES_PER_DAY: u32 = 200 + 8640;

/// Wake-ups without an action: path trials without a candidate, and pruning.
const MAX_IDLE_TICKS_PER_HOUR: u32 = 60;

/// Count of events in one hour or day.
#[derive(Debug, Default, Clone, Copy)]
struct Window {
    slot: u64,
    count: u32,
}

#[derive(Debug, Default)]
pub(super) struct Record {
    pub known_since: Time,
    /// Last probe that the simulated network let succeed.
    pub last_ok: Option<Time>,
    pub last_bad: Option<Time>,
    pub began: Time,
    pub ended: Time,
    hour: Window,
    day: Window,
    lookups: Window,
}

/// Maximum of each count.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Peaks {
    pub peer_hour: u32,
    pub peer_day: u32,
    pub lookups_hour: u32,
    pub subnet_hour: u32,
    pub subnet_day: u32,
    pub source_day: u32,
    pub idle_ticks_hour: u32,
    pub at_once: usize,
    pub through_tor: usize,
}

#[derive(Debug, Default)]
pub(super) struct Invariants {
    pub records: HashMap<Host, Record>,
    in_flight: HashMap<Host, Route>,
    subnets_hour: HashMap<Netgroup, Window>,
    subnets_day: HashMap<Netgroup, Window>,
    by_peer: HashMap<Host, Window>,
    by_client_subnet: HashMap<Netgroup, Window>,
    by_tor: Window,
    all_names: Window,
    idle_ticks: Window,
    pub probes: u64,
    /// Failures counted against peers whose probe was cut short by an outage.
    pub counted_at_outage_start: u64,
    pub peaks: Peaks,
}

/// Message of a violated rule.
pub(super) type CheckResult = Result<(), String>;

impl Invariants {
    pub(super) fn lookup(&mut self, host: &Host, now: Time) -> CheckResult {
        let record = self.records.entry(host.clone()).or_default();
        record.began = now;
        let lookups = record.lookups.add(hour(now), 1);
        self.peaks.lookups_hour = self.peaks.lookups_hour.max(lookups);
        check_at_most(lookups, MAX_LOOKUPS_PER_HOUR, format_args!("lookups of {host} in an hour"))?;
        self.set_in_flight(host)
    }

    pub(super) fn probe(
        &mut self,
        attempt: &ProbeTarget,
        settings: &BookConfig,
        outages: &OutageSchedule,
        now: Time,
    ) -> CheckResult {
        let ProbeTarget { host, addresses, endpoints, via, .. } = attempt;
        self.probes += 1;
        check(*via == RoutingPolicy::default().via(host), || format!("{host} goes {via}"))?;
        check(!endpoints.is_empty() && endpoints.len() <= 6, || format!("{} endpoints of {host}", endpoints.len()))?;
        check(addresses.is_empty() == host.is_onion(), || format!("{host} on {addresses:?}"))?;
        check(addresses.iter().all(|ip| netgroup::is_public(*ip)), || format!("{host} dialled on {addresses:?}"))?;
        let record = self.records.entry(host.clone()).or_default();
        if !matches!(host, Host::Dns(_)) {
            record.began = now;
        }
        // A probe during a local outage does not reach the peer.
        let arrives = u32::from(outages.down(*via, now).is_none());
        let (in_hour, in_day) = (record.hour.add(hour(now), arrives), record.day.add(day(now), arrives));
        self.peaks.peer_hour = self.peaks.peer_hour.max(in_hour);
        self.peaks.peer_day = self.peaks.peer_day.max(in_day);
        check_at_most(in_hour, MAX_PEER_PROBES_PER_HOUR, format_args!("probes of {host} in an hour"))?;
        check_at_most(in_day, MAX_PEER_PROBES_PER_DAY, format_args!("probes of {host} in a day"))?;
        let mut subnets: Vec<Netgroup> = addresses.iter().map(|ip| Netgroup::rate_limit_subnet(*ip)).collect();
        subnets.sort();
        subnets.dedup();
        for subnet in subnets {
            let in_hour = self.subnets_hour.entry(subnet).or_default().add(hour(now), 1);
            let in_day = self.subnets_day.entry(subnet).or_default().add(day(now), 1);
            self.peaks.subnet_hour = self.peaks.subnet_hour.max(in_hour);
            self.peaks.subnet_day = self.peaks.subnet_day.max(in_day);
            check_at_most(in_hour, MAX_SUBNET_PROBES_PER_HOUR, format_args!("probes in {subnet} in an hour"))?;
            check_at_most(in_day, MAX_SUBNET_PROBES_PER_DAY, format_args!("probes in {subnet} in a day"))?;
        }
        self.set_in_flight(host)?;
        let through_tor = self.in_flight.values().filter(|via| **via == Route::Tor).count();
        self.peaks.at_once = self.peaks.at_once.max(self.in_flight.len());
        self.peaks.through_tor = self.peaks.through_tor.max(through_tor);
        check(self.in_flight.len() <= settings.max_probes, || format!("{} probes at once", self.in_flight.len()))?;
        check(through_tor <= settings.max_tor_probes, || format!("{through_tor} probes at once through Tor"))
    }

    pub(super) fn finished(&mut self, host: &Host) {
        self.in_flight.remove(host);
    }

    /// Clears probes in flight. Budgets are not stored, so their bursts are available again.
    pub(super) fn restarted(&mut self) {
        self.in_flight.clear();
        self.subnets_hour.clear();
        self.subnets_day.clear();
        self.by_peer.clear();
        self.by_client_subnet.clear();
        (self.by_tor, self.all_names) = (Window::default(), Window::default());
    }

    pub(super) fn is_in_flight(&self, host: &Host) -> bool {
        self.in_flight.contains_key(host)
    }

    /// Checks the budgets for a name that was added to the book.
    pub(super) fn on_added(&mut self, entry: &Entry, now: Time) -> CheckResult {
        let record = self.records.entry(entry.host.clone()).or_default();
        record.known_since = now;
        record.last_ok = None;
        record.last_bad = None;
        let (count, limit) = match &entry.source {
            Source::Seed | Source::Operator => return Ok(()),
            Source::Peer(peer) => {
                (self.by_peer.entry(peer.clone()).or_default().add(day(now), 1), MAX_NAMES_PER_PEER_PER_DAY)
            }
            Source::AddPeer(Some(ip)) => (
                self.by_client_subnet.entry(Netgroup::rate_limit_subnet(*ip)).or_default().add(day(now), 1),
                MAX_NAMES_PER_CLIENT_SUBNET_PER_DAY,
            ),
            Source::AddPeer(None) => (self.by_tor.add(day(now), 1), MAX_NAMES_THROUGH_TOR_PER_DAY),
            Source::Irc => (0, 0),
        };
        self.peaks.source_day = self.peaks.source_day.max(count);
        check_at_most(count, limit, format_args!("names in a day from {}", entry.source))?;
        check_at_most(self.all_names.add(day(now), 1), MAX_NAMES_PER_DAY, format_args!("new names in a day"))
    }

    /// Checks that a counted failure was not caused by a local outage.
    pub(super) fn on_failure_counted(&mut self, host: &Host, outages: &OutageSchedule) -> CheckResult {
        let Some(record) = self.records.get(host) else { return Ok(()) };
        let via = RoutingPolicy::default().via(host);
        if let Some((_, until)) = outages.span(via, record.began) {
            check(record.ended > until, || {
                let minutes = until.since(record.ended).as_secs() / 60;
                format!("{host} has a counted failure {minutes} minutes before the end of a local outage")
            })?;
            self.counted_at_outage_start += 1;
        } else if outages.first_outage_in(via, record.began, record.ended).is_some() {
            self.counted_at_outage_start += 1;
        }
        Ok(())
    }

    /// Checks that a removed peer was unreachable for long enough.
    pub(super) fn on_removed(
        &self,
        entry: &Entry,
        unfounded: bool,
        candidates: usize,
        settings: &BookConfig,
        outages: &OutageSchedule,
        now: Time,
    ) -> CheckResult {
        let host = &entry.host;
        let Some(record) = self.records.get(host) else { return Err(format!("{host} removed, but unknown")) };
        if unfounded {
            return check(entry.last_success.is_none(), || format!("{host} removed as spoofed, though verified"));
        }
        let since = record.last_ok.unwrap_or(record.known_since);
        let reached = outages.uptime(RoutingPolicy::default().via(host), since, now);
        // A candidate may be evicted from a full table.
        let early = record.last_ok.is_none() && candidates + 1 >= settings.max_candidates;
        check(early || reached + Duration::from_hours(1) >= settings.expire_after, || {
            format!("{host} removed after only {} hours of working path", reached.as_secs() / 3600)
        })
    }

    pub(super) fn idle_tick(&mut self, now: Time) -> CheckResult {
        let idle = self.idle_ticks.add(hour(now), 1);
        self.peaks.idle_ticks_hour = self.peaks.idle_ticks_hour.max(idle);
        check_at_most(idle, MAX_IDLE_TICKS_PER_HOUR, format_args!("wake-ups without an action in an hour"))
    }

    fn set_in_flight(&mut self, host: &Host) -> CheckResult {
        let via = RoutingPolicy::default().via(host);
        check(self.in_flight.insert(host.clone(), via).is_none(), || format!("{host} is probed twice at once"))
    }
}

impl Window {
    fn add(&mut self, slot: u64, count: u32) -> u32 {
        if self.slot != slot {
            *self = Window { slot, count: 0 };
        }
        self.count += count;
        self.count
    }
}

/// Returns an error with this message unless the rule holds.
pub(super) fn check(holds: bool, or_else: impl FnOnce() -> String) -> CheckResult {
    if holds { Ok(()) } else { Err(or_else()) }
}

fn check_at_most(count: u32, limit: u32, what: fmt::Arguments) -> CheckResult {
    check(count <= limit, || format!("{count} {what}"))
}

fn hour(now: Time) -> u64 {
    now.as_secs() / 3600
}

fn day(now: Time) -> u64 {
    now.as_secs() / 86400
}

/// Counts equal keys.
pub(super) fn count_by<K: Eq + Hash>(keys: impl Iterator<Item = K>) -> HashMap<K, usize> {
    let mut counts = HashMap::new();
    keys.for_each(|key| *counts.entry(key).or_default() += 1);
    counts
}

/// Counts the addresses of a list by diversity group.
pub(super) fn count_by_region(ips: impl Iterator<Item = IpAddr>) -> HashMap<Netgroup, usize> {
    count_by(ips.map(Netgroup::allocation))
}
