//! `waypost bans`: the ban lists, and which of them ban a host.

use std::sync::Arc;

use anyhow::bail;
use serde::Serialize;

use super::output::Json;
use crate::ban_files::{BanFile, BanFileError, ListVersion};
use crate::ban_list::{Bans, ListFormat};
use crate::clock::Time;
use crate::config::Config;
use crate::peer::Host;

/// Output of `waypost bans --json`.
#[derive(Debug, Serialize)]
struct Report {
    /// Host in question; `None` if none was given.
    host: Option<String>,
    /// Whether a list bans the host; `None` without a host.
    banned: Option<bool>,
    lists: Vec<ListReport>,
}

/// One ban list.
#[derive(Debug, Serialize)]
struct ListReport {
    path: String,
    own: bool,
    format: ListFormat,
    patterns: usize,
    skipped: usize,
    signed: Option<Time>,
    /// Pattern that bans the host; `None` if none does.
    pattern: Option<String>,
    /// Why the list can't be used; `None` if it can.
    error: Option<String>,
}

/// Reads all lists, and prints them or the patterns that ban a host.
///
/// # Errors
/// If a list can't be used, after the output.
pub(super) fn run(config: &Config, host: Option<&Host>, json: Json) -> anyhow::Result<()> {
    let files = config.ban_files();
    let read: Vec<(BanFile, Result<ListVersion, BanFileError>)> = files
        .into_iter()
        .map(|file| {
            let version = file.read();
            (file, version)
        })
        .collect();
    let lists: Vec<ListReport> = read.iter().map(|(file, version)| report(file, version, host)).collect();
    let banned = host.map(|_| lists.iter().any(|list| list.pattern.is_some()));
    let text = match host {
        Some(host) => verdict(host, &lists),
        None => lists.iter().map(description).collect::<Vec<_>>().join("\n"),
    };
    json.emit(&Report { host: host.map(Host::to_string), banned, lists }, &text)?;
    match read.into_iter().find_map(|(_, version)| version.err()) {
        Some(error) if error.is_inaccessible() => bail!("{error}; or run this as the daemon's user"),
        Some(error) => Err(error.into()),
        None => Ok(()),
    }
}

fn report(file: &BanFile, version: &Result<ListVersion, BanFileError>, host: Option<&Host>) -> ListReport {
    let unread = ListVersion::default();
    let ListVersion { list, signed } = version.as_ref().unwrap_or(&unread);
    let ban = host.and_then(|host| Bans::new([(Arc::clone(file.name()), list)]).find_host(host));
    ListReport {
        path: file.name().path.clone(),
        own: file.name().is_own,
        format: list.format,
        patterns: list.patterns.len(),
        skipped: list.skipped,
        signed: signed.map(|signed| Time::from_wall_millis(signed.as_secs().saturating_mul(1000))),
        pattern: ban.map(|ban| ban.pattern.to_string()),
        error: version.as_ref().err().map(BanFileError::cause),
    }
}

/// Returns the lists that ban a host, one on each line.
fn verdict(host: &Host, lists: &[ListReport]) -> String {
    let bans = lists.iter().filter_map(|list| Some((list.pattern.as_ref()?, &list.path)));
    let lines: Vec<String> = bans.map(|(pattern, path)| format!("{host} is banned by {pattern} in {path}")).collect();
    match (lines.as_slice(), host) {
        ([], Host::Dns(_)) => format!("{host} is not banned by its name; its addresses were not looked up"),
        ([], _) => format!("{host} is not banned"),
        (lines, _) => lines.join("\n"),
    }
}

fn description(list: &ListReport) -> String {
    let ListReport { path, patterns, skipped, .. } = list;
    if list.error.is_some() {
        return format!("{path}: not usable");
    }
    let mut text = format!("{path}: {patterns} patterns");
    if list.format == ListFormat::Json {
        text.push_str(" in ElectrumX's format");
    }
    if *skipped > 0 {
        text.push_str(&format!(", {skipped} entries without effect"));
    }
    if let Some(signed) = list.signed {
        text.push_str(&format!(", signed {signed}"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_list_that_bans_a_host_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            std::fs::write(dir.path().join(name), text).unwrap();
            BanFile::further(dir.path().join(name), None)
        };
        let files = [write("a", "*.spy.example\n"), write("b", "[\"x.spy.example\", 5]"), write("c", "y.example\n")];
        let lists_for = |host: &Host| -> Vec<ListReport> {
            files.iter().map(|file| report(file, &file.read(), Some(host))).collect()
        };
        let verdict_on = |text: &str| {
            let host = text.parse().unwrap();
            verdict(&host, &lists_for(&host)).replace(dir.path().to_str().unwrap(), "")
        };
        assert_eq!(
            verdict_on("x.spy.example"),
            "x.spy.example is banned by *.spy.example in /a\nx.spy.example is banned by x.spy.example in /b"
        );
        assert_eq!(verdict_on("z.example"), "z.example is not banned by its name; its addresses were not looked up");
        assert_eq!(verdict_on("192.0.2.1"), "192.0.2.1 is not banned");
        let lists = lists_for(&"z.example".parse().unwrap());
        assert!(description(&lists[1]).ends_with("/b: 1 patterns in ElectrumX's format, 1 entries without effect"));
    }
}
