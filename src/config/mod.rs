//! Settings from flags, environment and file, in that order, and what they come to.
//!
//! No module below knows of this one: each has a settings struct of its own, which is filled here.

mod backend;
mod environment;
mod files;
mod forms;
mod irc;
mod limits;
mod listen;
mod log_level;
mod own_address;
mod paths;
mod period;
mod raw;
mod reload;
mod resolved;
mod status;
mod tor;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

pub use backend::Fronted;
pub use environment::PREFIX;
pub use listen::{ListenKind, Listening};
pub use log_level::check as check_log_level;
pub use own_address::reaches;
pub use paths::{DEFAULT_FILE, default_file};
pub use period::Period;
pub use raw::{BackendKeys, Discovery, IdentityKeys, IrcKeys, LimitKeys, Listen, Log, LogFormat, Raw, StatusKeys, Tor};
pub use resolved::Config;
pub use status::PageAddress;
pub use tor::TorPlan;

use paths::UserDirs;

/// What is wrong with the configuration, and where that was said.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("can't read the configuration {}: {error}; {}", path.display(), advice_on_reading(path, error))]
    Unreadable { path: PathBuf, error: std::io::Error },
    #[error("{place}: {why}")]
    File { place: Place, why: String },
    #[error("environment variable {name}: {why}")]
    Environment { name: String, why: String },
    #[error("{place}: {wrong}")]
    Value { place: Place, wrong: Wrong },
    /// A file that a key names can't be used.
    #[error(transparent)]
    NamedFile(Wrong),
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
#[error("{key}: {why}")]
pub struct Wrong {
    /// As `discovery.seeds`.
    pub key: &'static str,
    pub why: String,
}

fn wrong(key: &'static str, why: String) -> Wrong {
    Wrong { key, why }
}

fn within<N: PartialOrd + fmt::Display>(
    key: &'static str,
    value: Option<N>,
    default: N,
    range: std::ops::RangeInclusive<N>,
) -> Result<N, Wrong> {
    let value = value.unwrap_or(default);
    if range.contains(&value) {
        Ok(value)
    } else {
        Err(wrong(key, format!("must lie between {} and {}", range.start(), range.end())))
    }
}

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    File(PathBuf, Option<usize>),
    Environment(String),
    Flag(&'static str),
    Defaults,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::File(path, Some(line)) => write!(f, "{}, line {line}", path.display()),
            Place::File(path, None) => write!(f, "{}", path.display()),
            Place::Environment(name) => write!(f, "environment variable {name}"),
            Place::Flag(name) => write!(f, "{name}"),
            Place::Defaults => f.write_str("configuration"),
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
    fn of(&self, key: &str) -> Place {
        let variable = || self.variables.iter().rev().find(|(set, _)| set == key);
        if let Some(flag) = flag_of(key).filter(|_| self.flags.contains_key(key)) {
            Place::Flag(flag)
        } else if let Some((_, name)) = variable() {
            Place::Environment(name.clone())
        } else {
            self.in_file(key)
        }
    }

    fn in_file(&self, key: &str) -> Place {
        match self.file {
            Some(path) => Place::File(path.to_owned(), forms::line_of(&self.text, key)),
            None => Place::Defaults,
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
    flags: Raw,
) -> Result<Config, ConfigError> {
    let environment: Vec<(OsString, OsString)> = environment.collect();
    let dirs = UserDirs::new(&environment);
    let text = match file {
        Some(path) => {
            std::fs::read_to_string(path).map_err(|error| ConfigError::Unreadable { path: path.to_owned(), error })?
        }
        None => String::new(),
    };
    let mut raw: Raw = toml::from_str(&text).map_err(|error| not_read(file, &text, &error))?;
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
        let not_text = |_| ConfigError::Environment { name: name.clone(), why: "its value is no text".to_owned() };
        let value = value.into_string().map_err(not_text)?;
        let key = key.to_ascii_lowercase().replace("__", ".");
        let over = environment::read(&name, &key, &value)
            .map_err(|why| ConfigError::Environment { name: name.clone(), why })?;
        raw = raw.overlaid(over);
        origins.variables.push((key, name));
    }
    // Flags that can't be written as TOML have no part in errors about their values.
    if let Ok(table) = toml::Table::try_from(&flags) {
        reload::flatten(&table, "", &mut origins.flags);
    }
    let mut raw = raw.overlaid(flags);
    let wrong_value = |wrong: Wrong| ConfigError::Value { place: origins.of(wrong.key), wrong };
    dirs.expand_all(&mut raw).map_err(wrong_value)?;
    let shared_data_dir = dirs.set_data_dir(&mut raw);
    let config = Config::resolve(raw).map_err(wrong_value)?;
    Ok(Config { shared_data_dir, ignored_variables, ..config })
}

/// What toml has to say, in one line.
fn not_read(file: Option<&Path>, text: &str, error: &toml::de::Error) -> ConfigError {
    let before = error.span().and_then(|span| text.get(..span.start));
    let place = match file {
        Some(path) => Place::File(path.to_owned(), before.map(|before| before.matches('\n').count() + 1)),
        None => Place::Defaults,
    };
    ConfigError::File { place, why: forms::describe(text, error, forms::as_line) }
}

#[cfg(test)]
mod tests;
