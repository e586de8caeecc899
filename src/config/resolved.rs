//! Resolved configuration: the checked configuration of each module.

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

/// Name of the control socket in the data directory.
const CONTROL_SOCKET: &str = "control.sock";

/// Checked and complete configuration.
#[derive(Debug, Clone)]
pub struct Config {
    /// Directory of the peer database, the keys and the control socket.
    pub data_dir: PathBuf,
    /// Default data directory of all chains, if the default of this chain is below it. `None` otherwise.
    pub shared_data_dir: Option<PathBuf>,
    /// Variables with Waypost's prefix that Kubernetes set.
    pub ignored_variables: Vec<String>,
    /// Listeners for clients.
    pub listen: ListenConfig,
    /// Port of the onion service, embedded or external.
    pub onion_port: Port,
    /// Names and texts of this node.
    pub identity: Identity,
    /// Upstream of forwarded requests.
    pub backend: BackendConfig,
    /// Visits to an IRC channel. `None`: disabled.
    pub irc: Option<irc_discovery::IrcConfig>,
    /// Tor in use and route to peers.
    pub tor: TorConfig,
    /// Configuration of the peer book.
    pub book: book::BookConfig,
    /// Ban list of the operator. `None`: `bans` in the data directory.
    pub ban_file: Option<PathBuf>,
    /// Limits for clients.
    pub limits: Limits,
    /// Address of the status page.
    pub page: PageAddress,
    /// Other settings of the status page.
    pub status: status_page::Settings,
    /// Level or directives of the log.
    pub log_level: String,
    /// Format of log lines.
    pub log_format: LogFormat,
}

impl Config {
    /// Checks all keys and fills in defaults.
    ///
    /// # Errors
    /// If a value is invalid, or if two keys contradict each other.
    pub fn resolve(raw: ConfigFile) -> Result<Config, InvalidValue> {
        let ConfigFile { network, data_dir, listen, identity, tor, discovery, backend, irc, limits, status, log } = raw;
        let network = network.unwrap_or_default();
        let data_dir = data_dir.ok_or_else(|| {
            invalid("data_dir", "no default, since neither XDG_DATA_HOME nor HOME is set; set a directory".to_owned())
        })?;
        let loopback = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let limits = limits::resolve(&limits)?;
        let listening = ListenConfig::resolve(&listen, &data_dir)?;
        let default_port = network.default_ports().tcp().unwrap_or(Port::MIN);
        let onion_port = listen.onion_port.unwrap_or(default_port);
        let onion_host = identity.onion_host.clone();
        let inputs = TorInputs { listen: &listen, onion_host, onion_port, limits: &limits, dir: data_dir.join("tor") };
        let tor = tor::resolve(tor, inputs, [loopback(9050), loopback(9150)])?;
        let backend = backend::resolve(&backend, tor.routing)?;
        let (page, status) = super::status::resolve(status)?;
        let peers_as_backend = backend.electrum == Some(BackendTarget::Peers);
        if peers_as_backend && identity.announce == Some(true) {
            let reason = "not possible with backend.electrum = \"peers\", which offers no server to others";
            return Err(invalid("identity.announce", reason.to_owned()));
        }
        let announce = identity.announce.unwrap_or(backend.is_server());
        let allows_private = discovery.allow_private.unwrap_or_default();
        let address = resolve_address(&identity, allows_private)?;
        let identity = resolve_identity(identity, network, &backend, address)?;
        let control = data_dir.join(CONTROL_SOCKET);
        backend.check_not_self(&listening, page.address(), identity.clearnet.as_ref(), &control)?;
        let irc = super::irc::resolve(
            irc,
            &identity,
            peers_as_backend,
            tor.routing,
            tor.settings.mode == Mode::Off,
            &data_dir,
        )?;
        let named = identity.clearnet.iter().map(|(host, _)| host);
        let own = named.chain(tor.onion_host.iter().map(|(host, _)| host)).cloned().collect();
        let ban_file = discovery.ban_file.clone();
        let book =
            book::BookConfig { announce, peers_as_backend, ..resolve_book(discovery, network, tor.routing, own)? };
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

    /// Returns the path of the peer database.
    pub fn store_path(&self) -> PathBuf {
        self.data_dir.join("peers.redb")
    }

    /// Returns the path of the ban list.
    pub fn ban_path(&self) -> PathBuf {
        self.ban_file.clone().unwrap_or_else(|| self.data_dir.join("bans"))
    }

    /// Returns the directory of the embedded Tor's state, with the key of the onion service.
    ///
    /// The directory above it has the lock and the cache.
    pub fn tor_state_path(&self) -> PathBuf {
        self.data_dir.join("tor/state")
    }

    /// Returns the file with the pinned key of a `tls://` backend.
    pub fn backend_key_path(&self) -> PathBuf {
        self.data_dir.join("backend-key")
    }

    /// Returns the path of the control socket.
    pub fn control_path(&self) -> PathBuf {
        self.data_dir.join(CONTROL_SOCKET)
    }

    /// Converts the configuration back to keys, as `check-config` prints it.
    ///
    /// Reading the printed result gives the same configuration, except for secrets, which are hidden.
    pub fn to_section(&self) -> ConfigFile {
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
                serve_public: Some(self.backend.serve_public),
                max_line_bytes: Some(self.backend.max_line_bytes),
            },
            irc: super::irc::to_section(self.irc.as_ref()),
            limits: limits::to_section(&self.limits),
            status: super::status::to_section(self.page, &self.status),
            log: LogSection { level: Some(self.log_level.clone()), format: Some(self.log_format) },
        }
    }
}

/// Checks the names of this node.
fn resolve_identity(
    keys: IdentitySection,
    network: Network,
    backend: &BackendConfig,
    address: Option<IpAddr>,
) -> Result<Identity, InvalidValue> {
    let ports = Ports::new(keys.tcp_port, keys.ssl_port);
    let clearnet = match (keys.host, ports) {
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
            let key = if keys.tcp_port.is_some() { "identity.tcp_port" } else { "identity.ssl_port" };
            return Err(invalid(key, "needs identity.host".to_owned()));
        }
        (Some(host), Some(ports)) => Some((host, ports)),
        (None, None) => None,
    };
    Ok(Identity {
        network,
        clearnet,
        address,
        // The onion name is advertised only after the self-check has reached it.
        onion: None,
        link_identities: keys.link_identities.unwrap_or(false),
        banner: keys.banner,
        donation_address: keys.donation_address,
        backend: if backend.electrum.is_some() { BackendState::Unknown } else { BackendState::None },
    })
}

/// Checks the address that is published with the clearnet name.
fn resolve_address(keys: &IdentitySection, allows_private: bool) -> Result<Option<IpAddr>, InvalidValue> {
    let Some(address) = keys.address.map(|address| address.to_canonical()) else { return Ok(None) };
    let rejected = |reason: String| Err(invalid("identity.address", reason));
    match keys.host {
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

/// Checks the discovery section.
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
            return Err(invalid(key, "must be between 1s and 3650d".to_owned()));
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
        return Err(invalid("discovery.initial_retry", "must not exceed discovery.recheck_interval".to_owned()));
    }
    if settings.expire_after < settings.max_advertised_age {
        return Err(invalid("discovery.expire_after", "must not be below discovery.max_age".to_owned()));
    }
    Ok(settings)
}

/// Parses a seed.
fn seed(line: &str, network: Network) -> Result<RealName, InvalidValue> {
    RealName::parse(line, network.default_ports())
        .map_err(|error| invalid("discovery.seeds", format!("{line:?} is no real name: {error}")))
}
