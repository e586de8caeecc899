//! The `[backend]` section: upstream of forwarded requests.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

use super::file::ProxyProtocol;
use super::{BackendSection, InvalidValue, ListenConfig, ListenKind, PageAddresses, in_range, invalid, own_address};
use crate::backend::{BackendAccess, BackendTargets, UpstreamAddr};
use crate::electrum::identity::Identity;
use crate::peer::{Host, Ports};
use crate::route::RoutingPolicy;

/// Resolved `[backend]` section.
#[derive(Debug, Clone)]
pub struct BackendConfig {
    /// Upstream of forwarded requests. `None`: discovery only.
    pub electrum: Option<BackendTargets>,
    /// Whether peers also serve clients of listeners that are not on loopback.
    pub serve_public: bool,
    /// Longest line of a client for the backend, in bytes.
    pub max_line_bytes: usize,
    /// Whether connections to the servers begin with a PROXY header.
    pub proxy_protocol: bool,
}

/// Default length of a client's line for the backend, in bytes.
///
/// Nodes relay transactions of at most 400,000 weight units, which are at most 800,000 hexadecimal digits.
const DEFAULT_MAX_LINE_BYTES: usize = 5_000_000;

impl BackendConfig {
    /// Returns which parts of the backend serve clients of a listener.
    ///
    /// Peers serve only local and onion clients unless `serve_public` is set, since public wallets would load them.
    pub fn access(&self, kind: ListenKind, address: SocketAddr) -> BackendAccess {
        let may_use_peers = self.serve_public || kind.is_onion() || address.ip().is_loopback();
        match &self.electrum {
            Some(targets) if targets.peers && may_use_peers => BackendAccess::All,
            Some(targets) if !targets.servers.is_empty() => BackendAccess::Servers,
            _ => BackendAccess::None,
        }
    }

    /// Returns the addresses of the operator's servers.
    pub fn servers(&self) -> &[UpstreamAddr] {
        self.electrum.as_ref().map_or(&[], |targets| &targets.servers)
    }

    /// Returns whether verified peers serve sessions.
    pub fn uses_peers(&self) -> bool {
        self.electrum.as_ref().is_some_and(|targets| targets.peers)
    }

    /// Rejects a backend address that belongs to Waypost itself.
    ///
    /// Names that need a resolver are checked when the daemon starts.
    pub fn check_not_self(
        &self,
        listening: &ListenConfig,
        pages: &PageAddresses,
        identity: &Identity,
        control: &Path,
    ) -> Result<(), InvalidValue> {
        self.servers().iter().try_for_each(|server| check_not_self(server, listening, pages, identity, control))
    }

    /// Returns whether the operator's servers serve sessions.
    pub fn has_server(&self) -> bool {
        !self.servers().is_empty()
    }
}

/// Rejects the address of a server that belongs to Waypost itself.
fn check_not_self(
    server: &UpstreamAddr,
    listening: &ListenConfig,
    pages: &PageAddresses,
    identity: &Identity,
    control: &Path,
) -> Result<(), InvalidValue> {
    let own = |what: &str| {
        let reason = format!("{what} is Waypost itself; name the address of the Electrum server behind it");
        Err(invalid("backend.electrum", reason))
    };
    let endpoint = match server {
        UpstreamAddr::Tcp(endpoint) | UpstreamAddr::Tls(endpoint) => endpoint,
        UpstreamAddr::Unix(path) if own_address::is_same_path(path, control) => {
            return own(&format!("the control socket {}", control.display()));
        }
        UpstreamAddr::Unix(_) => return Ok(()),
    };
    let port = endpoint.port;
    let is_own =
        |(host, ports): &&(Host, Ports)| *host == endpoint.host && [ports.tcp(), ports.tls()].contains(&Some(port));
    if identity.clearnet.iter().any(|name| is_own(&name)) {
        return own(&format!("{endpoint}, which is identity.host,"));
    }
    if identity.other_names.iter().any(|name| is_own(&name)) {
        return own(&format!("{endpoint}, which is in identity.other_names,"));
    }
    let addresses = match &endpoint.host {
        Host::Ip(ip) => vec![*ip],
        host if own_address::is_localhost(host) => vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()],
        _ => return Ok(()),
    };
    let listeners = ListenKind::ALL
        .into_iter()
        .flat_map(|kind| listening.addresses(kind).iter().map(move |address| (kind.key(), *address)));
    for (key, listener) in listeners.chain(pages.by_key()) {
        if addresses.iter().any(|ip| own_address::reaches(*ip, port.get(), listener)) {
            return own(&format!("{endpoint}, where {key} listens,"));
        }
    }
    Ok(())
}

/// Fills in defaults and checks the section.
pub(super) fn resolve(section: &mut BackendSection, routing: RoutingPolicy) -> Result<BackendConfig, InvalidValue> {
    let electrum = section.electrum.clone();
    let mut servers = electrum.iter().flat_map(|targets| &targets.servers);
    if routing == RoutingPolicy::TorOnly && !servers.all(is_local) {
        let reason = "tor.only needs a Unix socket, or an address of this machine or of a private network";
        return Err(invalid("backend.electrum", reason.to_owned()));
    }
    let max_line_bytes = &mut section.max_line_bytes;
    let max_line_bytes =
        in_range("backend.max_line_bytes", max_line_bytes, DEFAULT_MAX_LINE_BYTES, 16_384..=32_000_000)?;
    let proxy_protocol = section.proxy_protocol == Some(ProxyProtocol::V2);
    if proxy_protocol && electrum.as_ref().is_none_or(|targets| targets.servers.is_empty()) {
        return Err(invalid("backend.proxy_protocol", "needs a server in backend.electrum".to_owned()));
    }
    let serve_public = *section.serve_public.get_or_insert(false);
    Ok(BackendConfig { electrum, serve_public, max_line_bytes, proxy_protocol })
}

/// Returns whether connections need neither name resolution nor packets on the Internet.
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
