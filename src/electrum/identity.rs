//! The local identity: the node's names, its backend, and the replies that describe them.

use std::net::IpAddr;

use bytes::Bytes;
use serde_json::json;

use super::prober::AddPeerOffer;
use crate::book::{Ingress, PerIngress};
use crate::chain::Chain;
use crate::jsonrpc::{DEFAULT_PROTOCOL, MAX_PROTOCOL, MIN_PROTOCOL, USER_AGENT, software_in_front_of};
use crate::peer::{Features, Host, PeerListEntry, Ports, RealName, SCRIPT_HASH_FUNCTION, Version};

/// The node's names and properties, as advertised.
#[derive(Debug, Clone, Default)]
pub struct Identity {
    /// The chain of the node.
    pub chain: Chain,
    /// Clearnet name and ports. `None`: there is no clearnet name.
    pub clearnet: Option<(Host, Ports)>,
    /// Further clearnet names of the same server. Default: none.
    pub other_names: Vec<(Host, Ports)>,
    /// Advertised address of `clearnet`. `None`: the name is resolved.
    pub address: Option<IpAddr>,
    /// Onion name and ports. `None` until the name was reached through Tor.
    pub onion: Option<(Host, Ports)>,
    /// Whether clients of one name are informed of the other. Default: false.
    pub link_identities: bool,
    /// Banner of the operator. `None`: the default or the backend's.
    pub banner: Option<String>,
    /// Donation address of the operator. `None`: empty or the backend's.
    pub donation_address: Option<String>,
    /// The Electrum server to which requests are forwarded, for each ingress.
    pub backend: PerIngress<BackendState>,
}

/// Whether there is a backend, and its properties.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum BackendState {
    /// There is no backend.
    #[default]
    None,
    /// The backend was not reached yet.
    Unknown,
    /// Properties from the last poll.
    Known(BackendInfo),
}

/// Properties that the backend reports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackendInfo {
    /// Name of the software, if it was reported.
    pub software: Option<String>,
    /// Oldest and newest protocol version that the backend and Waypost both support.
    pub versions: (Version, Version),
    /// Pruning limit. `None`: the backend does not prune.
    pub pruning: Option<u32>,
    /// Height of the tip. `None`: it was not reported.
    pub tip: Option<u32>,
}

/// The identity, and replies encoded once for all clients.
#[derive(Debug, Default)]
pub struct LocalIdentity {
    /// The node's names and properties.
    pub identity: Identity,
    replies: PerIngress<StaticReplies>,
}

/// JSON replies for clients of one ingress.
#[derive(Debug, Default)]
pub(super) struct StaticReplies {
    /// Software name in `server.version`, the same as in the features. Not JSON.
    pub software: String,
    pub features: Bytes,
    pub banner: Bytes,
    pub donation_address: Bytes,
    /// Whether the backend answers this request.
    pub forwards_banner: bool,
    /// Whether the backend answers this request.
    pub forwards_donation_address: bool,
}

/// Banner without an operator's or backend's banner.
pub const DEFAULT_BANNER: &str = "This node serves Electrum peer discovery: it lists servers that are online.";

impl LocalIdentity {
    /// Encodes the replies of an identity.
    pub fn new(identity: Identity) -> LocalIdentity {
        let replies = |ingress| {
            let json = |value: serde_json::Value| Bytes::from(value.to_string());
            let is_withheld = identity.withholds_operator_text(ingress);
            let shown = |text: &'_ Option<String>| text.clone().filter(|_| !is_withheld);
            let (banner, address) = (shown(&identity.banner), shown(&identity.donation_address));
            let forwards = |text: &Option<String>| {
                identity.backend[ingress] != BackendState::None && text.is_none() && !is_withheld
            };
            StaticReplies {
                software: identity.software(ingress),
                forwards_banner: forwards(&banner),
                forwards_donation_address: forwards(&address),
                features: json(json!(identity.features(ingress))),
                banner: json(json!(banner.as_deref().unwrap_or(DEFAULT_BANNER))),
                donation_address: json(json!(address.unwrap_or_default())),
            }
        };
        let replies = PerIngress { clearnet: replies(Ingress::Clearnet), onion: replies(Ingress::Onion) };
        LocalIdentity { replies, identity }
    }

    pub(super) fn static_replies(&self, ingress: Ingress) -> &StaticReplies {
        &self.replies[ingress]
    }
}

impl Identity {
    /// Returns the features for clients of an ingress.
    ///
    /// They contain only the names of that ingress, unless identities are linked.
    pub fn features(&self, ingress: Ingress) -> Features {
        let is_shown = |of: Ingress| of == ingress || self.link_identities;
        let clearnet = self.clearnet_names().filter(|_| is_shown(Ingress::Clearnet));
        let names = clearnet.chain(self.onion.iter().filter(|_| is_shown(Ingress::Onion)));
        Features {
            hosts: Some(names.map(|(host, ports)| (host.clone(), Some(*ports))).collect()),
            genesis_hash: Some(self.chain.genesis_hash.to_string()),
            // Protocol 1.7 no longer has it, and allows any other key. Fulcrum rejects peers without it.
            hash_function: Some(SCRIPT_HASH_FUNCTION.to_owned()),
            server_version: Some(self.software(ingress)),
            protocol_min: Some(self.versions(ingress).0),
            protocol_max: Some(self.versions(ingress).1),
            pruning: self.backend_info(ingress).and_then(|info| info.pruning),
        }
    }

    /// Builds the list entry of an own name.
    pub fn listed(&self, host: &Host, ports: Ports, ip: Option<IpAddr>) -> PeerListEntry {
        let ingress = Ingress::of(host);
        let pruning = self.backend_info(ingress).and_then(|info| info.pruning);
        let version = Some(self.versions(ingress).1);
        PeerListEntry { ip, name: RealName { host: host.clone(), version, pruning, ports } }
    }

    /// Returns the clearnet names with their ports, `clearnet` first.
    pub fn clearnet_names(&self) -> impl Iterator<Item = &(Host, Ports)> {
        self.clearnet.iter().chain(&self.other_names)
    }

    /// Builds the offer of an own name for `server.add_peer`; `None` if the name is not known.
    ///
    /// It contains no other name, as ElectrumX reads only the first one.
    pub fn announcement(&self, own: &Host) -> Option<AddPeerOffer> {
        let (host, ports) = self.clearnet_names().chain(&self.onion).find(|(host, _)| host == own)?.clone();
        let hosts = Some(vec![(host.clone(), Some(ports))]);
        let features = Features { hosts, ..self.features(Ingress::of(&host)) };
        Some(AddPeerOffer { host, ports, features })
    }

    /// Returns the software name for clients of an ingress, which wallets use to detect abilities of the backend.
    pub fn software(&self, ingress: Ingress) -> String {
        let backend = self.backend_info(ingress).and_then(|info| info.software.as_deref());
        backend.map_or_else(|| USER_AGENT.to_owned(), software_in_front_of)
    }

    /// Returns the oldest and newest protocol version that clients may negotiate.
    ///
    /// A backend that was not reached yet may speak less than Waypost, but every current server speaks the default.
    pub fn versions(&self, ingress: Ingress) -> (Version, Version) {
        match &self.backend[ingress] {
            BackendState::None => (MIN_PROTOCOL, MAX_PROTOCOL),
            BackendState::Unknown => (DEFAULT_PROTOCOL, DEFAULT_PROTOCOL),
            BackendState::Known(info) => info.versions,
        }
    }

    /// Returns the backend's properties, if they are known.
    pub fn backend_info(&self, ingress: Ingress) -> Option<&BackendInfo> {
        match &self.backend[ingress] {
            BackendState::Known(info) => Some(info),
            BackendState::None | BackendState::Unknown => None,
        }
    }

    /// Whether banner and donation address are withheld from clients of this ingress.
    ///
    /// The same text under both names would link them.
    fn withholds_operator_text(&self, ingress: Ingress) -> bool {
        ingress == Ingress::Onion && self.clearnet.is_some() && !self.link_identities
    }
}

#[cfg(test)]
mod tests {
    use super::super::prober::{ChainProof, FeaturesStep, ProbeExpectations, Prober, ProberAction, RequestOrder};
    use super::*;

    const ONION: &str = "explorerzydxu5ecjrkwceayqybizmpjjznk5izmitf2modhcusuqlid.onion";
    const CLEARNET: &str = "node.example";

    /// Returns the requests of a visit by a side, with its own name and that of the peer replaced.
    fn visit(own: &str, peer: &str, answers: &[&str]) -> Vec<String> {
        let ports = Chain::BITCOIN.default_ports;
        let name = |host: &str| Some((host.parse().unwrap(), ports));
        let identity = Identity { clearnet: name(CLEARNET), onion: name(ONION), ..Identity::default() };
        let (mut prober, first) = Prober::new(ProbeExpectations {
            host: Some(peer.parse().unwrap()),
            chain: identity.chain.clone(),
            proof: ChainProof::NotRequired,
            features: FeaturesStep::Included,
            order: RequestOrder::Together,
            announce: identity.announcement(&own.parse().unwrap()),
            checkpoint_height: Some(900),
            reference: None,
        });
        let mut requests = vec![first];
        for (id, result) in answers.iter().enumerate() {
            match prober.handle_line(&format!(r#"{{"id":{id},{result}}}"#)).unwrap() {
                ProberAction::Send(request) => requests.push(request),
                ProberAction::Wait => {}
                ProberAction::Done(_) | ProberAction::Unproven => break,
            }
        }
        let text = |request: Vec<u8>| String::from_utf8(request).unwrap().replace(own, "OWN").replace(peer, "PEER");
        requests.into_iter().map(text).collect()
    }

    fn in_front_of(backend: BackendState) -> Identity {
        Identity { backend: PerIngress::both(backend), ..Identity::default() }
    }

    #[test]
    fn software_name_is_the_same_in_every_reply() {
        let software = Some("Fulcrum 2.1.1".to_owned());
        let info = BackendInfo { software, versions: (MIN_PROTOCOL, MAX_PROTOCOL), pruning: None, tip: None };
        let named = BackendState::Known(info.clone());
        let unnamed = BackendState::Known(BackendInfo { software: None, ..info });
        for (state, expected) in [
            (BackendState::None, USER_AGENT.to_owned()),
            (BackendState::Unknown, USER_AGENT.to_owned()),
            (unnamed, USER_AGENT.to_owned()),
            (named, format!("Fulcrum 2.1.1-Waypost-{}", env!("CARGO_PKG_VERSION"))),
        ] {
            let local_identity = LocalIdentity::new(in_front_of(state));
            for ingress in Ingress::ALL {
                let features = local_identity.identity.features(ingress);
                assert_eq!(features.server_version.as_ref(), Some(&expected));
                assert_eq!(local_identity.static_replies(ingress).software, expected);
            }
        }
    }

    #[test]
    fn unreached_backend_allows_only_the_default_version() {
        let versions = |state| in_front_of(state).versions(Ingress::Onion);
        assert_eq!(versions(BackendState::Unknown), (DEFAULT_PROTOCOL, DEFAULT_PROTOCOL));
        assert_eq!(versions(BackendState::None), (MIN_PROTOCOL, MAX_PROTOCOL));
    }

    #[test]
    fn visits_of_both_sides_differ_in_names_only() {
        let (ok, height) = (r#""result":["S","1.6"]"#, r#""result":{"height":1000}"#);
        let (list, done, refused) = (r#""result":[]"#, r#""result":true"#, r#""error":{"code":1}"#);
        for answers in [
            vec![ok, list, height, done, refused, done],
            vec![ok, refused, refused, refused, refused, refused],
            // The block and the features are refused before the version is answered, and again.
            vec![refused, list, height, refused, refused, r#""result":"S""#, refused, refused, refused],
        ] {
            let onion = visit(ONION, "explorernuoc63nb.example", &answers);
            let clearnet = visit(CLEARNET, "peer.example", &answers);
            assert_eq!(onion, clearnet);
            assert!(onion.concat().contains("server.add_peer") && onion.concat().contains("OWN"), "{onion:?}");
        }
    }

    #[test]
    fn features_list_all_names_of_the_ingress_and_offers_only_one() {
        let name = |host: &str| (host.parse::<Host>().unwrap(), Chain::BITCOIN.default_ports);
        let identity = Identity {
            clearnet: Some(name(CLEARNET)),
            other_names: vec![name("b.example"), name("5.9.0.9")],
            onion: Some(name(ONION)),
            ..Identity::default()
        };
        let hosts = |features: Features| -> Vec<String> {
            features.hosts.unwrap().into_iter().map(|(host, _)| host.to_string()).collect()
        };
        assert_eq!(hosts(identity.features(Ingress::Clearnet)), [CLEARNET, "b.example", "5.9.0.9"]);
        assert_eq!(hosts(identity.features(Ingress::Onion)), [ONION]);
        for own in [CLEARNET, "b.example", "5.9.0.9", ONION] {
            let offer = identity.announcement(&own.parse().unwrap()).unwrap();
            assert_eq!((offer.host.to_string(), hosts(offer.features)), (own.to_owned(), vec![own.to_owned()]));
        }
        assert!(identity.announcement(&"c.example".parse().unwrap()).is_none());
        let linked = Identity { link_identities: true, ..identity };
        assert_eq!(hosts(linked.features(Ingress::Onion)), [CLEARNET, "b.example", "5.9.0.9", ONION]);
    }
}
