//! Address of the backend in the configuration.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::peer::{Endpoint, Host};

/// The backend: one server, or the verified peers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum BackendTarget {
    /// The operator's Electrum server.
    Server(UpstreamAddr),
    /// The best of the verified peers.
    Peers,
}

/// Address of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UpstreamAddr {
    /// Plain TCP.
    Tcp(Endpoint),
    /// TLS over TCP.
    Tls(Endpoint),
    /// A Unix socket.
    Unix(PathBuf),
}

/// Error of an address that can't be parsed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected tcp://HOST:PORT, tls://HOST:PORT, unix:PATH or peers")]
pub struct AddressError;

impl FromStr for BackendTarget {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<BackendTarget, AddressError> {
        if text == "peers" { Ok(BackendTarget::Peers) } else { text.parse().map(BackendTarget::Server) }
    }
}

impl TryFrom<String> for BackendTarget {
    type Error = AddressError;

    fn try_from(text: String) -> Result<BackendTarget, AddressError> {
        text.parse()
    }
}

impl From<BackendTarget> for String {
    fn from(target: BackendTarget) -> String {
        match target {
            BackendTarget::Server(address) => address.to_string(),
            BackendTarget::Peers => "peers".to_owned(),
        }
    }
}

impl FromStr for UpstreamAddr {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<UpstreamAddr, AddressError> {
        if let Some(path) = text.strip_prefix("unix:").filter(|path| !path.is_empty()) {
            return Ok(UpstreamAddr::Unix(path.into()));
        }
        let (kind, rest) = text.split_once("://").ok_or(AddressError)?;
        let endpoint: Endpoint = rest.parse().map_err(|_| AddressError)?;
        match (kind, &endpoint.host) {
            (_, Host::Onion(_)) => Err(AddressError),
            ("tcp", _) => Ok(UpstreamAddr::Tcp(endpoint)),
            ("tls" | "ssl", _) => Ok(UpstreamAddr::Tls(endpoint)),
            _ => Err(AddressError),
        }
    }
}

impl fmt::Display for UpstreamAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            UpstreamAddr::Unix(path) => write!(f, "unix:{}", path.display()),
            UpstreamAddr::Tcp(endpoint) => write!(f, "tcp://{endpoint}"),
            UpstreamAddr::Tls(endpoint) => write!(f, "tls://{endpoint}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn address_round_trips_and_invalid_ones_are_rejected() {
        for text in
            ["tcp://127.0.0.1:50001", "tls://electrs.example:50002", "tcp://[::1]:50001", "unix:/run/electrs", "peers"]
        {
            assert_eq!(String::from(text.parse::<BackendTarget>().unwrap()), text);
        }
        assert_eq!("ssl://a.example:1".parse::<UpstreamAddr>().unwrap().to_string(), "tls://a.example:1");
        for text in ["", "127.0.0.1:50001", "tcp://", "tcp://a", "tcp://a:0", "http://a:1", "unix:", "tcp://:1", "peer"]
        {
            assert_eq!(text.parse::<BackendTarget>(), Err(AddressError), "{text}");
        }
    }
}
