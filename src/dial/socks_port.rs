//! Detection of Tor on a SOCKS port, and of the connections it accepts.
//!
//! Tor answers RESOLVE, a command of its own, of 127.0.0.1 within a millisecond, whether it reaches
//! its network or not. The address is sent as a host name: C tor warns about requests by address,
//! and refuses them under `SafeSocks 1`. A port with `OnionTrafficOnly` refuses RESOLVE as an
//! unreachable host. It still knows the command: to BIND, which Tor lacks, it replies "command not
//! supported", as other proxies do to RESOLVE.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use tokio::time::timeout;
use tor_socksproto::{SocksAddr, SocksAuth, SocksCmd, SocksStatus};

use super::socks_handshake::{Error, Reply, bind_status, handshake};
use crate::tor_state::ClearnetAccess;

/// Timeout for requests that Tor answers by itself. The port is usually on this machine.
const DETECT_TIMEOUT: Duration = Duration::from_secs(3);

/// Result of checking a SOCKS address for Tor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SocksDetection {
    /// Tor. Refusal of requests by address shows only in [`clearnet_access`].
    Tor(ClearnetAccess),
    /// Another program.
    NotTor,
    /// No connection or no response, with the reason.
    Unreachable(String),
}

/// Detects Tor with a RESOLVE request.
///
/// This causes a warning in the log of a Tor whose port accepts onion services only.
pub async fn detect_tor(address: SocketAddr) -> SocksDetection {
    match request(address, SocksCmd::RESOLVE, Target::Name).await {
        Ok((_, SocksAddr::Ip(ip))) if ip.is_loopback() => SocksDetection::Tor(ClearnetAccess::Allowed),
        Err(Error::Refused(SocksStatus::HOST_UNREACHABLE)) if lacks_bind(address).await => {
            SocksDetection::Tor(ClearnetAccess::OnionOnly)
        }
        Err(Error::Io(error)) if error.kind() != io::ErrorKind::UnexpectedEof => {
            SocksDetection::Unreachable(error.to_string())
        }
        Err(Error::TimedOut) => SocksDetection::Unreachable("timed out".to_owned()),
        Ok(_) | Err(_) => SocksDetection::NotTor,
    }
}

/// Whether the port refuses BIND as unsupported. No Tor logs this request.
pub async fn lacks_bind(address: SocketAddr) -> bool {
    let status = timeout(DETECT_TIMEOUT, bind_status(address)).await;
    matches!(status, Ok(Ok(SocksStatus::COMMAND_NOT_SUPPORTED)))
}

/// Which clearnet connections the port of a Tor accepts; `None` if it does not answer like Tor.
///
/// No exit takes part, so no peer can influence the answer. It costs a warning in Tor's log.
pub async fn clearnet_access(address: SocketAddr) -> Option<ClearnetAccess> {
    match detect_tor(address).await {
        SocksDetection::Tor(ClearnetAccess::Allowed) => {
            match request(address, SocksCmd::RESOLVE, Target::Address).await {
                Ok(_) => Some(ClearnetAccess::Allowed),
                Err(Error::Refused(_)) => Some(ClearnetAccess::NamesOnly),
                Err(_) => None,
            }
        }
        SocksDetection::Tor(access) => Some(access),
        SocksDetection::NotTor | SocksDetection::Unreachable(_) => None,
    }
}

/// How 127.0.0.1 is written in a request.
enum Target {
    Name,
    Address,
}

/// Sends a request about 127.0.0.1 and waits for the reply.
async fn request(address: SocketAddr, command: SocksCmd, target: Target) -> Result<Reply, Error> {
    let local = Ipv4Addr::LOCALHOST;
    let target = match target {
        Target::Name => SocksAddr::Hostname(local.to_string().try_into()?),
        Target::Address => SocksAddr::Ip(IpAddr::V4(local)),
    };
    let reply = handshake(address, command, target, 0, SocksAuth::NoAuth);
    timeout(DETECT_TIMEOUT, reply).await.unwrap_or(Err(Error::TimedOut))
}

#[cfg(test)]
pub(super) mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    pub(crate) const RESOLVED: &[u8] = &[5, 0, 0, 1, 127, 0, 0, 1, 0, 0];
    pub(crate) const NOT_ALLOWED: &[u8] = &[5, 2, 0, 1, 0, 0, 0, 0, 0, 0];
    const NO_SUCH_COMMAND: &[u8] = &[5, 7, 0, 1, 0, 0, 0, 0, 0, 0];
    /// C tor's refusal of RESOLVE, with an address type that SOCKS5 does not have.
    const UNREACHABLE: &[u8] = &[5, 4, 0, 0, 0, 0, 0, 0, 0, 0];

    /// Starts a SOCKS5 port that requires a password if offered, and replies as `answer` says.
    pub(crate) async fn port(answer: impl Fn(&[u8]) -> &'static [u8] + Send + 'static) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut greeting = [0; 2];
                stream.read_exact(&mut greeting).await.unwrap();
                let mut methods = vec![0; usize::from(greeting[1])];
                stream.read_exact(&mut methods).await.unwrap();
                if methods.contains(&2) {
                    stream.write_all(&[5, 2]).await.unwrap();
                    let mut login = [0; 512];
                    assert!(stream.read(&mut login).await.unwrap() > 10);
                    stream.write_all(&[1, 0]).await.unwrap();
                } else {
                    stream.write_all(&[5, 0]).await.unwrap();
                }
                let mut request = [0; 512];
                let length = stream.read(&mut request).await.unwrap();
                assert!(length > 5);
                stream.write_all(answer(&request[..length])).await.unwrap();
                // Keeps the connection open until the client has read the reply.
                let _ = stream.read(&mut request).await;
            }
        });
        address
    }

    pub(crate) fn is_by_name(request: &[u8]) -> bool {
        request.get(3) == Some(&3)
    }

    fn is_bind(request: &[u8]) -> bool {
        request[1] == 2
    }

    #[tokio::test]
    async fn tor_is_distinguished_from_other_proxies() {
        assert_eq!(detect_tor(port(|_| RESOLVED).await).await, SocksDetection::Tor(ClearnetAccess::Allowed));
        assert_eq!(detect_tor(port(|_| NO_SUCH_COMMAND).await).await, SocksDetection::NotTor);
        assert_eq!(detect_tor(port(|_| b"HTTP/1.1 400 Bad Request\r\n\r\n").await).await, SocksDetection::NotTor);
    }

    #[tokio::test]
    async fn request_by_address_is_refused_and_by_name_is_tor() {
        let safe_socks = port(|request| if is_by_name(request) { RESOLVED } else { NOT_ALLOWED }).await;
        assert_eq!(detect_tor(safe_socks).await, SocksDetection::Tor(ClearnetAccess::Allowed));
        assert_eq!(clearnet_access(safe_socks).await, Some(ClearnetAccess::NamesOnly));
        assert_eq!(clearnet_access(port(|_| RESOLVED).await).await, Some(ClearnetAccess::Allowed));
    }

    #[tokio::test]
    async fn port_that_knows_resolve_but_not_bind_is_tor_for_onions_only() {
        let tor = |request: &[u8]| if is_bind(request) { NO_SUCH_COMMAND } else { UNREACHABLE };
        let onion_only = port(tor).await;
        assert_eq!(detect_tor(onion_only).await, SocksDetection::Tor(ClearnetAccess::OnionOnly));
        assert_eq!(clearnet_access(onion_only).await, Some(ClearnetAccess::OnionOnly));
        assert!(lacks_bind(onion_only).await);
        // A proxy that takes every command for CONNECT finds nothing on port 0.
        assert_eq!(detect_tor(port(|_| UNREACHABLE).await).await, SocksDetection::NotTor);
        assert_eq!(clearnet_access(port(|_| UNREACHABLE).await).await, None);
    }

    #[tokio::test]
    async fn closed_port_is_unreachable() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        assert!(matches!(detect_tor(address).await, SocksDetection::Unreachable(_)));
    }
}
