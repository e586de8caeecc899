//! Address of the backend in the configuration.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::peer::{Endpoint, Host};

/// The backend: servers, the verified peers, or both.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackendTargets {
    /// The operator's Electrum servers, in the order of preference. Empty if there are only peers.
    pub servers: Vec<UpstreamAddr>,
    /// Whether the best of the verified peers serve sessions that no server can serve.
    pub peers: bool,
}

/// Maximum number of servers. Each is polled, and a session may try all of them.
const MAX_SERVERS: usize = 16;

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

/// Error of targets that can't be parsed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// One of them has another form.
    #[error("expected tcp://HOST:PORT, tls://HOST:PORT, unix:PATH or peers, or a list of them")]
    Form,
    /// `peers` is not the last one.
    #[error("peers must come last, after the servers")]
    PeersNotLast,
    /// A server is named twice.
    #[error("a server is named twice")]
    Duplicate,
    /// There are none, or too many.
    #[error("expected from 1 to {MAX_SERVERS} servers")]
    Count,
}

impl BackendTargets {
    /// Parses targets in the order of preference.
    ///
    /// # Errors
    /// Returns an error for another form, a server that is named twice, `peers` before a server, and no or too many.
    pub fn parse<'a>(targets: impl IntoIterator<Item = &'a str>) -> Result<BackendTargets, AddressError> {
        let mut parsed = BackendTargets { servers: Vec::new(), peers: false };
        for target in targets {
            if parsed.peers {
                return Err(AddressError::PeersNotLast);
            }
            if target == "peers" {
                parsed.peers = true;
                continue;
            }
            let server: UpstreamAddr = target.parse()?;
            if parsed.servers.contains(&server) {
                return Err(AddressError::Duplicate);
            }
            parsed.servers.push(server);
        }
        let is_empty = parsed.servers.is_empty() && !parsed.peers;
        if is_empty || parsed.servers.len() > MAX_SERVERS { Err(AddressError::Count) } else { Ok(parsed) }
    }

    /// Returns the targets as they are written.
    fn texts(&self) -> Vec<String> {
        let servers = self.servers.iter().map(UpstreamAddr::to_string);
        servers.chain(self.peers.then(|| "peers".to_owned())).collect()
    }
}

impl FromStr for BackendTargets {
    type Err = AddressError;

    /// Parses one target, or several with commas between them.
    fn from_str(text: &str) -> Result<BackendTargets, AddressError> {
        BackendTargets::parse(text.split(',').map(str::trim))
    }
}

impl<'de> Deserialize<'de> for BackendTargets {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<BackendTargets, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Form {
            One(String),
            Several(Vec<String>),
        }
        // The message of an untagged enum would name none of the forms.
        let form = Form::deserialize(deserializer).map_err(|_| de::Error::custom(AddressError::Form))?;
        match form {
            Form::One(text) => text.parse().map_err(de::Error::custom),
            Form::Several(texts) => BackendTargets::parse(texts.iter().map(String::as_str)).map_err(de::Error::custom),
        }
    }
}

impl Serialize for BackendTargets {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.texts().as_slice() {
            [one] => serializer.serialize_str(one),
            several => several.serialize(serializer),
        }
    }
}

impl FromStr for UpstreamAddr {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<UpstreamAddr, AddressError> {
        if let Some(path) = text.strip_prefix("unix:").filter(|path| !path.is_empty()) {
            return Ok(UpstreamAddr::Unix(path.into()));
        }
        let (kind, rest) = text.split_once("://").ok_or(AddressError::Form)?;
        let endpoint: Endpoint = rest.parse().map_err(|_| AddressError::Form)?;
        match (kind, &endpoint.host) {
            (_, Host::Onion(_)) => Err(AddressError::Form),
            ("tcp", _) => Ok(UpstreamAddr::Tcp(endpoint)),
            ("tls" | "ssl", _) => Ok(UpstreamAddr::Tls(endpoint)),
            _ => Err(AddressError::Form),
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

    fn written(text: &str) -> String {
        text.parse::<BackendTargets>().unwrap().texts().join(", ")
    }

    #[test]
    fn addresses_round_trip_and_invalid_ones_are_rejected() {
        for text in
            ["tcp://127.0.0.1:50001", "tls://electrs.example:50002", "tcp://[::1]:50001", "unix:/run/electrs", "peers"]
        {
            assert_eq!(written(text), text);
        }
        assert_eq!(written("ssl://a.example:1"), "tls://a.example:1");
        for text in ["", "127.0.0.1:50001", "tcp://", "tcp://a", "tcp://a:0", "http://a:1", "unix:", "tcp://:1", "peer"]
        {
            assert_eq!(text.parse::<BackendTargets>(), Err(AddressError::Form), "{text}");
        }
    }

    #[test]
    fn list_ends_with_peers_and_names_each_server_once() {
        assert_eq!(written("tcp://a:1,unix:/b, peers"), "tcp://a:1, unix:/b, peers");
        let error = |text: &str| text.parse::<BackendTargets>().unwrap_err();
        assert_eq!(error("peers,tcp://a:1"), AddressError::PeersNotLast);
        assert_eq!(error("peers,peers"), AddressError::PeersNotLast);
        assert_eq!(error("tls://a:1,ssl://a:1"), AddressError::Duplicate);
        let many: Vec<String> = (1..=MAX_SERVERS + 1).map(|port| format!("tcp://a:{port}")).collect();
        assert_eq!(error(&many.join(",")), AddressError::Count);
        assert_eq!(BackendTargets::parse([]), Err(AddressError::Count));
    }

    #[test]
    fn one_target_is_text_and_several_are_a_list() {
        #[derive(Deserialize, Serialize)]
        struct Section {
            electrum: BackendTargets,
        }
        for text in ["electrum = \"peers\"\n", "electrum = [\"tcp://a:1\", \"peers\"]\n"] {
            let section: Section = toml::from_str(text).unwrap();
            assert_eq!(toml::to_string(&section).unwrap(), text);
        }
        for text in ["electrum = 5", "electrum = []", "electrum = [\"peers\", \"tcp://a:1\"]", "electrum = [1]"] {
            assert!(toml::from_str::<Section>(text).is_err(), "{text}");
        }
    }
}
