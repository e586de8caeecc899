//! `waypost ban` and `waypost unban`: the file that a running daemon reads again when it changes.

use std::io::ErrorKind;
use std::path::Path;

use anyhow::Context;
use serde_json::json;

use super::output::Json;
use crate::atomic_file::{self, Readers};
use crate::ban_list::{Bans, Pattern, remove_pattern};

const APPLIED_HINT: &str = "a running daemon heeds it within some seconds";

pub fn ban(path: &Path, pattern: &Pattern, json: Json) -> anyhow::Result<()> {
    let text = read(path)?;
    if remove_pattern(&text, pattern).is_some() {
        return json
            .emit(&json!({ "banned": pattern.to_string(), "new": false }), &format!("{pattern} is banned already"));
    }
    let end = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
    write(path, &format!("{text}{end}{pattern}\n"))?;
    json.emit(&json!({ "banned": pattern.to_string(), "new": true }), &format!("banned {pattern}; {APPLIED_HINT}"))
}

pub fn unban(path: &Path, pattern: &Pattern, json: Json) -> anyhow::Result<()> {
    let rest = remove_pattern(&read(path)?, pattern)
        .with_context(|| format!("{pattern} is not in {}; look there for how it was banned", path.display()))?;
    write(path, &rest)?;
    json.emit(&json!({ "unbanned": pattern.to_string() }), &format!("{pattern} is banned no more; {APPLIED_HINT}"))
}

fn read(path: &Path) -> anyhow::Result<String> {
    let text = match std::fs::read_to_string(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => String::new(),
        read => read.with_context(|| format!("can't read {}; run this as the daemon's user", path.display()))?,
    };
    Bans::parse(&text).with_context(|| format!("{} must be fixed first; it is a text file", path.display()))?;
    Ok(text)
}

/// The daemon must never see half of it.
fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    atomic_file::write(path, text.as_bytes(), Readers::Everyone).with_context(|| {
        format!("can't write {}; run this as the daemon's user, or name its --data-dir", path.display())
    })
}
