//! Output on terminals and pipes: widths, colours, redrawing, completions and manual pages.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use crate::support::{Daemon, TestDir, wait_until};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

const WAYPOST: &str = env!("CARGO_BIN_EXE_waypost");
const ESCAPE: char = '\u{1b}';

/// Running daemon with twenty peers, all of them unreachable.
struct CliHarness {
    daemon: Daemon,
    dir: TestDir,
}

impl CliHarness {
    fn new() -> CliHarness {
        let dir = TestDir::new();
        let seeds: Vec<String> = (10..30).map(|n| format!("127.{n}.0.1 t50001")).collect();
        let discovery = format!("[discovery]\nseeds = {seeds:?}\nallow_private = true\n");
        dir.configure_tcp(&format!("[tor]\nmode = \"off\"\n{discovery}"));
        let daemon = dir.start();
        wait_until(20, "all peers were tried", || daemon.waypost(&["peers"]).matches("refused").count() == 20);
        CliHarness { daemon, dir }
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(WAYPOST);
        command.args(args).arg("--config").arg(self.dir.config()).stdin(Stdio::null());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Runs a command on a terminal of this size, with standard input as its keyboard.
    fn on_terminal(&self, columns: u16, rows: u16, args: &[&str], environment: &[(&str, &str)]) -> Child {
        let shell = format!(
            "stty cols {columns} rows {rows}; exec {WAYPOST} {} --config {}",
            args.join(" "),
            self.dir.config().display()
        );
        let mut command = Command::new("script");
        command.args(["-qec", &shell, "/dev/null"]).env_remove("NO_COLOR").env("TERM", "xterm").env("SHELL", "/bin/sh");
        command.envs(environment.iter().copied());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    /// Returns what a command prints on a terminal.
    fn terminal_output(&self, columns: u16, args: &[&str], environment: &[(&str, &str)]) -> String {
        let mut child = self.on_terminal(columns, 24, args, environment);
        // Standard input stays open, since its end would hang up the terminal.
        let _keyboard = child.stdin.take();
        text(&child.wait_with_output().unwrap())
    }
}

/// Returns the standard output of a command that succeeded.
fn text(output: &Output) -> String {
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    assert!(output.status.success(), "{}: {text}{}", output.status, String::from_utf8_lossy(&output.stderr));
    text
}

/// Removes the colours of a line.
fn visible(line: &str) -> String {
    let mut parts = line.split(ESCAPE);
    let first = parts.next().unwrap_or_default().to_owned();
    let rest = parts.map(|part| part.split_once('m').map_or(part, |(_, after)| after));
    [first].into_iter().chain(rest.map(str::to_owned)).collect()
}

#[test]
fn output_to_pipe_is_complete_and_has_no_colours() {
    let harness = CliHarness::new();
    for args in [["peers"].as_slice(), &["status"], &["peers", "--json"], &["--help"], &["probe", "--help"]] {
        let shown = text(&harness.command(args).env("TERM", "xterm").output().unwrap());
        assert!(!shown.contains(ESCAPE) && shown.lines().count() > 5, "{args:?}: {shown:?}");
    }
    let peers = harness.daemon.waypost(&["peers"]);
    let header: Vec<&str> = peers.lines().next().unwrap().split_whitespace().collect();
    let all = "HOST STATE PORTS PROTOCOL SOFTWARE LATENCY UPTIME VERIFIED LISTS US FROM PROBLEM";
    assert_eq!((header.join(" ").as_str(), peers.lines().count()), (all, 21));
    harness.daemon.stop();
}

#[test]
fn output_on_terminal_fits_and_has_colours_unless_disabled() {
    let harness = CliHarness::new();
    for columns in [40, 80, 200] {
        let shown = harness.terminal_output(columns, &["peers"], &[]);
        assert!(shown.contains("\u{1b}["), "{shown:?}");
        let widest = shown.lines().map(|line| visible(line.trim_end()).chars().count()).max();
        assert!(widest <= Some(columns.into()), "{widest:?}: {shown}");
        assert_eq!(shown.contains("PROTOCOL"), columns == 200, "{shown}");
        assert!(shown.contains("HOST") && shown.contains("STATE"), "{shown}");
    }
    let status = harness.terminal_output(80, &["status"], &[]);
    assert!(status.contains("\u{1b}[2moff"), "Tor's state is faint: {status:?}");
    for none in [("NO_COLOR", "1"), ("TERM", "dumb")] {
        for args in [["peers"], ["status"]] {
            let shown = harness.terminal_output(80, &args, &[none]);
            assert!(!shown.contains(ESCAPE) && shown.lines().count() > 5, "{none:?}: {shown:?}");
        }
    }
    assert!(
        harness.terminal_output(80, &["peers"], &[("NO_COLOR", "")]).contains(ESCAPE),
        "an empty NO_COLOR has no effect"
    );
    harness.daemon.stop();
}

#[test]
fn watch_on_pipe_prints_tables_until_closed() {
    let harness = CliHarness::new();
    let mut child = harness.command(&["peers", "--watch", "1"]).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    for pause in [false, true, true] {
        assert!(!pause || lines.next().unwrap().is_empty());
        let summary = lines.next().unwrap();
        assert!(summary.starts_with(" 0 verified, 0 stale, 20 candidates, 0 bad; Tor: off; "), "{summary}");
        let rows: Vec<String> = lines.by_ref().take(21).collect();
        assert!(rows[0].starts_with(" HOST") && rows[20].contains(".0.1 "), "{rows:?}");
        assert!(!rows.concat().contains(ESCAPE));
    }
    drop(lines);
    assert!(child.wait().unwrap().success(), "a closed pipe is not an error");
    harness.daemon.stop();
}

#[test]
fn watch_with_json_prints_lines_until_ctrl_c() {
    let harness = CliHarness::new();
    let mut child = harness.command(&["peers", "--json", "--watch", "1", "--state", "candidate"]).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    for _ in 0..2 {
        let rows: Vec<Value> = serde_json::from_str(&lines.next().unwrap()).unwrap();
        assert_eq!((rows.len(), &rows[0]["state"]), (20, &Value::from("candidate")));
    }
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    harness.daemon.stop();
}

#[test]
fn watch_ends_when_daemon_stops() {
    let harness = CliHarness::new();
    let mut child = harness.command(&["peers", "--watch", "1"]).spawn().unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    out.read_line(&mut String::new()).unwrap();
    harness.daemon.stop();
    std::io::copy(&mut out, &mut std::io::sink()).unwrap();
    let output = child.wait_with_output().unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), error.lines().count()), (Some(1), 1), "{error}");
    assert!(error.starts_with("waypost: connection to the daemon lost: ") && error.contains("waypost run"), "{error}");
}

#[test]
fn watch_on_terminal_redraws_until_ctrl_c() {
    let harness = CliHarness::new();
    let mut child = harness.on_terminal(80, 10, &["peers", "--watch", "1"], &[]);
    let mut keyboard = child.stdin.take().unwrap();
    let mut out = child.stdout.take().unwrap();
    let mut shown = Vec::new();
    let mut chunk = [0; 4096];
    while String::from_utf8_lossy(&shown).matches("\u{1b}[H").count() < 3 {
        let length = out.read(&mut chunk).unwrap();
        assert!(length > 0, "the command ended: {}", String::from_utf8_lossy(&shown));
        shown.extend(&chunk[..length]);
    }
    keyboard.write_all(b"\x03").unwrap();
    out.read_to_end(&mut shown).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    let shown = String::from_utf8(shown).unwrap();
    let screens: Vec<&str> = shown.split("\u{1b}[H").skip(1).collect();
    assert!(screens.len() >= 3, "{shown:?}");
    for screen in &screens[..2] {
        assert_eq!(screen.matches("\u{1b}[K\r\n").count(), 9, "every line except the cursor's: {screen:?}");
        assert!(screen.contains("20 candidates") && screen.contains("and 14 more"), "{screen:?}");
        assert!(screen.ends_with("\u{1b}[J"), "{screen:?}");
    }
    harness.daemon.stop();
}

#[test]
fn bash_completes_commands_and_options() {
    let dir = tempfile::tempdir().unwrap();
    let script = dir.path().join("waypost.bash");
    std::fs::write(&script, waypost(&["completions", "bash"])).unwrap();
    let bash = |args: &[&str]| text(&Command::new("bash").args(args).stdin(Stdio::null()).output().unwrap());
    assert_eq!(bash(&["-n", script.to_str().unwrap()]), "");
    let complete = |words: &str, last: usize| {
        let typed = format!(
            "source {}; complete -p waypost >/dev/null || exit 9; COMP_WORDS=({words}); COMP_CWORD={last}; \
             _waypost waypost \"${{COMP_WORDS[{last}]}}\" \"${{COMP_WORDS[{last}-1]}}\"; echo \"${{COMPREPLY[@]}}\"",
            script.display()
        );
        bash(&["--norc", "-c", &typed]).trim().to_owned()
    };
    assert_eq!(complete("waypost pe", 1), "peers");
    assert_eq!(complete("waypost peers --w", 2), "--watch");
    assert_eq!(complete("waypost peers --state ba", 3), "bad");
    for shell in ["zsh", "fish", "elvish", "powershell"] {
        assert!(waypost(&["completions", shell]).contains("onion-address"), "{shell}");
    }
}

#[test]
fn manual_pages_pass_lint_and_describe_environment() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("man");
    let output = waypost(&["man", "--out", out.to_str().unwrap()]);
    let pages: Vec<PathBuf> = std::fs::read_dir(&out).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(pages.len() > 12 && output.starts_with(&format!("wrote {} pages", pages.len())), "{output}{pages:?}");
    for page in &pages {
        let lint = Command::new("mandoc").args(["-Tlint", "-Werror"]).arg(page).output().unwrap();
        assert_eq!(text(&lint), "", "{}", page.display());
        let text = manual(page);
        for word in ["EXIT STATUS", "78", "WAYPOST_SECTION__KEY", "control.sock", "--data-dir"] {
            assert!(text.contains(word), "{}: {word}: {text}", page.display());
        }
    }
    assert!(out.join("waypost.1").exists() && manual(&out.join("waypost-peers.1")).contains("--watch"));
    assert_eq!(waypost(&["man"]), std::fs::read_to_string(out.join("waypost.1")).unwrap());
    let file = dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    let refused = Command::new(WAYPOST).arg("man").arg("--out").arg(&file).output().unwrap();
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8(refused.stderr).unwrap().contains("choose a writable directory"));
}

/// Returns a manual page as plain text.
fn manual(page: &Path) -> String {
    text(&Command::new("mandoc").args(["-Tascii", "-Owidth=500"]).arg(page).output().unwrap())
        .split('\u{8}')
        // A bold letter is the letter, a backspace, and the letter.
        .map(|part| part.to_owned())
        .reduce(|mut before, part| {
            before.pop();
            before + &part
        })
        .unwrap()
}

fn waypost(args: &[&str]) -> String {
    text(&Command::new(WAYPOST).args(args).stdin(Stdio::null()).output().unwrap())
}
