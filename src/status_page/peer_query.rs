//! Filter, order and page of the peer table.
//!
//! They are parameters of the page's URL, so the page needs no scripts.

use std::cmp::Ordering;
use std::collections::HashMap;

use crate::api::PeerSummary;
use crate::book::{PeerState, Side};
use crate::peer::Host;

/// Maximum number of peers on one page.
const ROWS: usize = 100;

/// Parsed query of the page's URL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct PeerQuery {
    sort: Column,
    /// Whether the column's default order is reversed.
    is_reversed: bool,
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

/// One page of the peers that match a query.
pub(crate) struct PeerPage {
    /// Sides and hosts of this page's peers, in order.
    pub names: Vec<(Side, Host)>,
    /// Number of matching peers on all pages.
    pub found: usize,
    /// Links to the filters.
    pub filters: Vec<NavLink>,
    /// Column headers.
    pub columns: Vec<Heading>,
    /// Links to all pages; empty if there is only one.
    pub pages: Vec<NavLink>,
}

/// Peer with the text by which it is sorted.
struct SortedPeer<'a> {
    text: Box<str>,
    peer: &'a PeerSummary,
}

/// Link to another view of the table.
pub(crate) struct NavLink {
    /// Text of the link.
    pub text: String,
    /// Target of the link.
    pub href: String,
    /// Whether the link leads to the current view.
    pub is_current: bool,
}

/// Header of a column.
pub(crate) struct Heading {
    /// Link that sorts by this column, or reverses the order.
    pub link: NavLink,
    /// Value of the attribute `aria-sort`.
    pub order: &'static str,
}

impl PeerQuery {
    /// Parses the parameters of a URL. Invalid ones are ignored.
    pub(crate) fn parse(query: &HashMap<String, String>) -> PeerQuery {
        let param = |name: &str| query.get(name).map(String::as_str);
        let state = param("state").and_then(|text| STATES.into_iter().find(|state| state.to_string() == text));
        let kind =
            param("kind").and_then(|text| [Kind::Onion, Kind::Clearnet].into_iter().find(|kind| kind.name() == text));
        let sort = param("sort").and_then(|text| Column::ALL.into_iter().find(|column| column.name() == text));
        PeerQuery {
            sort: sort.unwrap_or_default(),
            is_reversed: param("order") == Some("reversed"),
            state,
            kind,
            page: param("page").and_then(|page| page.parse::<usize>().ok()).map_or(0, |page| page.saturating_sub(1)),
        }
    }

    /// Selects and sorts the peers, and returns the requested page.
    pub(crate) fn apply(self, peers: &[PeerSummary]) -> PeerPage {
        let matching = peers.iter().filter(|peer| self.matches(peer));
        let mut sorted = Vec::with_capacity(peers.len());
        sorted.extend(matching.map(|peer| SortedPeer { text: self.text(peer), peer }));
        // A stable sort would take half as much memory again.
        sorted.sort_unstable_by(|a, b| self.order(a, b));
        let found = sorted.len();
        let last = found.saturating_sub(1) / ROWS;
        let query = PeerQuery { page: self.page.min(last), ..self };
        let shown = sorted.iter().skip(query.page * ROWS).take(ROWS);
        PeerPage {
            names: shown.map(|row| (row.peer.side, row.peer.host.clone())).collect(),
            found,
            filters: query.filters(),
            columns: Column::ALL.into_iter().map(|column| query.column_header(column)).collect(),
            pages: if last == 0 { Vec::new() } else { (0..=last).map(|page| query.page_link(page)).collect() },
        }
    }

    /// Returns the URL of this view, relative to the page, which may have a path behind a reverse proxy.
    fn href(self) -> String {
        let mut params = Vec::new();
        if self.sort != Column::default() {
            params.push(format!("sort={}", self.sort.name()));
        }
        if self.is_reversed {
            params.push("order=reversed".to_owned());
        }
        params.extend(self.state.map(|state| format!("state={state}")));
        params.extend(self.kind.map(|kind| format!("kind={}", kind.name())));
        if self.page > 0 {
            params.push(format!("page={}", self.page.saturating_add(1)));
        }
        format!("?{}#peers", params.join("&"))
    }

    fn matches(&self, peer: &PeerSummary) -> bool {
        let kind = if peer.host.is_onion() { Kind::Onion } else { Kind::Clearnet };
        self.state.is_none_or(|state| state == peer.state) && self.kind.is_none_or(|wanted| wanted == kind)
    }

    /// Returns the text by which this query sorts; empty if it sorts by another value.
    fn text(&self, peer: &PeerSummary) -> Box<str> {
        match self.sort {
            Column::Host => peer.host.to_string().into(),
            Column::Source => peer.source.to_string().into(),
            _ => Box::default(),
        }
    }

    /// Sorts the best, newest or first row first. Rows without a value come last in both
    /// directions.
    fn order(&self, one: &SortedPeer<'_>, other: &SortedPeer<'_>) -> Ordering {
        fn known<T>(a: Option<T>, b: Option<T>, order: impl Fn(&T, &T) -> Ordering) -> Ordering {
            match (&a, &b) {
                (Some(a), Some(b)) => order(a, b),
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (None, None) => Ordering::Equal,
            }
        }
        let directed = |order: Ordering| if self.is_reversed { order.reverse() } else { order };
        let (a, b) = (one.peer, other.peer);
        let order = match self.sort {
            Column::Host | Column::Source => directed(one.text.cmp(&other.text)),
            Column::State => directed(a.state.cmp(&b.state)),
            Column::Software => known(a.software.as_ref(), b.software.as_ref(), |a, b| directed(a.cmp(b))),
            Column::Latency => known(a.latency_ms, b.latency_ms, |a, b| directed(a.cmp(b))),
            Column::Uptime => known(a.weekly_uptime, b.weekly_uptime, |a, b| directed(b.total_cmp(a))),
            Column::Verified => known(a.last_success, b.last_success, |a, b| directed(b.cmp(a))),
        };
        let order = order.then_with(|| b.last_success.cmp(&a.last_success)).then_with(|| a.host.cmp(&b.host));
        order.then_with(|| a.side.cmp(&b.side))
    }

    fn filters(self) -> Vec<NavLink> {
        let first = PeerQuery { page: 0, ..self };
        let states = [None].into_iter().chain(STATES.map(Some)).map(|state| {
            let text = state.map_or("all states".to_owned(), |state| state.to_string());
            NavLink { text, href: PeerQuery { state, ..first }.href(), is_current: self.state == state }
        });
        let kinds = [None, Some(Kind::Onion), Some(Kind::Clearnet)].into_iter().map(|kind| {
            let text = kind.map_or("all kinds", Kind::name).to_owned();
            NavLink { text, href: PeerQuery { kind, ..first }.href(), is_current: self.kind == kind }
        });
        states.chain(kinds).collect()
    }

    fn column_header(self, column: Column) -> Heading {
        let is_current = self.sort == column;
        let query = PeerQuery { sort: column, is_reversed: is_current && !self.is_reversed, page: 0, ..self };
        let order = match (is_current, self.is_reversed == column.descends()) {
            (false, _) => "none",
            (true, true) => "ascending",
            (true, false) => "descending",
        };
        Heading { link: NavLink { text: column.title().to_owned(), href: query.href(), is_current }, order }
    }

    fn page_link(self, page: usize) -> NavLink {
        NavLink {
            text: page.saturating_add(1).to_string(),
            href: PeerQuery { page, ..self }.href(),
            is_current: page == self.page,
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

    /// Returns the value of the URL's parameter `sort`.
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

    /// Returns whether the default order starts with the largest value.
    fn descends(self) -> bool {
        matches!(self, Column::Uptime | Column::Verified)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::book::Source;

    const ONION: &str = "explorerzydxu5ecjrkwceayqybizmpjjznk5izmitf2modhcusuqlid.onion";

    fn row(host: &str, state: PeerState, latency_ms: Option<u32>) -> PeerSummary {
        PeerSummary {
            host: host.parse().unwrap(),
            side: Side::Both,
            state,
            software: None,
            source: Source::Seed,
            latency_ms,
            weekly_uptime: None,
            last_success: None,
        }
    }

    fn query(params: &[(&str, &str)]) -> PeerQuery {
        PeerQuery::parse(&params.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect())
    }

    fn sorted(query: &PeerQuery) -> Vec<String> {
        let rows = [
            row("b.example", PeerState::Bad, None),
            row("a.example", PeerState::Verified, Some(90)),
            row(ONION, PeerState::Candidate, Some(1200)),
            row("c.example", PeerState::Verified, Some(30)),
        ];
        query.apply(&rows).names.into_iter().map(|(_, host)| host.to_string()).collect()
    }

    #[test]
    fn peers_are_sorted_and_filtered_by_the_query() {
        assert_eq!(sorted(&query(&[])), ["a.example", "c.example", ONION, "b.example"]);
        let by_latency = query(&[("sort", "latency")]);
        assert_eq!(sorted(&by_latency), ["c.example", "a.example", ONION, "b.example"]);
        let reversed = query(&[("sort", "latency"), ("order", "reversed")]);
        assert_eq!(sorted(&reversed), [ONION, "a.example", "c.example", "b.example"], "unknown values stay last");
        assert_eq!(sorted(&query(&[("kind", "onion")])), [ONION]);
        assert_eq!(sorted(&query(&[("state", "bad")])), ["b.example"]);
        assert_eq!(query(&[("sort", "<script>"), ("state", "%"), ("page", "-1")]), PeerQuery::default());
    }

    #[test]
    fn many_peers_are_split_into_pages() {
        let rows: Vec<PeerSummary> =
            (0..250).map(|n| row(&format!("h{n:03}.example"), PeerState::Verified, None)).collect();
        let page = query(&[("sort", "host"), ("page", "99")]).apply(&rows);
        assert_eq!((page.found, page.pages.len(), page.names.len()), (250, 3, 50));
        assert_eq!(page.names[0].1.to_string(), "h200.example");
        assert!(page.pages[2].is_current && page.pages[1].href.contains("page=2"));
        assert!(query(&[]).apply(&rows[..100]).pages.is_empty());
    }

    #[test]
    fn href_round_trips_through_parse() {
        let parsed =
            query(&[("sort", "uptime"), ("order", "reversed"), ("state", "stale"), ("kind", "onion"), ("page", "3")]);
        assert_eq!(parsed.href(), "?sort=uptime&order=reversed&state=stale&kind=onion&page=3#peers");
        assert_eq!(query(&[]).href(), "?#peers");
        let heading = parsed.column_header(Column::Uptime);
        assert_eq!((heading.order, heading.link.href.contains("reversed")), ("ascending", false));
        assert_eq!(parsed.column_header(Column::Host).order, "none");
    }
}
