//! The keys about IRC, and what they come to.

use data_encoding::{HEXLOWER, HEXLOWER_PERMISSIVE};
use std::path::Path;
use std::time::Duration;

use super::{HumanDuration, InvalidValue, IrcKeys, invalid};
use crate::electrum::identity::Identity;
use crate::electrum::irc::{DEFAULT_REALNAME_LIMIT, IrcVisitConfig};
use crate::irc_discovery::IrcConfig;
use crate::network::Network;
use crate::peer::{Endpoint, RealName};
use crate::route::RoutingPolicy;

/// What is visited where nothing else is set.
const SERVER: &str = "irc.libera.chat:6697";
const CHANNEL: &str = "#electrum";

/// Once a visit to a channel may not become a habit.
const SHORTEST_INTERVAL: Duration = Duration::from_mins(10);
const INTERVAL: Duration = Duration::from_hours(6);

/// Longest interval. Computations with it must not overflow.
const LONGEST_INTERVAL: Duration = Duration::from_hours(24 * 365);

/// SASL's answer must take less than 400 characters in base64: so many would need another line.
const LONGEST_LOGIN: usize = 295;

pub fn resolve(
    keys: IrcKeys,
    identity: &Identity,
    fronts_peers: bool,
    routing: RoutingPolicy,
    tor_is_off: bool,
    data_dir: &Path,
) -> Result<Option<IrcConfig>, InvalidValue> {
    if !keys.enabled.unwrap_or(false) {
        return Ok(None);
    }
    let usual = || SERVER.parse().map_err(|_| invalid("irc.server", "set it".to_owned()));
    let server: Endpoint = keys.server.map_or_else(usual, Ok)?;
    let tls = keys.tls.unwrap_or(true);
    let tor = keys.tor.unwrap_or(false) || routing == RoutingPolicy::TorOnly || server.host.is_onion();
    if tor && tor_is_off {
        let key = if server.host.is_onion() { "irc.server" } else { "irc.tor" };
        return Err(invalid(key, "without Tor (tor.mode = \"off\") it can't be reached".to_owned()));
    }
    if tor && !tls && !server.host.is_onion() {
        let reason = "through Tor it must be true: an exit reads, and may alter, what isn't encrypted";
        return Err(invalid("irc.tls", reason.to_owned()));
    }
    let channel = keys.channel.unwrap_or_else(|| CHANNEL.to_owned());
    if !channel.starts_with(['#', '&', '+', '!']) || !is_word(&channel, 50) {
        return Err(invalid("irc.channel", "expected a channel's name, as #electrum".to_owned()));
    }
    let usual = if identity.network == Network::Bitcoin { "E_" } else { "ET_" };
    let nick_prefix = keys.nick_prefix.unwrap_or_else(|| usual.to_owned());
    if !is_word(&nick_prefix, 5) {
        return Err(invalid("irc.nick_prefix", "expected one to five characters of a nick".to_owned()));
    }
    let HumanDuration(interval) = keys.interval.unwrap_or(HumanDuration(INTERVAL));
    if interval < SHORTEST_INTERVAL {
        return Err(invalid("irc.interval", "must not be shorter than 10m: we are guests there".to_owned()));
    }
    if interval > LONGEST_INTERVAL {
        return Err(invalid(
            "irc.interval",
            "must not be longer than 365d; leave irc.enabled out for never".to_owned(),
        ));
    }
    let sasl = match (keys.sasl_user, keys.sasl_password) {
        (Some(user), Some(password)) => Some((user, password)),
        (None, None) => None,
        (Some(_), None) => return Err(invalid("irc.sasl_password", "set it together with irc.sasl_user".to_owned())),
        (None, Some(_)) => return Err(invalid("irc.sasl_user", "set it together with irc.sasl_password".to_owned())),
    };
    if sasl.as_ref().is_some_and(|(user, password)| user.len() + password.len() > LONGEST_LOGIN) {
        return Err(invalid("irc.sasl_password", format!("with the user it must not be longer than {LONGEST_LOGIN}")));
    }
    for (key, password) in
        [("irc.password", keys.password.as_deref()), ("irc.sasl_password", sasl.as_ref().map(|sasl| sasl.1.as_str()))]
    {
        if password.is_some() && !tls {
            return Err(invalid(key, "needs irc.tls, or everybody on the way would read it".to_owned()));
        }
        if password.is_some_and(|password| password.contains(['\r', '\n', '\0'])) {
            return Err(invalid(key, "must be one line".to_owned()));
        }
    }
    let as_key = |text: String| HEXLOWER_PERMISSIVE.decode(text.as_bytes()).ok()?.try_into().ok();
    let key = match keys.key.map(as_key) {
        None => None,
        Some(Some(_)) if !tls => return Err(invalid("irc.key", "needs irc.tls".to_owned())),
        Some(Some(key)) => Some(key),
        Some(None) => return Err(invalid("irc.key", "expected a SHA-256, in 64 hexadecimal digits".to_owned())),
    };
    let stay = keys.persistent.unwrap_or(false);
    let advertise = keys.advertise.unwrap_or(false).then(|| advertised(identity, fronts_peers, stay)).transpose()?;
    let default_ports = identity.network.default_ports();
    let visit = IrcVisitConfig {
        channel,
        nick_prefix,
        password: keys.password,
        sasl,
        advertise,
        persistent: stay,
        default_ports,
    };
    Ok(Some(IrcConfig { server, tls, tor, interval, visit, key, visit_file: data_dir.join("irc-visit") }))
}

/// The same as keys.
pub fn keys(settings: Option<&IrcConfig>) -> IrcKeys {
    let Some(IrcConfig { server, tls, tor, interval, visit, key, .. }) = settings else {
        return IrcKeys { enabled: Some(false), ..IrcKeys::default() };
    };
    IrcKeys {
        enabled: Some(true),
        server: Some(server.clone()),
        channel: Some(visit.channel.clone()),
        nick_prefix: Some(visit.nick_prefix.clone()),
        interval: Some(HumanDuration(*interval)),
        tls: Some(*tls),
        tor: Some(*tor),
        key: key.map(|bytes| HEXLOWER.encode(&bytes)),
        persistent: Some(visit.persistent),
        password: visit.password.clone(),
        sasl_user: visit.sasl.as_ref().map(|(user, _)| user.clone()),
        sasl_password: visit.sasl.as_ref().map(|(_, password)| password.clone()),
        advertise: Some(visit.advertise.is_some()),
    }
}

/// Our own real name, if it fits into what IRC has room for.
fn advertised(identity: &Identity, fronts_peers: bool, stay: bool) -> Result<RealName, InvalidValue> {
    let (host, ports) = identity.clearnet.clone().ok_or_else(|| {
        invalid("irc.advertise", "set identity.host as well; an onion name is longer than IRC has room for".to_owned())
    })?;
    if fronts_peers {
        let reason = "with backend.electrum = \"peers\" there is no own server to find";
        return Err(invalid("irc.advertise", reason.to_owned()));
    }
    if !stay {
        return Err(invalid(
            "irc.advertise",
            "set irc.persistent as well: who leaves at once is seen by nobody".to_owned(),
        ));
    }
    let name = identity.listed(&host, ports, None).name;
    let length = name.to_string().len();
    if length >= DEFAULT_REALNAME_LIMIT {
        let reason = format!(
            "\"{name}\" has {length} characters, of which most servers keep {DEFAULT_REALNAME_LIMIT}: too many"
        );
        return Err(invalid("irc.advertise", reason));
    }
    Ok(name)
}

fn is_word(text: &str, longest: usize) -> bool {
    !text.is_empty()
        && text.len() <= longest
        && text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b',' && byte != b':')
}
