//! The `[identity]` section: names of this node.

use std::net::IpAddr;

use super::{BackendConfig, ConfigFile, IdentitySection, InvalidValue, invalid};
use crate::book::PerIngress;
use crate::chain::Chain;
use crate::electrum::identity::{BackendState, Identity};
use crate::netgroup::is_public;
use crate::peer::{Host, Ports, RealName};
use crate::route::RoutingPolicy;

/// Maximum number of `identity.other_names`.
///
/// With `identity.host` they are four: Fulcrum rejects servers whose features list more hosts.
const MAX_OTHER_NAMES: usize = 3;

/// Checks the names of this node.
pub(super) fn resolve(
    section: &mut IdentitySection,
    chain: Chain,
    backend: &BackendConfig,
) -> Result<Identity, InvalidValue> {
    let ports = Ports::new(section.tcp_port, section.ssl_port);
    let clearnet = match (section.host.clone(), ports) {
        (Some(Host::Onion(_)), _) => {
            return Err(invalid(
                "identity.host",
                "expected a clearnet name; an external Tor's onion name belongs in identity.onion_host".to_owned(),
            ));
        }
        (Some(_), None) => {
            return Err(invalid("identity.host", "needs identity.tcp_port or identity.ssl_port".to_owned()));
        }
        (None, Some(_)) => {
            let key = if section.tcp_port.is_some() { "identity.tcp_port" } else { "identity.ssl_port" };
            return Err(invalid(key, "needs identity.host".to_owned()));
        }
        (None, None) if section.ws_port.or(section.wss_port).is_some() => {
            let key = if section.ws_port.is_some() { "identity.ws_port" } else { "identity.wss_port" };
            return Err(invalid(key, "needs identity.host, and identity.tcp_port or identity.ssl_port".to_owned()));
        }
        (Some(host), Some(ports)) => Some((host, ports.with_web_sockets(section.ws_port, section.wss_port))),
        (None, None) => None,
    };
    let other_names = resolve_other_names(section)?;
    Ok(Identity {
        chain,
        clearnet,
        other_names,
        address: section.address,
        // The onion name is advertised only after the self-check has reached it.
        onion: None,
        link_identities: *section.link_identities.get_or_insert(false),
        banner: section.banner.clone(),
        donation_address: section.donation_address.clone(),
        backend: PerIngress::both(if backend.electrum.is_some() { BackendState::Unknown } else { BackendState::None }),
    })
}

/// Checks the address that is published with the clearnet name.
pub(super) fn resolve_address(file: &ConfigFile) -> Result<Option<IpAddr>, InvalidValue> {
    let Some(address) = file.identity.address.map(|address| address.to_canonical()) else { return Ok(None) };
    let rejected = |reason: String| Err(invalid("identity.address", reason));
    let allows_private = file.discovery.allow_private == Some(true);
    match file.identity.host {
        None => rejected("needs identity.host: the address is published with that name".to_owned()),
        Some(Host::Ip(_)) => rejected("not needed: identity.host is an address already; remove this key".to_owned()),
        Some(_) if address.is_unspecified() || address.is_multicast() => {
            rejected(format!("{address} is not the address of a machine; set the public address of this machine"))
        }
        Some(_) if !allows_private && !is_public(address) => rejected(format!(
            "{address} is not public; set the address at which others reach this machine, such as 93.184.215.14"
        )),
        Some(_) => Ok(Some(address)),
    }
}

/// Checks the local addresses that announcements come from.
///
/// Whether this machine has them is checked at the start.
pub(super) fn resolve_bind(
    section: &IdentitySection,
    routing: RoutingPolicy,
) -> Result<Option<Vec<IpAddr>>, InvalidValue> {
    let Some(addresses) = section.bind.as_ref().filter(|addresses| !addresses.is_empty()) else { return Ok(None) };
    let rejected = |reason: &str| Err(invalid("identity.bind", reason.to_owned()));
    if section.host.is_none() {
        return rejected("needs identity.host: the addresses are used to announce that name");
    }
    if routing == RoutingPolicy::TorOnly {
        return rejected("tor.only makes no direct connections; remove one of the keys");
    }
    let addresses: Vec<IpAddr> = addresses.iter().map(|address| address.to_canonical()).collect();
    if addresses.iter().any(|address| address.is_unspecified() || address.is_multicast()) {
        return rejected("expected addresses of this machine, such as 93.184.215.14");
    }
    Ok(Some(addresses))
}

/// Checks the further clearnet names.
fn resolve_other_names(section: &mut IdentitySection) -> Result<Vec<(Host, Ports)>, InvalidValue> {
    let lines = section.other_names.get_or_insert_default();
    let rejected = |reason: String| Err(invalid("identity.other_names", reason));
    let Some(primary) = &section.host else {
        return match lines.as_slice() {
            [] => Ok(Vec::new()),
            _ => rejected("needs identity.host: move the first name there, with its ports".to_owned()),
        };
    };
    // Linked identities put the onion name into the features as well.
    let max = if section.link_identities == Some(true) { MAX_OTHER_NAMES - 1 } else { MAX_OTHER_NAMES };
    if lines.len() > max {
        return rejected(format!(
            "{} names, but at most {max} are possible: Fulcrum servers reject a server with more than four names; remove some",
            lines.len()
        ));
    }
    let mut names: Vec<(Host, Ports)> = Vec::new();
    for line in lines {
        let (host, ports) = other_name(line).map_err(|reason| invalid("identity.other_names", reason))?;
        if host == *primary || names.iter().any(|(known, _)| *known == host) {
            return rejected(format!("{host} is named twice, here or in identity.host; name each host once"));
        }
        *line = RealName { host: host.clone(), version: None, pruning: None, ports }.to_string();
        names.push((host, ports));
    }
    Ok(names)
}

/// Parses a further name. All words after the host must be ports with numbers.
fn other_name(line: &str) -> Result<(Host, Ports), String> {
    // The defaults stand for ports without a number, which are rejected below.
    let parsed = RealName::parse(line, Chain::BITCOIN.default_ports);
    let RealName { host, ports, .. } = parsed.map_err(|error| format!("{line:?} is no name with ports: {error}"))?;
    if host.is_onion() {
        return Err(format!("{host} is an onion name; that of an external Tor belongs in identity.onion_host"));
    }
    let name = RealName { host, version: None, pruning: None, ports };
    if let Some(word) = line.split_ascii_whitespace().skip(1).find(|word| !name.tokens().any(|token| token == *word)) {
        return Err(format!(
            "{word:?} in {line:?} is not a port; write ports like s50002, t50001, wss50004 or ws50003"
        ));
    }
    Ok((name.host, ports))
}
