//! Detection of Tor on a SOCKS port, and of the connections it accepts.
//!
//! Tor answers RESOLVE, a command of its own, of 127.0.0.1 within a millisecond, whether it reaches
//! its network or not. The address is sent as a host name: C tor warns about requests by address,
//! and refuses them under `SafeSocks 1`. A port with `OnionTrafficOnly` refuses RESOLVE as an
//! unreachable host. It still knows the command: to BIND, which Tor lacks, it replies "command not
//! supported", as other proxies do to RESOLVE.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use tokio::time::timeout;
use tor_socksproto::{SocksAddr, SocksCmd, SocksStatus};

use super::SocksPort;
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
    /// The proxy requires a login, or rejects the configured one, with the reason and advice.
    LoginRejected(&'static str),
    /// No connection or no response, with the reason.
    Unreachable(String),
}

/// Detects Tor with a RESOLVE request.
///
/// This causes a warning in the log of a Tor whose port accepts onion services only.
pub async fn detect_tor(port: &SocksPort) -> SocksDetection {
    match request(port, SocksCmd::RESOLVE, Target::Name).await {
        Ok((_, SocksAddr::Ip(ip))) if ip.is_loopback() => SocksDetection::Tor(ClearnetAccess::Allowed),
        Err(Error::Refused(SocksStatus::HOST_UNREACHABLE)) if lacks_bind(port).await => {
            SocksDetection::Tor(ClearnetAccess::OnionOnly)
        }
        Err(Error::Io(error)) if error.kind() != io::ErrorKind::UnexpectedEof => {
            SocksDetection::Unreachable(error.to_string())
        }
        Err(Error::Login) => SocksDetection::LoginRejected(port.rejection()),
        Err(Error::TimedOut) => SocksDetection::Unreachable("timed out".to_owned()),
        Ok(_) | Err(_) => SocksDetection::NotTor,
    }
}

/// Whether the port refuses BIND as unsupported. No Tor logs this request.
pub async fn lacks_bind(port: &SocksPort) -> bool {
    let status = timeout(DETECT_TIMEOUT, bind_status(&port.address, port.check_auth())).await;
    matches!(status, Ok(Ok(SocksStatus::COMMAND_NOT_SUPPORTED)))
}

/// Which clearnet connections the port of a Tor accepts; `None` if it does not answer like Tor.
///
/// No exit takes part, so no peer can influence the answer. It costs a warning in Tor's log.
pub async fn clearnet_access(port: &SocksPort) -> Option<ClearnetAccess> {
    match detect_tor(port).await {
        SocksDetection::Tor(ClearnetAccess::Allowed) => match request(port, SocksCmd::RESOLVE, Target::Address).await {
            Ok(_) => Some(ClearnetAccess::Allowed),
            Err(Error::Refused(_)) => Some(ClearnetAccess::NamesOnly),
            Err(_) => None,
        },
        SocksDetection::Tor(access) => Some(access),
        SocksDetection::NotTor | SocksDetection::LoginRejected(_) | SocksDetection::Unreachable(_) => None,
    }
}

/// How 127.0.0.1 is written in a request.
enum Target {
    Name,
    Address,
}

/// Sends a request about 127.0.0.1 and waits for the reply.
async fn request(port: &SocksPort, command: SocksCmd, target: Target) -> Result<Reply, Error> {
    let local = Ipv4Addr::LOCALHOST;
    let target = match target {
        Target::Name => SocksAddr::Hostname(local.to_string().try_into()?),
        Target::Address => SocksAddr::Ip(IpAddr::V4(local)),
    };
    let reply = handshake(&port.address, command, target, 0, port.check_auth());
    timeout(DETECT_TIMEOUT, reply).await.unwrap_or(Err(Error::TimedOut))
}

#[cfg(test)]
pub(super) mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, UnixListener};

    use super::*;
    use crate::dial::{SocksLogin, Stream};
    use crate::secret::Secret;
    use crate::socks_address::SocksAddress;

    pub(crate) const RESOLVED: &[u8] = &[5, 0, 0, 1, 127, 0, 0, 1, 0, 0];
    pub(crate) const NOT_ALLOWED: &[u8] = &[5, 2, 0, 1, 0, 0, 0, 0, 0, 0];
    const NO_SUCH_COMMAND: &[u8] = &[5, 7, 0, 1, 0, 0, 0, 0, 0, 0];
    /// C tor's refusal of RESOLVE, with an address type that SOCKS5 does not have.
    const UNREACHABLE: &[u8] = &[5, 4, 0, 0, 0, 0, 0, 0, 0, 0];

    /// Starts a SOCKS5 port that requires a password if offered, and replies as `answer` says.
    pub(crate) async fn port(answer: impl Fn(&[u8]) -> &'static [u8] + Send + Sync + 'static) -> SocksPort {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address: SocksAddress = listener.local_addr().unwrap().to_string().parse().unwrap();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                serve(stream, &answer, |_| true).await;
            }
        });
        address.into()
    }

    /// Answers one request. A login is accepted as `accepts` says, given its user name.
    async fn serve(mut stream: impl Stream, answer: impl Fn(&[u8]) -> &'static [u8], accepts: impl Fn(&str) -> bool) {
        let mut greeting = [0; 2];
        stream.read_exact(&mut greeting).await.unwrap();
        let mut methods = vec![0; usize::from(greeting[1])];
        stream.read_exact(&mut methods).await.unwrap();
        if methods.contains(&2) {
            stream.write_all(&[5, 2]).await.unwrap();
            let mut login = [0; 512];
            let length = stream.read(&mut login).await.unwrap();
            let user = str::from_utf8(&login[2..2 + usize::from(login[1])]).unwrap();
            if length <= 3 || !accepts(user) {
                stream.write_all(&[1, 1]).await.unwrap();
                return;
            }
            stream.write_all(&[1, 0]).await.unwrap();
        } else if !accepts("") {
            stream.write_all(&[5, 255]).await.unwrap();
            return;
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

    /// Starts a proxy on a Unix socket that accepts logins as `accepts` says.
    fn gateway(path: &std::path::Path, accepts: impl Fn(&str) -> bool + Send + Sync + 'static) -> SocksAddress {
        let listener = UnixListener::bind(path).unwrap();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let answer = |request: &[u8]| if is_bind(request) { NO_SUCH_COMMAND } else { UNREACHABLE };
                serve(stream, answer, &accepts).await;
            }
        });
        SocksAddress::Unix(path.to_owned())
    }

    pub(crate) fn is_by_name(request: &[u8]) -> bool {
        request.get(3) == Some(&3)
    }

    fn is_bind(request: &[u8]) -> bool {
        request[1] == 2
    }

    #[tokio::test]
    async fn tor_is_distinguished_from_other_proxies() {
        assert_eq!(detect_tor(&port(|_| RESOLVED).await).await, SocksDetection::Tor(ClearnetAccess::Allowed));
        assert_eq!(detect_tor(&port(|_| NO_SUCH_COMMAND).await).await, SocksDetection::NotTor);
        assert_eq!(detect_tor(&port(|_| b"HTTP/1.1 400 Bad Request\r\n\r\n").await).await, SocksDetection::NotTor);
    }

    #[tokio::test]
    async fn request_by_address_is_refused_and_by_name_is_tor() {
        let safe_socks = port(|request| if is_by_name(request) { RESOLVED } else { NOT_ALLOWED }).await;
        assert_eq!(detect_tor(&safe_socks).await, SocksDetection::Tor(ClearnetAccess::Allowed));
        assert_eq!(clearnet_access(&safe_socks).await, Some(ClearnetAccess::NamesOnly));
        assert_eq!(clearnet_access(&port(|_| RESOLVED).await).await, Some(ClearnetAccess::Allowed));
    }

    #[tokio::test]
    async fn port_that_knows_resolve_but_not_bind_is_tor_for_onions_only() {
        let tor = |request: &[u8]| if is_bind(request) { NO_SUCH_COMMAND } else { UNREACHABLE };
        let onion_only = port(tor).await;
        assert_eq!(detect_tor(&onion_only).await, SocksDetection::Tor(ClearnetAccess::OnionOnly));
        assert_eq!(clearnet_access(&onion_only).await, Some(ClearnetAccess::OnionOnly));
        assert!(lacks_bind(&onion_only).await);
        // A proxy that takes every command for CONNECT finds nothing on port 0.
        assert_eq!(detect_tor(&port(|_| UNREACHABLE).await).await, SocksDetection::NotTor);
        assert_eq!(clearnet_access(&port(|_| UNREACHABLE).await).await, None);
    }

    #[tokio::test]
    async fn closed_port_is_unreachable() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address: SocksAddress = listener.local_addr().unwrap().to_string().parse().unwrap();
        drop(listener);
        assert!(matches!(detect_tor(&address.into()).await, SocksDetection::Unreachable(_)));
        let missing = SocksAddress::Unix("/nowhere/socks".into());
        assert!(matches!(detect_tor(&missing.into()).await, SocksDetection::Unreachable(_)));
    }

    #[tokio::test]
    async fn port_is_found_by_host_name() {
        let port = port(|_| RESOLVED).await;
        let address = port.address.to_string().replace("127.0.0.1", "localhost").parse::<SocksAddress>().unwrap();
        assert_eq!(detect_tor(&address.into()).await, SocksDetection::Tor(ClearnetAccess::Allowed));
    }

    #[tokio::test]
    async fn login_is_sent_in_the_form_that_the_proxy_accepts() {
        let dir = tempfile::tempdir().unwrap();
        let with_login = |address: &SocksAddress, is_exact| {
            let login = SocksLogin { user: "wp".to_owned(), password: Secret::new("pw"), is_exact };
            SocksPort { address: address.clone(), login: Some(login) }
        };
        let found = SocksDetection::Tor(ClearnetAccess::OnionOnly);
        let strict = gateway(&dir.path().join("strict"), |user| user == "wp");
        assert_eq!(detect_tor(&with_login(&strict, true)).await, found);
        for port in [with_login(&strict, false), strict.into()] {
            let SocksDetection::LoginRejected(reason) = detect_tor(&port).await else { panic!("{port:?}") };
            assert!(reason.contains("tor.socks_user"), "{reason}");
        }
        let by_prefix = gateway(&dir.path().join("by-prefix"), |user| user.starts_with("wp+"));
        assert_eq!(detect_tor(&with_login(&by_prefix, false)).await, found);
        assert!(matches!(detect_tor(&with_login(&by_prefix, true)).await, SocksDetection::LoginRejected(_)));
    }
}
