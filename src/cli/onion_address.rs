//! `waypost onion-address`: the onion address, and the import of a key.

use std::path::{Path, PathBuf};

use clap::Args;

use super::output::Json;

/// Arguments of `waypost onion-address`.
#[derive(Debug, Args)]
pub(super) struct OnionArgs {
    /// Import the key of a C tor service: its HiddenServiceDir, or the file hs_ed25519_secret_key in it.
    #[arg(long, value_name = "PATH")]
    import: Option<PathBuf>,
    /// Discard the existing key and its address.
    #[arg(long, requires = "import")]
    replace: bool,
    #[command(flatten)]
    json: Json,
}

impl OnionArgs {
    /// Returns whether the address is queried, not imported.
    pub(super) fn is_query(&self) -> bool {
        self.import.is_none()
    }
}

/// Prints the onion address, or imports a key and prints its address.
///
/// `daemon_onion` is the address that a running daemon reports. Without it, the key in `state_dir` of the embedded Tor
/// determines the address.
pub(super) fn run(args: &OnionArgs, daemon_onion: Option<&str>, state_dir: &Path) -> anyhow::Result<()> {
    match daemon_onion {
        Some(onion) => print_address(args, onion),
        None => from_state_dir(args, state_dir),
    }
}

/// Prints an address that was not imported.
fn print_address(args: &OnionArgs, onion: &str) -> anyhow::Result<()> {
    args.json.emit(&serde_json::json!({ "onion_address": onion, "imported": false }), onion)
}

/// Reads or imports the key in the state directory, and prints its address.
#[cfg(feature = "embedded-tor")]
fn from_state_dir(args: &OnionArgs, state_dir: &Path) -> anyhow::Result<()> {
    use crate::tor;

    match &args.import {
        None => {
            let Some(onion) = tor::onion_address(state_dir)? else {
                anyhow::bail!(
                    "no onion address yet: `waypost run` with the embedded Tor creates one, and --import takes one from C tor"
                );
            };
            print_address(args, &onion.to_string())
        }
        Some(from) => {
            let existing = if args.replace { tor::ExistingKey::Replace } else { tor::ExistingKey::Keep };
            let onion = tor::import(state_dir, from, existing)?;
            let value = serde_json::json!({ "onion_address": onion.to_string(), "imported": true });
            let text = format!(
                "{onion}\nimported; remove the service from the other Tor before `waypost run`, since only one may run an address"
            );
            args.json.emit(&value, &text)
        }
    }
}

/// Fails, since this build has no embedded Tor.
#[cfg(not(feature = "embedded-tor"))]
fn from_state_dir(_args: &OnionArgs, _state_dir: &Path) -> anyhow::Result<()> {
    anyhow::bail!(
        "this build has no embedded Tor; the onion address is in the file hostname in the HiddenServiceDir of the external Tor"
    )
}
