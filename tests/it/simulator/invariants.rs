//! All requests to peers with their times, checked against the rules of the book.

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

use super::outages::Calendar;

/// Verifications of one peer. One that comes and goes every two hours is tried three or four times until it is back, and
/// a good one may be asked once an hour just to find out whether our own way works.
const PEER_HOUR: u32 = 12;
const PEER_DAY: u32 = 24 + 48;

/// Lookups of one name: a crowd at one site waits in line, and asks for its address again when its turn comes.
const LOOKUPS_HOUR: u32 = 16;

/// Of one /24 or /48: eight at once and one each two minutes more.
const SITE_HOUR: u32 = 8 + 30;
const SITE_DAY: u32 = 8 + 720;

/// New names a day, by who told us of them: what was saved up, and what a day brings.
const BY_PEER_DAY: u32 = 4 + 8;
const BY_CALLER_DAY: u32 = 5 + 24;
const BY_TOR_DAY: u32 = 5 + 720;
const IN_ALL_DAY: u32 = 200 + 8640;

/// Wake-ups an hour that lead to nothing: trials with nobody rested, and the sweep.
const IDLE_TICKS_HOUR: u32 = 60;

/// How often something happened in this slot of time, and at most in any.
#[derive(Debug, Default, Clone, Copy)]
struct Window {
    slot: u64,
    count: u32,
}

#[derive(Debug, Default)]
pub struct Record {
    pub known_since: Time,
    /// The world let it succeed.
    pub last_ok: Option<Time>,
    pub last_bad: Option<Time>,
    pub began: Time,
    pub ended: Time,
    tries: u32,
    hour: Window,
    day: Window,
    lookups: Window,
}

/// The most that was seen of each.
#[derive(Debug, Default, Clone, Copy)]
pub struct Peaks {
    pub peer_hour: u32,
    pub peer_day: u32,
    pub lookups_hour: u32,
    pub site_hour: u32,
    pub site_day: u32,
    pub source_day: u32,
    pub idle_ticks_hour: u32,
    pub at_once: usize,
    pub through_tor: usize,
}

#[derive(Debug, Default)]
pub struct Ledger {
    pub records: HashMap<Host, Record>,
    air: HashMap<Host, Route>,
    sites_hour: HashMap<Netgroup, Window>,
    sites_day: HashMap<Netgroup, Window>,
    by_peer: HashMap<Host, Window>,
    by_caller: HashMap<Netgroup, Window>,
    by_tor: Window,
    in_all: Window,
    idle_ticks: Window,
    pub probes: u64,
    /// Failures counted against peers whose attempt an outage cut short.
    pub at_the_edge: u64,
    pub peaks: Peaks,
}

/// What a rule that was broken says.
pub type Verdict = Result<(), String>;

impl Ledger {
    pub fn lookup(&mut self, host: &Host, now: Time) -> Verdict {
        let record = self.records.entry(host.clone()).or_default();
        record.began = now;
        record.tries += 1;
        let lookups = record.lookups.add(hour(now), 1);
        self.peaks.lookups_hour = self.peaks.lookups_hour.max(lookups);
        most(lookups, LOOKUPS_HOUR, format_args!("lookups of {host} in an hour"))?;
        self.depart(host)
    }

    pub fn probe(&mut self, attempt: &ProbeTarget, settings: &BookConfig, calendar: &Calendar, now: Time) -> Verdict {
        let ProbeTarget { host, addresses, endpoints: doors, via, .. } = attempt;
        self.probes += 1;
        that(*via == RoutingPolicy::default().via(host), || format!("{host} goes {via}"))?;
        that(!doors.is_empty() && doors.len() <= 6, || format!("{} doors of {host}", doors.len()))?;
        that(addresses.is_empty() == host.is_onion(), || format!("{host} on {addresses:?}"))?;
        that(addresses.iter().all(|ip| netgroup::is_public(*ip)), || format!("{host} dialled on {addresses:?}"))?;
        let record = self.records.entry(host.clone()).or_default();
        if !matches!(host, Host::Dns(_)) {
            record.began = now;
            record.tries += 1;
        }
        // What a local outage swallows is a load on nobody.
        let arrives = u32::from(calendar.down(*via, now).is_none());
        let (in_hour, in_day) = (record.hour.add(hour(now), arrives), record.day.add(day(now), arrives));
        self.peaks.peer_hour = self.peaks.peer_hour.max(in_hour);
        self.peaks.peer_day = self.peaks.peer_day.max(in_day);
        most(in_hour, PEER_HOUR, format_args!("probes of {host} in an hour"))?;
        most(in_day, PEER_DAY, format_args!("probes of {host} in a day"))?;
        let mut sites: Vec<Netgroup> = addresses.iter().map(|ip| Netgroup::rate_limit_subnet(*ip)).collect();
        sites.sort();
        sites.dedup();
        for site in sites {
            let in_hour = self.sites_hour.entry(site).or_default().add(hour(now), 1);
            let in_day = self.sites_day.entry(site).or_default().add(day(now), 1);
            self.peaks.site_hour = self.peaks.site_hour.max(in_hour);
            self.peaks.site_day = self.peaks.site_day.max(in_day);
            most(in_hour, SITE_HOUR, format_args!("probes in {site} in an hour"))?;
            most(in_day, SITE_DAY, format_args!("probes in {site} in a day"))?;
        }
        self.depart(host)?;
        let through_tor = self.air.values().filter(|via| **via == Route::Tor).count();
        self.peaks.at_once = self.peaks.at_once.max(self.air.len());
        self.peaks.through_tor = self.peaks.through_tor.max(through_tor);
        that(self.air.len() <= settings.max_probes, || format!("{} probes at once", self.air.len()))?;
        that(through_tor <= settings.max_tor_probes, || format!("{through_tor} probes at once through Tor"))
    }

    pub fn landed(&mut self, host: &Host) {
        self.air.remove(host);
    }

    /// The process ended, and with it all that was under way. Its budgets are not kept, so their bursts are there again.
    pub fn crashed(&mut self) {
        self.air.clear();
        self.sites_hour.clear();
        self.sites_day.clear();
        self.by_peer.clear();
        self.by_caller.clear();
        (self.by_tor, self.in_all) = (Window::default(), Window::default());
    }

    pub fn in_the_air(&self, host: &Host) -> bool {
        self.air.contains_key(host)
    }

    /// A name was taken into the book.
    pub fn admitted(&mut self, entry: &Entry, now: Time) -> Verdict {
        let record = self.records.entry(entry.host.clone()).or_default();
        record.known_since = now;
        record.last_ok = None;
        record.last_bad = None;
        record.tries = 0;
        let (count, limit) = match &entry.source {
            Source::Seed | Source::Operator => return Ok(()),
            Source::Peer(peer) => (self.by_peer.entry(peer.clone()).or_default().add(day(now), 1), BY_PEER_DAY),
            Source::AddPeer(Some(ip)) if !entry.host.is_onion() => {
                (self.by_caller.entry(Netgroup::rate_limit_subnet(*ip)).or_default().add(day(now), 1), BY_CALLER_DAY)
            }
            Source::AddPeer(_) => (self.by_tor.add(day(now), 1), BY_TOR_DAY),
            Source::Irc => (0, 0),
        };
        self.peaks.source_day = self.peaks.source_day.max(count);
        most(count, limit, format_args!("names in a day from {}", entry.source))?;
        most(self.in_all.add(day(now), 1), IN_ALL_DAY, format_args!("new names in a day"))
    }

    /// A failure was counted against a peer.
    pub fn blamed(&mut self, host: &Host, calendar: &Calendar) -> Verdict {
        let Some(record) = self.records.get(host) else { return Ok(()) };
        let via = RoutingPolicy::default().via(host);
        if let Some((_, until)) = calendar.span(via, record.began) {
            that(record.ended > until, || {
                let minutes = until.since(record.ended).as_secs() / 60;
                format!("{host} is blamed for a failure {minutes} minutes before the end of a local outage")
            })?;
            self.at_the_edge += 1;
        } else if calendar.breaks(via, record.began, record.ended).is_some() {
            self.at_the_edge += 1;
        }
        Ok(())
    }

    /// A peer was dropped.
    pub fn removed(
        &self,
        entry: &Entry,
        unfounded: bool,
        settings: &BookConfig,
        calendar: &Calendar,
        now: Time,
    ) -> Verdict {
        let host = &entry.host;
        let Some(record) = self.records.get(host) else { return Err(format!("{host} dropped, and never known")) };
        if unfounded {
            return that(entry.last_success.is_none(), || format!("{host} dropped for want of its caller"));
        }
        let since = record.last_ok.unwrap_or(record.known_since);
        let reached = calendar.uptime(RoutingPolicy::default().via(host), since, now);
        // What was never verified may have to make room.
        let early = record.last_ok.is_none() && record.tries >= 5;
        that(early || reached + Duration::from_hours(1) >= settings.expire_after, || {
            format!("{host} dropped when it could have been reached for {} hours only", reached.as_secs() / 3600)
        })
    }

    pub fn idle_tick(&mut self, now: Time) -> Verdict {
        let idle = self.idle_ticks.add(hour(now), 1);
        self.peaks.idle_ticks_hour = self.peaks.idle_ticks_hour.max(idle);
        most(idle, IDLE_TICKS_HOUR, format_args!("wake-ups for nothing in an hour"))
    }

    fn depart(&mut self, host: &Host) -> Verdict {
        let via = RoutingPolicy::default().via(host);
        that(self.air.insert(host.clone(), via).is_none(), || format!("{host} is asked twice at once"))
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

pub fn that(holds: bool, or_else: impl FnOnce() -> String) -> Verdict {
    if holds { Ok(()) } else { Err(or_else()) }
}

fn most(count: u32, limit: u32, what: fmt::Arguments) -> Verdict {
    that(count <= limit, || format!("{count} {what}"))
}

fn hour(now: Time) -> u64 {
    now.as_secs() / 3600
}

fn day(now: Time) -> u64 {
    now.as_secs() / 86400
}

/// Keys of maps whose order must not matter are counted, not walked.
pub fn tally<K: Eq + Hash>(keys: impl Iterator<Item = K>) -> HashMap<K, usize> {
    let mut counts = HashMap::new();
    keys.for_each(|key| *counts.entry(key).or_default() += 1);
    counts
}

/// The neighbourhoods that a list names.
pub fn regions(ips: impl Iterator<Item = IpAddr>) -> HashMap<Netgroup, usize> {
    tally(ips.map(Netgroup::diversity_group))
}
