//! Settings from flags, environment and file, in that order, and what they come to.
//!
//! No module below knows of this one: each has a settings struct of its own, which is filled here.

mod backend;
mod environment;
mod file;
mod files;
mod human_duration;
mod irc;
mod key_types;
mod limits;
mod listen;
mod log_level;
mod own_address;
mod paths;
mod reference;
mod reload;
mod renamed_keys;
mod resolved;
mod status;
mod tor;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

pub use backend::BackendConfig;
pub use environment::PREFIX;
pub use file::{
    BackendSection, ConfigFile, DiscoverySection, IdentitySection, IrcSection, LimitsSection, ListenSection, LogFormat,
    LogSection, StatusSection, TorSection,
};
pub use human_duration::HumanDuration;
pub use listen::{ListenConfig, ListenKind};
pub use log_level::check as check_log_level;
pub use own_address::reaches;
pub use paths::{DEFAULT_FILE, default_file};
pub use reference::reference;
pub use resolved::Config;
pub use status::PageAddress;
pub use tor::TorConfig;

use paths::UserDirs;

/// What is wrong with the configuration, and where that was said.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("can't read the configuration {}: {error}; {}", path.display(), advice_on_reading(path, error))]
    Unreadable { path: PathBuf, error: std::io::Error },
    #[error("{place}: {reason}")]
    File { place: Origin, reason: String },
    #[error("environment variable {name}: {reason}")]
    Environment { name: String, reason: String },
    #[error("{place}: {wrong}")]
    Value { place: Origin, wrong: InvalidValue },
    /// A file that a key names can't be used.
    #[error(transparent)]
    NamedFile(InvalidValue),
}

fn advice_on_reading(path: &Path, error: &std::io::Error) -> &'static str {
    match (error.kind(), path == Path::new(DEFAULT_FILE)) {
        (std::io::ErrorKind::PermissionDenied, true) => {
            "it is read where no --config is given: use sudo, or name another file with --config (/dev/null for none)"
        }
        (std::io::ErrorKind::PermissionDenied, false) => "use sudo, or name another file with --config",
        (_, true) => "name another file with --config (/dev/null for none)",
        (_, false) => "name another file with --config, or leave it out",
    }
}

/// A key whose value can't be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{key}: {reason}")]
pub struct InvalidValue {
    /// As `discovery.seeds`.
    pub key: &'static str,
    pub reason: String,
}

fn invalid(key: &'static str, reason: String) -> InvalidValue {
    InvalidValue { key, reason }
}

fn in_range<N: PartialOrd + fmt::Display>(
    key: &'static str,
    value: Option<N>,
    default: N,
    range: std::ops::RangeInclusive<N>,
) -> Result<N, InvalidValue> {
    let value = value.unwrap_or(default);
    if range.contains(&value) {
        Ok(value)
    } else {
        Err(invalid(key, format!("must lie between {} and {}", range.start(), range.end())))
    }
}

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    File(PathBuf, Option<usize>),
    Environment(String),
    Flag(&'static str),
    Defaults,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::File(path, Some(line)) => write!(f, "{}, line {line}", path.display()),
            Origin::File(path, None) => write!(f, "{}", path.display()),
            Origin::Environment(name) => write!(f, "environment variable {name}"),
            Origin::Flag(name) => write!(f, "{name}"),
            Origin::Defaults => f.write_str("configuration"),
        }
    }
}

/// Where keys were set, for errors about their values.
struct Origins<'a> {
    file: Option<&'a Path>,
    text: String,
    variables: Vec<(String, String)>,
    flags: BTreeMap<String, toml::Value>,
}

impl Origins<'_> {
    fn of(&self, key: &str) -> Origin {
        let variable = || self.variables.iter().rev().find(|(set, _)| set == key);
        if let Some(flag) = flag_of(key).filter(|_| self.flags.contains_key(key)) {
            Origin::Flag(flag)
        } else if let Some((_, name)) = variable() {
            Origin::Environment(name.clone())
        } else {
            self.in_file(key)
        }
    }

    fn in_file(&self, key: &str) -> Origin {
        match self.file {
            Some(path) => Origin::File(path.to_owned(), key_types::line_of(&self.text, key)),
            None => Origin::Defaults,
        }
    }
}

/// The flag that sets a key.
fn flag_of(key: &str) -> Option<&'static str> {
    Some(match key {
        "network" => "--network",
        "data_dir" => "--data-dir",
        "listen.tcp" => "--listen",
        "tor.socks" | "tor.mode" => "--socks",
        "log.level" => "--log",
        "log.format" => "--log-format",
        _ => return None,
    })
}

/// Reads the file, if there is one, and applies environment and flags on top of it.
pub fn load(
    file: Option<&Path>,
    environment: impl Iterator<Item = (OsString, OsString)>,
    flags: ConfigFile,
) -> Result<Config, ConfigError> {
    let environment: Vec<(OsString, OsString)> = environment.collect();
    let dirs = UserDirs::new(&environment);
    let text = match file {
        Some(path) => {
            std::fs::read_to_string(path).map_err(|error| ConfigError::Unreadable { path: path.to_owned(), error })?
        }
        None => String::new(),
    };
    let mut raw: ConfigFile = toml::from_str(&text).map_err(|error| toml_error(file, &text, &error))?;
    let mut origins = Origins { file, text, variables: Vec::new(), flags: BTreeMap::new() };
    dirs.expand_all(&mut raw).map_err(|wrong| ConfigError::Value { place: origins.in_file(wrong.key), wrong })?;
    paths::join_to_folder(&mut raw, file);
    let mut ignored_variables = Vec::new();
    for (name, value) in environment {
        let Ok(name) = name.into_string() else { continue };
        let Some(key) = name.strip_prefix(PREFIX) else { continue };
        if environment::is_of_kubernetes(&name, &value.to_string_lossy()) {
            ignored_variables.push(name);
            continue;
        }
        let not_text = |_| ConfigError::Environment { name: name.clone(), reason: "its value is no text".to_owned() };
        let value = value.into_string().map_err(not_text)?;
        let key = key.to_ascii_lowercase().replace("__", ".");
        let over = environment::read(&name, &key, &value)
            .map_err(|reason| ConfigError::Environment { name: name.clone(), reason })?;
        raw = raw.merged(over);
        origins.variables.push((key, name));
    }
    // Flags that can't be written as TOML have no part in errors about their values.
    if let Ok(table) = toml::Table::try_from(&flags) {
        reload::flatten(&table, "", &mut origins.flags);
    }
    let mut raw = raw.merged(flags);
    let wrong_value = |wrong: InvalidValue| ConfigError::Value { place: origins.of(wrong.key), wrong };
    dirs.expand_all(&mut raw).map_err(wrong_value)?;
    let shared_data_dir = dirs.set_data_dir(&mut raw);
    let config = Config::resolve(raw).map_err(wrong_value)?;
    Ok(Config { shared_data_dir, ignored_variables, ..config })
}

/// What toml has to say, in one line.
fn toml_error(file: Option<&Path>, text: &str, error: &toml::de::Error) -> ConfigError {
    let before = error.span().and_then(|span| text.get(..span.start));
    let place = match file {
        Some(path) => Origin::File(path.to_owned(), before.map(|before| before.matches('\n').count() + 1)),
        None => Origin::Defaults,
    };
    ConfigError::File { place, reason: key_types::describe(text, error, key_types::as_line) }
}

#[cfg(test)]
mod tests;
