//! Output of the commands: text or JSON on standard output.

use std::io::{self, Write as _};

use anyhow::Context as _;
use clap::Args;
use serde::Serialize;

/// Output format of a command, for programs that read it.
#[derive(Debug, Clone, Copy, Args)]
pub struct Json {
    /// Print JSON; contrib/JSON.md documents its fields.
    #[arg(long)]
    pub json: bool,
}

impl Json {
    /// Prints the value as JSON, or the text.
    pub fn emit(self, value: &impl Serialize, text: &str) -> anyhow::Result<()> {
        if self.json { print_json(value) } else { print(text) }
    }
}

/// Prints the value as indented JSON.
pub fn print_json(value: &impl Serialize) -> anyhow::Result<()> {
    print(&serde_json::to_string_pretty(value)?)
}

/// Prints text. A reader that closed the pipe, as `head` does, is no error; a full disk is one.
pub fn print(text: &str) -> anyhow::Result<()> {
    let text = text.trim_end_matches('\n');
    match writeln!(io::stdout().lock(), "{text}") {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error).context("can't write the answer"),
        _ => Ok(()),
    }
}
