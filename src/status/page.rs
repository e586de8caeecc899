//! The page: what was read, put into words and pictures.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::time::Duration;

use askama::Template;

use super::history::History;
use super::picture;
use super::reading::Reading;
use crate::book::PeerState;
use crate::clock::{self, Time};
use crate::control::{OnionStatus, PeerRow, Status};
use crate::route::TorState;
use crate::serve::CallCount;

/// Peers on one page.
const ROWS: usize = 100;

/// What the reader wants to see of the peers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Wish {
    sort: Column,
    /// The other way round than is usual for that column.
    reversed: bool,
    state: Option<PeerState>,
    kind: Option<Kind>,
    page: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Onion,
    Clearnet,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Column {
    Host,
    #[default]
    State,
    Software,
    Latency,
    Uptime,
    Verified,
    Source,
}

#[derive(Template)]
#[template(path = "page.html", config = "src/status/askama.toml")]
struct Page<'a> {
    status: &'a Status,
    uptime: String,
    troubles: Vec<String>,
    tor: (&'static str, String),
    onion: Option<Onion<'a>>,
    clearnet: Option<(String, String)>,
    /// What we stand in front of, as the configuration has it.
    behind: Option<String>,
    calls: Vec<Told>,
    trend: Option<String>,
    filters: Vec<Link>,
    columns: Vec<Heading>,
    rows: Vec<Row<'a>>,
    found: usize,
    pages: Vec<Link>,
}

struct Onion<'a> {
    status: &'a OnionStatus,
    fares: String,
    qr: Option<String>,
}

/// What was told callers who asked for one thing.
struct Told {
    method: &'static str,
    clearnet: u64,
    onion: u64,
    /// Of both: refused, passed on, and answered with an error.
    not_answered: [u64; 3],
}

struct Link {
    text: String,
    to: String,
    current: bool,
}

struct Heading {
    link: Link,
    /// As aria-sort has it.
    order: &'static str,
}

struct Row<'a> {
    row: &'a PeerRow,
    ports: String,
    latency: String,
    week: String,
    uptimes: String,
    outcomes: String,
    verified: String,
}

pub fn render(reading: &Reading, history: &History, wish: &Wish) -> Result<String, askama::Error> {
    let Reading { status, rows, .. } = reading;
    let now = clock::now();
    let mut rows: Vec<&PeerRow> = rows.iter().filter(|row| wish.wants(row)).collect();
    rows.sort_by(|a, b| wish.order(a, b));
    let found = rows.len();
    let last = found.saturating_sub(1) / ROWS;
    let wish = Wish { page: wish.page.min(last), ..*wish };
    let page = Page {
        status,
        uptime: span(Duration::from_secs(status.uptime_secs)),
        troubles: reading.troubles(),
        tor: tor(&status.tor),
        onion: status.onion.as_ref().map(|onion| self::onion(onion, now)),
        clearnet: status
            .clearnet
            .as_ref()
            .map(|name| (format!("{} {}", name.host, ports(name.ssl_port, name.tcp_port)), reached(name.reached, now))),
        behind: status.backend.as_ref().map(|backend| backend.electrum.clone().into()),
        calls: told(&status.callers.calls),
        trend: picture::trend(history),
        filters: wish.filters(),
        columns: Column::ALL.into_iter().map(|column| wish.heading(column)).collect(),
        rows: rows.into_iter().skip(wish.page * ROWS).take(ROWS).map(|row| self::row(row, now)).collect(),
        found,
        pages: if last == 0 { Vec::new() } else { (0..=last).map(|page| wish.turned_to(page)).collect() },
    };
    page.render()
}

impl Wish {
    /// What can't be understood is as if it weren't there.
    pub fn read(query: &HashMap<String, String>) -> Wish {
        let said = |name: &str| query.get(name).map(String::as_str);
        let state = said("state").and_then(|text| STATES.into_iter().find(|state| state.to_string() == text));
        let kind =
            said("kind").and_then(|text| [Kind::Onion, Kind::Clearnet].into_iter().find(|kind| kind.name() == text));
        let sort = said("sort").and_then(|text| Column::ALL.into_iter().find(|column| column.name() == text));
        Wish {
            sort: sort.unwrap_or_default(),
            reversed: said("order") == Some("reversed"),
            state,
            kind,
            page: said("page").and_then(|page| page.parse::<usize>().ok()).map_or(0, |page| page.saturating_sub(1)),
        }
    }

    /// The address of a page that shows this.
    fn link(self) -> String {
        let mut words = Vec::new();
        if self.sort != Column::default() {
            words.push(format!("sort={}", self.sort.name()));
        }
        if self.reversed {
            words.push("order=reversed".to_owned());
        }
        words.extend(self.state.map(|state| format!("state={state}")));
        words.extend(self.kind.map(|kind| format!("kind={}", kind.name())));
        if self.page > 0 {
            words.push(format!("page={}", self.page.saturating_add(1)));
        }
        format!("/?{}#peers", words.join("&"))
    }

    fn wants(&self, row: &PeerRow) -> bool {
        let kind = if row.host.ends_with(".onion") { Kind::Onion } else { Kind::Clearnet };
        self.state.is_none_or(|state| state == row.state) && self.kind.is_none_or(|wanted| wanted == kind)
    }

    /// The best, newest or first first; those of whom that isn't known come last either way.
    fn order(&self, a: &PeerRow, b: &PeerRow) -> Ordering {
        fn known<T>(a: Option<T>, b: Option<T>, order: impl Fn(&T, &T) -> Ordering) -> Ordering {
            match (&a, &b) {
                (Some(a), Some(b)) => order(a, b),
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (None, None) => Ordering::Equal,
            }
        }
        let turned = |order: Ordering| if self.reversed { order.reverse() } else { order };
        let order = match self.sort {
            Column::Host => turned(a.host.cmp(&b.host)),
            Column::State => turned(a.state.cmp(&b.state)),
            Column::Software => known(a.software.as_ref(), b.software.as_ref(), |a, b| turned(a.cmp(b))),
            Column::Latency => known(a.latency_ms, b.latency_ms, |a, b| turned(a.cmp(b))),
            Column::Uptime => known(week(a), week(b), |a, b| turned(b.total_cmp(a))),
            Column::Verified => known(a.last_success, b.last_success, |a, b| turned(b.cmp(a))),
            Column::Source => turned(a.source.cmp(&b.source)),
        };
        order.then_with(|| b.last_success.cmp(&a.last_success)).then_with(|| a.host.cmp(&b.host))
    }

    fn filters(self) -> Vec<Link> {
        let first = Wish { page: 0, ..self };
        let states = [None].into_iter().chain(STATES.map(Some)).map(|state| {
            let text = state.map_or("every state".to_owned(), |state| state.to_string());
            Link { text, to: Wish { state, ..first }.link(), current: self.state == state }
        });
        let kinds = [None, Some(Kind::Onion), Some(Kind::Clearnet)].into_iter().map(|kind| {
            let text = kind.map_or("every kind", Kind::name).to_owned();
            Link { text, to: Wish { kind, ..first }.link(), current: self.kind == kind }
        });
        states.chain(kinds).collect()
    }

    fn heading(self, column: Column) -> Heading {
        let current = self.sort == column;
        let wish = Wish { sort: column, reversed: current && !self.reversed, page: 0, ..self };
        let order = match (current, self.reversed == column.descends()) {
            (false, _) => "none",
            (true, true) => "ascending",
            (true, false) => "descending",
        };
        Heading { link: Link { text: column.title().to_owned(), to: wish.link(), current }, order }
    }

    fn turned_to(self, page: usize) -> Link {
        Link { text: page.saturating_add(1).to_string(), to: Wish { page, ..self }.link(), current: page == self.page }
    }
}

const STATES: [PeerState; 4] = [PeerState::Verified, PeerState::Stale, PeerState::Candidate, PeerState::Bad];

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Kind::Onion => "onion",
            Kind::Clearnet => "clearnet",
        }
    }
}

impl Column {
    const ALL: [Column; 7] = [
        Column::Host,
        Column::State,
        Column::Software,
        Column::Latency,
        Column::Uptime,
        Column::Verified,
        Column::Source,
    ];

    /// In the page's address.
    fn name(self) -> &'static str {
        match self {
            Column::Host => "host",
            Column::State => "state",
            Column::Software => "software",
            Column::Latency => "latency",
            Column::Uptime => "uptime",
            Column::Verified => "verified",
            Column::Source => "from",
        }
    }

    fn title(self) -> &'static str {
        match self {
            Column::Host => "Host",
            Column::State => "State",
            Column::Software => "Software",
            Column::Latency => "Latency",
            Column::Uptime => "Uptime, last week",
            Column::Verified => "Verified",
            Column::Source => "From",
        }
    }

    /// Whether the largest comes first where nothing else is wished.
    fn descends(self) -> bool {
        matches!(self, Column::Uptime | Column::Verified)
    }
}

/// A class for its colour, and what to say.
fn tor(state: &TorState) -> (&'static str, String) {
    match state {
        TorState::Off => ("off", "off: no onion server is called".to_owned()),
        TorState::Starting { .. } => ("wait", state.to_string()),
        TorState::Ready => ("good", state.to_string()),
        TorState::Down { .. } => ("wrong", state.to_string()),
    }
}

fn onion(status: &OnionStatus, now: Time) -> Onion<'_> {
    let mut fares = reached(status.reached, now);
    if let Some(why) = &status.trouble {
        fares.push_str(&format!("; missed {} times since: {why}", status.missed));
    }
    // A server as the Electrum wallet has it: name, port, and t for plain TCP.
    Onion { status, fares, qr: picture::qr(&format!("{}:{}:t", status.host, status.port)) }
}

fn reached(at: Option<Time>, now: Time) -> String {
    at.map_or("not reached yet, so nobody is told of it".to_owned(), |at| {
        format!("reached {} ago", span(now.since(at)))
    })
}

fn told(calls: &[CallCount]) -> Vec<Told> {
    use crate::book::Caller;
    use crate::conversation::server::Answered;
    use crate::protocol::Method;

    let sum = |method: Method, caller: Option<Caller>, result: Answered| {
        let fits = |call: &&CallCount| {
            call.method == method && call.result == result && caller.is_none_or(|caller| caller == call.caller)
        };
        calls.iter().filter(fits).map(|call| call.count).sum::<u64>()
    };
    let all = Method::ALL.into_iter().map(|method| Told {
        method: method.name(),
        clearnet: sum(method, Some(Caller::Clearnet), Answered::Answered),
        onion: sum(method, Some(Caller::Onion), Answered::Answered),
        not_answered: [Answered::Refused, Answered::Passed, Answered::Error].map(|result| sum(method, None, result)),
    });
    all.filter(|told| told.clearnet + told.onion + told.not_answered.iter().sum::<u64>() > 0).collect()
}

fn row(row: &PeerRow, now: Time) -> Row<'_> {
    let per_cent = |share: f64| format!("{:.0} %", share * 100.0);
    let windows = ["2h", "1d", "1w", "1m"]
        .into_iter()
        .filter_map(|window| row.uptime.get(window).map(|share| format!("{window} {}", per_cent(*share))));
    Row {
        row,
        ports: ports(row.ssl_port, row.tcp_port),
        latency: row.latency_ms.map(|ms| format!("{ms} ms")).unwrap_or_default(),
        week: week(row).map(per_cent).unwrap_or_default(),
        uptimes: windows.collect::<Vec<_>>().join(", "),
        outcomes: picture::outcomes(&row.history),
        verified: row.last_success.map(|at| format!("{} ago", span(now.since(at)))).unwrap_or_default(),
    }
}

fn week(row: &PeerRow) -> Option<f64> {
    row.uptime.get("1w").copied()
}

fn ports(tls: Option<u16>, tcp: Option<u16>) -> String {
    let port = |letter: char, port: Option<u16>| port.map(|port| format!("{letter}{port}"));
    [port('s', tls), port('t', tcp)].into_iter().flatten().collect::<Vec<_>>().join(" ")
}

/// The largest unit or two are precise enough.
fn span(time: Duration) -> String {
    match time.as_secs() {
        secs @ 0..60 => format!("{secs} s"),
        secs @ 60..3600 => format!("{} min", secs / 60),
        secs @ 3600..172_800 => format!("{} h", secs / 3600),
        secs => format!("{} days", secs / 86_400),
    }
}
