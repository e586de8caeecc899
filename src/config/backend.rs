//! The keys about the server that we stand in front of, and what they come to.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

use super::{BackendSection, InvalidValue, ListenConfig, ListenKind, in_range, invalid, own_address};
use crate::backend::{BackendTarget, UpstreamAddr};
use crate::peer::{Host, Ports};
use crate::route::RoutingPolicy;

/// The server that we stand in front of, if there is one.
#[derive(Debug, Clone)]
pub struct BackendConfig {
    pub electrum: Option<BackendTarget>,
    /// Whether peers carry the sessions of callers of public listeners, too.
    pub public: bool,
    /// How long a caller's line for it may be.
    pub line_bytes: usize,
}

/// Holds the longest transaction that nodes relay, twice over, in hexadecimal digits, and then some.
const LINE_BYTES: usize = 5_000_000;

impl BackendConfig {
    /// Whether who calls here gets to the server behind us. Peers have not asked for the whole world's wallets.
    pub fn grants_backend(&self, kind: ListenKind, address: SocketAddr) -> bool {
        match self.electrum {
            None => false,
            Some(BackendTarget::Server(_)) => true,
            Some(BackendTarget::Peers) => self.public || kind == ListenKind::Onion || address.ip().is_loopback(),
        }
    }

    /// Rejects a backend address at which Waypost itself answers.
    ///
    /// A name that only the resolver knows is looked up when the daemon starts.
    pub fn check_not_self(
        &self,
        listening: &ListenConfig,
        page: Option<SocketAddr>,
        identity: Option<&(Host, Ports)>,
        control: &Path,
    ) -> Result<(), InvalidValue> {
        let own = |what: &str| {
            let reason = format!("{what} is Waypost itself; name the address of the Electrum server behind it");
            Err(invalid("backend.electrum", reason))
        };
        let endpoint = match &self.electrum {
            Some(BackendTarget::Server(UpstreamAddr::Tcp(endpoint) | UpstreamAddr::Tls(endpoint))) => endpoint,
            Some(BackendTarget::Server(UpstreamAddr::Unix(path))) if own_address::is_same_path(path, control) => {
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
        for (key, listener) in listeners.chain(page.map(|page| ("status.listen", page))) {
            if addresses.iter().any(|ip| own_address::reaches(*ip, port.get(), listener)) {
                return own(&format!("{endpoint}, where {key} listens,"));
            }
        }
        Ok(())
    }

    /// Whether there is a server whose operator wants it known.
    pub fn is_ours(&self) -> bool {
        matches!(self.electrum, Some(BackendTarget::Server(_)))
    }
}

pub fn resolve(keys: &BackendSection, routing: RoutingPolicy) -> Result<BackendConfig, InvalidValue> {
    let electrum = keys.electrum.clone();
    if let Some(BackendTarget::Server(address)) = &electrum
        && routing == RoutingPolicy::TorOnly
        && !is_local(address)
    {
        let reason = "with tor.only it must be a unix socket, or an address of this machine or a private network, \
                   as nothing may leave past Tor";
        return Err(invalid("backend.electrum", reason.to_owned()));
    }
    let line_bytes = in_range("backend.max_line_bytes", keys.max_line_bytes, LINE_BYTES, 16_384..=32_000_000)?;
    Ok(BackendConfig { electrum, public: keys.serve_public.unwrap_or(false), line_bytes })
}

/// Whether it is reached without a packet on the internet, or a question for a name.
fn is_local(address: &UpstreamAddr) -> bool {
    match address {
        UpstreamAddr::Unix(_) => true,
        UpstreamAddr::Tcp(endpoint) | UpstreamAddr::Tls(endpoint) => match endpoint.host {
            Host::Ip(IpAddr::V4(ip)) => ip.is_loopback() || ip.is_private(),
            Host::Ip(IpAddr::V6(ip)) => ip.is_loopback() || ip.is_unique_local(),
            Host::Dns(_) | Host::Onion(_) => false,
        },
    }
}
