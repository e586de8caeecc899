//! `waypost ban` and `waypost unban`: edits of the ban file.
//!
//! A running daemon reads the file again when it changes.

use std::io::ErrorKind;
use std::path::Path;

use anyhow::Context;
use serde_json::json;

use super::output::Json;
use crate::atomic_file::{self, Readers};
use crate::ban_list::{Bans, Pattern, remove_pattern};

/// Note about a running daemon.
const APPLIED_HINT: &str = "a running daemon applies it within seconds";

/// Adds a pattern to the ban file.
pub(super) fn ban(path: &Path, pattern: &Pattern, json: Json) -> anyhow::Result<()> {
    let text = read(path)?;
    if remove_pattern(&text, pattern).is_some() {
        return json
            .emit(&json!({ "banned": pattern.to_string(), "new": false }), &format!("{pattern} is already banned"));
    }
    let end = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
    write(path, &format!("{text}{end}{pattern}\n"))?;
    json.emit(&json!({ "banned": pattern.to_string(), "new": true }), &format!("banned {pattern}; {APPLIED_HINT}"))
}

/// Removes a pattern from the ban file.
pub(super) fn unban(path: &Path, pattern: &Pattern, json: Json) -> anyhow::Result<()> {
    let remaining = remove_pattern(&read(path)?, pattern)
        .with_context(|| format!("{pattern} is not in {}; the pattern must be one of that file", path.display()))?;
    write(path, &remaining)?;
    json.emit(&json!({ "unbanned": pattern.to_string() }), &format!("{pattern} is no longer banned; {APPLIED_HINT}"))
}

/// Reads and checks the ban file. A missing file is empty.
fn read(path: &Path) -> anyhow::Result<String> {
    let text = match std::fs::read_to_string(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => String::new(),
        read => read.with_context(|| format!("can't read {}; run this as the daemon's user", path.display()))?,
    };
    Bans::parse(&text).with_context(|| format!("{} has an invalid line; correct the file first", path.display()))?;
    Ok(text)
}

/// Replaces the ban file atomically, so that the daemon never reads a partial file.
fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    atomic_file::write(path, text.as_bytes(), Readers::Everyone).with_context(|| {
        format!("can't write {}; run this as the daemon's user, or set its --data-dir", path.display())
    })
}
