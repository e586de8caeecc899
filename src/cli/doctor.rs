//! `waypost doctor`: checks of the node, each with advice.

use anyhow::bail;
use serde::Serialize;

use super::output::{print, print_json};
use super::terminal::{Style, Styled, TerminalStyle};
use crate::config::{Config, ConfigError};
use crate::control::ControlClient;
use crate::doctor::{Finding, Level, RunningDaemon, Subject, examine};

/// Output of `--json`.
#[derive(Debug, Serialize)]
struct Report<'a> {
    outcome: Level,
    findings: &'a [Finding],
}

/// Checks the node and prints the findings as they come.
///
/// An invalid configuration is a finding as well.
///
/// # Errors
/// If a finding is a failure.
pub(super) async fn run(config: Result<Config, ConfigError>, json: bool) -> anyhow::Result<()> {
    let mut findings = Vec::new();
    let mut report = |finding: Finding| {
        if !json {
            // A closed pipe must not stop the checks, whose result is the exit code.
            let _ = print(&line(&finding, TerminalStyle::detect()));
        }
        findings.push(finding);
    };
    match config {
        Ok(config) => {
            let control = ControlClient::new(config.control_path());
            let daemon = match (control.status().await, control.peers().await) {
                (Ok(status), Ok(peers)) => Ok(RunningDaemon { status, peers }),
                (Err(error), _) | (_, Err(error)) => Err(error.to_string()),
            };
            examine(&config, daemon, &mut report).await;
        }
        Err(error) => {
            let advice = "correct it, and run this again";
            report(Finding::failure(Subject::Configuration, error.to_string(), advice));
        }
    }
    let outcome = findings.iter().map(|finding| finding.level).max().unwrap_or(Level::Ok);
    if json {
        print_json(&Report { outcome, findings: &findings })?;
    }
    let count = |level| findings.iter().filter(|finding| finding.level == level).count();
    match count(Level::Failure) {
        0 => Ok(()),
        failures => bail!("{failures} failures and {} warnings", count(Level::Warning)),
    }
}

/// Writes a finding, with its advice in lines of its own.
fn line(finding: &Finding, terminal: TerminalStyle) -> String {
    let (word, style) = match finding.level {
        Level::Ok => ("ok", Style::Good),
        Level::Warning => ("warning", Style::Doubtful),
        Level::Failure => ("failure", Style::Wrong),
    };
    let advice = finding.advice.as_deref().map(|advice| format!("\n→ {advice}")).unwrap_or_default();
    let row = vec![
        Styled::new(format!("{word:<7}"), style),
        Styled::plain(format!("{:<14}", finding.subject.name())),
        Styled::plain(format!("{}{advice}", finding.text)),
    ];
    terminal.draw(&[], [row].into_iter(), 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finding_is_a_line_with_its_advice_below() {
        let failure = Finding::failure(Subject::ClearnetName, "TCP port 50001 fails", "open the port");
        assert_eq!(
            line(&failure, TerminalStyle::default()),
            " failure  clearnet name   TCP port 50001 fails\n                          → open the port"
        );
        assert_eq!(
            line(&Finding::ok(Subject::Disk, "20.0 GB are free"), TerminalStyle::default()),
            " ok       disk            20.0 GB are free"
        );
    }
}
