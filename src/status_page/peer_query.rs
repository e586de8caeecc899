//! Which peers the reader of the page wants to see, and in which order. It stands in the page's address, so that scripts are no need.

use std::cmp::Ordering;
use std::collections::HashMap;

use crate::book::PeerState;
use crate::control::PeerInfo;

/// Peers on one page.
const ROWS: usize = 100;

/// What the reader wants to see of the peers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PeerQuery {
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

/// The peers that were asked for, as far as they fit on a page.
pub struct PeerPage<'a> {
    pub rows: Vec<&'a PeerInfo>,
    /// How many there are in all.
    pub found: usize,
    pub filters: Vec<NavLink>,
    pub columns: Vec<Heading>,
    /// None where all fit on one.
    pub pages: Vec<NavLink>,
}

pub struct NavLink {
    pub text: String,
    pub to: String,
    pub current: bool,
}

pub struct Heading {
    pub link: NavLink,
    /// As aria-sort has it.
    pub order: &'static str,
}

impl PeerQuery {
    /// What can't be understood is as if it weren't there.
    pub fn read(query: &HashMap<String, String>) -> PeerQuery {
        let said = |name: &str| query.get(name).map(String::as_str);
        let state = said("state").and_then(|text| STATES.into_iter().find(|state| state.to_string() == text));
        let kind =
            said("kind").and_then(|text| [Kind::Onion, Kind::Clearnet].into_iter().find(|kind| kind.name() == text));
        let sort = said("sort").and_then(|text| Column::ALL.into_iter().find(|column| column.name() == text));
        PeerQuery {
            sort: sort.unwrap_or_default(),
            reversed: said("order") == Some("reversed"),
            state,
            kind,
            page: said("page").and_then(|page| page.parse::<usize>().ok()).map_or(0, |page| page.saturating_sub(1)),
        }
    }

    pub fn apply(self, rows: &[PeerInfo]) -> PeerPage<'_> {
        let mut rows: Vec<&PeerInfo> = rows.iter().filter(|row| self.matches(row)).collect();
        rows.sort_by(|a, b| self.order(a, b));
        let found = rows.len();
        let last = found.saturating_sub(1) / ROWS;
        let query = PeerQuery { page: self.page.min(last), ..self };
        PeerPage {
            rows: rows.into_iter().skip(query.page * ROWS).take(ROWS).collect(),
            found,
            filters: query.filters(),
            columns: Column::ALL.into_iter().map(|column| query.column_header(column)).collect(),
            pages: if last == 0 { Vec::new() } else { (0..=last).map(|page| query.page_link(page)).collect() },
        }
    }

    /// The address of a page that shows this.
    fn link(self) -> String {
        let mut params = Vec::new();
        if self.sort != Column::default() {
            params.push(format!("sort={}", self.sort.name()));
        }
        if self.reversed {
            params.push("order=reversed".to_owned());
        }
        params.extend(self.state.map(|state| format!("state={state}")));
        params.extend(self.kind.map(|kind| format!("kind={}", kind.name())));
        if self.page > 0 {
            params.push(format!("page={}", self.page.saturating_add(1)));
        }
        format!("/?{}#peers", params.join("&"))
    }

    fn matches(&self, row: &PeerInfo) -> bool {
        let kind = if row.host.ends_with(".onion") { Kind::Onion } else { Kind::Clearnet };
        self.state.is_none_or(|state| state == row.state) && self.kind.is_none_or(|wanted| wanted == kind)
    }

    /// Sorts the best, newest or first row first. Rows without a value come last in both directions.
    fn order(&self, a: &PeerInfo, b: &PeerInfo) -> Ordering {
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

    fn filters(self) -> Vec<NavLink> {
        let first = PeerQuery { page: 0, ..self };
        let states = [None].into_iter().chain(STATES.map(Some)).map(|state| {
            let text = state.map_or("every state".to_owned(), |state| state.to_string());
            NavLink { text, to: PeerQuery { state, ..first }.link(), current: self.state == state }
        });
        let kinds = [None, Some(Kind::Onion), Some(Kind::Clearnet)].into_iter().map(|kind| {
            let text = kind.map_or("every kind", Kind::name).to_owned();
            NavLink { text, to: PeerQuery { kind, ..first }.link(), current: self.kind == kind }
        });
        states.chain(kinds).collect()
    }

    fn column_header(self, column: Column) -> Heading {
        let current = self.sort == column;
        let query = PeerQuery { sort: column, reversed: current && !self.reversed, page: 0, ..self };
        let order = match (current, self.reversed == column.descends()) {
            (false, _) => "none",
            (true, true) => "ascending",
            (true, false) => "descending",
        };
        Heading { link: NavLink { text: column.title().to_owned(), to: query.link(), current }, order }
    }

    fn page_link(self, page: usize) -> NavLink {
        NavLink {
            text: page.saturating_add(1).to_string(),
            to: PeerQuery { page, ..self }.link(),
            current: page == self.page,
        }
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

    /// Whether the largest comes first where nothing else is asked for.
    fn descends(self) -> bool {
        matches!(self, Column::Uptime | Column::Verified)
    }
}

pub fn week(row: &PeerInfo) -> Option<f64> {
    row.uptime.get("1w").copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(host: &str, state: PeerState, latency_ms: Option<u64>) -> PeerInfo {
        let row = serde_json::json!({
            "host": host, "state": state, "key_changes": 0, "source": "seed", "self_reported": true, "first_seen": 0,
            "next_try": 0, "waiting_for": null, "failures": 0, "latency_ms": latency_ms, "uptime": {}, "history": [true, false],
        });
        serde_json::from_value(row).unwrap()
    }

    fn query(params: &[(&str, &str)]) -> PeerQuery {
        PeerQuery::read(&params.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect())
    }

    fn sorted(query: &PeerQuery) -> Vec<String> {
        let rows = [
            row("b.example", PeerState::Bad, None),
            row("a.example", PeerState::Verified, Some(90)),
            row("x.onion", PeerState::Candidate, Some(1200)),
            row("c.example", PeerState::Verified, Some(30)),
        ];
        query.apply(&rows).rows.into_iter().map(|row| row.host.clone()).collect()
    }

    #[test]
    fn peers_are_sorted_and_chosen_as_wished() {
        assert_eq!(sorted(&query(&[])), ["a.example", "c.example", "x.onion", "b.example"]);
        let by_latency = query(&[("sort", "latency")]);
        assert_eq!(sorted(&by_latency), ["c.example", "a.example", "x.onion", "b.example"]);
        let reversed = query(&[("sort", "latency"), ("order", "reversed")]);
        assert_eq!(sorted(&reversed), ["x.onion", "a.example", "c.example", "b.example"], "the unknown stay last");
        assert_eq!(sorted(&query(&[("kind", "onion")])), ["x.onion"]);
        assert_eq!(sorted(&query(&[("state", "bad")])), ["b.example"]);
        assert_eq!(query(&[("sort", "<script>"), ("state", "%"), ("page", "-1")]), PeerQuery::default());
    }

    #[test]
    fn there_are_as_many_pages_as_it_takes() {
        let rows: Vec<PeerInfo> =
            (0..250).map(|n| row(&format!("h{n:03}.example"), PeerState::Verified, None)).collect();
        let choice = query(&[("sort", "host"), ("page", "99")]).apply(&rows);
        assert_eq!((choice.found, choice.pages.len(), choice.rows.len()), (250, 3, 50));
        assert_eq!(choice.rows[0].host, "h200.example");
        assert!(choice.pages[2].current && choice.pages[1].to.contains("page=2"));
        assert!(query(&[]).apply(&rows[..100]).pages.is_empty());
    }

    #[test]
    fn a_link_leads_to_what_it_was_made_from() {
        let parsed =
            query(&[("sort", "uptime"), ("order", "reversed"), ("state", "stale"), ("kind", "onion"), ("page", "3")]);
        assert_eq!(parsed.link(), "/?sort=uptime&order=reversed&state=stale&kind=onion&page=3#peers");
        assert_eq!(query(&[]).link(), "/?#peers");
        let heading = parsed.column_header(Column::Uptime);
        assert_eq!((heading.order, heading.link.to.contains("reversed")), ("ascending", false));
        assert_eq!(parsed.column_header(Column::Host).order, "none");
    }
}
