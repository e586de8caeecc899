//! One request to a SOCKS5 proxy: connect, authenticate, send the command, read the reply.

#![expect(clippy::disallowed_methods, reason = "one of the two files that open connections")]

use std::io;
use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tor_socksproto::{
    Buffer, Handshake, NextStep, SocksAddr, SocksAuth, SocksClientHandshake, SocksCmd, SocksRequest, SocksStatus,
    SocksVersion,
};

use crate::connect::ProbeError;

/// Connection through the proxy, and the address that its reply names.
pub(super) type Reply = (TcpStream, SocksAddr);

/// Error of a request to a SOCKS5 proxy.
#[derive(Debug)]
pub(super) enum Error {
    Io(io::Error),
    /// The port does not speak SOCKS5, or the request cannot be expressed in it.
    Protocol,
    Refused(SocksStatus),
    TimedOut,
}

impl Error {
    /// Returns the failure of a probe that this error means.
    pub(super) fn failure(&self) -> ProbeError {
        match self {
            Error::Refused(status) => failure(*status),
            Error::Io(error) => super::local_exhaustion(error).unwrap_or(ProbeError::TorUnavailable),
            Error::Protocol => ProbeError::TorUnavailable,
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
    fn from(_: tor_socksproto::Error) -> Error {
        Error::Protocol
    }
}

/// Sends one request to a SOCKS5 proxy and waits for its reply.
pub(super) async fn handshake(
    address: SocketAddr,
    command: SocksCmd,
    target: SocksAddr,
    port: u16,
    auth: SocksAuth,
) -> Result<Reply, Error> {
    let mut client = SocksClientHandshake::new(SocksRequest::new(SocksVersion::V5, command, target, port, auth)?);
    let mut stream = TcpStream::connect(address).await?;
    // The messages are short, and each waits for its reply.
    let _ = stream.set_nodelay(true);
    // Reads no further than the proxy's reply: the next bytes are the peer's.
    let mut buffer = Buffer::new_precise();
    let mut reply = Vec::new();
    loop {
        let step = client.step(&mut buffer).map_err(|error| c_tor_refusal(&reply).unwrap_or_else(|| error.into()))?;
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
pub(super) async fn bind_status(address: SocketAddr) -> io::Result<SocksStatus> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(&[5, 1, 0]).await?;
    let mut method = [0; 2];
    stream.read_exact(&mut method).await?;
    if method != [5, 0] {
        return Err(io::ErrorKind::InvalidData.into());
    }
    stream.write_all(b"\x05\x02\x00\x03\x09127.0.0.1\x00\x01").await?;
    let mut reply = [0; 2];
    stream.read_exact(&mut reply).await?;
    match reply {
        [5, status] => Ok(status.into()),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// Recognises C tor's refusal of RESOLVE, whose reply has an invalid address type 0.
///
/// As a protocol error it would mean that Tor is down, which any peer could cause with a name that
/// does not resolve.
fn c_tor_refusal(reply: &[u8]) -> Option<Error> {
    match *reply {
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
