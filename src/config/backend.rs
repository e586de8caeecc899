//! The keys about the server that we stand in front of, and what they come to.

use std::net::IpAddr;

use super::{BackendKeys, Wrong, within, wrong};
use crate::backend::Address;
use crate::peer::Host;
use crate::route::Routing;

/// The server that we stand in front of, if there is one.
#[derive(Debug, Clone)]
pub struct Fronted {
    pub electrum: Option<Address>,
    /// How long a caller's line for it may be.
    pub line_bytes: usize,
}

/// Holds the longest transaction that nodes relay, twice over, in hexadecimal digits, and then some.
const LINE_BYTES: usize = 5_000_000;

pub fn resolve(keys: &BackendKeys, routing: Routing) -> Result<Fronted, Wrong> {
    let electrum = keys.electrum.clone();
    if let Some(address) = &electrum
        && routing == Routing::TorOnly
        && !is_near(address)
    {
        let why = "with tor.only it must be a unix socket, or an address of this machine or a private network, \
                   as nothing may leave past Tor";
        return Err(wrong("backend.electrum", why.to_owned()));
    }
    let line_bytes = within("backend.line_bytes", keys.line_bytes, LINE_BYTES, 16_384..=32_000_000)?;
    Ok(Fronted { electrum, line_bytes })
}

/// Whether it is reached without a packet on the internet, or a question for a name.
fn is_near(address: &Address) -> bool {
    match address {
        Address::Unix(_) => true,
        Address::Tcp(Host::Ip(ip), _) | Address::Tls(Host::Ip(ip), _) => match ip {
            IpAddr::V4(ip) => ip.is_loopback() || ip.is_private(),
            IpAddr::V6(ip) => ip.is_loopback() || ip.is_unique_local(),
        },
        Address::Tcp(..) | Address::Tls(..) => false,
    }
}
