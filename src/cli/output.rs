//! Output of commands: text or JSON on standard output.

use std::io::{self, Write as _};

use anyhow::Context as _;
use clap::Args;
use serde::Serialize;

/// Choice between text and JSON.
#[derive(Debug, Clone, Copy, Args)]
pub(super) struct Json {
    /// Print JSON; contrib/JSON.md documents its fields.
    #[arg(long)]
    pub json: bool,
}

impl Json {
    /// Prints the value as JSON, or the text.
    pub(super) fn emit(self, value: &impl Serialize, text: &str) -> anyhow::Result<()> {
        if self.json { print_json(value) } else { print(text) }
    }
}

/// Prints the value as indented JSON.
pub(super) fn print_json(value: &impl Serialize) -> anyhow::Result<()> {
    print(&serde_json::to_string_pretty(value)?)
}

/// Prints text. A pipe closed by its reader is no error; a full disk is one.
pub(super) fn print(text: &str) -> anyhow::Result<()> {
    let text = text.trim_end_matches('\n');
    match writeln!(io::stdout().lock(), "{text}") {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error).context("can't write to standard output"),
        _ => Ok(()),
    }
}
