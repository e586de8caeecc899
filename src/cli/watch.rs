//! `waypost peers --watch`: the table, refreshed at an interval.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::pin::pin;
use std::time::Duration;

use anyhow::Context;
use tokio::time::sleep;

use super::format::until;
use super::peers::{PeersArgs, filter, table};
use super::terminal::TerminalStyle;
use crate::api::{PeerInfo, Status};
use crate::control::ControlClient;

/// Control code that moves the cursor to the top left.
const HOME: &str = "\u{1b}[H";

/// Control code that clears the rest of the line.
const CLEAR_LINE: &str = "\u{1b}[K";

/// Control code that clears the rest of the screen.
const CLEAR_REST: &str = "\u{1b}[J";

/// Position of a frame in the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Frame {
    First,
    Later,
}

/// Shows the peers until Ctrl-C, or until the reader closes the pipe.
///
/// # Errors
/// If the daemon stops.
pub(super) async fn run(control: &ControlClient, args: &PeersArgs, every: Duration) -> anyhow::Result<()> {
    let mut stop = pin!(tokio::signal::ctrl_c());
    let mut position = Frame::First;
    loop {
        let query = fetch(control, args);
        let response = tokio::select! { response = query => response, _ = &mut stop => return Ok(()) };
        let (status, rows) = match position {
            Frame::First => response?,
            Frame::Later => response.context("connection to the daemon lost")?,
        };
        let rows = filter(rows, args);
        let text = match status {
            None => serde_json::to_string(&rows)? + "\n",
            // The size of the terminal may have changed.
            Some(status) => frame(&status, rows, TerminalStyle::detect(), position),
        };
        let mut out = io::stdout().lock();
        if out.write_all(text.as_bytes()).and_then(|()| out.flush()).is_err() {
            return Ok(());
        }
        drop(out);
        position = Frame::Later;
        tokio::select! { () = sleep(every) => {}, _ = &mut stop => return Ok(()) }
    }
}

/// Queries the state of the daemon and its peers. The state is `None` with `--json`, which omits it.
async fn fetch(control: &ControlClient, args: &PeersArgs) -> anyhow::Result<(Option<Status>, Vec<PeerInfo>)> {
    let status = if args.json { None } else { Some(control.status().await?) };
    Ok((status, control.peers().await?))
}

/// Returns a screen with the control codes that draw it over the previous one.
fn frame(status: &Status, rows: Vec<PeerInfo>, terminal: TerminalStyle, position: Frame) -> String {
    let screen = screen(status, rows, terminal);
    if !terminal.can_redraw {
        return if position == Frame::First { screen } else { format!("\n{screen}") };
    }
    let lines: String = screen.lines().flat_map(|line| [line, CLEAR_LINE, "\n"]).collect();
    let start = if position == Frame::First { format!("{HOME}{CLEAR_REST}") } else { HOME.to_owned() };
    format!("{start}{lines}{CLEAR_REST}")
}

/// Returns a summary line and the peers that fit below it.
fn screen(status: &Status, mut rows: Vec<PeerInfo>, terminal: TerminalStyle) -> String {
    let all = rows.len();
    // The summary and the cursor need a line each.
    let capacity = usize::from(terminal.height.unwrap_or(u16::MAX)).saturating_sub(2);
    rows.truncate(capacity);
    let mut peers = table(&rows, terminal);
    // A wrapped row counts as two lines. Each pass removes a row, so this ends.
    while peers.lines().count() + usize::from(rows.len() < all) > capacity && rows.pop().is_some() && !rows.is_empty() {
        peers = table(&rows, terminal);
    }
    let mut screen = format!("{}\n", truncate(&summary(status), terminal.width));
    if all == 0 || !rows.is_empty() {
        screen.push_str(&peers);
        screen.push('\n');
    }
    if rows.len() < all {
        let more = all - rows.len();
        let _ = writeln!(
            screen,
            "{}",
            truncate(&format!(" … and {more} more; a taller terminal shows them"), terminal.width)
        );
    }
    screen
}

/// Returns the state of the daemon in one line.
fn summary(status: &Status) -> String {
    let Status { peers, .. } = status;
    format!(
        " {} verified, {} stale, {} candidates, {} bad; Tor: {}; {} being probed, next {}",
        peers.verified,
        peers.stale,
        peers.candidate,
        peers.bad,
        status.tor,
        peers.probing,
        until(status.next_probe)
    )
}

/// Cuts a line to the width, with an ellipsis.
fn truncate(line: &str, width: Option<u16>) -> String {
    let width = width.map_or(usize::MAX, usize::from);
    if line.chars().count() <= width {
        return line.to_owned();
    }
    line.chars().take(width.saturating_sub(1)).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::super::test_fixtures::{ONION, row, status};
    use super::*;
    use crate::book::PeerState;

    fn rows(count: usize) -> Vec<PeerInfo> {
        (0..count).map(|n| row(&format!("peer{n:02}.example"), PeerState::Candidate, None)).collect()
    }

    const SCREEN: TerminalStyle = TerminalStyle { width: Some(80), height: Some(10), colours: false, can_redraw: true };

    #[test]
    fn screen_fits_terminal_height() {
        insta::assert_snapshot!("cut", screen(&status(), rows(30), SCREEN));
        for count in 0..30 {
            for height in 1..12 {
                let terminal = TerminalStyle { height: Some(height), ..SCREEN };
                let screen = screen(&status(), rows(count), terminal);
                let lines = screen.lines().count();
                assert!(lines < usize::from(height).max(3), "{height}, {count}:\n{screen}");
                let whole = screen.matches(".example").count() == count;
                assert!(whole != screen.contains("more;"), "{height}, {count}:\n{screen}");
            }
        }
    }

    #[test]
    fn wrapped_rows_count_as_two_lines() {
        let long = PeerInfo { host: ONION.to_owned(), ..row(ONION, PeerState::Candidate, None) };
        let screen = screen(&status(), vec![long; 9], TerminalStyle { width: Some(50), ..SCREEN });
        assert!(screen.lines().count() < 10 && screen.contains("more;"), "{screen}");
    }

    #[test]
    fn pipe_gets_every_peer_without_control_codes() {
        let screen = screen(&status(), rows(30), TerminalStyle::default());
        assert_eq!((screen.lines().count(), screen.contains('…')), (32, false), "{screen}");
        let second = frame(&status(), rows(1), TerminalStyle::default(), Frame::Later);
        assert!(second.starts_with("\n 12 verified, ") && !second.contains('\u{1b}'), "{second}");
    }

    #[test]
    fn second_frame_overwrites_the_first() {
        let first = frame(&status(), rows(3), SCREEN, Frame::First);
        let second = frame(&status(), rows(3), SCREEN, Frame::Later);
        assert!(first.starts_with("\u{1b}[H\u{1b}[J") && second.starts_with("\u{1b}[H 12 verified"), "{second:?}");
        assert!(second.ends_with("\u{1b}[J") && second.matches("\u{1b}[K\n").count() == 5, "{second:?}");
    }
}
