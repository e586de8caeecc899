//! Who we are: our names, what stands behind us, and the replies in which both are told.

use std::net::IpAddr;

use bytes::Bytes;
use serde_json::json;

use super::prober::AddPeerOffer;
use crate::book::Ingress;
use crate::jsonrpc::{NEWEST, OLDEST, USER_AGENT};
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
    /// In replies of the operator's, if he has any.
    pub banner: Option<String>,
    pub donation_address: Option<String>,
    /// The Electrum server that we stand in front of.
    pub backend: BackendState,
}

/// Whether there is an Electrum server behind us, and what it shown of itself when it was last asked.
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

/// What we say of ourselves, put into replies once for all who ask.
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
    pub forwards_donation_address: bool,
}

/// What wallets show of a server that says nothing else.
pub const DEFAULT_BANNER: &str = "This node serves Electrum peer discovery: it tells which servers are alive.";

impl LocalIdentity {
    pub fn new(identity: Identity) -> LocalIdentity {
        let replies = |ingress| {
            let json = |value: serde_json::Value| Bytes::from(value.to_string());
            let is_withheld = identity.withholds_operator_text(ingress);
            let shown = |text: &'_ Option<String>| text.clone().filter(|_| !is_withheld);
            let (banner, address) = (shown(&identity.banner), shown(&identity.donation_address));
            let forwards =
                |text: &Option<String>| identity.backend != BackendState::None && text.is_none() && !is_withheld;
            StaticReplies {
                forwards_banner: forwards(&banner),
                forwards_donation_address: forwards(&address),
                features: json(json!(identity.features(ingress))),
                banner: json(json!(banner.as_deref().unwrap_or(DEFAULT_BANNER))),
                donation_address: json(json!(address.unwrap_or_default())),
            }
        };
        LocalIdentity { for_clearnet: replies(Ingress::Clearnet), for_onion: replies(Ingress::Onion), identity }
    }

    pub(super) fn static_replies(&self, ingress: Ingress) -> &StaticReplies {
        match ingress {
            Ingress::Clearnet => &self.for_clearnet,
            Ingress::Onion => &self.for_onion,
        }
    }
}

impl Identity {
    /// Who came by one of our names hears nothing of the other.
    pub fn features(&self, ingress: Ingress) -> Features {
        let Identity { clearnet, onion, link_identities, .. } = self;
        let names = match ingress {
            _ if *link_identities => [clearnet, onion],
            Ingress::Clearnet => [clearnet, &None],
            Ingress::Onion => [onion, &None],
        };
        Features {
            hosts: Some(names.into_iter().flatten().map(|(host, ports)| (host.clone(), Some(*ports))).collect()),
            genesis_hash: Some(self.network.genesis_hash().to_owned()),
            hash_function: Some(SCRIPT_HASH_FUNCTION.to_owned()),
            server_version: Some(match self.backend_info().and_then(|info| info.software.as_ref()) {
                Some(software) => format!("{USER_AGENT} in front of {software}"),
                None => USER_AGENT.to_owned(),
            }),
            protocol_min: Some(self.versions().0),
            protocol_max: Some(self.versions().1),
            pruning: self.backend_info().and_then(|info| info.pruning),
        }
    }

    /// Builds the list entry of an own name.
    pub fn listed(&self, host: &Host, ports: Ports, ip: Option<IpAddr>) -> PeerListEntry {
        let pruning = self.backend_info().and_then(|info| info.pruning);
        PeerListEntry { ip, name: RealName { host: host.clone(), version: Some(self.versions().1), pruning, ports } }
    }

    /// Builds the offer for `server.add_peer`: the own name of the peer's kind.
    pub fn announcement(&self, ingress: Ingress) -> Option<AddPeerOffer> {
        let (host, ports) = match ingress {
            Ingress::Clearnet => self.clearnet.clone()?,
            Ingress::Onion => self.onion.clone()?,
        };
        let hosts = Some(vec![(host.clone(), Some(ports))]);
        Some(AddPeerOffer { host, ports, features: Features { hosts, ..self.features(ingress) } })
    }

    /// The protocol versions that callers may choose from: the oldest and the newest.
    pub fn versions(&self) -> (Version, Version) {
        self.backend_info().map_or((OLDEST, NEWEST), |info| info.versions)
    }

    pub fn backend_info(&self) -> Option<&BackendInfo> {
        match &self.backend {
            BackendState::Known(info) => Some(info),
            BackendState::None | BackendState::Unknown => None,
        }
    }

    /// Words that are ours alone would tie our two names together, so they are for callers on clearnet where there is a
    /// name to be advertised.
    fn withholds_operator_text(&self, ingress: Ingress) -> bool {
        ingress == Ingress::Onion && self.clearnet.is_some() && !self.link_identities
    }
}
