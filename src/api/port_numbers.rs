//! Ports of a server as JSON and text.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::peer::{Port, Ports};

/// Ports of a server, displayed as in real names: `s50002 t50001 wss50004`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PortNumbers {
    /// Port for plain TCP.
    pub tcp_port: Option<u16>,
    /// Port for TLS.
    pub ssl_port: Option<u16>,
    /// Port for WebSockets over plain TCP.
    pub ws_port: Option<u16>,
    /// Port for WebSockets over TLS.
    pub wss_port: Option<u16>,
}

impl From<Ports> for PortNumbers {
    fn from(ports: Ports) -> PortNumbers {
        let [tcp_port, ssl_port, ws_port, wss_port] =
            [ports.tcp(), ports.tls(), ports.ws(), ports.wss()].map(|port| port.map(Port::get));
        PortNumbers { tcp_port, ssl_port, ws_port, wss_port }
    }
}

impl fmt::Display for PortNumbers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let PortNumbers { tcp_port, ssl_port, ws_port, wss_port } = *self;
        let all = [("s", ssl_port), ("t", tcp_port), ("wss", wss_port), ("ws", ws_port)];
        let named = all.into_iter().filter_map(|(letters, port)| Some(format!("{letters}{}", port?)));
        f.write_str(&named.collect::<Vec<_>>().join(" "))
    }
}
