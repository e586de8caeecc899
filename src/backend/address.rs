//! What we stand in front of, as the configuration names it.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::peer::{Host, Port};

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
    Tcp(Host, Port),
    Tls(Host, Port),
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
        let (host, port) = rest.rsplit_once(':').ok_or(AddressError)?;
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let (host, port) = (host.parse().map_err(|_| AddressError)?, port.parse().map_err(|_| AddressError)?);
        match (kind, &host) {
            (_, Host::Onion(_)) => Err(AddressError),
            ("tcp", _) => Ok(Address::Tcp(host, port)),
            ("tls" | "ssl", _) => Ok(Address::Tls(host, port)),
            _ => Err(AddressError),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, host, port) = match self {
            Address::Unix(path) => return write!(f, "unix:{}", path.display()),
            Address::Tcp(host, port) => ("tcp", host, port),
            Address::Tls(host, port) => ("tls", host, port),
        };
        match host {
            Host::Ip(ip) if ip.is_ipv6() => write!(f, "{kind}://[{ip}]:{port}"),
            host => write!(f, "{kind}://{host}:{port}"),
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
