//! Resolved configuration: the checked configuration of each module.

use std::collections::HashSet;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::backend::{self, BackendConfig};
use super::human_duration::Maximum;
use super::irc::{self, IrcInputs};
use super::onion::OnionKeys;
use super::tor::{self, TorInputs};
use super::{
    ConfigFile, DiscoverySection, InvalidValue, ListenConfig, LogFormat, PageAddresses, TorConfig, identity, in_range,
    invalid, limits,
};
use crate::backend::UpstreamAddr;
use crate::ban_files::{BanFile, BanFileKind};
use crate::ban_list::ListKey;
use crate::book;
use crate::chain::Chain;
use crate::dial::NameAddresses;
use crate::dial::SocksPort;
use crate::electrum::identity::Identity;
use crate::irc_discovery;
use crate::peer::{Endpoint, RealName};
use crate::server::Limits;
use crate::status_page;

/// Longest interval of the `[discovery]` section.
const MAX_INTERVAL: Maximum = Maximum(Duration::from_hours(24 * 3650), "3650d");

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
    /// Names and texts of this node.
    pub identity: Identity,
    /// Local addresses that announce the clearnet names directly. Empty: found by a look-up of each name.
    pub announce_from: Vec<IpAddr>,
    /// Upstream of forwarded requests.
    pub backend: BackendConfig,
    /// Visits to an IRC channel. `None`: disabled.
    pub irc: Option<irc_discovery::IrcConfig>,
    /// Tor in use and route to peers.
    pub tor: TorConfig,
    /// Configuration of the peer book.
    pub book: book::BookConfig,
    /// Ban list that `waypost ban` edits. `None`: `bans` in the data directory.
    pub ban_file: Option<PathBuf>,
    /// Further ban lists, which are only read.
    pub ban_lists: Vec<PathBuf>,
    /// Key with which the further ban lists are signed. `None`: they need no signature.
    pub ban_list_key: Option<ListKey>,
    /// Map of autonomous systems. `None`: networks are told apart by their ranges of addresses.
    pub as_map_file: Option<PathBuf>,
    /// Limits for clients.
    pub limits: Limits,
    /// Addresses of the status page and of public pages.
    pub pages: PageAddresses,
    /// Other settings of the status page.
    pub status: status_page::StatusPageConfig,
    /// Level or directives of the log.
    pub log_level: String,
    /// Format of log lines.
    pub log_format: LogFormat,
    /// Effective value of every key, from which the fields above were derived.
    pub(super) effective: ConfigFile,
}

impl Config {
    /// Checks all keys and fills in defaults.
    ///
    /// # Errors
    /// If a value is invalid, or if two keys contradict each other.
    pub fn resolve(mut file: ConfigFile) -> Result<Config, InvalidValue> {
        let chain = super::chain::resolve(&mut file)?;
        let data_dir = file.data_dir.clone().ok_or_else(|| {
            invalid("data_dir", "no default, since neither XDG_DATA_HOME nor HOME is set; set a directory".to_owned())
        })?;
        let limits = limits::resolve(&mut file.limits)?;
        let listen = ListenConfig::resolve(&mut file.listen, &data_dir)?;
        let onion = OnionKeys::resolve(&mut file.listen, &chain)?;
        let onion_host = file.identity.onion_host.clone();
        let dir = data_dir.join("tor");
        let inputs = TorInputs { listen: &file.listen, onion_host, onion, limits: &limits, dir };
        let tor = tor::resolve(&mut file.tor, inputs)?;
        let backend = backend::resolve(&mut file.backend, tor.routing)?;
        super::socks::check_isolation(&file)?;
        let (pages, status) = super::status::resolve(&mut file.status)?;
        let peers_as_backend = backend.uses_peers();
        if peers_as_backend && !backend.has_server() && file.identity.announce == Some(true) {
            let reason = "not possible with backend.electrum = \"peers\", which offers no server to others";
            return Err(invalid("identity.announce", reason.to_owned()));
        }
        file.identity.announce.get_or_insert(backend.has_server());
        file.identity.address = identity::resolve_address(&file)?;
        file.identity.bind = identity::resolve_bind(&file.identity, tor.routing)?;
        let announce_from = file.identity.bind.clone().unwrap_or_default();
        let identity = identity::resolve(&mut file.identity, chain.clone(), &backend)?;
        let control = data_dir.join(CONTROL_SOCKET);
        backend.check_not_self(&listen, &pages, &identity, &control)?;
        let inputs = IrcInputs { identity: &identity, backend: &backend, tor: &tor, data_dir: &data_dir };
        let irc = irc::resolve(&mut file.irc, inputs)?;
        let named = identity.clearnet_names().map(|(host, _)| host);
        let local_hosts = named.chain(tor.onion_host.iter().map(|(host, _)| host)).cloned().collect();
        let book = book::BookConfig {
            chain: chain.clone(),
            routing: tor.routing,
            local_hosts,
            announce: file.identity.announce == Some(true),
            peers_as_backend,
            omits_itself: peers_as_backend && !backend.has_server(),
            ..resolve_book(&mut file.discovery, chain)?
        };
        let log_level = file.log.level.get_or_insert_with(|| "info".to_owned()).clone();
        super::log_level::check(&log_level).map_err(|reason| invalid("log.level", reason))?;
        let ban_lists = resolve_ban_lists(&mut file.discovery, default_ban_file(&data_dir))?;
        Ok(Config {
            data_dir,
            shared_data_dir: None,
            ignored_variables: Vec::new(),
            listen,
            identity,
            announce_from,
            backend,
            irc,
            tor,
            book,
            ban_file: file.discovery.ban_file.clone(),
            ban_lists,
            ban_list_key: resolve_list_key(&file.discovery)?,
            as_map_file: file.discovery.asmap.clone(),
            limits,
            pages,
            status,
            log_level,
            log_format: *file.log.format.get_or_insert_default(),
            effective: file,
        })
    }

    /// Returns the effective value of every key, as `check-config` prints it.
    ///
    /// Reading the printed result gives the same configuration, except for secrets, which are hidden.
    pub fn effective(&self) -> &ConfigFile {
        &self.effective
    }

    /// Returns consequences of the configuration that an operator may not expect.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = super::chain::warnings(&self.book.chain);
        if self.tor.settings.service.as_ref().is_some_and(|service| service.clients.is_some()) {
            let text = "listen.onion_clients: the onion name is not advertised, as only these clients can reach it";
            warnings.push(text.to_owned());
        }
        if self.tor.settings.socks.iter().any(SocksPort::shares_circuits) {
            let text = "tor.socks_exact_login: connections to different peers may share circuits; IsolateDestAddr at the SocksPort in torrc \
                        keeps them apart";
            warnings.push(text.to_owned());
        }
        warnings
    }

    /// Returns the path of the peer database.
    pub fn store_path(&self) -> PathBuf {
        self.data_dir.join("peers.redb")
    }

    /// Returns the file of each ban list, the own one first.
    pub fn ban_files(&self) -> Vec<BanFile> {
        let further = self.ban_lists.iter().map(|path| BanFile::further(path.clone(), self.ban_list_key.clone()));
        std::iter::once(self.own_ban_file()).chain(further).collect()
    }

    /// Returns the file of the ban list that `waypost ban` edits.
    pub fn own_ban_file(&self) -> BanFile {
        match &self.ban_file {
            Some(path) => BanFile::own(path.clone(), BanFileKind::Own),
            None => BanFile::own(default_ban_file(&self.data_dir), BanFileKind::OwnDefault),
        }
    }

    /// Returns the directory of the embedded Tor's state, with the key of the onion service.
    ///
    /// The directory above it has the lock and the cache.
    pub fn tor_state_path(&self) -> PathBuf {
        self.data_dir.join("tor/state")
    }

    /// Returns the file with the pinned key of a `tls://` server. With several servers, each has its own.
    pub fn backend_key_path(&self, server: &UpstreamAddr) -> PathBuf {
        match server {
            UpstreamAddr::Tls(endpoint) if self.backend.servers().len() > 1 => {
                let Endpoint { host, port } = endpoint;
                self.data_dir.join(format!("backend-key-{}-{port}", host.to_string().replace(':', "_")))
            }
            _ => self.data_dir.join("backend-key"),
        }
    }

    /// Returns the configured local addresses for the announcement of each clearnet name. Default: empty.
    pub fn announcement_sources(&self) -> NameAddresses {
        let names = self.identity.clearnet_names().filter(|_| !self.announce_from.is_empty());
        names.map(|(host, _)| (host.clone(), self.announce_from.clone())).collect()
    }

    /// Returns the path of the control socket.
    pub fn control_path(&self) -> PathBuf {
        self.data_dir.join(CONTROL_SOCKET)
    }
}

/// Returns the path of the ban list without `discovery.ban_file`.
fn default_ban_file(data_dir: &Path) -> PathBuf {
    data_dir.join("bans")
}

/// Checks the paths of the further ban lists.
fn resolve_ban_lists(section: &mut DiscoverySection, default: PathBuf) -> Result<Vec<PathBuf>, InvalidValue> {
    let lists = section.ban_lists.get_or_insert_default().clone();
    let mut known = HashSet::from([section.ban_file.clone().unwrap_or(default)]);
    match lists.iter().find(|path| !known.insert((*path).clone())) {
        Some(path) => {
            let reason = format!("{} is named twice; name each ban list once", path.display());
            Err(invalid("discovery.ban_lists", reason))
        }
        None => Ok(lists),
    }
}

/// Checks the key of the further ban lists.
fn resolve_list_key(section: &DiscoverySection) -> Result<Option<ListKey>, InvalidValue> {
    let key = section.ban_list_key.as_ref().map(|key| key.parse::<ListKey>()).transpose();
    key.map_err(|error| invalid("discovery.ban_list_key", error.to_string()))
}

/// Fills in defaults and checks the `[discovery]` section. Keys of other sections keep their defaults.
fn resolve_book(section: &mut DiscoverySection, chain: Chain) -> Result<book::BookConfig, InvalidValue> {
    let default = book::BookConfig::default();
    let seeds = match &section.seeds {
        None => chain.default_seeds(),
        Some(lines) => lines.iter().map(|line| seed(line, &chain)).collect::<Result<_, _>>()?,
    };
    section.seeds = Some(seeds.iter().map(RealName::to_string).collect());
    let config = book::BookConfig {
        side: book::Side::default(),
        seeds,
        recheck_interval: MAX_INTERVAL.check(
            "discovery.recheck_interval",
            &mut section.recheck_interval,
            default.recheck_interval,
        )?,
        max_advertised_age: MAX_INTERVAL.check(
            "discovery.max_age",
            &mut section.max_age,
            default.max_advertised_age,
        )?,
        expire_after: MAX_INTERVAL.check("discovery.expire_after", &mut section.expire_after, default.expire_after)?,
        initial_retry: MAX_INTERVAL.check(
            "discovery.initial_retry",
            &mut section.initial_retry,
            default.initial_retry,
        )?,
        fallback_onions: in_range(
            "discovery.fallback_onions",
            &mut section.fallback_onions,
            default.fallback_onions,
            0..=50,
        )?,
        allow_private: *section.allow_private.get_or_insert(default.allow_private),
        max_probes: in_range("discovery.max_probes", &mut section.max_probes, default.max_probes, 1..=1000)?,
        max_tor_probes: in_range(
            "discovery.max_tor_probes",
            &mut section.max_tor_probes,
            default.max_tor_probes,
            1..=1000,
        )?,
        ..default
    };
    if config.initial_retry > config.recheck_interval {
        let reason = "must not exceed discovery.recheck_interval";
        return Err(invalid("discovery.initial_retry", reason.to_owned()));
    }
    if config.expire_after < config.max_advertised_age {
        return Err(invalid("discovery.expire_after", "must not be below discovery.max_age".to_owned()));
    }
    Ok(config)
}

/// Parses a seed.
fn seed(line: &str, chain: &Chain) -> Result<RealName, InvalidValue> {
    RealName::parse(line, chain.default_ports)
        .map_err(|error| invalid("discovery.seeds", format!("{line:?} is no real name: {error}")))
}
