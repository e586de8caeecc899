//! Connections without Tor.

#![expect(clippy::disallowed_methods, reason = "one of the two files that open connections")]

use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::time::Duration;

use tokio::net::{TcpSocket, TcpStream, UnixStream, lookup_host};
use tokio::time::timeout;

use super::happy_eyeballs::{Remaining, first_success, interleaved};
use crate::connect::{FailureOrigin, ProbeError};
use crate::peer::{DnsName, Port};

/// Timeout of each attempt.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(8);

/// Timeout of a resolution, long enough for the resolver's own retries.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(12);

/// Permission to open connections and use the resolver. None exists with `tor.only`.
#[derive(Debug, Clone, Copy)]
pub struct Direct;

impl Direct {
    /// Resolves a name as this machine is configured: hosts file, name service switch, DNS.
    pub async fn resolve(self, name: &DnsName) -> Result<Vec<IpAddr>, ProbeError> {
        match timeout(RESOLVE_TIMEOUT, lookup_host((name.as_str(), 0))).await {
            Ok(Ok(addresses)) => {
                let mut addresses: Vec<IpAddr> = addresses.map(|address| address.ip().to_canonical()).collect();
                addresses.dedup();
                Ok(addresses)
            }
            Ok(Err(_)) | Err(_) => Err(ProbeError::NameNotFound),
        }
    }

    /// Connects to a Unix socket.
    pub async fn connect_unix(self, path: &Path) -> Result<UnixStream, ProbeError> {
        UnixStream::connect(path).await.map_err(|error| match error.kind() {
            ErrorKind::ConnectionRefused => ProbeError::Refused,
            ErrorKind::NotFound => ProbeError::NameNotFound,
            _ => super::local_exhaustion(&error).unwrap_or(ProbeError::Unreachable),
        })
    }

    /// Returns the local address of connections to an address; `None` without a route. Nothing is sent.
    pub fn source_address(self, to: IpAddr) -> Option<IpAddr> {
        let any: IpAddr = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let socket = UdpSocket::bind((any, 0)).ok()?;
        // The kernel chooses the address of a datagram socket when it is connected.
        socket.connect((to, 1)).ok()?;
        Some(socket.local_addr().ok()?.ip())
    }

    /// Connects to the first of these addresses that answers. Attempts overlap: a silent address delays by 250 ms.
    pub async fn connect(self, addresses: &[IpAddr], port: Port) -> Result<(TcpStream, IpAddr), ProbeError> {
        self.connect_from(&[], addresses, port).await
    }

    /// Connects like `connect`, but first from local addresses: the first one of the same family as the peer's address.
    ///
    /// An address that can't be reached in this way is then dialled from the address that the system chooses.
    pub async fn connect_from(
        self,
        local: &[IpAddr],
        addresses: &[IpAddr],
        port: Port,
    ) -> Result<(TcpStream, IpAddr), ProbeError> {
        let local_for = |ip: IpAddr| local.iter().copied().find(|local| local.is_ipv4() == ip.is_ipv4());
        let addresses = interleaved(addresses);
        let bound: Vec<IpAddr> = addresses.iter().copied().filter(|ip| local_for(*ip).is_some()).collect();
        let mut failure = ProbeError::Unreachable;
        let mut refusing = Vec::new();
        for round in [Source::Configured, Source::System] {
            let candidates = match round {
                Source::Configured => bound.clone(),
                Source::System => addresses.iter().copied().filter(|ip| !refusing.contains(ip)).collect(),
            };
            let attempt = |ip: IpAddr| {
                let from = local_for(ip).filter(|_| round == Source::Configured);
                let opening = timeout(CONNECT_TIMEOUT, open(SocketAddr::new(ip, port.get()), from));
                async { opening.await.unwrap_or(Err(ErrorKind::TimedOut.into())) }
            };
            let on_failure = |ip: IpAddr, error: io::Error| {
                if error.kind() == ErrorKind::ConnectionRefused {
                    failure = ProbeError::Refused;
                    refusing.push(ip);
                }
                let Some(local) = super::local_exhaustion(&error) else { return Remaining::Tried };
                failure = local;
                Remaining::Skipped
            };
            if let Some((stream, ip)) = first_success(&candidates, attempt, on_failure).await {
                // Lines are short, and each waits for its response.
                let _ = stream.set_nodelay(true);
                return Ok((stream, ip));
            }
            if failure.blame() == FailureOrigin::Local {
                break;
            }
        }
        Err(failure)
    }
}

/// Local address of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    /// One of the configured addresses.
    Configured,
    /// The address that the system chooses.
    System,
}

/// Opens a connection, from a local address if one is given.
async fn open(to: SocketAddr, from: Option<IpAddr>) -> io::Result<TcpStream> {
    let Some(from) = from else { return TcpStream::connect(to).await };
    let socket = if to.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.bind(SocketAddr::new(from, 0))?;
    socket.connect(to).await
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    /// Connects to a listener and returns the source address that it sees.
    async fn source(local: &[&str], addresses: &[&str]) -> String {
        let parse = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<IpAddr>>();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = Port::new(listener.local_addr().unwrap().port()).unwrap();
        let (local, addresses) = (parse(local), parse(addresses));
        let (connected, accepted) = tokio::join!(Direct.connect_from(&local, &addresses, port), listener.accept());
        assert_eq!(connected.unwrap().1.to_string(), "127.0.0.1");
        accepted.unwrap().1.ip().to_string()
    }

    #[tokio::test]
    async fn connection_comes_from_the_local_address_of_the_same_family() {
        assert_eq!(source(&["::1", "127.0.0.2", "127.0.0.3"], &["127.0.0.1"]).await, "127.0.0.2");
        // Nothing listens at the IPv6 address. No local address is of its family, so it is tried last.
        assert_eq!(source(&["127.0.0.2"], &["::1", "127.0.0.1"]).await, "127.0.0.2");
    }

    #[tokio::test]
    async fn connection_without_a_usable_local_address_is_not_bound() {
        for local in [&[][..], &["::1"], &["192.0.2.7"]] {
            assert_eq!(source(local, &["127.0.0.1"]).await, "127.0.0.1", "{local:?}");
        }
    }

    #[test]
    fn source_address_of_loopback_is_loopback() {
        assert_eq!(Direct.source_address(Ipv4Addr::LOCALHOST.into()), Some(Ipv4Addr::LOCALHOST.into()));
    }

    #[tokio::test]
    async fn refusal_is_not_repeated_from_another_address() {
        let port = Port::new(TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port()).unwrap();
        let addresses = ["127.0.0.1".parse().unwrap()];
        let refused = Direct.connect_from(&["127.0.0.2".parse().unwrap()], &addresses, port).await;
        assert_eq!(refused.unwrap_err(), ProbeError::Refused);
    }
}
