//! `waypost peers`: known peers as a table.

use std::time::Duration;

use clap::{Args, ValueEnum};

use super::format::{ago, until};
use super::terminal::{PADDING, Style, Styled, TerminalStyle};
use crate::api::PeerInfo;
use crate::book::PeerState;
use crate::clock::{self, Time};

/// Arguments of `waypost peers`.
#[derive(Debug, Args)]
pub(super) struct PeersArgs {
    /// Print JSON; contrib/JSON.md documents its fields.
    #[arg(long)]
    pub json: bool,
    /// Refresh the table at this interval in seconds, until Ctrl-C.
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "2", value_parser = parse_interval)]
    pub watch: Option<Duration>,
    /// Only onion services.
    #[arg(long, conflicts_with = "clearnet")]
    pub onion: bool,
    /// Only clearnet servers.
    #[arg(long)]
    pub clearnet: bool,
    /// Only peers in this state.
    #[arg(long, value_enum)]
    pub state: Option<StateArg>,
}

/// State to select.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum StateArg {
    /// Verified recently, and advertised to clients.
    Verified,
    /// Verified once, but not recently.
    Stale,
    /// Never verified.
    Candidate,
    /// Broke the protocol or served another chain when last reached.
    Bad,
}

/// Column of the table.
struct Column {
    /// Header.
    name: &'static str,
    /// Order of omission on a narrow terminal: highest first, 0 never.
    rank: u8,
}

/// All columns, in order.
const COLUMNS: [Column; 11] = [
    Column { name: "HOST", rank: 0 },
    Column { name: "STATE", rank: 0 },
    Column { name: "PORTS", rank: 3 },
    Column { name: "PROTOCOL", rank: 7 },
    Column { name: "SOFTWARE", rank: 6 },
    Column { name: "LATENCY", rank: 4 },
    Column { name: "UPTIME", rank: 5 },
    Column { name: "VERIFIED", rank: 2 },
    Column { name: "LISTS US", rank: 7 },
    Column { name: "FROM", rank: 9 },
    Column { name: PROBLEM, rank: 1 },
];

/// Header of the column for errors, which is wrapped if the table is too wide.
const PROBLEM: &str = "PROBLEM";

/// Minimum width of the problem column, in characters.
const PROBLEM_WIDTH: u16 = 20;

/// Selects and sorts peers: verified ones first, and within a state by last success.
pub(super) fn filter(mut rows: Vec<PeerInfo>, args: &PeersArgs) -> Vec<PeerInfo> {
    rows.retain(|row| {
        let onion = row.host.ends_with(".onion");
        (!args.onion || onion)
            && (!args.clearnet || !onion)
            && args.state.is_none_or(|state| state.state() == row.state)
    });
    rows.sort_by(|a, b| (a.state, b.last_success, &a.host).cmp(&(b.state, a.last_success, &b.host)));
    rows
}

/// Draws a table of the columns that fit.
pub(super) fn table(rows: &[PeerInfo], terminal: TerminalStyle) -> String {
    if rows.is_empty() {
        return "no such peers".to_owned();
    }
    let now = clock::now();
    let rows: Vec<[Styled; 11]> = rows.iter().map(|row| cells(row, now)).collect();
    let kept = fit_columns(&rows, terminal.width);
    let names: Vec<&str> = COLUMNS.iter().zip(kept).filter(|(_, kept)| *kept).map(|(column, _)| column.name).collect();
    let wrap_column = names.iter().position(|name| *name == PROBLEM).unwrap_or_default();
    let rows = rows.into_iter().map(|row| row.into_iter().zip(kept).filter(|(_, kept)| *kept).map(|(cell, _)| cell));
    terminal.draw(&names, rows.map(Iterator::collect), wrap_column)
}

/// Returns which columns fit into the width.
///
/// Empty columns come last, whatever their rank, and only if the problem column needs no wrapping.
fn fit_columns(rows: &[[Styled; 11]], width: Option<u16>) -> [bool; 11] {
    let Some(mut remaining) = width else { return [true; 11] };
    let mut candidates: Vec<_> = COLUMNS
        .iter()
        .enumerate()
        .map(|(index, column)| {
            let texts = || rows.iter().filter_map(|row| row.get(index)).map(|cell| cell.text.as_str());
            let longest = texts().chain([column.name]).map(|text| text.chars().count()).max().unwrap_or_default();
            let full_width = u16::try_from(longest).unwrap_or(u16::MAX).saturating_add(PADDING);
            (column.rank > 0 && texts().all(str::is_empty), column.rank, index, column.name, full_width)
        })
        .collect();
    candidates.sort_unstable();
    let mut kept = [false; 11];
    let mut wrapped = 0;
    for (is_empty, rank, index, name, full_width) in candidates {
        let need = if name == PROBLEM { full_width.min(PROBLEM_WIDTH + PADDING) } else { full_width };
        let available = if is_empty { remaining.saturating_sub(wrapped) } else { remaining };
        if let Some(kept) = kept.get_mut(index)
            && (rank == 0 || need <= available)
        {
            *kept = true;
            remaining = remaining.saturating_sub(need);
            wrapped += full_width - need;
        }
    }
    kept
}

/// Returns the cells of a peer's row, one for each of [`COLUMNS`].
fn cells(row: &PeerInfo, now: Time) -> [Styled; 11] {
    let style = match row.state {
        PeerState::Verified => Style::Good,
        PeerState::Stale => Style::Doubtful,
        PeerState::Candidate => Style::Faint,
        PeerState::Bad => Style::Wrong,
    };
    [
        Styled::plain(row.host.clone()),
        Styled::new(row.state.to_string(), style),
        Styled::plain(row.ports.to_string()),
        Styled::plain(row.protocol.clone().unwrap_or_default()),
        Styled::plain(row.software.clone().unwrap_or_default()),
        Styled::plain(row.latency_ms.map(|ms| format!("{ms} ms")).unwrap_or_default()),
        Styled::plain(row.weekly_uptime().map(|share| format!("{:.0} %", share * 100.0)).unwrap_or_default()),
        Styled::plain(row.last_success.map(|at| ago(now.since(at))).unwrap_or_default()),
        Styled::plain(lists_us(row).to_owned()),
        Styled::plain(row.origin()),
        Styled::plain(problem(row)),
    ]
}

/// Returns whether a peer lists an own name, and otherwise what it answered to an announcement.
fn lists_us(row: &PeerInfo) -> &'static str {
    match (row.lists.is_empty(), row.announcement_accepted) {
        (false, _) => "yes",
        (true, Some(true)) => "accepted",
        (true, Some(false)) => "refused",
        (true, None) => "",
    }
}

/// Returns the last error of a peer, and what it waits for.
fn problem(row: &PeerInfo) -> String {
    let waiting = row.waiting_for.as_ref().map(|what| format!("waiting for {what}, next try {}", until(row.next_try)));
    row.error.iter().cloned().chain(waiting).collect::<Vec<_>>().join("; ")
}

/// Parses the interval of `--watch`.
fn parse_interval(text: &str) -> Result<Duration, String> {
    match text.parse() {
        Ok(secs @ 1..=86_400) => Ok(Duration::from_secs(secs)),
        _ => Err("expected whole seconds, from 1 to 86400".to_owned()),
    }
}

impl StateArg {
    /// Returns the state to select.
    fn state(self) -> PeerState {
        match self {
            StateArg::Verified => PeerState::Verified,
            StateArg::Stale => PeerState::Stale,
            StateArg::Candidate => PeerState::Candidate,
            StateArg::Bad => PeerState::Bad,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::test_fixtures::{ONION, row};
    use super::*;

    const ALL: PeersArgs = PeersArgs { json: false, watch: None, onion: false, clearnet: false, state: None };

    fn rows() -> Vec<PeerInfo> {
        let now = clock::now();
        let mut onion = row(ONION, PeerState::Candidate, None);
        onion.ports.ssl_port = None;
        let error = Some("its name means an address that isn't public".to_owned());
        vec![
            PeerInfo { error, ..row("bad.example", PeerState::Bad, None) },
            row("old.example", PeerState::Verified, Some(now - Duration::from_hours(5))),
            onion,
            row("new.example", PeerState::Verified, Some(now - Duration::from_mins(5))),
        ]
    }

    #[test]
    fn peers_are_filtered_and_sorted() {
        let hosts = |args: &PeersArgs| filter(rows(), args).into_iter().map(|row| row.host).collect::<Vec<_>>();
        assert_eq!(hosts(&ALL), ["new.example", "old.example", ONION, "bad.example"]);
        assert_eq!(hosts(&PeersArgs { clearnet: true, ..ALL }), ["new.example", "old.example", "bad.example"]);
        assert_eq!(hosts(&PeersArgs { onion: true, ..ALL }), [ONION]);
        assert_eq!(hosts(&PeersArgs { state: Some(StateArg::Bad), ..ALL }), ["bad.example"]);
    }

    #[test]
    fn table_fits_every_terminal_width() {
        let drawn = |args: &PeersArgs, width| {
            let table = table(&filter(rows(), args), TerminalStyle { width, ..TerminalStyle::default() });
            let longest = table.lines().map(|line| line.chars().count()).max();
            assert!(width.is_none_or(|width| longest <= Some(width.into())), "{table}");
            table
        };
        insta::assert_snapshot!("no_width", drawn(&ALL, None));
        insta::assert_snapshot!("width_80", drawn(&ALL, Some(80)));
        insta::assert_snapshot!("width_120", drawn(&ALL, Some(120)));
        insta::assert_snapshot!("width_40", drawn(&ALL, Some(40)));
        let clearnet = PeersArgs { clearnet: true, ..ALL };
        insta::assert_snapshot!("clearnet_width_80", drawn(&clearnet, Some(80)));
        insta::assert_snapshot!("clearnet_width_120", drawn(&clearnet, Some(120)));
        let verified = PeersArgs { state: Some(StateArg::Verified), ..ALL };
        insta::assert_snapshot!("no_problem_width_80", drawn(&verified, Some(80)));
    }

    #[test]
    fn waiting_peer_shows_reason_and_next_try() {
        let waiting_for = Some("the dial budget of 5.9.0.0/24".to_owned());
        let next_try = clock::now() + Duration::from_millis(90_900);
        let row = PeerInfo { waiting_for, next_try, ..row("a.example", PeerState::Candidate, None) };
        assert_eq!(problem(&row), "waiting for the dial budget of 5.9.0.0/24, next try in 1m 30s");
        let row = PeerInfo { error: Some("it refused the connection".to_owned()), ..row };
        assert!(problem(&row).starts_with("it refused the connection; waiting for "));
    }

    #[test]
    fn states_are_coloured_differently() {
        let coloured = table(&filter(rows(), &ALL), TerminalStyle { colours: true, ..TerminalStyle::default() });
        let drawn = |state: &str| coloured.split_whitespace().find(|word| word.contains(state)).unwrap().to_owned();
        let cells = ["verified", "candidate", "bad\u{1b}"].map(drawn);
        assert!(cells.iter().all(|word| word.starts_with('\u{1b}')), "{cells:?}");
        assert_ne!(cells[0].trim_end_matches("verified"), cells[2], "{cells:?}");
    }

    #[test]
    fn empty_table_is_one_line() {
        assert_eq!(table(&[], TerminalStyle::default()), "no such peers");
    }

    #[test]
    fn interval_is_whole_seconds_within_range() {
        assert_eq!(parse_interval("5"), Ok(Duration::from_secs(5)));
        assert!(["0", "-1", "1.5", "soon", "86401"].iter().all(|text| parse_interval(text).is_err()));
    }
}
