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
        Error::GeneralSocksServerFailure | Error::TtlExpired => Failure::Unreachable,
        _ => Failure::OurTor,
    }
}
