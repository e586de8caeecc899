//! From a route and a door to a stream of bytes.

mod direct;
mod socks;
mod tls;

use std::net::IpAddr;
use std::{fmt, io};

use rustix::io::Errno;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;

pub use direct::resolve;
pub use socks::{Socks, SocksKind, what_answers};
pub use tls::Tls;

use crate::book::{Attempt, Failure, KeyHash};
use crate::peer::{Port, Transport};
use crate::route::Via;

/// Bytes both ways, however they travel.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// A connection that stands.
pub struct Dialled {
    pub stream: Box<dyn Stream>,
    /// Whom we reached; None through Tor.
    pub ip: Option<IpAddr>,
    /// The key of the TLS certificate, if there is one.
    pub key: Option<KeyHash>,
}

/// What is needed to dial anybody.
#[derive(Debug, Clone)]
pub struct Dialer {
    pub tls: Tls,
    /// The Tor that was found last, if there is one.
    pub socks: watch::Receiver<Option<Socks>>,
}

/// A failure that is ours alone: there are no descriptors left to connect with.
fn out_of_descriptors(error: &io::Error) -> Option<Failure> {
    let ours = [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM].map(Errno::raw_os_error);
    error.raw_os_error().is_some_and(|code| ours.contains(&code)).then_some(Failure::OurLimits)
}

impl fmt::Debug for Dialled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dialled").field("ip", &self.ip).finish_non_exhaustive()
    }
}

impl Dialer {
    /// Opens one of an attempt's doors.
    pub async fn dial(&self, attempt: &Attempt, (transport, port): (Transport, Port)) -> Result<Dialled, Failure> {
        let (stream, ip): (Box<dyn Stream>, Option<IpAddr>) = match attempt.via {
            Via::Direct => {
                let (stream, ip) = direct::connect(&attempt.addresses, port).await?;
                (Box::new(stream), Some(ip))
            }
            Via::Tor => {
                let socks = self.socks.borrow().clone().ok_or(Failure::OurTor)?;
                (Box::new(socks.connect(&attempt.host, port).await?), None)
            }
        };
        match transport {
            Transport::Tcp => Ok(Dialled { stream, ip, key: None }),
            Transport::Tls => {
                let (stream, key) = self.tls.connect(&attempt.host, stream).await?;
                Ok(Dialled { stream: Box::new(stream), ip, key })
            }
        }
    }
}
