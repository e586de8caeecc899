//! What we stand in front of, as the configuration names it.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::peer::{Endpoint, Host};

/// A server of the operator's, or the best of those that we know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Front {
    Server(Address),
    Peers,
}

/// Where a server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    Tcp(Endpoint),
    Tls(Endpoint),
    Unix(PathBuf),
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected tcp://HOST:PORT, tls://HOST:PORT, unix:PATH or peers")]
pub struct AddressError;

impl FromStr for Front {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Front, AddressError> {
        if text == "peers" { Ok(Front::Peers) } else { text.parse().map(Front::Server) }
    }
}

impl TryFrom<String> for Front {
    type Error = AddressError;

    fn try_from(text: String) -> Result<Front, AddressError> {
        text.parse()
    }
}

impl From<Front> for String {
    fn from(front: Front) -> String {
        match front {
            Front::Server(address) => address.to_string(),
            Front::Peers => "peers".to_owned(),
        }
    }
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Address, AddressError> {
        if let Some(path) = text.strip_prefix("unix:").filter(|path| !path.is_empty()) {
            return Ok(Address::Unix(path.into()));
        }
        let (kind, rest) = text.split_once("://").ok_or(AddressError)?;
        let endpoint: Endpoint = rest.parse().map_err(|_| AddressError)?;
        match (kind, &endpoint.host) {
            (_, Host::Onion(_)) => Err(AddressError),
            ("tcp", _) => Ok(Address::Tcp(endpoint)),
            ("tls" | "ssl", _) => Ok(Address::Tls(endpoint)),
            _ => Err(AddressError),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Unix(path) => write!(f, "unix:{}", path.display()),
            Address::Tcp(endpoint) => write!(f, "tcp://{endpoint}"),
            Address::Tls(endpoint) => write!(f, "tls://{endpoint}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_written_as_they_are_read() {
        for text in
            ["tcp://127.0.0.1:50001", "tls://electrs.example:50002", "tcp://[::1]:50001", "unix:/run/electrs", "peers"]
        {
            assert_eq!(String::from(text.parse::<Front>().unwrap()), text);
        }
        assert_eq!("ssl://a.example:1".parse::<Address>().unwrap().to_string(), "tls://a.example:1");
        for text in ["", "127.0.0.1:50001", "tcp://", "tcp://a", "tcp://a:0", "http://a:1", "unix:", "tcp://:1", "peer"]
        {
            assert_eq!(text.parse::<Front>(), Err(AddressError), "{text}");
        }
    }
}
