//! Through a Tor that runs beside us, by its SOCKS5 port.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tor_socksproto::{
    Buffer, Handshake, NextStep, SocksAddr, SocksAuth, SocksClientHandshake, SocksCmd, SocksRequest, SocksStatus,
    SocksVersion,
};

use crate::book::Failure;
use crate::peer::{DnsName, Host, Port};

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

    /// Connects through circuits of this circle alone: Tor keeps streams apart whose user name and password differ.
    pub async fn connect(&self, host: &Host, port: Port, circle: &str) -> Result<TcpStream, Failure> {
        let asking = self.ask(SocksCmd::CONNECT, host.to_string(), port.get(), circle);
        match asking.await {
            Ok((stream, _)) => Ok(stream),
            Err(Failure::NoDescriptor) if !host.is_onion() => Err(Failure::Unreachable),
            Err(failure) => Err(failure),
        }
    }

    /// Has an exit look a name up. Tor hands on one address.
    pub async fn resolve(&self, name: &DnsName, circle: &str) -> Result<Vec<IpAddr>, Failure> {
        match self.ask(SocksCmd::RESOLVE, name.as_str().to_owned(), 0, circle).await {
            Ok((_, SocksAddr::Ip(ip))) => Ok(vec![ip.to_canonical()]),
            Ok((_, SocksAddr::Hostname(_))) | Err(Failure::NoDescriptor) => Err(Failure::NotFound),
            Err(failure) => Err(failure),
        }
    }

    async fn ask(&self, command: SocksCmd, host: String, port: u16, circle: &str) -> Result<Answered, Failure> {
        // Tor takes user names and passwords of up to 255 bytes, and no host's name is longer.
        let auth = SocksAuth::Username(circle.as_bytes().to_vec(), self.password.clone().into_bytes());
        match timeout(CONNECT, ask(self.address, command, host, port, auth)).await {
            Ok(Ok(answered)) => Ok(answered),
            Ok(Err(Error::Refused(status))) => Err(failure(status)),
            Ok(Err(Error::Io(error))) => Err(super::out_of_descriptors(&error).unwrap_or(Failure::OurTor)),
            Ok(Err(Error::Protocol)) => Err(Failure::OurTor),
            Err(_) => Err(Failure::Unreachable),
        }
    }
}

/// Tells Tor from other proxies by RESOLVE, a command of Tor's own, of an address, which it answers by itself in a
/// millisecond, in the network or not.
pub async fn what_answers(address: SocketAddr) -> SocksKind {
    let asking = ask(address, SocksCmd::RESOLVE, "127.0.0.1".to_owned(), 0, SocksAuth::NoAuth);
    match timeout(ASK, asking).await {
        Ok(Ok((_, SocksAddr::Ip(ip)))) if ip.is_loopback() => SocksKind::Tor,
        Ok(Err(Error::Io(error))) if error.kind() != io::ErrorKind::UnexpectedEof => {
            SocksKind::Nothing(error.to_string())
        }
        Ok(Ok(_) | Err(_)) => SocksKind::Other,
        Err(_) => SocksKind::Nothing("no answer".to_owned()),
    }
}

/// The connection, and the address that the proxy named.
type Answered = (TcpStream, SocksAddr);

#[derive(Debug)]
enum Error {
    Io(io::Error),
    /// What answers speaks no SOCKS5, or we asked for what can't be asked.
    Protocol,
    Refused(SocksStatus),
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Error {
        Error::Io(error)
    }
}

impl From<tor_socksproto::Error> for Error {
    fn from(_: tor_socksproto::Error) -> Error {
        Error::Protocol
    }
}

async fn ask(
    address: SocketAddr,
    command: SocksCmd,
    host: String,
    port: u16,
    auth: SocksAuth,
) -> Result<Answered, Error> {
    let host = match host.parse() {
        Ok(ip) => SocksAddr::Ip(ip),
        Err(_) => SocksAddr::Hostname(host.try_into()?),
    };
    let mut handshake = SocksClientHandshake::new(SocksRequest::new(SocksVersion::V5, command, host, port, auth)?);
    let mut stream = TcpStream::connect(address).await?;
    // The handshake's lines, and ours after it, are short, and each waits for its answer.
    let _ = stream.set_nodelay(true);
    // It takes no more bytes than are the proxy's: what follows is the peer's.
    let mut buffer = Buffer::new_precise();
    loop {
        match handshake.step(&mut buffer)? {
            NextStep::Send(bytes) => stream.write_all(&bytes).await?,
            NextStep::Recv(mut room) => {
                let count = stream.read(room.buf()).await?;
                room.note_received(count).map_err(|_| io::Error::from(io::ErrorKind::UnexpectedEof))?;
            }
            NextStep::Finished(reply) => {
                let reply = reply.into_output().map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
                return match reply.status() {
                    SocksStatus::SUCCEEDED => Ok((stream, reply.addr().clone())),
                    status => Err(Error::Refused(status)),
                };
            }
        }
    }
}

/// Whose trouble a refusal is.
fn failure(status: SocksStatus) -> Failure {
    match status {
        SocksStatus::CONNECTION_REFUSED
        | SocksStatus::HS_MISSING_CLIENT_AUTH
        | SocksStatus::HS_WRONG_CLIENT_AUTH
        | SocksStatus::HS_DESC_INVALID => Failure::Refused,
        // Without ExtendedErrors on its port, Tor says of an onion service without descriptor that its host is unreachable.
        SocksStatus::HS_DESC_NOT_FOUND | SocksStatus::HS_BAD_ADDRESS | SocksStatus::HOST_UNREACHABLE => {
            Failure::NoDescriptor
        }
        // Whatever else a reply says may have been brought about by the service, and is none of Tor's failing.
        _ => Failure::Unreachable,
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
            assert_eq!(socks.connect(&host, Port::MIN, "a").await.unwrap_err(), expected, "{reply:?}");
        }
    }

    #[tokio::test]
    async fn an_exit_looks_names_up() {
        let Ok(Host::Dns(name)) = "a.example.com".parse() else { panic!("a name") };
        let socks = Socks::new(proxy(&[5, 0, 0, 1, 88, 99, 0, 2, 0, 0]).await, 7);
        assert_eq!(socks.resolve(&name, "a").await, Ok(vec!["88.99.0.2".parse().unwrap()]));
        let socks = Socks::new(proxy(&[5, 4, 0, 1, 0, 0, 0, 0, 0, 0]).await, 7);
        assert_eq!(socks.resolve(&name, "a").await, Err(Failure::NotFound));
        let host: Host = "88.99.0.2".parse().unwrap();
        let socks = Socks::new(proxy(&[5, 4, 0, 1, 0, 0, 0, 0, 0, 0]).await, 7);
        assert_eq!(socks.connect(&host, Port::MIN, "a").await.unwrap_err(), Failure::Unreachable);
    }
}
