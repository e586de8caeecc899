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

/// Ports of one server: for TCP, TLS or both, and possibly for WebSockets.
///
/// Peers and most wallets need TCP or TLS, so a server with WebSockets alone has no ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "RawPorts")]
pub struct Ports {
    tcp: Option<Port>,
    tls: Option<Port>,
    ws: Option<Port>,
    wss: Option<Port>,
}

/// Ports as deserialized, without the check that one is present.
#[derive(Deserialize)]
struct RawPorts {
    tcp: Option<Port>,
    tls: Option<Port>,
    #[serde(default)]
    ws: Option<Port>,
    #[serde(default)]
    wss: Option<Port>,
}

impl TryFrom<RawPorts> for Ports {
    type Error = &'static str;

    fn try_from(read: RawPorts) -> Result<Ports, &'static str> {
        let ports = Ports::new(read.tcp, read.tls).ok_or("a server without ports")?;
        Ok(ports.with_web_sockets(read.ws, read.wss))
    }
}

impl Ports {
    /// Creates ports without WebSockets; `None` if both are missing.
    pub fn new(tcp: Option<Port>, tls: Option<Port>) -> Option<Ports> {
        (tcp.is_some() || tls.is_some()).then_some(Ports { tcp, tls, ws: None, wss: None })
    }

    /// Creates ports for both transports.
    pub const fn both(tcp: Port, tls: Port) -> Ports {
        Ports { tcp: Some(tcp), tls: Some(tls), ws: None, wss: None }
    }

    /// Creates ports with one transport only.
    pub fn single(transport: Transport, port: Port) -> Ports {
        let none = Ports { tcp: None, tls: None, ws: None, wss: None };
        match transport {
            Transport::Tcp => Ports { tcp: Some(port), ..none },
            Transport::Tls => Ports { tls: Some(port), ..none },
        }
    }

    /// Replaces the ports for WebSockets, over plain TCP and over TLS.
    #[must_use]
    pub fn with_web_sockets(self, ws: Option<Port>, wss: Option<Port>) -> Ports {
        Ports { ws, wss, ..self }
    }

    /// Drops the ports for WebSockets.
    #[must_use]
    pub fn without_web_sockets(self) -> Ports {
        self.with_web_sockets(None, None)
    }

    /// Returns the port for plain TCP.
    pub fn tcp(&self) -> Option<Port> {
        self.tcp
    }

    /// Returns the port for TLS.
    pub fn tls(&self) -> Option<Port> {
        self.tls
    }

    /// Returns the port for WebSockets over plain TCP.
    pub fn ws(&self) -> Option<Port> {
        self.ws
    }

    /// Returns the port for WebSockets over TLS.
    pub fn wss(&self) -> Option<Port> {
        self.wss
    }

    /// Keeps the ports that `keep` accepts; `None` if it accepts none for TCP or TLS.
    pub fn filtered(self, keep: impl Fn(Port) -> bool) -> Option<Ports> {
        let [tcp, tls, ws, wss] = [self.tcp, self.tls, self.ws, self.wss].map(|port| port.filter(|port| keep(*port)));
        Ports::new(tcp, tls).map(|ports| ports.with_web_sockets(ws, wss))
    }

    /// Returns the ports without those for WebSockets, TLS before TCP.
    pub fn iter(&self) -> impl Iterator<Item = (Transport, Port)> {
        endpoints(self.tls, self.tcp)
    }

    /// Returns the ports for WebSockets, those over TLS first.
    pub fn web_sockets(&self) -> impl Iterator<Item = (Transport, Port)> {
        endpoints(self.wss, self.ws)
    }
}

fn endpoints(tls: Option<Port>, tcp: Option<Port>) -> impl Iterator<Item = (Transport, Port)> {
    let tls = tls.map(|port| (Transport::Tls, port));
    let tcp = tcp.map(|port| (Transport::Tcp, port));
    tls.into_iter().chain(tcp)
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    pub(crate) fn any_ports() -> impl Strategy<Value = Ports> {
        let ports = any::<[Option<Port>; 4]>();
        ports.prop_filter_map("no port", |[tcp, tls, ws, wss]| Some(Ports::new(tcp, tls)?.with_web_sockets(ws, wss)))
    }

    #[test]
    fn ports_without_any_are_rejected() {
        assert_eq!(Ports::new(None, None), None);
        assert!(serde_json::from_str::<Ports>(r#"{"tcp":50001,"tls":null}"#).is_ok());
        assert!(serde_json::from_str::<Ports>(r#"{"tcp":null,"tls":null,"wss":443}"#).is_err());
    }
}
