//! Configuration from flags, environment and file, in that order of precedence.
//!
//! No lower module imports this one. Each has its own configuration struct, which is filled here.

mod backend;
mod chain;
mod environment;
mod file;
mod files;
mod human_duration;
mod identity;
mod irc;
mod key_types;
mod limits;
mod listen;
mod log_level;
mod networks;
mod onion;
mod own_address;
mod paths;
mod port_list;
mod reference;
mod reload;
mod renamed_keys;
mod resolved;
mod socks;
mod status;
mod tor;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

pub use backend::BackendConfig;
pub use chain::WorkCheck;
pub use environment::PREFIX;
pub use file::{
    BackendSection, ChainSection, ConfigFile, DiscoverySection, IdentitySection, IrcSection, LimitsSection,
    ListenSection, LogFormat, LogSection, StatusSection, TorSection,
};
pub use human_duration::HumanDuration;
pub use listen::{ListenConfig, ListenKind};
pub use log_level::check as check_log_level;
pub use own_address::{local_addresses, reaches};
pub use paths::{DEFAULT_FILE, default_file};
pub use port_list::PortList;
pub use reference::reference;
pub use resolved::Config;
pub use status::{PageAddress, PageAddresses};
pub use tor::TorConfig;

use paths::UserDirs;

/// Error in the configuration, with its origin.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file can't be read.
    #[error("can't read the configuration {}: {error}; {}", path.display(), read_advice(path, error))]
    Unreadable {
        /// File that was read.
        path: PathBuf,
        /// Cause.
        error: std::io::Error,
    },
    /// The file is not valid TOML, or has an unknown key or a value of the wrong type.
    #[error("{origin}: {reason}")]
    File {
        /// File and line.
        origin: Origin,
        /// Cause and advice.
        reason: String,
    },
    /// An environment variable has an unknown key or a value of the wrong type.
    #[error("environment variable {name}: {reason}")]
    Environment {
        /// Name of the variable.
        name: String,
        /// Cause and advice.
        reason: String,
    },
    /// A value is not allowed.
    #[error("{origin}: {error}")]
    Value {
        /// Place where the key is set.
        origin: Origin,
        /// Key and cause.
        error: InvalidValue,
    },
    /// A file or local address that a key names is unusable.
    #[error(transparent)]
    NamedFile(InvalidValue),
}

/// Returns advice for a file that can't be read.
fn read_advice(path: &Path, error: &std::io::Error) -> &'static str {
    match (error.kind(), path == Path::new(DEFAULT_FILE)) {
        (std::io::ErrorKind::PermissionDenied, true) => {
            "commands without --config read it: use sudo, or name another file with --config (/dev/null for none)"
        }
        (std::io::ErrorKind::PermissionDenied, false) => "use sudo, or name another file with --config",
        (_, true) => "name another file with --config (/dev/null for none)",
        (_, false) => "name another file with --config, or omit --config",
    }
}

/// Key with an invalid value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{key}: {reason}")]
pub struct InvalidValue {
    /// Dotted key, such as `discovery.seeds`.
    pub key: &'static str,
    /// Cause and advice.
    pub reason: String,
}

fn invalid(key: &'static str, reason: String) -> InvalidValue {
    InvalidValue { key, reason }
}

/// Fills in the default if the key is not set, and checks the range.
fn in_range<N: PartialOrd + fmt::Display + Copy>(
    key: &'static str,
    value: &mut Option<N>,
    default: N,
    range: RangeInclusive<N>,
) -> Result<N, InvalidValue> {
    let value = *value.get_or_insert(default);
    if range.contains(&value) {
        Ok(value)
    } else {
        Err(invalid(key, format!("must be between {} and {}", range.start(), range.end())))
    }
}

/// Place where a value is set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// File, and the line if it is known.
    File(PathBuf, Option<usize>),
    /// Environment variable.
    Environment(String),
    /// Flag of the command line.
    Flag(&'static str),
    /// Nowhere: a default.
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

/// Places where keys are set, for errors about their values.
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

/// Returns the flag that sets a key.
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

/// Reads the file, if any, and overrides it with the environment and the flags.
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
    dirs.expand_all(&mut raw).map_err(|error| ConfigError::Value { origin: origins.in_file(error.key), error })?;
    paths::join_to_folder(&mut raw, file);
    let mut ignored_variables = Vec::new();
    for (name, value) in environment {
        let Ok(name) = name.into_string() else { continue };
        let Some(key) = name.strip_prefix(PREFIX) else { continue };
        if environment::is_of_kubernetes(&name, &value.to_string_lossy()) {
            ignored_variables.push(name);
            continue;
        }
        let not_text = |_| ConfigError::Environment { name: name.clone(), reason: "the value is not UTF-8".to_owned() };
        let value = value.into_string().map_err(not_text)?;
        let key = key.to_ascii_lowercase().replace("__", ".");
        let over = environment::read(&name, &key, &value)
            .map_err(|reason| ConfigError::Environment { name: name.clone(), reason })?;
        raw = raw.merged(over);
        origins.variables.push((key, name));
    }
    // Flags that TOML can't represent are not named in errors.
    if let Ok(table) = toml::Table::try_from(&flags) {
        reload::flatten(&table, "", &mut origins.flags);
    }
    let mut raw = raw.merged(flags);
    let invalid_value = |error: InvalidValue| ConfigError::Value { origin: origins.of(error.key), error };
    dirs.expand_all(&mut raw).map_err(invalid_value)?;
    let shared_data_dir = dirs.set_data_dir(&mut raw);
    let config = Config::resolve(raw).map_err(invalid_value)?;
    Ok(Config { shared_data_dir, ignored_variables, ..config })
}

/// Converts a TOML error to one line with its place.
fn toml_error(file: Option<&Path>, text: &str, error: &toml::de::Error) -> ConfigError {
    let before = error.span().and_then(|span| text.get(..span.start));
    let origin = match file {
        Some(path) => Origin::File(path.to_owned(), before.map(|before| before.matches('\n').count() + 1)),
        None => Origin::Defaults,
    };
    ConfigError::File { origin, reason: key_types::describe(text, error, key_types::as_line) }
}

#[cfg(test)]
mod tests;
