//! Through a Tor that runs beside us, by its SOCKS5 port.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_socks::tcp::Socks5Stream;
use tokio_socks::{Error, TargetAddr};

use crate::book::Failure;
use crate::peer::{Host, Port};

/// A Tor that isn't in the network yet lets a connection wait for two minutes; longer than this is no answer.
const CONNECT: Duration = Duration::from_secs(60);

/// The port is on this machine or beside it, and RESOLVE of an address asks nobody else.
const ASK: Duration = Duration::from_secs(3);

/// A SOCKS port, and who we are to it.
#[derive(Debug, Clone)]
pub struct Socks {
    address: SocketAddr,
    /// Made anew for each process, so that no other user of the same Tor shares our circuits.
    password: String,
}

/// What answers at a SOCKS address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SocksKind {
    Tor,
    /// Something, but not Tor.
    Other,
    Nothing(String),
}

impl Socks {
    pub fn new(address: SocketAddr, secret: u128) -> Socks {
        Socks { address, password: format!("{secret:032x}") }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Connects through circuits that this host alone uses: Tor keeps streams apart whose user name and password
    /// differ.
    pub async fn connect(&self, host: &Host, port: Port) -> Result<TcpStream, Failure> {
        let host = host.to_string();
        let target = (host.as_str(), port.get());
        let connecting = async {
            let stream = TcpStream::connect(self.address).await?;
            let _ = stream.set_nodelay(true);
            Socks5Stream::connect_with_password_and_socket(stream, target, &host, &self.password).await
        };
        match timeout(CONNECT, connecting).await {
            Ok(Ok(stream)) => Ok(stream.into_inner()),
            Ok(Err(error)) => Err(failure(&error)),
            Err(_) => Err(Failure::Unreachable),
        }
    }
}

/// Tells Tor from other proxies by RESOLVE, a command of Tor's own, of an address, which it answers by itself in a
/// millisecond, in the network or not.
pub async fn what_answers(address: SocketAddr) -> SocksKind {
    let asking = async {
        let stream = TcpStream::connect(address).await?;
        Socks5Stream::tor_resolve_with_socket(stream, ("127.0.0.1", 0)).await
    };
    match timeout(ASK, asking).await {
        Ok(Ok(TargetAddr::Ip(answer))) if answer.ip().is_loopback() => SocksKind::Tor,
        Ok(Err(Error::Io(error))) if error.kind() != ErrorKind::UnexpectedEof => SocksKind::Nothing(error.to_string()),
        Ok(Ok(_) | Err(_)) => SocksKind::Other,
        Err(_) => SocksKind::Nothing("no answer".to_owned()),
    }
}

/// Whose trouble an error is. Tor's own codes for onion services (0xF0 and up) arrive as an unknown method.
fn failure(error: &Error) -> Failure {
    match error {
        Error::ConnectionRefused => Failure::Refused,
        Error::HostUnreachable | Error::UnknownAuthMethod => Failure::NoDescriptor,
        // Whatever else a reply says may have been brought about by the service, and is none of Tor's failing.
        Error::GeneralSocksServerFailure
        | Error::ConnectionNotAllowedByRuleset
        | Error::NetworkUnreachable
        | Error::TtlExpired
        | Error::CommandNotSupported
        | Error::AddressTypeNotSupported => Failure::Unreachable,
        Error::Io(error) => super::out_of_descriptors(error).unwrap_or(Failure::OurTor),
        _ => Failure::OurTor,
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    /// A proxy that greets as SOCKS5 does, asks for a password where it may, and answers a request with these bytes.
    async fn proxy(reply: &'static [u8]) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
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
            assert!(stream.read(&mut request).await.unwrap() > 5);
            stream.write_all(reply).await.unwrap();
            // Until the other side has read it.
            let _ = stream.read(&mut request).await;
        });
        address
    }

    #[tokio::test]
    async fn tor_is_told_from_other_proxies() {
        let tor = proxy(&[5, 0, 0, 1, 127, 0, 0, 1, 0, 0]).await;
        assert_eq!(what_answers(tor).await, SocksKind::Tor);
        let no_such_command = proxy(&[5, 7, 0, 1, 0, 0, 0, 0, 0, 0]).await;
        assert_eq!(what_answers(no_such_command).await, SocksKind::Other);
        let web_server = proxy(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        assert_eq!(what_answers(web_server).await, SocksKind::Other);
    }

    #[tokio::test]
    async fn where_nothing_is_nothing_answers() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        assert!(matches!(what_answers(address).await, SocksKind::Nothing(_)));
    }

    #[tokio::test]
    async fn replies_say_whose_trouble_it_is() {
        let host: Host = "explorerzydxu5ecjrkwceayqybizmpjjznk5izmitf2modhcusuqlid.onion".parse().unwrap();
        let cases: [(&'static [u8], Failure); 6] = [
            (&[5, 0xf0, 0, 1, 0, 0, 0, 0, 0, 0], Failure::NoDescriptor),
            (&[5, 4, 0, 1, 0, 0, 0, 0, 0, 0], Failure::NoDescriptor),
            (&[5, 5, 0, 1, 0, 0, 0, 0, 0, 0], Failure::Refused),
            (&[5, 6, 0, 1, 0, 0, 0, 0, 0, 0], Failure::Unreachable),
            (&[5, 1, 0, 1, 0, 0, 0, 0, 0, 0], Failure::Unreachable),
            (&[4, 0, 0, 1, 0, 0, 0, 0, 0, 0], Failure::OurTor),
        ];
        for (reply, expected) in cases {
            let socks = Socks::new(proxy(reply).await, 7);
            assert_eq!(socks.connect(&host, Port::MIN).await.unwrap_err(), expected, "{reply:?}");
        }
    }
}
