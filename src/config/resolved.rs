//! What the keys come to: the settings of each module, checked and complete.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::backend::{self, BackendConfig};
use super::tor::{self, TorInputs};
use super::{
    BackendSection, ConfigFile, DiscoverySection, HumanDuration, IdentitySection, InvalidValue, ListenConfig,
    ListenSection, LogFormat, LogSection, PageAddress, TorConfig, in_range, invalid, limits,
};
use crate::backend::BackendTarget;
use crate::book;
use crate::electrum::identity::{BackendState, Identity};
use crate::irc_discovery;
use crate::netgroup::is_public;
use crate::network::Network;
use crate::peer::{Host, Port, Ports, RealName};
use crate::route::RoutingPolicy;
use crate::server::Limits;
use crate::status_page;
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
    pub listen: ListenConfig,
    /// The port of our onion service.
    pub onion_port: Port,
    pub identity: Identity,
    pub backend: BackendConfig,
    /// Where servers are looked for on IRC, if they are.
    pub irc: Option<irc_discovery::IrcConfig>,
    pub tor: TorConfig,
    pub book: book::BookConfig,
    /// Ban list of the operator. None: `bans` in the data directory.
    pub ban_file: Option<PathBuf>,
    pub limits: Limits,
    pub page: PageAddress,
    pub status: status_page::Settings,
    pub log_level: String,
    pub log_format: LogFormat,
}

impl Config {
    pub fn resolve(raw: ConfigFile) -> Result<Config, InvalidValue> {
        let ConfigFile { network, data_dir, listen, identity, tor, discovery, backend, irc, limits, status, log } = raw;
        let network = network.unwrap_or_default();
        let data_dir = data_dir.ok_or_else(|| {
            invalid("data_dir", "set it: there is neither XDG_DATA_HOME nor HOME to put a default below".to_owned())
        })?;
        let loopback = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let limits = limits::resolve(&limits)?;
        let listening = ListenConfig::resolve(&listen, &data_dir)?;
        let usual = network.default_ports().tcp().unwrap_or(Port::MIN);
        let onion_port = listen.onion_port.unwrap_or(usual);
        let onion_host = identity.onion_host.clone();
        let inputs = TorInputs { listen: &listen, onion_host, onion_port, limits: &limits, dir: data_dir.join("tor") };
        let tor = tor::resolve(tor, inputs, [loopback(9050), loopback(9150)])?;
        let backend = backend::resolve(&backend, tor.routing)?;
        let (page, status) = super::status::resolve(status)?;
        let fronts_peers = backend.electrum == Some(BackendTarget::Peers);
        if fronts_peers && identity.announce == Some(true) {
            let reason = "with backend.electrum = \"peers\" there is no own server to announce";
            return Err(invalid("identity.announce", reason.to_owned()));
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
        let book = book::BookConfig {
            announce,
            peers_as_backend: fronts_peers,
            ..resolve_book(discovery, network, tor.routing, own)?
        };
        let log_level = log.level.unwrap_or_else(|| "info".to_owned());
        super::log_level::check(&log_level).map_err(|reason| invalid("log.level", reason))?;
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
    pub fn to_section(&self) -> ConfigFile {
        let mut raw = self.keys();
        for secret in [&mut raw.irc.password, &mut raw.irc.sasl_password].into_iter().flatten() {
            *secret = "(hidden)".to_owned();
        }
        raw
    }

    /// The same with the secrets.
    pub(super) fn keys(&self) -> ConfigFile {
        let Config { book, identity, .. } = self;
        let clearnet = identity.clearnet.as_ref();
        let period = |duration| Some(HumanDuration(duration));
        ConfigFile {
            network: Some(book.network),
            data_dir: Some(self.data_dir.clone()),
            listen: ListenSection {
                onion: self.tor.onion,
                onion_port: Some(self.onion_port),
                ..self.listen.to_section()
            },
            identity: IdentitySection {
                host: clearnet.map(|(host, _)| host.clone()),
                tcp_port: clearnet.and_then(|(_, ports)| ports.tcp()),
                ssl_port: clearnet.and_then(|(_, ports)| ports.tls()),
                address: identity.address,
                onion_host: self.tor.onion_host.as_ref().map(|(host, _)| host.clone()),
                announce: Some(book.announce),
                link_identities: Some(identity.link_identities),
                banner: identity.banner.clone(),
                donation_address: identity.donation_address.clone(),
            },
            tor: self.tor.to_section(),
            discovery: DiscoverySection {
                seeds: Some(book.seeds.iter().map(RealName::to_string).collect()),
                recheck_interval: period(book.recheck_interval),
                max_age: period(book.max_advertised_age),
                expire_after: period(book.expire_after),
                initial_retry: period(book.initial_retry),
                fallback_onions: Some(book.fallback_onions),
                ban_file: self.ban_file.clone(),
                allow_private: Some(book.allow_private),
                max_probes: Some(book.max_probes),
                max_tor_probes: Some(book.max_tor_probes),
            },
            backend: BackendSection {
                electrum: self.backend.electrum.clone(),
                serve_public: Some(self.backend.public),
                max_line_bytes: Some(self.backend.line_bytes),
            },
            irc: super::irc::keys(self.irc.as_ref()),
            limits: limits::to_section(&self.limits),
            status: super::status::to_section(self.page, &self.status),
            log: LogSection { level: Some(self.log_level.clone()), format: Some(self.log_format) },
        }
    }
}

fn resolve_identity(
    keys: IdentitySection,
    network: Network,
    backend: &BackendConfig,
    address: Option<IpAddr>,
) -> Result<Identity, InvalidValue> {
    let ports = Ports::new(keys.tcp_port, keys.ssl_port);
    let clearnet = match (keys.host, ports) {
        (Some(Host::Onion(_)), _) => {
            return Err(invalid("identity.host", "an onion name can't be our name on clearnet".to_owned()));
        }
        (Some(_), None) => {
            return Err(invalid("identity.host", "set identity.tcp_port or identity.ssl_port as well".to_owned()));
        }
        (None, Some(_)) => {
            let key = if keys.tcp_port.is_some() { "identity.tcp_port" } else { "identity.ssl_port" };
            return Err(invalid(key, "set identity.host as well".to_owned()));
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
        link_identities: keys.link_identities.unwrap_or(false),
        banner: keys.banner,
        donation_address: keys.donation_address,
        backend: if backend.electrum.is_some() { BackendState::Unknown } else { BackendState::None },
    })
}

/// The address that is to be published with the clearnet name.
fn own_address(keys: &IdentitySection, allows_private: bool) -> Result<Option<IpAddr>, InvalidValue> {
    let Some(address) = keys.address.map(|address| address.to_canonical()) else { return Ok(None) };
    let refused = |reason: String| Err(invalid("identity.address", reason));
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

fn resolve_book(
    keys: DiscoverySection,
    network: Network,
    routing: RoutingPolicy,
    own: Vec<Host>,
) -> Result<book::BookConfig, InvalidValue> {
    let default = book::BookConfig::default();
    let seeds = match keys.seeds {
        None => network.default_seeds(),
        Some(lines) => lines.iter().map(|line| seed(line, network)).collect::<Result<_, _>>()?,
    };
    let period = |key, period: Option<HumanDuration>, default: Duration| {
        let HumanDuration(period) = period.unwrap_or(HumanDuration(default));
        if period < Duration::from_secs(1) || period > Duration::from_hours(24 * 3650) {
            return Err(invalid(key, "must lie between 1s and 3650d".to_owned()));
        }
        Ok(period)
    };
    let settings = book::BookConfig {
        network,
        routing,
        seeds,
        local_hosts: own,
        announce: default.announce,
        peers_as_backend: default.peers_as_backend,
        recheck_interval: period("discovery.recheck_interval", keys.recheck_interval, default.recheck_interval)?,
        max_advertised_age: period("discovery.max_age", keys.max_age, default.max_advertised_age)?,
        expire_after: period("discovery.expire_after", keys.expire_after, default.expire_after)?,
        initial_retry: period("discovery.initial_retry", keys.initial_retry, default.initial_retry)?,
        fallback_onions: in_range("discovery.fallback_onions", keys.fallback_onions, default.fallback_onions, 0..=50)?,
        allow_private: keys.allow_private.unwrap_or(default.allow_private),
        max_probes: in_range("discovery.max_probes", keys.max_probes, default.max_probes, 1..=1000)?,
        max_tor_probes: in_range("discovery.max_tor_probes", keys.max_tor_probes, default.max_tor_probes, 1..=1000)?,
        max_candidates: default.max_candidates,
        bans: Arc::default(),
    };
    if settings.initial_retry > settings.recheck_interval {
        return Err(invalid(
            "discovery.initial_retry",
            "must not be longer than discovery.recheck_interval".to_owned(),
        ));
    }
    if settings.expire_after < settings.max_advertised_age {
        return Err(invalid("discovery.expire_after", "must not be shorter than discovery.max_age".to_owned()));
    }
    Ok(settings)
}

fn seed(line: &str, network: Network) -> Result<RealName, InvalidValue> {
    RealName::parse(line, network.default_ports())
        .map_err(|error| invalid("discovery.seeds", format!("{line:?} is no real name: {error}")))
}
