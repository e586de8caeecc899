//! `waypost onion-address`: the onion address, and its key: a new one, export and import.

use std::path::{Path, PathBuf};

use clap::Args;

use super::output::Json;

/// Arguments of `waypost onion-address`.
#[derive(Debug, Args)]
pub(super) struct OnionArgs {
    /// Import the key of a C tor service (its HiddenServiceDir, or the file hs_ed25519_secret_key in it), or of another
    /// Waypost (its data directory).
    #[arg(long, value_name = "PATH", group = "change")]
    import: Option<PathBuf>,
    /// Create a key, for a new address.
    #[arg(long, group = "change")]
    new: bool,
    /// Write the key to a new directory in the format of C tor: a HiddenServiceDir.
    #[arg(long, value_name = "DIR", conflicts_with = "change")]
    export: Option<PathBuf>,
    /// With --import or --new: discard the existing key and its address.
    #[arg(long, requires = "change")]
    replace: bool,
    #[command(flatten)]
    json: Json,
}

impl OnionArgs {
    /// Returns whether only the address is queried.
    pub(super) fn is_query(&self) -> bool {
        self.import.is_none() && self.export.is_none() && !self.new
    }
}

/// Prints the onion address, after a change or an export of its key.
///
/// `daemon_onion` is the address that a running daemon reports. Without it, the key in `state_dir` of the embedded Tor
/// determines the address.
pub(super) fn run(args: &OnionArgs, daemon_onion: Option<&str>, state_dir: &Path) -> anyhow::Result<()> {
    match daemon_onion {
        Some(onion) => print_address(args, onion),
        None => from_state_dir(args, state_dir),
    }
}

/// Prints an address whose key was not changed.
fn print_address(args: &OnionArgs, onion: &str) -> anyhow::Result<()> {
    args.json.emit(&result(onion, Action::None), onion)
}

/// What a command did with the key.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Action {
    None,
    Created,
    Imported,
    Exported,
}

fn result(onion: &str, action: Action) -> serde_json::Value {
    serde_json::json!({
        "onion_address": onion,
        "created": action == Action::Created,
        "imported": action == Action::Imported,
        "exported": action == Action::Exported,
    })
}

/// Reads, creates, imports or exports the key in the state directory, and prints its address.
#[cfg(feature = "embedded-tor")]
fn from_state_dir(args: &OnionArgs, state_dir: &Path) -> anyhow::Result<()> {
    use crate::tor;

    let existing = if args.replace { tor::ExistingKey::Replace } else { tor::ExistingKey::Keep };
    let (onion, action, note) = if let Some(from) = &args.import {
        let note =
            "imported; remove the service from the other Tor before `waypost run`, since only one may run an address";
        (tor::import(state_dir, from, existing)?, Action::Imported, note)
    } else if args.new {
        (tor::generate(state_dir, existing)?, Action::Created, "created; the next `waypost run` uses it")
    } else if let Some(to) = &args.export {
        let note = "exported; anyone with the directory can run the address, and only one Tor may do so at a time";
        (tor::export(state_dir, to)?, Action::Exported, note)
    } else {
        let Some(onion) = tor::onion_address(state_dir)? else {
            anyhow::bail!(
                "no onion address yet: `waypost run` with the embedded Tor creates one, so does --new, and --import takes one from C tor"
            );
        };
        return print_address(args, &onion.to_string());
    };
    let onion = onion.to_string();
    args.json.emit(&result(&onion, action), &format!("{onion}\n{note}"))
}

/// Fails, since this build has no embedded Tor.
#[cfg(not(feature = "embedded-tor"))]
fn from_state_dir(_args: &OnionArgs, _state_dir: &Path) -> anyhow::Result<()> {
    anyhow::bail!(
        "this build has no embedded Tor; the onion address is in the file hostname in the HiddenServiceDir of the external Tor"
    )
}
