//! `waypost ban` and `waypost unban`: the file that a running daemon reads again when it changes.

use std::io::ErrorKind;
use std::path::Path;

use anyhow::Context;

use crate::bans::{Bans, Pattern, without};

const HEEDED: &str = "a running daemon heeds it within some seconds";

pub fn ban(path: &Path, pattern: &Pattern) -> anyhow::Result<()> {
    let text = read(path)?;
    if without(&text, pattern).is_some() {
        super::print(&format!("{pattern} is banned already"));
        return Ok(());
    }
    let end = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
    write(path, &format!("{text}{end}{pattern}\n"))?;
    super::print(&format!("banned {pattern}; {HEEDED}"));
    Ok(())
}

pub fn unban(path: &Path, pattern: &Pattern) -> anyhow::Result<()> {
    let rest = without(&read(path)?, pattern)
        .with_context(|| format!("{pattern} is not in {}, by that spelling", path.display()))?;
    write(path, &rest)?;
    super::print(&format!("{pattern} is banned no more; {HEEDED}"));
    Ok(())
}

fn read(path: &Path) -> anyhow::Result<String> {
    let text = match std::fs::read_to_string(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => String::new(),
        read => read.with_context(|| format!("can't read {}", path.display()))?,
    };
    Bans::parse(&text).with_context(|| format!("{} has to be mended first", path.display()))?;
    Ok(text)
}

/// The daemon must never see half of it.
fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    let aside = path.with_extension("new");
    std::fs::write(&aside, text)
        .and_then(|()| std::fs::rename(&aside, path))
        .with_context(|| format!("can't write {}", path.display()))
}
