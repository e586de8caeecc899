//! `waypost ban` and `waypost unban`: edits of the own ban list.
//!
//! A running daemon reads the file again when it changes.

use std::path::Path;

use anyhow::{Context, bail};
use serde_json::json;

use super::output::Json;
use crate::atomic_file::{self, Readers};
use crate::ban_files::BanFile;
use crate::ban_list::{ListFormat, Pattern, remove_pattern};
use crate::config::Config;

/// Note about a running daemon.
const APPLIED_HINT: &str = "a running daemon applies it within seconds";

/// Adds a pattern to the own ban list.
pub(super) fn ban(config: &Config, pattern: &Pattern, json: Json) -> anyhow::Result<()> {
    let file = config.own_ban_file();
    let text = read(&file)?;
    if remove_pattern(&text, pattern).is_some() {
        return json
            .emit(&json!({ "banned": pattern.to_string(), "new": false }), &format!("{pattern} is already banned"));
    }
    let end = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
    write(file.path(), &format!("{text}{end}{pattern}\n"))?;
    json.emit(&json!({ "banned": pattern.to_string(), "new": true }), &format!("banned {pattern}; {APPLIED_HINT}"))
}

/// Removes a pattern from the own ban list.
pub(super) fn unban(config: &Config, pattern: &Pattern, json: Json) -> anyhow::Result<()> {
    let file = config.own_ban_file();
    let remaining = remove_pattern(&read(&file)?, pattern);
    let others = further_lists_with(config, pattern);
    let Some(remaining) = remaining else {
        match others.as_slice() {
            [] => bail!("{pattern} is not in {}; the pattern must be one of that file", file.name()),
            paths => bail!(
                "{pattern} is not in {}, but in {}, which Waypost doesn't edit; remove it there",
                file.name(),
                paths.join(" and ")
            ),
        }
    };
    write(file.path(), &remaining)?;
    let text = match others.as_slice() {
        [] => format!("{pattern} is no longer banned; {APPLIED_HINT}"),
        paths => format!(
            "removed {pattern} from {}; it stays banned by {}, which Waypost doesn't edit: remove it there",
            file.name(),
            paths.join(" and ")
        ),
    };
    json.emit(&json!({ "unbanned": pattern.to_string(), "still_banned_by": others }), &text)
}

/// Returns the paths of the further lists that have a pattern. Lists that can't be used are left out.
fn further_lists_with(config: &Config, pattern: &Pattern) -> Vec<String> {
    let lists = config.ban_files().into_iter().filter(|file| !file.name().is_own);
    let with_pattern = lists.filter(|file| file.read().is_ok_and(|version| version.list.patterns.contains(pattern)));
    with_pattern.map(|file| file.name().path.clone()).collect()
}

/// Reads and checks the own ban list. A missing file is empty.
fn read(file: &BanFile) -> anyhow::Result<String> {
    let path = file.path();
    if !path.try_exists().unwrap_or(true) {
        return Ok(String::new());
    }
    let version = file.read().map_err(|error| {
        let advice = if error.is_inaccessible() { "run this as the daemon's user" } else { "correct the file first" };
        anyhow::anyhow!("can't use {}; {advice}", error.cause())
    })?;
    if version.list.format == ListFormat::Json {
        bail!(
            "{} is a JSON list, which Waypost doesn't edit; edit it by hand, or move it to discovery.ban_lists and set \
             discovery.ban_file to another file",
            path.display()
        );
    }
    std::fs::read_to_string(path).with_context(|| format!("can't read {}", path.display()))
}

/// Replaces the ban file atomically, so that the daemon never reads a partial file.
fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    atomic_file::write(path, text.as_bytes(), Readers::Everyone).with_context(|| {
        format!("can't write {}; run this as the daemon's user, or set its --data-dir", path.display())
    })
}
