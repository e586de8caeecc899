//! Arti's configuration: Waypost's defaults, with the operator's overrides.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use arti_client::TorClientConfig;
use tokio::time::sleep;
use tor_config::sources::MustRead;
use tor_config::{ConfigurationSource, ConfigurationSources};

/// Error of a configuration that Arti rejects.
#[derive(Debug, thiserror::Error)]
pub enum ArtiConfigError {
    /// Invalid TOML, or an invalid value.
    #[error("{0}")]
    Invalid(String),
    /// Keys that Arti does not know.
    #[error("unknown Arti settings: {}", .0.join(", "))]
    Unknown(Vec<String>),
}

/// Returns the directory of guards and keys, which must be kept and private.
pub(super) fn state_dir(dir: &Path) -> PathBuf {
    dir.join("state")
}

/// Returns the directory of downloads, which can be downloaded again.
fn cache_dir(dir: &Path) -> PathBuf {
    dir.join("cache")
}

/// Checks whether Arti accepts these overrides.
pub fn check(overrides: &str) -> Result<(), ArtiConfigError> {
    client_config(Path::new("/nowhere"), overrides, None).map(|_| ())
}

/// Builds the configuration of a client in this directory, with overrides in TOML.
///
/// Keys for onion services are read from `keys_dir`, in C tor's files.
pub(super) fn client_config(
    dir: &Path,
    overrides: &str,
    keys_dir: Option<&Path>,
) -> Result<TorClientConfig, ArtiConfigError> {
    let defaults = toml::toml! {
        [vanguards]
        // An onion service that runs for months needs protection against guard discovery.
        mode = "full"
    };
    let mut sources = ConfigurationSources::new_empty();
    for text in [defaults.to_string(), overrides.to_owned(), directories(dir, keys_dir).to_string()] {
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

/// Waits up to ten seconds until the previous client has released its state.
///
/// Its tasks end with a delay, and the next client could not store its guards until then.
pub(super) async fn wait_for_unlock(dir: &Path) {
    let path = state_dir(dir).join("state/state.lock");
    for _ in 0..100 {
        let Ok(file) = File::open(&path) else { return };
        if file.try_lock().is_ok() {
            return;
        }
        sleep(Duration::from_millis(100)).await;
    }
    tracing::debug!("the previous client still holds its state");
}

/// Formats an error with all its causes, in one line.
pub(super) fn error_chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        // Some errors include their cause.
        if !text.ends_with(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = error.source();
    }
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Sets the directories, which operators cannot override: the lock protects this path.
///
/// Paths are literal, without Arti's variables.
fn directories(dir: &Path, keys_dir: Option<&Path>) -> toml::Table {
    let literal = |path: PathBuf| {
        let path = toml::Value::String(path.to_string_lossy().into_owned());
        toml::Value::Table(toml::Table::from_iter([("literal".to_owned(), path)]))
    };
    let mut storage = toml::Table::from_iter([
        ("state_dir".to_owned(), literal(state_dir(dir))),
        ("cache_dir".to_owned(), literal(cache_dir(dir))),
    ]);
    if let Some(path) = keys_dir {
        let path = path.to_string_lossy().into_owned();
        let keystore = toml::toml! {
            [[ctor.clients]]
            id = "waypost"
            path = path
        };
        storage.insert("keystore".to_owned(), toml::Value::Table(keystore));
    }
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
        assert_eq!(error, "unknown Arti settings: vangards");
        let error = check("[vanguards]\nmode = \"many\"\n").unwrap_err().to_string();
        assert!(error.contains("vanguards.mode"), "{error}");
        let error = check("vanguards = [").unwrap_err().to_string();
        assert!(!error.is_empty() && !error.contains('\n'), "{error}");
    }

    #[test]
    fn special_characters_in_paths_are_literal() {
        let path = Path::new("/a ${b} \"c\"");
        assert!(client_config(path, "", Some(path)).is_ok());
    }
}
