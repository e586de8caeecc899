//! The `[tor]` section, with the onion keys of other sections.

use std::path::PathBuf;

use super::onion::OnionKeys;
use super::{InvalidValue, ListenSection, TorSection, invalid, socks};
use crate::peer::{Host, Ports};
use crate::route::RoutingPolicy;
use crate::server::Limits;
use crate::tor::{self, IS_EMBEDDED, Mode, OnionServiceOptions};

/// Resolved `[tor]` section, with the onion service.
#[derive(Debug, Clone)]
pub struct TorConfig {
    /// Configuration of the Tor module.
    pub settings: tor::TorOptions,
    /// Route to peers.
    pub routing: RoutingPolicy,
    /// Name and ports of the onion service that an external Tor runs. `None`: no such service.
    pub onion_host: Option<(Host, Ports)>,
    /// Errors of files with passwords and keys, which only the daemon may be able to read.
    pub unread: Vec<InvalidValue>,
}

/// Values of other sections that `resolve` needs.
#[derive(Debug)]
pub(super) struct TorInputs<'a> {
    pub listen: &'a ListenSection,
    pub onion_host: Option<Host>,
    /// Keys of the onion service, embedded or external.
    pub onion: OnionKeys,
    pub limits: &'a Limits,
    /// Directory of the embedded Tor.
    pub dir: PathBuf,
}

const NOT_BUILT_IN: &str = "this build has no embedded Tor; use tor.mode = \"socks\"";

/// Fills in defaults and checks the section.
pub(super) fn resolve(section: &mut TorSection, inputs: TorInputs<'_>) -> Result<TorConfig, InvalidValue> {
    let onion = inputs.listen.onion;
    let onion_host = resolve_onion_host(&inputs)?;
    let mode = match section.mode {
        Some(mode) => mode,
        // A configured external Tor takes precedence over the automatic choice.
        None if section.socks.is_some() || section.socks_user.is_some() || onion_host.is_some() => Mode::Socks,
        None => Mode::Auto,
    };
    section.mode = Some(mode);
    let is_only = *section.only.get_or_insert(false);
    let not_with = |key, what: &str| Err(invalid(key, format!("conflicts with {what}; remove one of the two")));
    match mode {
        Mode::Embedded if !IS_EMBEDDED => return Err(invalid("tor.mode", NOT_BUILT_IN.to_owned())),
        Mode::Embedded | Mode::Off if section.socks.is_some() => return not_with("tor.socks", "this tor.mode"),
        Mode::Embedded | Mode::Off if section.socks_user.is_some() => {
            return not_with("tor.socks_user", "this tor.mode");
        }
        Mode::Socks | Mode::Off if section.arti_config.is_some() => {
            return not_with("tor.arti_config", "this tor.mode");
        }
        Mode::Socks if section.onion_auth_dir.is_some() => {
            let reason = "needs the embedded Tor; an external Tor has ClientOnionAuthDir in torrc";
            return Err(invalid("tor.onion_auth_dir", reason.to_owned()));
        }
        Mode::Off if section.onion_auth_dir.is_some() => return not_with("tor.onion_auth_dir", "this tor.mode"),
        Mode::Socks | Mode::Off if onion == Some(true) => return not_with("listen.onion", "this tor.mode"),
        Mode::Off if is_only => return not_with("tor.only", "tor.mode = \"off\""),
        Mode::Embedded | Mode::Off if onion_host.is_some() => return not_with("identity.onion_host", "this tor.mode"),
        _ => {}
    }
    if !IS_EMBEDDED && section.arti_config.is_some() {
        return Err(invalid("tor.arti_config", NOT_BUILT_IN.to_owned()));
    }
    if !IS_EMBEDDED && section.onion_auth_dir.is_some() {
        return Err(invalid("tor.onion_auth_dir", NOT_BUILT_IN.to_owned()));
    }
    if onion == Some(true) {
        if !IS_EMBEDDED {
            return Err(invalid("listen.onion", NOT_BUILT_IN.to_owned()));
        }
        if onion_host.is_some() {
            return not_with("identity.onion_host", "listen.onion");
        }
    }
    let mut unread = Vec::new();
    let socks = match mode {
        Mode::Off | Mode::Embedded => Vec::new(),
        Mode::Auto | Mode::Socks => socks::resolve(section, is_only, &mut unread)?,
    };
    let runs_service = IS_EMBEDDED && matches!(mode, Mode::Auto | Mode::Embedded) && onion != Some(false);
    let streams = u32::try_from(inputs.limits.sessions_per_source).unwrap_or(u32::MAX);
    if !runs_service {
        inputs.onion.check_without_service(inputs.listen)?;
    }
    let OnionKeys { ports, tls_port, introduction_points, clients, unread: unread_clients } = inputs.onion;
    unread.extend(unread_clients);
    let service = runs_service.then(|| OnionServiceOptions {
        ports: ports.iter().collect(),
        tls_port,
        required: onion == Some(true),
        circuits: inputs.limits.sessions,
        streams,
        introduction_points,
        clients,
    });
    let overrides = section.arti_config.as_ref().map(|path| read(path)).transpose()?.unwrap_or_default();
    let peer_keys = section.onion_auth_dir.as_ref().map_or(Ok(Vec::new()), |dir| tor::read_peer_keys(dir));
    let peer_keys = peer_keys.unwrap_or_else(|error| {
        unread.push(invalid("tor.onion_auth_dir", error.to_string()));
        Vec::new()
    });
    let routing = if is_only { RoutingPolicy::TorOnly } else { RoutingPolicy::Split };
    let settings = tor::TorOptions { mode, socks, dir: inputs.dir, arti: overrides, peer_keys, service };
    Ok(TorConfig { settings, routing, onion_host, unread })
}

/// Returns the onion service of an external Tor, if one is configured.
fn resolve_onion_host(inputs: &TorInputs<'_>) -> Result<Option<(Host, Ports)>, InvalidValue> {
    match &inputs.onion_host {
        None => Ok(None),
        Some(host) if !host.is_onion() => Err(invalid("identity.onion_host", "expected an onion name".to_owned())),
        Some(_) if inputs.listen.onion_tcp.as_ref().is_none_or(Vec::is_empty) => Err(invalid(
            "identity.onion_host",
            "needs listen.onion_tcp, with the address of HiddenServicePort in torrc".to_owned(),
        )),
        Some(host) => {
            let ports = Ports::new(Some(inputs.onion.ports.first()), inputs.onion.tls_port);
            Ok(ports.map(|ports| (host.clone(), ports)))
        }
    }
}

/// Reads and checks a file with settings of Arti.
#[cfg(feature = "embedded-tor")]
fn read(path: &std::path::Path) -> Result<String, InvalidValue> {
    let failed = |reason: &dyn std::fmt::Display| invalid("tor.arti_config", format!("{}: {reason}", path.display()));
    let text = std::fs::read_to_string(path).map_err(|error| failed(&error))?;
    tor::check(&text).map_err(|error| failed(&error))?;
    Ok(text)
}

#[cfg(not(feature = "embedded-tor"))]
fn read(_: &std::path::Path) -> Result<String, InvalidValue> {
    Err(invalid("tor.arti_config", NOT_BUILT_IN.to_owned()))
}
