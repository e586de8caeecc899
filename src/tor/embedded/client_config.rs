//! What our own Tor is told: our settings, with the operator's laid over them.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use arti_client::TorClientConfig;
use tokio::time::sleep;
use tor_config::sources::MustRead;
use tor_config::{ConfigurationSource, ConfigurationSources};

/// Settings that Arti doesn't take.
#[derive(Debug, thiserror::Error)]
pub enum ArtiConfigError {
    #[error("{0}")]
    Invalid(String),
    #[error("no such setting of Arti's: {}", .0.join(", "))]
    Unknown(Vec<String>),
}

/// Where our own Tor keeps its state: guards, keys. To be kept, and kept to ourselves.
pub fn state_dir(dir: &Path) -> PathBuf {
    dir.join("state")
}

/// Where our own Tor keeps what it downloaded, and may download again.
fn cache_dir(dir: &Path) -> PathBuf {
    dir.join("cache")
}

/// Whether Arti takes these settings.
pub fn check(overrides: &str) -> Result<(), ArtiConfigError> {
    client_config(Path::new("/nowhere"), overrides).map(|_| ())
}

/// The configuration of a client that keeps its files in this directory, with these settings, in TOML, laid over ours.
pub fn client_config(dir: &Path, overrides: &str) -> Result<TorClientConfig, ArtiConfigError> {
    let defaults = toml::toml! {
        [vanguards]
        // We serve an onion service for months, whose guard somebody may want to find out.
        mode = "full"
    };
    let mut sources = ConfigurationSources::new_empty();
    for text in [defaults.to_string(), overrides.to_owned(), directories(dir).to_string()] {
        sources.push_source(ConfigurationSource::from_verbatim(text), MustRead::MustRead);
    }
    let invalid = |error: &dyn std::error::Error| ArtiConfigError::Invalid(error_chain(error));
    let tree = sources.load().map_err(|error| invalid(&error))?;
    let resolved = tor_config::resolve_return_results::<TorClientConfig>(&tree, &Default::default());
    let resolved = resolved.map_err(|error| invalid(&error))?;
    if resolved.unrecognized.is_empty() {
        Ok(resolved.value)
    } else {
        Err(ArtiConfigError::Unknown(resolved.unrecognized.iter().map(ToString::to_string).collect()))
    }
}

/// Waits, for a while at most, until the last client has let go of its state: what it began ends by and by, and the next
/// one could otherwise not write down its guards.
pub async fn wait_for_unlock(dir: &Path) {
    let path = state_dir(dir).join("state/state.lock");
    for _ in 0..100 {
        let Ok(file) = File::open(&path) else { return };
        if file.try_lock().is_ok() {
            return;
        }
        sleep(Duration::from_millis(100)).await;
    }
    tracing::debug!("the Tor before this one still holds its state");
}

/// Formats an error with all its causes, in one line.
pub fn error_chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        // Some errors say their cause themselves.
        if !text.ends_with(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = error.source();
    }
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// These are not the operator's to move: what keeps two daemons apart is the lock next to them. The paths are taken as
/// they are, without Arti's variables.
fn directories(dir: &Path) -> toml::Table {
    let literal = |path: PathBuf| {
        let path = toml::Value::String(path.to_string_lossy().into_owned());
        toml::Value::Table(toml::Table::from_iter([("literal".to_owned(), path)]))
    };
    let storage = toml::Table::from_iter([
        ("state_dir".to_owned(), literal(state_dir(dir))),
        ("cache_dir".to_owned(), literal(cache_dir(dir))),
    ]);
    toml::Table::from_iter([("storage".to_owned(), toml::Value::Table(storage))])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn valid_overrides_are_accepted() {
        assert!(check("").is_ok());
        assert!(check("[vanguards]\nmode = \"lite\"\n[override_net_params]\nhsdir_interval = 120\n").is_ok());
        let bridge = "192.0.2.83:80 0bac39417268b96b9f514ef763fa6fba1a788956";
        assert!(check(&format!("[bridges]\nenabled = true\nbridges = [\"{bridge}\"]\n")).is_ok());
    }

    #[test]
    fn unknown_or_invalid_key_is_named() {
        let error = check("[vangards]\nmode = \"lite\"\n").unwrap_err().to_string();
        assert_eq!(error, "no such setting of Arti's: vangards");
        let error = check("[vanguards]\nmode = \"many\"\n").unwrap_err().to_string();
        assert!(error.contains("vanguards.mode"), "{error}");
        let error = check("vanguards = [").unwrap_err().to_string();
        assert!(!error.is_empty() && !error.contains('\n'), "{error}");
    }

    #[test]
    fn special_characters_in_paths_are_literal() {
        assert!(client_config(Path::new("/a ${b} \"c\""), "").is_ok());
    }
}
