//! Proxies whose PROXY header names the client's address.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use crate::networks::Networks;

/// Protocol of a clearnet listener, by which the configuration names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ListenerProtocol {
    /// TCP without TLS.
    Tcp,
    /// TLS.
    Tls,
    /// WebSocket without TLS.
    Ws,
    /// WebSocket with TLS.
    Wss,
}

impl ListenerProtocol {
    /// Every protocol.
    pub const ALL: [ListenerProtocol; 4] =
        [ListenerProtocol::Tcp, ListenerProtocol::Tls, ListenerProtocol::Ws, ListenerProtocol::Wss];
}

impl fmt::Display for ListenerProtocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ListenerProtocol::Tcp => "tcp",
            ListenerProtocol::Tls => "tls",
            ListenerProtocol::Ws => "ws",
            ListenerProtocol::Wss => "wss",
        })
    }
}

impl FromStr for ListenerProtocol {
    type Err = ();

    fn from_str(text: &str) -> Result<ListenerProtocol, ()> {
        ListenerProtocol::ALL.into_iter().find(|protocol| protocol.to_string() == text).ok_or(())
    }
}

/// Addresses of trusted proxies, by listener. Empty by default.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TrustedProxies {
    /// Proxies of all listeners.
    pub all: Networks,
    /// Proxies of single listeners.
    pub by_listener: Vec<(ListenerProtocol, Networks)>,
}

impl TrustedProxies {
    /// Returns whether connections from this address must begin with a header.
    pub fn trusts(&self, ip: IpAddr, listener: ListenerProtocol) -> bool {
        self.all.contains(ip) || self.by_listener.iter().any(|(of, nets)| *of == listener && nets.contains(ip))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::networks::parse_network;

    #[test]
    fn proxy_of_one_listener_is_not_trusted_by_others() {
        let nets = |text| parse_network(text).into_iter().collect::<Networks>();
        let proxies = TrustedProxies {
            all: nets("10.0.0.0/8"),
            by_listener: vec![(ListenerProtocol::Tls, nets("127.0.0.1")), (ListenerProtocol::Tls, nets("127.0.0.2"))],
        };
        let trusts = |ip: &str, listener| proxies.trusts(ip.parse().unwrap(), listener);
        assert!(ListenerProtocol::ALL.into_iter().all(|listener| trusts("10.1.1.1", listener)));
        assert!(trusts("127.0.0.1", ListenerProtocol::Tls) && trusts("127.0.0.2", ListenerProtocol::Tls));
        assert!(!trusts("127.0.0.1", ListenerProtocol::Tcp) && !trusts("127.0.0.3", ListenerProtocol::Tls));
        assert_eq!(ListenerProtocol::ALL.map(|listener| listener.to_string().parse()), ListenerProtocol::ALL.map(Ok));
    }
}
