//! Result of one check.

use serde::Serialize;

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Nothing is wrong.
    Ok,
    /// The node works, but not as well as it could, or something could not be checked.
    Warning,
    /// Clients or peers are affected.
    Failure,
}

/// Subject of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Subject {
    /// Configuration and the files that it names.
    Configuration,
    /// Data directory and its files.
    Files,
    /// Clock of the machine.
    Clock,
    /// Free space of the data directory's file system.
    Disk,
    /// Limit of open files.
    Descriptors,
    /// Running daemon.
    Daemon,
    /// Certificate of the TLS listeners.
    Certificate,
    /// Tor in use.
    Tor,
    /// Own onion name.
    OnionName,
    /// Own clearnet name.
    ClearnetName,
    /// Peers that list an own name.
    Listings,
    /// Servers behind Waypost.
    Backend,
}

impl Subject {
    /// Returns the name for operators.
    pub fn name(self) -> &'static str {
        match self {
            Subject::Configuration => "configuration",
            Subject::Files => "files",
            Subject::Clock => "clock",
            Subject::Disk => "disk",
            Subject::Descriptors => "descriptors",
            Subject::Daemon => "daemon",
            Subject::Certificate => "certificate",
            Subject::Tor => "tor",
            Subject::OnionName => "onion name",
            Subject::ClearnetName => "clearnet name",
            Subject::Listings => "listings",
            Subject::Backend => "backend",
        }
    }
}

/// Result of one check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was checked.
    pub subject: Subject,
    /// How bad it is.
    pub level: Level,
    /// What was found.
    pub text: String,
    /// What to do; `None` if nothing needs to be done.
    pub advice: Option<String>,
}

impl Finding {
    /// Creates a finding that needs no action.
    pub fn ok(subject: Subject, text: impl Into<String>) -> Finding {
        Finding { subject, level: Level::Ok, text: text.into(), advice: None }
    }

    /// Creates a warning with advice.
    pub fn warning(subject: Subject, text: impl Into<String>, advice: impl Into<String>) -> Finding {
        Finding { subject, level: Level::Warning, text: text.into(), advice: Some(advice.into()) }
    }

    /// Creates a failure with advice.
    pub fn failure(subject: Subject, text: impl Into<String>, advice: impl Into<String>) -> Finding {
        Finding { subject, level: Level::Failure, text: text.into(), advice: Some(advice.into()) }
    }
}
