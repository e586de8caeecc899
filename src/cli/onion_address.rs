//! `waypost onion-address`: the name that we have on Tor, and how to bring one along.

use std::path::{Path, PathBuf};

use clap::Args;

use super::output::Json;

#[derive(Debug, Args)]
pub struct OnionArgs {
    /// Bring a service's key from C tor: its HiddenServiceDir, or the hs_ed25519_secret_key in it.
    #[arg(long, value_name = "PATH")]
    import: Option<PathBuf>,
    /// Give up the key that is there already, and its address.
    #[arg(long, requires = "import")]
    replace: bool,
    #[command(flatten)]
    json: Json,
}

impl OnionArgs {
    /// Whether the address is asked for, and none brought along.
    pub fn is_query(&self) -> bool {
        self.import.is_none()
    }
}

/// Prints the address that a running daemon `told` us of, or else that which belongs to the key below an embedded Tor's
/// `state_dir`; or that of a key which is imported.
pub fn run(args: &OnionArgs, told: Option<&str>, state_dir: &Path) -> anyhow::Result<()> {
    match told {
        Some(onion) => print_address(args, onion),
        None => look(args, state_dir),
    }
}

fn print_address(args: &OnionArgs, onion: &str) -> anyhow::Result<()> {
    args.json.emit(&serde_json::json!({ "onion_address": onion, "imported": false }), onion)
}

#[cfg(feature = "embedded-tor")]
fn look(args: &OnionArgs, state_dir: &Path) -> anyhow::Result<()> {
    use crate::tor;

    match &args.import {
        None => {
            let Some(onion) = tor::onion_address(state_dir)? else {
                anyhow::bail!(
                    "there is no onion address yet: the first `waypost run` with the embedded Tor makes one, or --import brings that of another Tor"
                );
            };
            print_address(args, &onion.to_string())
        }
        Some(from) => {
            let existing = if args.replace { tor::ExistingKey::Replace } else { tor::ExistingKey::Keep };
            let onion = tor::import(state_dir, from, existing)?;
            let value = serde_json::json!({ "onion_address": onion.to_string(), "imported": true });
            let words = format!(
                "{onion}\nimported; take the service out of the other Tor before `waypost run`, as only one may serve a name"
            );
            args.json.emit(&value, &words)
        }
    }
}

/// Says why there is no address.
#[cfg(not(feature = "embedded-tor"))]
fn look(_args: &OnionArgs, _state_dir: &Path) -> anyhow::Result<()> {
    anyhow::bail!(
        "this build has no embedded Tor; the onion address is in the file hostname in the HiddenServiceDir of the external Tor"
    )
}
