//! The keys about Tor, and what they come to.

use std::net::SocketAddr;
use std::path::PathBuf;

use super::{InvalidValue, Listen, Tor, invalid};
use crate::peer::{Host, Port};
use crate::route::RoutingPolicy;
use crate::server::Limits;
use crate::tor::{self, IS_EMBEDDED, Mode, OnionServiceOptions};

/// Which Tor is used, and what for.
#[derive(Debug, Clone)]
pub struct TorConfig {
    pub settings: tor::TorOptions,
    pub routing: RoutingPolicy,
    /// Onion service that an external Tor runs for this node.
    pub onion_host: Option<(Host, Port)>,
    /// The file of Arti's settings, which `settings` has the content of.
    pub arti: Option<PathBuf>,
    /// Whether the operator wants our own onion service, or doesn't; None where he didn't say.
    pub onion: Option<bool>,
}

/// What of other tables matters here.
#[derive(Debug)]
pub struct TorInputs<'a> {
    pub listen: &'a Listen,
    pub onion_host: Option<Host>,
    /// The port of our onion service, embedded or not.
    pub onion_port: Port,
    pub limits: &'a Limits,
    pub dir: PathBuf,
}

const NOT_BUILT_IN: &str = "this program was built without a Tor of its own; use tor.mode = \"socks\"";

pub fn resolve(keys: Tor, inputs: TorInputs<'_>, usual: [SocketAddr; 2]) -> Result<TorConfig, InvalidValue> {
    let onion = inputs.listen.onion;
    let port = inputs.onion_port;
    let onion_host = resolve_onion_host(&inputs, port)?;
    let mode = match keys.mode {
        Some(mode) => mode,
        // Who names a Tor wants that one.
        None if keys.socks.is_some() || onion_host.is_some() => Mode::Socks,
        None => Mode::Auto,
    };
    let not_with = |key, what: &str| Err(invalid(key, format!("not with {what}; leave one of the two out")));
    match mode {
        Mode::Embedded if !IS_EMBEDDED => return Err(invalid("tor.mode", NOT_BUILT_IN.to_owned())),
        Mode::Embedded | Mode::Off if keys.socks.is_some() => return not_with("tor.socks", "this tor.mode"),
        Mode::Socks | Mode::Off if keys.arti_config.is_some() => return not_with("tor.arti_config", "this tor.mode"),
        Mode::Socks | Mode::Off if onion == Some(true) => return not_with("listen.onion", "this tor.mode"),
        Mode::Off if keys.only == Some(true) => return not_with("tor.only", "tor.mode = \"off\""),
        Mode::Embedded | Mode::Off if onion_host.is_some() => return not_with("identity.onion_host", "this tor.mode"),
        _ => {}
    }
    if !IS_EMBEDDED && keys.arti_config.is_some() {
        return Err(invalid("tor.arti_config", NOT_BUILT_IN.to_owned()));
    }
    if onion == Some(true) {
        if !IS_EMBEDDED {
            return Err(invalid("listen.onion", NOT_BUILT_IN.to_owned()));
        }
        if onion_host.is_some() {
            return not_with("identity.onion_host", "listen.onion");
        }
    }
    let socks = match (mode, keys.socks) {
        (Mode::Off | Mode::Embedded, _) => Vec::new(),
        (_, Some(address)) => vec![address],
        (_, None) => usual.to_vec(),
    };
    let serves = IS_EMBEDDED && matches!(mode, Mode::Auto | Mode::Embedded) && onion != Some(false);
    let streams = u32::try_from(inputs.limits.sessions_per_source).unwrap_or(u32::MAX);
    let service = serves.then_some(OnionServiceOptions {
        port,
        required: onion == Some(true),
        circuits: inputs.limits.sessions,
        streams,
    });
    let overrides = keys.arti_config.as_ref().map(|path| read(path)).transpose()?.unwrap_or_default();
    let routing = if keys.only == Some(true) { RoutingPolicy::TorOnly } else { RoutingPolicy::Split };
    let settings = tor::TorOptions { mode, socks, dir: inputs.dir, arti: overrides, service };
    Ok(TorConfig { settings, routing, onion_host, arti: keys.arti_config, onion })
}

impl TorConfig {
    /// The same as keys.
    pub fn to_section(&self) -> Tor {
        let socks = &self.settings.socks;
        Tor {
            mode: Some(self.settings.mode),
            socks: socks.first().copied().filter(|_| socks.len() == 1),
            only: Some(self.routing == RoutingPolicy::TorOnly),
            arti_config: self.arti.clone(),
        }
    }
}

fn resolve_onion_host(inputs: &TorInputs<'_>, port: Port) -> Result<Option<(Host, Port)>, InvalidValue> {
    match &inputs.onion_host {
        None => Ok(None),
        Some(host) if !host.is_onion() => Err(invalid("identity.onion_host", "must be an onion name".to_owned())),
        Some(_) if inputs.listen.onion_tcp.as_ref().is_none_or(Vec::is_empty) => Err(invalid(
            "identity.onion_host",
            "set listen.onion_tcp as well, to the address that your Tor's HiddenServicePort names".to_owned(),
        )),
        Some(host) => Ok(Some((host.clone(), port))),
    }
}

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
