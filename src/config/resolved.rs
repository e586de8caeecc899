//! What the keys come to: the settings of each module, checked and complete.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::backend::{self, Fronted};
use super::tor::{self, Beside};
use super::{
    BackendKeys, Discovery, IdentityKeys, Listen, Listening, Log, LogFormat, PageAddress, Period, Raw, TorPlan, Wrong,
    limits, within, wrong,
};
use crate::backend::Front;
use crate::book;
use crate::conversation::identity::{Backend, Identity};
use crate::irc;
use crate::netgroup::is_public;
use crate::network::Network;
use crate::peer::{Host, Port, Ports, RealName};
use crate::route::Routing;
use crate::serve::Limits;
use crate::status;
use crate::tor::Mode;

const CONTROL_SOCKET: &str = "control.sock";

/// The configuration, resolved.
#[derive(Debug, Clone)]
pub struct Config {
    pub data_dir: PathBuf,
    /// The default data directory of all chains, for a chain whose own default lies below it; else `None`.
    pub shared_data_dir: Option<PathBuf>,
    /// Environment variables with Waypost's prefix that Kubernetes set.
    pub ignored_variables: Vec<String>,
    pub listen: Listening,
    /// The port of our onion service.
    pub onion_port: Port,
    pub identity: Identity,
    pub backend: Fronted,
    /// Where servers are looked for on IRC, if they are.
    pub irc: Option<irc::Settings>,
    pub tor: TorPlan,
    pub book: book::Settings,
    /// Whom the operator wants nothing to do with, if he says so in a file of his own.
    pub ban_file: Option<PathBuf>,
    pub limits: Limits,
    pub page: PageAddress,
    pub status: status::Settings,
    pub log_level: String,
    pub log_format: LogFormat,
}

impl Config {
    pub fn resolve(raw: Raw) -> Result<Config, Wrong> {
        let Raw { network, data_dir, listen, identity, tor, discovery, backend, irc, limits, status, log } = raw;
        let network = network.unwrap_or_default();
        let data_dir = data_dir.ok_or_else(|| {
            wrong("data_dir", "set it: there is neither XDG_DATA_HOME nor HOME to put a default below".to_owned())
        })?;
        let loopback = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let limits = limits::resolve(&limits)?;
        let listening = Listening::resolve(&listen, &data_dir)?;
        let usual = network.default_ports().tcp().unwrap_or(Port::MIN);
        let onion_port = listen.onion_port.unwrap_or(usual);
        let onion_host = identity.onion_host.clone();
        let beside = Beside { listen: &listen, onion_host, onion_port, limits: &limits, dir: data_dir.join("tor") };
        let tor = tor::resolve(tor, beside, [loopback(9050), loopback(9150)])?;
        let backend = backend::resolve(&backend, tor.routing)?;
        let (page, status) = super::status::resolve(status)?;
        let fronts_peers = backend.electrum == Some(Front::Peers);
        if fronts_peers && identity.announce == Some(true) {
            let why = "with backend.electrum = \"peers\" there is no server of ours that could be announced";
            return Err(wrong("identity.announce", why.to_owned()));
        }
        let announce = identity.announce.unwrap_or(backend.is_ours());
        let allows_private = discovery.allow_private.unwrap_or_default();
        let address = own_address(&identity, allows_private)?;
        let identity = resolve_identity(identity, network, &backend, address)?;
        let control = data_dir.join(CONTROL_SOCKET);
        backend.check_not_self(&listening, page.address(), identity.clearnet.as_ref(), &control)?;
        let irc =
            super::irc::resolve(irc, &identity, fronts_peers, tor.routing, tor.settings.mode == Mode::Off, &data_dir)?;
        let named = identity.clearnet.iter().map(|(host, _)| host);
        let own = named.chain(tor.onion_host.iter().map(|(host, _)| host)).cloned().collect();
        let ban_file = discovery.ban_file.clone();
        let book = book::Settings { announce, fronts_peers, ..resolve_book(discovery, network, tor.routing, own)? };
        let log_level = log.level.unwrap_or_else(|| "info".to_owned());
        super::log_level::check(&log_level).map_err(|why| wrong("log.level", why))?;
        Ok(Config {
            data_dir,
            shared_data_dir: None,
            ignored_variables: Vec::new(),
            listen: listening,
            onion_port,
            identity,
            backend,
            irc,
            tor,
            book,
            ban_file,
            limits,
            page,
            status,
            log_level,
            log_format: log.format.unwrap_or_default(),
        })
    }

    pub fn store_path(&self) -> PathBuf {
        self.data_dir.join("peers.redb")
    }

    /// The file of bans, wherever it is.
    pub fn ban_path(&self) -> PathBuf {
        self.ban_file.clone().unwrap_or_else(|| self.data_dir.join("bans"))
    }

    /// What an embedded Tor must not lose, the key of our onion service above all. Above it lie its lock and its cache.
    pub fn tor_state_path(&self) -> PathBuf {
        self.data_dir.join("tor/state")
    }

    /// Where the key of the backend's certificate is remembered.
    pub fn backend_key_path(&self) -> PathBuf {
        self.data_dir.join("backend-key")
    }

    pub fn control_path(&self) -> PathBuf {
        self.data_dir.join(CONTROL_SOCKET)
    }

    /// The same as keys, every one of them set: what `check-config` prints, and reads again to the same end. What is printed
    /// is pasted into reports, so secrets aren't in it.
    pub fn effective(&self) -> Raw {
        let mut raw = self.keys();
        for secret in [&mut raw.irc.password, &mut raw.irc.sasl_password].into_iter().flatten() {
            *secret = "(hidden)".to_owned();
        }
        raw
    }

    /// The same with the secrets.
    pub(super) fn keys(&self) -> Raw {
        let Config { book, identity, .. } = self;
        let clearnet = identity.clearnet.as_ref();
        let period = |duration| Some(Period(duration));
        Raw {
            network: Some(book.network),
            data_dir: Some(self.data_dir.clone()),
            listen: Listen { onion: self.tor.onion, onion_port: Some(self.onion_port), ..self.listen.effective() },
            identity: IdentityKeys {
                host: clearnet.map(|(host, _)| host.clone()),
                tcp_port: clearnet.and_then(|(_, ports)| ports.tcp()),
                ssl_port: clearnet.and_then(|(_, ports)| ports.tls()),
                address: identity.address,
                onion_host: self.tor.onion_host.as_ref().map(|(host, _)| host.clone()),
                announce: Some(book.announce),
                link: Some(identity.link),
                banner: identity.banner.clone(),
                donation_address: identity.donation_address.clone(),
            },
            tor: self.tor.effective(),
            discovery: Discovery {
                seeds: Some(book.seeds.iter().map(RealName::to_string).collect()),
                recheck: period(book.recheck),
                recent: period(book.recent),
                forget: period(book.forget),
                retry: period(book.retry),
                fallback_onions: Some(book.fallback_onions),
                ban_file: self.ban_file.clone(),
                allow_private: Some(book.allow_private),
                probes: Some(book.probes),
                onion_probes: Some(book.onion_probes),
            },
            backend: BackendKeys {
                electrum: self.backend.electrum.clone(),
                public: Some(self.backend.public),
                line_bytes: Some(self.backend.line_bytes),
            },
            irc: super::irc::keys(self.irc.as_ref()),
            limits: limits::effective(&self.limits),
            status: super::status::effective(self.page, &self.status),
            log: Log { level: Some(self.log_level.clone()), format: Some(self.log_format) },
        }
    }
}

fn resolve_identity(
    keys: IdentityKeys,
    network: Network,
    backend: &Fronted,
    address: Option<IpAddr>,
) -> Result<Identity, Wrong> {
    let ports = Ports::new(keys.tcp_port, keys.ssl_port);
    let clearnet = match (keys.host, ports) {
        (Some(Host::Onion(_)), _) => {
            return Err(wrong("identity.host", "an onion name can't be our name on clearnet".to_owned()));
        }
        (Some(_), None) => {
            return Err(wrong("identity.host", "set identity.tcp_port or identity.ssl_port as well".to_owned()));
        }
        (None, Some(_)) => {
            let key = if keys.tcp_port.is_some() { "identity.tcp_port" } else { "identity.ssl_port" };
            return Err(wrong(key, "set identity.host as well".to_owned()));
        }
        (Some(host), Some(ports)) => Some((host, ports)),
        (None, None) => None,
    };
    Ok(Identity {
        network,
        clearnet,
        address,
        // Told to nobody before it was reached.
        onion: None,
        link: keys.link.unwrap_or(false),
        banner: keys.banner,
        donation_address: keys.donation_address,
        backend: if backend.electrum.is_some() { Backend::Unknown } else { Backend::None },
    })
}

/// The address that is to be published with the clearnet name.
fn own_address(keys: &IdentityKeys, allows_private: bool) -> Result<Option<IpAddr>, Wrong> {
    let Some(address) = keys.address.map(|address| address.to_canonical()) else { return Ok(None) };
    let refused = |why: String| Err(wrong("identity.address", why));
    match keys.host {
        None => refused("set identity.host as well: the address is published with that name".to_owned()),
        Some(Host::Ip(_)) => refused("leave it out: identity.host is an address already".to_owned()),
        Some(_) if address.is_unspecified() || address.is_multicast() => {
            refused(format!("{address} is not the address of a machine; set the one by which others reach this one"))
        }
        Some(_) if !allows_private && !is_public(address) => refused(format!(
            "{address} is not public; set the address by which others reach this machine, such as 93.184.215.14"
        )),
        Some(_) => Ok(Some(address)),
    }
}

fn resolve_book(keys: Discovery, network: Network, routing: Routing, own: Vec<Host>) -> Result<book::Settings, Wrong> {
    let default = book::Settings::default();
    let seeds = match keys.seeds {
        None => network.built_in_peers(),
        Some(lines) => lines.iter().map(|line| seed(line, network)).collect::<Result<_, _>>()?,
    };
    let period = |key, period: Option<Period>, default: Duration| {
        let Period(period) = period.unwrap_or(Period(default));
        if period < Duration::from_secs(1) || period > Duration::from_hours(24 * 3650) {
            return Err(wrong(key, "must lie between 1s and 3650d".to_owned()));
        }
        Ok(period)
    };
    let settings = book::Settings {
        network,
        routing,
        seeds,
        own,
        announce: default.announce,
        fronts_peers: default.fronts_peers,
        recheck: period("discovery.recheck", keys.recheck, default.recheck)?,
        recent: period("discovery.recent", keys.recent, default.recent)?,
        forget: period("discovery.forget", keys.forget, default.forget)?,
        retry: period("discovery.retry", keys.retry, default.retry)?,
        fallback_onions: within("discovery.fallback_onions", keys.fallback_onions, default.fallback_onions, 0..=50)?,
        allow_private: keys.allow_private.unwrap_or(default.allow_private),
        probes: within("discovery.probes", keys.probes, default.probes, 1..=1000)?,
        onion_probes: within("discovery.onion_probes", keys.onion_probes, default.onion_probes, 1..=1000)?,
        candidates: default.candidates,
        bans: Arc::default(),
    };
    if settings.retry > settings.recheck {
        return Err(wrong("discovery.retry", "must not be longer than discovery.recheck".to_owned()));
    }
    if settings.forget < settings.recent {
        return Err(wrong("discovery.forget", "must not be shorter than discovery.recent".to_owned()));
    }
    Ok(settings)
}

fn seed(line: &str, network: Network) -> Result<RealName, Wrong> {
    RealName::parse(line, network.default_ports())
        .map_err(|error| wrong("discovery.seeds", format!("{line:?} is no real name: {error}")))
}
