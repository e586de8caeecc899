//! The `[irc]` section: visits to an IRC channel.

use data_encoding::{HEXLOWER, HEXLOWER_PERMISSIVE};
use std::path::Path;
use std::time::Duration;

use super::{BackendConfig, HumanDuration, InvalidValue, IrcSection, TorConfig, invalid};
use crate::connect::KeyHash;
use crate::electrum::identity::Identity;
use crate::electrum::irc::{DEFAULT_REALNAME_LIMIT, IrcVisitConfig};
use crate::irc_discovery::IrcConfig;
use crate::peer::RealName;
use crate::route::RoutingPolicy;
use crate::secret::Secret;
use crate::tor::Mode;

/// Default server.
const DEFAULT_SERVER: &str = "irc.libera.chat:6697";

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

/// Values of other sections that `resolve` needs.
#[derive(Debug, Clone, Copy)]
pub(super) struct IrcInputs<'a> {
    pub identity: &'a Identity,
    pub backend: &'a BackendConfig,
    pub tor: &'a TorConfig,
    pub data_dir: &'a Path,
}

/// Fills in defaults and checks the section. Returns `None` if visits are disabled.
pub(super) fn resolve(section: &mut IrcSection, inputs: IrcInputs<'_>) -> Result<Option<IrcConfig>, InvalidValue> {
    if !section.enabled.unwrap_or(false) {
        *section = IrcSection { enabled: Some(false), ..IrcSection::default() };
        return Ok(None);
    }
    let IrcInputs { identity, tor, .. } = inputs;
    let server = match &section.server {
        Some(server) => server.clone(),
        None => DEFAULT_SERVER.parse().map_err(|_| invalid("irc.server", "no default; set a server".to_owned()))?,
    };
    section.server = Some(server.clone());
    let (is_onion, tls) = (server.host.is_onion(), *section.tls.get_or_insert(true));
    let through_tor = section.tor.unwrap_or(false) || tor.routing == RoutingPolicy::TorOnly || is_onion;
    section.tor = Some(through_tor);
    if through_tor && tor.settings.mode == Mode::Off {
        let key = if is_onion { "irc.server" } else { "irc.tor" };
        return Err(invalid(key, "needs Tor, but tor.mode is \"off\"".to_owned()));
    }
    if through_tor && !tls && !is_onion {
        let reason = "must be true with Tor: an exit can read and alter unencrypted traffic";
        return Err(invalid("irc.tls", reason.to_owned()));
    }
    let usual = identity.chain.irc;
    let missing = |key| invalid(key, format!("no default for {}; set it to what its servers use", identity.chain));
    let channel = section.channel.get_or_insert_with(|| usual.map_or("", |irc| irc.channel).to_owned()).clone();
    if channel.is_empty() {
        return Err(missing("irc.channel"));
    }
    if !channel.starts_with(['#', '&', '+', '!']) || !is_word(&channel, 50) {
        let reason = "expected the name of a channel, such as #electrum, of at most 50 bytes";
        return Err(invalid("irc.channel", reason.to_owned()));
    }
    let nick_prefix =
        section.nick_prefix.get_or_insert_with(|| usual.map_or("", |irc| irc.nick_prefix).to_owned()).clone();
    if nick_prefix.is_empty() {
        return Err(missing("irc.nick_prefix"));
    }
    if !is_word(&nick_prefix, 5) {
        return Err(invalid("irc.nick_prefix", "expected one to five characters of a nick".to_owned()));
    }
    let HumanDuration(interval) = *section.interval.get_or_insert(HumanDuration(DEFAULT_INTERVAL));
    if interval < MIN_INTERVAL {
        let reason = "must be at least 10m, so that visits do not burden the network";
        return Err(invalid("irc.interval", reason.to_owned()));
    }
    if interval > MAX_INTERVAL {
        return Err(invalid("irc.interval", "must be at most 365d; to disable visits, remove irc.enabled".to_owned()));
    }
    let sasl = resolve_login(section)?;
    let key = resolve_key(section)?;
    let persistent = *section.persistent.get_or_insert(false);
    let advertise = section.advertise.get_or_insert(false).then(|| real_name(section, inputs)).transpose()?;
    let visit = IrcVisitConfig {
        channel,
        nick_prefix,
        password: section.password.clone(),
        sasl,
        advertise,
        persistent,
        default_ports: identity.chain.default_ports,
    };
    let visit_file = inputs.data_dir.join("irc-visit");
    Ok(Some(IrcConfig { server, tls, tor: through_tor, interval, visit, key, visit_file }))
}

/// Checks the passwords, and returns the user and password for SASL.
fn resolve_login(section: &IrcSection) -> Result<Option<(String, Secret)>, InvalidValue> {
    let sasl = match (&section.sasl_user, &section.sasl_password) {
        (Some(user), Some(password)) => Some((user.clone(), password.clone())),
        (None, None) => None,
        (Some(_), None) => {
            return Err(invalid("irc.sasl_password", "missing; set it together with irc.sasl_user".to_owned()));
        }
        (None, Some(_)) => {
            return Err(invalid("irc.sasl_user", "missing; set it together with irc.sasl_password".to_owned()));
        }
    };
    if sasl.as_ref().is_some_and(|(user, password)| user.len() + password.expose().len() > MAX_LOGIN_BYTES) {
        let reason = format!("user and password must have at most {MAX_LOGIN_BYTES} bytes together");
        return Err(invalid("irc.sasl_password", reason));
    }
    for (key, password) in [("irc.password", &section.password), ("irc.sasl_password", &section.sasl_password)] {
        let Some(password) = password else { continue };
        if section.tls != Some(true) {
            return Err(invalid(key, "needs irc.tls, since a password must not be sent unencrypted".to_owned()));
        }
        if password.expose().contains(['\r', '\n', '\0']) {
            return Err(invalid(key, "must be a single line".to_owned()));
        }
    }
    Ok(sasl)
}

/// Checks the pinned TLS key of the server, and writes it in lower case.
fn resolve_key(section: &mut IrcSection) -> Result<Option<KeyHash>, InvalidValue> {
    let Some(text) = &section.key else { return Ok(None) };
    let key: Option<KeyHash> = HEXLOWER_PERMISSIVE.decode(text.as_bytes()).ok().and_then(|bytes| bytes.try_into().ok());
    match key {
        Some(_) if section.tls != Some(true) => Err(invalid("irc.key", "needs irc.tls".to_owned())),
        Some(key) => {
            section.key = Some(HEXLOWER.encode(&key));
            Ok(Some(key))
        }
        None => Err(invalid("irc.key", "expected a SHA-256 in 64 hexadecimal digits".to_owned())),
    }
}

/// Returns the real name that advertises this node.
fn real_name(section: &IrcSection, inputs: IrcInputs<'_>) -> Result<RealName, InvalidValue> {
    let (host, ports) = inputs.identity.clearnet.clone().ok_or_else(|| {
        invalid("irc.advertise", "needs identity.host; onion names are too long for IRC real names".to_owned())
    })?;
    if inputs.backend.uses_peers() && !inputs.backend.has_server() {
        let reason = "not possible with backend.electrum = \"peers\", which offers no server to others";
        return Err(invalid("irc.advertise", reason.to_owned()));
    }
    if section.persistent != Some(true) {
        return Err(invalid("irc.advertise", "needs irc.persistent: a short visit is not seen by others".to_owned()));
    }
    let name = inputs.identity.listed(&host, ports, None).name;
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
