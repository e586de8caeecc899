//! Address of a SOCKS port: IP address, host name or Unix socket.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::peer::{Endpoint, Host};

/// Address of a SOCKS port, written `IP:PORT`, `HOST:PORT` or `unix:PATH`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum SocksAddress {
    /// TCP port of an address or name, never of an onion name.
    ///
    /// A name is resolved for each connection.
    Tcp(Endpoint),
    /// Unix socket, as C tor's `SocksPort unix:PATH`.
    Unix(PathBuf),
}

/// Text that is no address of a SOCKS port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected IP:PORT, HOST:PORT or unix:PATH")]
pub struct SocksAddressError;

impl SocksAddress {
    /// Returns whether a resolver may send the name to a DNS server.
    ///
    /// Names without a dot are those of a hosts file or of a network of containers, and `localhost` never leaves the
    /// machine (RFC 6761).
    pub fn is_dns_name(&self) -> bool {
        match self {
            SocksAddress::Tcp(Endpoint { host: Host::Dns(name), .. }) => {
                name.as_str().contains('.') && !name.as_str().ends_with(".localhost")
            }
            SocksAddress::Tcp(_) | SocksAddress::Unix(_) => false,
        }
    }
}

impl FromStr for SocksAddress {
    type Err = SocksAddressError;

    fn from_str(text: &str) -> Result<SocksAddress, SocksAddressError> {
        if let Some(path) = text.strip_prefix("unix:") {
            // Also as a URL, as some programs write it.
            let path = path.strip_prefix("//").filter(|path| path.starts_with('/')).unwrap_or(path);
            return if path.is_empty() { Err(SocksAddressError) } else { Ok(SocksAddress::Unix(path.into())) };
        }
        let endpoint: Endpoint = text.parse().map_err(|_| SocksAddressError)?;
        if endpoint.host.is_onion() { Err(SocksAddressError) } else { Ok(SocksAddress::Tcp(endpoint)) }
    }
}

impl fmt::Display for SocksAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SocksAddress::Tcp(endpoint) => endpoint.fmt(f),
            SocksAddress::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl TryFrom<String> for SocksAddress {
    type Error = SocksAddressError;

    fn try_from(text: String) -> Result<SocksAddress, SocksAddressError> {
        text.parse()
    }
}

impl From<SocksAddress> for String {
    fn from(address: SocksAddress) -> String {
        address.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_round_trip_and_other_texts_are_rejected() {
        for text in ["127.0.0.1:9050", "[::1]:9050", "tor:9050", "localhost:9150", "unix:/run/tor/socks", "unix:socks"]
        {
            assert_eq!(text.parse::<SocksAddress>().unwrap().to_string(), text);
        }
        assert_eq!("unix:///run/tor/socks".parse(), Ok(SocksAddress::Unix("/run/tor/socks".into())));
        let onion = "explorerzydxu5ecjrkwceayqybizmpjjznk5izmitf2modhcusuqlid.onion:9050";
        for text in ["", "localhost", "127.0.0.1", "9050", ":9050", "tor:0", "tor:x", "unix:", "/run/tor/socks", onion]
        {
            assert_eq!(text.parse::<SocksAddress>(), Err(SocksAddressError), "{text}");
        }
    }

    #[test]
    fn names_with_a_dot_may_leave_the_machine() {
        let is_dns_name = |text: &str| text.parse::<SocksAddress>().unwrap().is_dns_name();
        for text in ["tor.example.org:9050", "tor.lan:9050"] {
            assert!(is_dns_name(text), "{text}");
        }
        for text in ["tor:9050", "localhost:9050", "tor.localhost:9050", "10.0.0.1:9050", "unix:/run/tor.example/socks"]
        {
            assert!(!is_dns_name(text), "{text}");
        }
    }
}
