//! Connections without Tor.

#![expect(clippy::disallowed_methods, reason = "one of the two files that open connections")]

use std::io::ErrorKind;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use tokio::net::{TcpStream, UnixStream, lookup_host};
use tokio::time::timeout;

use crate::connect::ProbeError;
use crate::peer::{DnsName, Port};

/// Timeout for each address of a name.
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

    /// Connects to the first of these addresses that answers.
    pub async fn connect(self, addresses: &[IpAddr], port: Port) -> Result<(TcpStream, IpAddr), ProbeError> {
        let mut failure = ProbeError::Unreachable;
        for ip in addresses {
            match timeout(CONNECT_TIMEOUT, TcpStream::connect((*ip, port.get()))).await {
                Ok(Ok(stream)) => {
                    // Lines are short, and each waits for its response.
                    let _ = stream.set_nodelay(true);
                    return Ok((stream, *ip));
                }
                Ok(Err(error)) if error.kind() == ErrorKind::ConnectionRefused => failure = ProbeError::Refused,
                Ok(Err(error)) => {
                    if let Some(local) = super::local_exhaustion(&error) {
                        return Err(local);
                    }
                }
                Err(_) => {}
            }
        }
        Err(failure)
    }
}
