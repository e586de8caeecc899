//! Settings from flags, environment and file, in that order, and what they come to.
//!
//! No module below knows of this one: each has a settings struct of its own, which is filled here.

mod backend;
mod irc;
mod limits;
mod listen;
mod period;
mod raw;
mod reload;
mod resolved;
mod status;
mod tor;

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

pub use backend::Fronted;
pub use listen::{ListenKind, Listening};
pub use period::Period;
pub use raw::{BackendKeys, Discovery, IdentityKeys, IrcKeys, LimitKeys, Listen, Log, LogFormat, Raw, StatusKeys, Tor};
pub use resolved::Config;
pub use status::PageAddress;
pub use tor::TorPlan;

/// Prefix of the environment variables that set a key: `WAYPOST_TOR__MODE` is `tor.mode`.
pub const PREFIX: &str = "WAYPOST_";

/// What is wrong with the configuration, and where that was said.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("can't read the configuration {}: {error}; --config names another, and none is needed", path.display())]
    Unreadable { path: PathBuf, error: std::io::Error },
    #[error("{place}: {why}")]
    File { place: Place, why: String },
    #[error("environment variable {name}: {why}")]
    Environment { name: String, why: String },
    #[error("{place}: {wrong}")]
    Value { place: Place, wrong: Wrong },
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
    FlagsOrDefaults,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::File(path, Some(line)) => write!(f, "{}, line {line}", path.display()),
            Place::File(path, None) => write!(f, "{}", path.display()),
            Place::Environment(name) => write!(f, "environment variable {name}"),
            Place::FlagsOrDefaults => f.write_str("configuration"),
        }
    }
}

/// Reads the file, if there is one, and lays environment and flags over it.
pub fn load(
    file: Option<&Path>,
    environment: impl Iterator<Item = (OsString, OsString)>,
    flags: Raw,
) -> Result<Config, ConfigError> {
    let text = match file {
        Some(path) => {
            std::fs::read_to_string(path).map_err(|error| ConfigError::Unreadable { path: path.to_owned(), error })?
        }
        None => String::new(),
    };
    let from_file: Raw = toml::from_str(&text).map_err(|error| not_read(file, &text, &error))?;
    let mut raw = from_file;
    // What a file names lies beside it.
    let named = [&mut raw.tor.arti, &mut raw.listen.cert, &mut raw.listen.key, &mut raw.discovery.ban_file];
    for (path, folder) in named.into_iter().flatten().zip(file.and_then(Path::parent).into_iter().cycle()) {
        *path = folder.join(&*path);
    }
    let mut set_by_environment = Vec::new();
    for (name, value) in environment {
        let Ok(name) = name.into_string() else { continue };
        if let Some(key) = name.strip_prefix(PREFIX) {
            let not_text = |_| ConfigError::Environment { name: name.clone(), why: "its value is no text".to_owned() };
            let value = value.into_string().map_err(not_text)?;
            let key = key.to_ascii_lowercase().replace("__", ".");
            let over =
                from_environment(&key, &value).map_err(|why| ConfigError::Environment { name: name.clone(), why })?;
            raw = raw.overlaid(over);
            set_by_environment.push((key, name));
        }
    }
    Config::resolve(raw.overlaid(flags)).map_err(|wrong| {
        let by_environment = set_by_environment.into_iter().find(|(key, _)| *key == wrong.key);
        let place = match (by_environment, file) {
            (Some((_, name)), _) => Place::Environment(name),
            (None, Some(path)) => Place::File(path.to_owned(), line_of(&text, wrong.key)),
            (None, None) => Place::FlagsOrDefaults,
        };
        ConfigError::Value { place, wrong }
    })
}

/// What toml has to say, in one line. Its own account shows the line that is wrong, with whatever secret stands there.
fn not_read(file: Option<&Path>, text: &str, error: &toml::de::Error) -> ConfigError {
    let why = error.message().lines().collect::<Vec<_>>().join(", ");
    let before = error.span().and_then(|span| text.get(..span.start));
    let key = before.and_then(|before| before.lines().next_back()?.trim().strip_suffix('=')).map(str::trim);
    let place = match file {
        Some(path) => Place::File(path.to_owned(), before.map(|before| before.matches('\n').count() + 1)),
        None => Place::FlagsOrDefaults,
    };
    ConfigError::File { place, why: key.map_or(why.clone(), |key| format!("{key}: {why}")) }
}

/// A single key as if it stood in a file. Its value may be written as TOML, or as bare text.
fn from_environment(key: &str, value: &str) -> Result<Raw, String> {
    let known =
        key.split('.').all(|part| !part.is_empty() && part.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'));
    if !known {
        return Err("no key has such a name".to_owned());
    }
    let read = |value: &str| toml::from_str::<Raw>(&format!("{key} = {value}"));
    let is_toml = toml::from_str::<toml::Table>(&format!("value = {value}")).is_ok();
    let quoted = toml::Value::String(value.to_owned()).to_string();
    match read(value) {
        Ok(raw) => Ok(raw),
        // A bare number may still be meant as a text, a list hardly.
        Err(error) if is_toml && value.starts_with(['[', '{', '"']) => Err(error),
        Err(_) => read(&quoted),
    }
    .map_err(|error| error.message().to_owned())
}

/// The line on which a key's value begins.
fn line_of(text: &str, key: &str) -> Option<usize> {
    let document = toml::de::DeTable::parse(text).ok()?;
    let mut parts = key.split('.');
    let mut value = document.get_ref().get(parts.next()?)?;
    for part in parts {
        value = value.get_ref().as_table()?.get(part)?;
    }
    let before = text.get(..value.span().start)?;
    Some(before.matches('\n').count() + 1)
}

#[cfg(test)]
mod tests;
