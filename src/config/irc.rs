//! The `[irc]` section: visits to an IRC channel.

use data_encoding::{HEXLOWER, HEXLOWER_PERMISSIVE};
use std::path::Path;
use std::time::Duration;

use super::{HumanDuration, InvalidValue, IrcSection, invalid};
use crate::electrum::identity::Identity;
use crate::electrum::irc::{DEFAULT_REALNAME_LIMIT, IrcVisitConfig};
use crate::irc_discovery::IrcConfig;
use crate::network::Network;
use crate::peer::{Endpoint, RealName};
use crate::route::RoutingPolicy;

/// Default server.
const DEFAULT_SERVER: &str = "irc.libera.chat:6697";

/// Default channel.
const DEFAULT_CHANNEL: &str = "#electrum";

/// Shortest interval between visits, so that they do not burden the network.
const MIN_INTERVAL: Duration = Duration::from_mins(10);

/// Default interval between visits.
const DEFAULT_INTERVAL: Duration = Duration::from_hours(6);

/// Longest interval between visits. Computations with it must not overflow.
const MAX_INTERVAL: Duration = Duration::from_hours(24 * 365);

/// Longest user and password for SASL, in bytes together.
///
/// The response in base64 must have fewer than 400 characters, since longer ones are split (IRCv3 SASL). It contains
/// two NUL bytes.
const MAX_LOGIN_BYTES: usize = 295;

/// Checks the section and fills in defaults. Returns `None` if visits are disabled.
pub(super) fn resolve(
    keys: IrcSection,
    identity: &Identity,
    peers_as_backend: bool,
    routing: RoutingPolicy,
    tor_is_off: bool,
    data_dir: &Path,
) -> Result<Option<IrcConfig>, InvalidValue> {
    if !keys.enabled.unwrap_or(false) {
        return Ok(None);
    }
    let default = || DEFAULT_SERVER.parse().map_err(|_| invalid("irc.server", "no default; set a server".to_owned()));
    let server: Endpoint = keys.server.map_or_else(default, Ok)?;
    let tls = keys.tls.unwrap_or(true);
    let tor = keys.tor.unwrap_or(false) || routing == RoutingPolicy::TorOnly || server.host.is_onion();
    if tor && tor_is_off {
        let key = if server.host.is_onion() { "irc.server" } else { "irc.tor" };
        return Err(invalid(key, "needs Tor, but tor.mode is \"off\"".to_owned()));
    }
    if tor && !tls && !server.host.is_onion() {
        let reason = "must be true with Tor: an exit can read and alter unencrypted traffic";
        return Err(invalid("irc.tls", reason.to_owned()));
    }
    let channel = keys.channel.unwrap_or_else(|| DEFAULT_CHANNEL.to_owned());
    if !channel.starts_with(['#', '&', '+', '!']) || !is_word(&channel, 50) {
        return Err(invalid(
            "irc.channel",
            "expected the name of a channel, such as #electrum, of at most 50 bytes".to_owned(),
        ));
    }
    let default_prefix = if identity.network == Network::Bitcoin { "E_" } else { "ET_" };
    let nick_prefix = keys.nick_prefix.unwrap_or_else(|| default_prefix.to_owned());
    if !is_word(&nick_prefix, 5) {
        return Err(invalid("irc.nick_prefix", "expected one to five characters of a nick".to_owned()));
    }
    let HumanDuration(interval) = keys.interval.unwrap_or(HumanDuration(DEFAULT_INTERVAL));
    if interval < MIN_INTERVAL {
        return Err(invalid(
            "irc.interval",
            "must be at least 10m, so that visits do not burden the network".to_owned(),
        ));
    }
    if interval > MAX_INTERVAL {
        return Err(invalid("irc.interval", "must be at most 365d; to disable visits, remove irc.enabled".to_owned()));
    }
    let sasl = match (keys.sasl_user, keys.sasl_password) {
        (Some(user), Some(password)) => Some((user, password)),
        (None, None) => None,
        (Some(_), None) => {
            return Err(invalid("irc.sasl_password", "missing; set it together with irc.sasl_user".to_owned()));
        }
        (None, Some(_)) => {
            return Err(invalid("irc.sasl_user", "missing; set it together with irc.sasl_password".to_owned()));
        }
    };
    if sasl.as_ref().is_some_and(|(user, password)| user.len() + password.expose().len() > MAX_LOGIN_BYTES) {
        return Err(invalid(
            "irc.sasl_password",
            format!("user and password must have at most {MAX_LOGIN_BYTES} bytes together"),
        ));
    }
    for (key, password) in
        [("irc.password", keys.password.as_ref()), ("irc.sasl_password", sasl.as_ref().map(|(_, password)| password))]
    {
        if password.is_some() && !tls {
            return Err(invalid(key, "needs irc.tls, since a password must not be sent unencrypted".to_owned()));
        }
        if password.is_some_and(|password| password.expose().contains(['\r', '\n', '\0'])) {
            return Err(invalid(key, "must be a single line".to_owned()));
        }
    }
    let as_key = |text: String| HEXLOWER_PERMISSIVE.decode(text.as_bytes()).ok()?.try_into().ok();
    let key = match keys.key.map(as_key) {
        None => None,
        Some(Some(_)) if !tls => return Err(invalid("irc.key", "needs irc.tls".to_owned())),
        Some(Some(key)) => Some(key),
        Some(None) => return Err(invalid("irc.key", "expected a SHA-256 in 64 hexadecimal digits".to_owned())),
    };
    let stay = keys.persistent.unwrap_or(false);
    let advertise = keys.advertise.unwrap_or(false).then(|| real_name(identity, peers_as_backend, stay)).transpose()?;
    let default_ports = identity.network.default_ports();
    let plan = IrcVisitConfig { channel, nick_prefix, password: keys.password, sasl, advertise, stay, default_ports };
    Ok(Some(IrcConfig { server, tls, tor, interval, plan, key, visit_file: data_dir.join("irc-visit") }))
}

/// Converts the resolved section back to keys.
pub(super) fn to_section(config: Option<&IrcConfig>) -> IrcSection {
    let Some(IrcConfig { server, tls, tor, interval, plan, key, .. }) = config else {
        return IrcSection { enabled: Some(false), ..IrcSection::default() };
    };
    IrcSection {
        enabled: Some(true),
        server: Some(server.clone()),
        channel: Some(plan.channel.clone()),
        nick_prefix: Some(plan.nick_prefix.clone()),
        interval: Some(HumanDuration(*interval)),
        tls: Some(*tls),
        tor: Some(*tor),
        key: key.map(|bytes| HEXLOWER.encode(&bytes)),
        persistent: Some(plan.stay),
        password: plan.password.clone(),
        sasl_user: plan.sasl.as_ref().map(|(user, _)| user.clone()),
        sasl_password: plan.sasl.as_ref().map(|(_, password)| password.clone()),
        advertise: Some(plan.advertise.is_some()),
    }
}

/// Returns the real name that advertises this node.
fn real_name(identity: &Identity, peers_as_backend: bool, stay: bool) -> Result<RealName, InvalidValue> {
    let (host, ports) = identity.clearnet.clone().ok_or_else(|| {
        invalid("irc.advertise", "needs identity.host; onion names are too long for IRC real names".to_owned())
    })?;
    if peers_as_backend {
        let reason = "not possible with backend.electrum = \"peers\", which offers no server to others";
        return Err(invalid("irc.advertise", reason.to_owned()));
    }
    if !stay {
        return Err(invalid("irc.advertise", "needs irc.persistent: a short visit is not seen by others".to_owned()));
    }
    let name = identity.listed(&host, ports, None).name;
    let length = name.to_string().len();
    if length >= DEFAULT_REALNAME_LIMIT {
        let reason =
            format!("\"{name}\" has {length} characters; most servers truncate real names to {DEFAULT_REALNAME_LIMIT}");
        return Err(invalid("irc.advertise", reason));
    }
    Ok(name)
}

/// Returns whether a text is a single IRC parameter of at most `max_bytes`.
fn is_word(text: &str, max_bytes: usize) -> bool {
    !text.is_empty()
        && text.len() <= max_bytes
        && text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b',' && byte != b':')
}
