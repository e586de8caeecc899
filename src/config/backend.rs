//! The keys about the server that we stand in front of, and what they come to.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

use super::{BackendKeys, ListenKind, Listening, Wrong, own_address, within, wrong};
use crate::backend::{Address, Front};
use crate::peer::{Host, Ports};
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

    /// Rejects a backend address at which Waypost itself answers.
    ///
    /// A name that only the resolver knows is looked up when the daemon starts.
    pub fn check_not_self(
        &self,
        listening: &Listening,
        page: Option<SocketAddr>,
        identity: Option<&(Host, Ports)>,
        control: &Path,
    ) -> Result<(), Wrong> {
        let own = |what: &str| {
            let why = format!("{what} is Waypost itself; name the address of the Electrum server behind it");
            Err(wrong("backend.electrum", why))
        };
        let endpoint = match &self.electrum {
            Some(Front::Server(Address::Tcp(endpoint) | Address::Tls(endpoint))) => endpoint,
            Some(Front::Server(Address::Unix(path))) if own_address::is_same_path(path, control) => {
                return own(&format!("the control socket {}", control.display()));
            }
            _ => return Ok(()),
        };
        let port = endpoint.port;
        if let Some((host, ports)) = identity
            && *host == endpoint.host
            && [ports.tcp(), ports.tls()].contains(&Some(port))
        {
            return own(&format!("{endpoint}, which is identity.host,"));
        }
        let addresses = match &endpoint.host {
            Host::Ip(ip) => vec![*ip],
            host if own_address::is_localhost(host) => vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()],
            _ => return Ok(()),
        };
        let listeners = ListenKind::ALL
            .into_iter()
            .flat_map(|kind| listening.addresses(kind).iter().map(move |address| (kind.key(), *address)));
        for (key, listener) in listeners.chain(page.map(|page| ("status.http", page))) {
            if addresses.iter().any(|ip| own_address::reaches(*ip, port.get(), listener)) {
                return own(&format!("{endpoint}, where {key} listens,"));
            }
        }
        Ok(())
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
