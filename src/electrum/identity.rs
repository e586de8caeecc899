//! Who we are: our names, what stands behind us, and the words in which both are told.

use std::net::IpAddr;

use bytes::Bytes;
use serde_json::json;

use super::prober::AddPeerOffer;
use crate::book::Ingress;
use crate::jsonrpc::{MAX_PROTOCOL, MIN_PROTOCOL, USER_AGENT};
use crate::network::Network;
use crate::peer::{Features, Host, PeerListEntry, Ports, RealName, SCRIPT_HASH_FUNCTION, Version};

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
    pub link_identities: bool,
    /// In words of the operator's, if he has any.
    pub banner: Option<String>,
    pub donation_address: Option<String>,
    /// The Electrum server that we stand in front of.
    pub backend: BackendState,
}

/// Whether there is an Electrum server behind us, and what it said of itself when it was last asked.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum BackendState {
    #[default]
    None,
    /// It hasn't been reached yet.
    Unknown,
    Known(BackendInfo),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackendInfo {
    pub software: Option<String>,
    /// The protocol versions that both of us speak.
    pub versions: (Version, Version),
    pub pruning: Option<u32>,
    pub tip: Option<u32>,
}

/// What we say of ourselves, put into words once for all who ask.
#[derive(Debug, Default)]
pub struct LocalIdentity {
    pub identity: Identity,
    for_clearnet: StaticReplies,
    for_onion: StaticReplies,
}

/// As JSON, for callers of one of our names.
#[derive(Debug, Default)]
pub(super) struct StaticReplies {
    pub features: Bytes,
    pub banner: Bytes,
    pub donation_address: Bytes,
    /// Calls that the server behind us answers better.
    pub forwards_banner: bool,
    pub passes_donation_address: bool,
}

/// What wallets show of a server that says nothing else.
pub const DEFAULT_BANNER: &str = "This node serves Electrum peer discovery: it tells which servers are alive.";

impl LocalIdentity {
    pub fn new(identity: Identity) -> LocalIdentity {
        let words = |caller| {
            let json = |value: serde_json::Value| Bytes::from(value.to_string());
            let hides = identity.withholds_operator_text(caller);
            let said = |text: &'_ Option<String>| text.clone().filter(|_| !hides);
            let (banner, address) = (said(&identity.banner), said(&identity.donation_address));
            let passes = |text: &Option<String>| identity.backend != BackendState::None && text.is_none() && !hides;
            StaticReplies {
                forwards_banner: passes(&banner),
                passes_donation_address: passes(&address),
                features: json(json!(identity.features(caller))),
                banner: json(json!(banner.as_deref().unwrap_or(DEFAULT_BANNER))),
                donation_address: json(json!(address.unwrap_or_default())),
            }
        };
        LocalIdentity { for_clearnet: words(Ingress::Clearnet), for_onion: words(Ingress::Onion), identity }
    }

    pub(super) fn static_replies(&self, caller: Ingress) -> &StaticReplies {
        match caller {
            Ingress::Clearnet => &self.for_clearnet,
            Ingress::Onion => &self.for_onion,
        }
    }
}

impl Identity {
    /// Who came by one of our names hears nothing of the other.
    pub fn features(&self, caller: Ingress) -> Features {
        let Identity { clearnet, onion, link_identities: link, .. } = self;
        let names = match caller {
            _ if *link => [clearnet, onion],
            Ingress::Clearnet => [clearnet, &None],
            Ingress::Onion => [onion, &None],
        };
        Features {
            hosts: Some(names.into_iter().flatten().map(|(host, ports)| (host.clone(), Some(*ports))).collect()),
            genesis_hash: Some(self.network.genesis_hash().to_owned()),
            hash_function: Some(SCRIPT_HASH_FUNCTION.to_owned()),
            server_version: Some(match self.behind().and_then(|behind| behind.software.as_ref()) {
                Some(software) => format!("{USER_AGENT} in front of {software}"),
                None => USER_AGENT.to_owned(),
            }),
            protocol_min: Some(self.versions().0),
            protocol_max: Some(self.versions().1),
            pruning: self.behind().and_then(|behind| behind.pruning),
        }
    }

    /// Builds the list entry of an own name.
    pub fn listed(&self, host: &Host, ports: Ports, ip: Option<IpAddr>) -> PeerListEntry {
        let pruning = self.behind().and_then(|behind| behind.pruning);
        PeerListEntry { ip, name: RealName { host: host.clone(), version: Some(self.versions().1), pruning, ports } }
    }

    /// Builds the offer for `server.add_peer`: the own name of the peer's kind.
    pub fn announcement(&self, caller: Ingress) -> Option<AddPeerOffer> {
        let (host, ports) = match caller {
            Ingress::Clearnet => self.clearnet.clone()?,
            Ingress::Onion => self.onion.clone()?,
        };
        let hosts = Some(vec![(host.clone(), Some(ports))]);
        Some(AddPeerOffer { host, ports, features: Features { hosts, ..self.features(caller) } })
    }

    /// The protocol versions that callers may choose from: the oldest and the newest.
    pub fn versions(&self) -> (Version, Version) {
        self.behind().map_or((MIN_PROTOCOL, MAX_PROTOCOL), |behind| behind.versions)
    }

    pub fn behind(&self) -> Option<&BackendInfo> {
        match &self.backend {
            BackendState::Known(behind) => Some(behind),
            BackendState::None | BackendState::Unknown => None,
        }
    }

    /// Words that are ours alone would tie our two names together, so they are for callers on clearnet where there is a
    /// name to be advertised.
    fn withholds_operator_text(&self, caller: Ingress) -> bool {
        caller == Ingress::Onion && self.clearnet.is_some() && !self.link_identities
    }
}
