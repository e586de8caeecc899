//! Ports of a server.

use std::fmt;
use std::num::NonZeroU16;

use serde::{Deserialize, Serialize};

/// TCP port number, never zero.
pub type Port = NonZeroU16;

/// Transport of an Electrum connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// Plain TCP.
    Tcp,
    /// TLS over TCP.
    Tls,
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Transport::Tcp => "TCP",
            Transport::Tls => "TLS",
        })
    }
}

/// Ports of one server, at least one of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "RawPorts")]
pub struct Ports {
    tcp: Option<Port>,
    tls: Option<Port>,
}

/// Ports as deserialized, without the check that one is present.
#[derive(Deserialize)]
struct RawPorts {
    tcp: Option<Port>,
    tls: Option<Port>,
}

impl TryFrom<RawPorts> for Ports {
    type Error = &'static str;

    fn try_from(read: RawPorts) -> Result<Ports, &'static str> {
        Ports::new(read.tcp, read.tls).ok_or("a server without ports")
    }
}

impl Ports {
    /// Creates the pair; `None` if both are missing.
    pub fn new(tcp: Option<Port>, tls: Option<Port>) -> Option<Ports> {
        (tcp.is_some() || tls.is_some()).then_some(Ports { tcp, tls })
    }

    /// Creates ports with one transport only.
    pub fn single(transport: Transport, port: Port) -> Ports {
        match transport {
            Transport::Tcp => Ports { tcp: Some(port), tls: None },
            Transport::Tls => Ports { tcp: None, tls: Some(port) },
        }
    }

    /// Returns the port for plain TCP.
    pub fn tcp(&self) -> Option<Port> {
        self.tcp
    }

    /// Returns the port for TLS.
    pub fn tls(&self) -> Option<Port> {
        self.tls
    }

    /// Keeps the ports that `keep` accepts; `None` if it accepts none.
    pub fn filtered(self, keep: impl Fn(Port) -> bool) -> Option<Ports> {
        Ports::new(self.tcp.filter(|port| keep(*port)), self.tls.filter(|port| keep(*port)))
    }

    /// Returns the ports, TLS before TCP.
    pub fn iter(&self) -> impl Iterator<Item = (Transport, Port)> {
        let tls = self.tls.map(|port| (Transport::Tls, port));
        let tcp = self.tcp.map(|port| (Transport::Tcp, port));
        tls.into_iter().chain(tcp)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    pub(crate) fn any_ports() -> impl Strategy<Value = Ports> {
        any::<(Option<Port>, Option<Port>)>().prop_filter_map("no port", |(tcp, tls)| Ports::new(tcp, tls))
    }

    #[test]
    fn ports_without_any_are_rejected() {
        assert_eq!(Ports::new(None, None), None);
        assert!(serde_json::from_str::<Ports>(r#"{"tcp":50001,"tls":null}"#).is_ok());
        assert!(serde_json::from_str::<Ports>(r#"{"tcp":null,"tls":null}"#).is_err());
    }
}
