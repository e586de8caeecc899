//! One request to a SOCKS5 proxy: connect, authenticate, send the command, read the reply.

#![expect(clippy::disallowed_methods, reason = "one of the two files that open connections")]

use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tor_socksproto::{
    Buffer, Handshake, NextStep, SocksAddr, SocksAuth, SocksClientHandshake, SocksCmd, SocksRequest, SocksStatus,
    SocksVersion,
};

use super::Stream;
use crate::connect::ProbeError;
use crate::peer::{Endpoint, Host};
use crate::socks_address::SocksAddress;

/// Connection through the proxy, and the address that its reply names.
pub(super) type Reply = (Box<dyn Stream>, SocksAddr);

/// Error of a request to a SOCKS5 proxy.
#[derive(Debug)]
pub(super) enum Error {
    Io(io::Error),
    /// The port does not speak SOCKS5, or the request cannot be expressed in it.
    Protocol,
    /// The proxy requires a login, or rejects the one that was sent.
    Login,
    Refused(SocksStatus),
    TimedOut,
}

impl Error {
    /// Returns the failure of a probe that this error means.
    pub(super) fn failure(&self) -> ProbeError {
        match self {
            Error::Refused(status) => failure(*status),
            Error::Io(error) => super::local_exhaustion(error).unwrap_or(ProbeError::TorUnavailable),
            Error::Protocol | Error::Login => ProbeError::TorUnavailable,
            Error::TimedOut => ProbeError::Unreachable,
        }
    }
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Error {
        Error::Io(error)
    }
}

impl From<tor_socksproto::Error> for Error {
    fn from(error: tor_socksproto::Error) -> Error {
        match error {
            tor_socksproto::Error::AuthRejected => Error::Login,
            _ => Error::Protocol,
        }
    }
}

/// Sends one request to a SOCKS5 proxy and waits for its reply.
pub(super) async fn handshake(
    address: &SocksAddress,
    command: SocksCmd,
    target: SocksAddr,
    port: u16,
    auth: SocksAuth,
) -> Result<Reply, Error> {
    let mut client = SocksClientHandshake::new(SocksRequest::new(SocksVersion::V5, command, target, port, auth)?);
    let mut stream = open(address).await?;
    // Reads no further than the proxy's reply: the next bytes are the peer's.
    let mut buffer = Buffer::new_precise();
    let mut reply = Vec::new();
    loop {
        let step = client.step(&mut buffer).map_err(|error| special_refusal(&reply).unwrap_or_else(|| error.into()))?;
        match step {
            NextStep::Send(bytes) => {
                reply.clear();
                stream.write_all(&bytes).await?;
            }
            NextStep::Recv(mut room) => {
                let count = stream.read(room.buf()).await?;
                reply.extend(room.buf().iter().take(count));
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

/// Sends BIND, which tor-socksproto does not support, and returns the status of the reply.
pub(super) async fn bind_status(address: &SocksAddress, auth: SocksAuth) -> io::Result<SocksStatus> {
    let mut stream = open(address).await?;
    let (method, login) = match auth {
        SocksAuth::Username(user, password) => (2, login_message(&user, &password)?),
        _ => (0, Vec::new()),
    };
    stream.write_all(&[5, 1, method]).await?;
    let mut reply = [0; 2];
    stream.read_exact(&mut reply).await?;
    if reply != [5, method] {
        return Err(io::ErrorKind::InvalidData.into());
    }
    if !login.is_empty() {
        stream.write_all(&login).await?;
        stream.read_exact(&mut reply).await?;
        if reply != [1, 0] {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
    }
    stream.write_all(b"\x05\x02\x00\x03\x09127.0.0.1\x00\x01").await?;
    stream.read_exact(&mut reply).await?;
    match reply {
        [5, status] => Ok(status.into()),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// Connects to a SOCKS port. A name is resolved by this machine's resolver.
async fn open(address: &SocksAddress) -> io::Result<Box<dyn Stream>> {
    let Endpoint { host, port } = match address {
        SocksAddress::Unix(path) => return Ok(Box::new(UnixStream::connect(path).await?)),
        SocksAddress::Tcp(endpoint) => endpoint,
    };
    let stream = match host {
        Host::Ip(ip) => TcpStream::connect((*ip, port.get())).await?,
        Host::Dns(name) => TcpStream::connect((name.as_str(), port.get())).await?,
        Host::Onion(_) => return Err(io::ErrorKind::InvalidInput.into()),
    };
    // The messages are short, and each waits for its reply.
    let _ = stream.set_nodelay(true);
    Ok(Box::new(stream))
}

/// Encodes user name and password (RFC 1929).
fn login_message(user: &[u8], password: &[u8]) -> io::Result<Vec<u8>> {
    let length = |text: &[u8]| u8::try_from(text.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput));
    Ok([&[1, length(user)?], user, &[length(password)?], password].concat())
}

/// Recognises replies that tor-socksproto reports as protocol errors.
///
/// C tor refuses RESOLVE with the invalid address type 0. As a protocol error it would mean that Tor is down, which any
/// peer could cause with a name that does not resolve. Method 255 means that the proxy requires a login.
fn special_refusal(reply: &[u8]) -> Option<Error> {
    match *reply {
        [5, 255] => Some(Error::Login),
        [5, status, 0, 0, ..] if status != 0 => Some(Error::Refused(status.into())),
        _ => None,
    }
}

/// Maps a refusal to the failure of a probe.
fn failure(status: SocksStatus) -> ProbeError {
    match status {
        SocksStatus::CONNECTION_REFUSED
        | SocksStatus::HS_MISSING_CLIENT_AUTH
        | SocksStatus::HS_WRONG_CLIENT_AUTH
        | SocksStatus::HS_DESC_INVALID => ProbeError::Refused,
        // Without ExtendedErrors, Tor reports a missing descriptor as an unreachable host.
        SocksStatus::HS_DESC_NOT_FOUND | SocksStatus::HS_BAD_ADDRESS | SocksStatus::HOST_UNREACHABLE => {
            ProbeError::OnionDescriptorNotFound
        }
        // Any other status may be caused by the service and proves no failure of Tor.
        _ => ProbeError::Unreachable,
    }
}
