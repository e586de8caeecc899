//! Who we are: our names, what stands behind us, and the words in which both are told.

use std::net::IpAddr;

use bytes::Bytes;
use serde_json::json;

use super::client::Announcement;
use crate::book::Caller;
use crate::network::Network;
use crate::peer::{Features, HASH_FUNCTION, Host, Listed, Ports, RealName, Version};
use crate::protocol::{NEWEST, OLDEST, SOFTWARE};

/// What we say of ourselves.
#[derive(Debug, Clone, Default)]
pub struct Identity {
    pub network: Network,
    /// Our name and ports on clearnet, if we have one.
    pub clearnet: Option<(Host, Ports)>,
    /// The address of the clearnet name, in place of what a look-up on this machine says; None: as it is looked up.
    pub address: Option<IpAddr>,
    /// Our onion service, once it was reached through Tor.
    pub onion: Option<(Host, Ports)>,
    /// Whether who knows one of our names may learn of the other.
    pub link: bool,
    /// In words of the operator's, if he has any.
    pub banner: Option<String>,
    pub donation_address: Option<String>,
    /// The Electrum server that we stand in front of.
    pub backend: Backend,
}

/// Whether there is an Electrum server behind us, and what it said of itself when it was last asked.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Backend {
    #[default]
    None,
    /// It hasn't been reached yet.
    Unknown,
    Known(Behind),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Behind {
    pub software: Option<String>,
    /// The protocol versions that both of us speak.
    pub versions: (Version, Version),
    pub pruning: Option<u32>,
    pub tip: Option<u32>,
}

/// What we say of ourselves, put into words once for all who ask.
#[derive(Debug, Default)]
pub struct Ourselves {
    pub identity: Identity,
    for_clearnet: Words,
    for_onion: Words,
}

/// As JSON, for callers of one of our names.
#[derive(Debug, Default)]
pub(super) struct Words {
    pub features: Bytes,
    pub banner: Bytes,
    pub donation_address: Bytes,
    /// Calls that the server behind us answers better.
    pub passes_banner: bool,
    pub passes_donation_address: bool,
}

/// What wallets show of a server that says nothing else.
pub const BANNER: &str = "This node serves Electrum peer discovery: it tells which servers are alive.";

impl Ourselves {
    pub fn new(identity: Identity) -> Ourselves {
        let words = |caller| {
            let json = |value: serde_json::Value| Bytes::from(value.to_string());
            let hides = identity.hides_from(caller);
            let said = |text: &'_ Option<String>| text.clone().filter(|_| !hides);
            let (banner, address) = (said(&identity.banner), said(&identity.donation_address));
            let passes = |text: &Option<String>| identity.backend != Backend::None && text.is_none() && !hides;
            Words {
                passes_banner: passes(&banner),
                passes_donation_address: passes(&address),
                features: json(json!(identity.features(caller))),
                banner: json(json!(banner.as_deref().unwrap_or(BANNER))),
                donation_address: json(json!(address.unwrap_or_default())),
            }
        };
        Ourselves { for_clearnet: words(Caller::Clearnet), for_onion: words(Caller::Onion), identity }
    }

    pub(super) fn words(&self, caller: Caller) -> &Words {
        match caller {
            Caller::Clearnet => &self.for_clearnet,
            Caller::Onion => &self.for_onion,
        }
    }
}

impl Identity {
    /// Who came by one of our names hears nothing of the other.
    pub fn features(&self, caller: Caller) -> Features {
        let Identity { clearnet, onion, link, .. } = self;
        let names = match caller {
            _ if *link => [clearnet, onion],
            Caller::Clearnet => [clearnet, &None],
            Caller::Onion => [onion, &None],
        };
        Features {
            hosts: Some(names.into_iter().flatten().map(|(host, ports)| (host.clone(), Some(*ports))).collect()),
            genesis_hash: Some(self.network.genesis_hash().to_owned()),
            hash_function: Some(HASH_FUNCTION.to_owned()),
            server_version: Some(match self.behind().and_then(|behind| behind.software.as_ref()) {
                Some(software) => format!("{SOFTWARE} in front of {software}"),
                None => SOFTWARE.to_owned(),
            }),
            protocol_min: Some(self.versions().0),
            protocol_max: Some(self.versions().1),
            pruning: self.behind().and_then(|behind| behind.pruning),
        }
    }

    /// How a name of ours is listed.
    pub fn listed(&self, host: &Host, ports: Ports, ip: Option<IpAddr>) -> Listed {
        let pruning = self.behind().and_then(|behind| behind.pruning);
        Listed { ip, name: RealName { host: host.clone(), version: Some(self.versions().1), pruning, ports } }
    }

    /// What a peer is told of us: by one name, that of its own kind.
    pub fn announcement(&self, caller: Caller) -> Option<Announcement> {
        let (host, ports) = match caller {
            Caller::Clearnet => self.clearnet.clone()?,
            Caller::Onion => self.onion.clone()?,
        };
        let hosts = Some(vec![(host.clone(), Some(ports))]);
        Some(Announcement { host, ports, features: Features { hosts, ..self.features(caller) } })
    }

    /// The protocol versions that callers may choose from: the oldest and the newest.
    pub fn versions(&self) -> (Version, Version) {
        self.behind().map_or((OLDEST, NEWEST), |behind| behind.versions)
    }

    pub fn behind(&self) -> Option<&Behind> {
        match &self.backend {
            Backend::Known(behind) => Some(behind),
            Backend::None | Backend::Unknown => None,
        }
    }

    /// Words that are ours alone would tie our two names together, so they are for callers on clearnet where there is a
    /// name to be told of.
    fn hides_from(&self, caller: Caller) -> bool {
        caller == Caller::Onion && self.clearnet.is_some() && !self.link
    }
}
