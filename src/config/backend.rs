//! The keys about the server that we stand in front of, and what they come to.

use std::net::{IpAddr, SocketAddr};

use super::{BackendKeys, ListenKind, Wrong, within, wrong};
use crate::backend::{Address, Front};
use crate::peer::Host;
use crate::route::Routing;

/// The server that we stand in front of, if there is one.
#[derive(Debug, Clone)]
pub struct Fronted {
    pub electrum: Option<Front>,
    /// Whether peers carry the sessions of callers of public listeners, too.
    pub public: bool,
    /// How long a caller's line for it may be.
    pub line_bytes: usize,
}

/// Holds the longest transaction that nodes relay, twice over, in hexadecimal digits, and then some.
const LINE_BYTES: usize = 5_000_000;

impl Fronted {
    /// Whether who calls here gets to the server behind us. Peers have not asked for the whole world's wallets.
    pub fn serves(&self, kind: ListenKind, address: SocketAddr) -> bool {
        match self.electrum {
            None => false,
            Some(Front::Server(_)) => true,
            Some(Front::Peers) => self.public || kind == ListenKind::Onion || address.ip().is_loopback(),
        }
    }

    /// Whether there is a server whose operator wants it known.
    pub fn is_ours(&self) -> bool {
        matches!(self.electrum, Some(Front::Server(_)))
    }
}

pub fn resolve(keys: &BackendKeys, routing: Routing) -> Result<Fronted, Wrong> {
    let electrum = keys.electrum.clone();
    if let Some(Front::Server(address)) = &electrum
        && routing == Routing::TorOnly
        && !is_near(address)
    {
        let why = "with tor.only it must be a unix socket, or an address of this machine or a private network, \
                   as nothing may leave past Tor";
        return Err(wrong("backend.electrum", why.to_owned()));
    }
    let line_bytes = within("backend.line_bytes", keys.line_bytes, LINE_BYTES, 16_384..=32_000_000)?;
    Ok(Fronted { electrum, public: keys.public.unwrap_or(false), line_bytes })
}

/// Whether it is reached without a packet on the internet, or a question for a name.
fn is_near(address: &Address) -> bool {
    match address {
        Address::Unix(_) => true,
        Address::Tcp(endpoint) | Address::Tls(endpoint) => match endpoint.host {
            Host::Ip(IpAddr::V4(ip)) => ip.is_loopback() || ip.is_private(),
            Host::Ip(IpAddr::V6(ip)) => ip.is_loopback() || ip.is_unique_local(),
            Host::Dns(_) | Host::Onion(_) => false,
        },
    }
}
