//! Peers that list an own name, and what others answer to its announcement.

use std::net::IpAddr;

use futures_util::future::join_all;
use rand::rngs::StdRng;
use rand::seq::IteratorRandom;

use super::{Finding, Level, RunningDaemon, Subject};
use crate::api::{Listings, PeerInfo};
use crate::book::{Ingress, PeerState, is_dialable};
use crate::config::{Config, local_addresses};
use crate::connect::{ProbeError, ProbeTarget, Verified};
use crate::daemon::Lookup;
use crate::dial::{Dialer, Direct, Isolation};
use crate::electrum::identity::Identity;
use crate::electrum::prober::{AddPeerOffer, ChainProof, FeaturesStep, ProbeExpectations, RequestOrder};
use crate::netgroup::is_public;
use crate::peer::{Host, Port, Ports, RealName};
use crate::probe::{Deadlines, probe};
use crate::route::{Route, RoutingPolicy};

/// Peers that are asked to list the name. One may refuse for reasons of its own.
const ASKED_PEERS: usize = 3;

/// Advice if peers refuse a clearnet name.
const REFUSED_ADVICE: &str = "peers accept a name only from an address that it resolves to: compare the findings about \
                              the source address, and set identity.bind if this machine has several addresses";

/// Addresses from which a clearnet name is announced.
pub(super) struct SourceAddresses {
    pub findings: Vec<Finding>,
    /// Local addresses for announcements. Empty: the system chooses.
    pub addresses: Vec<IpAddr>,
}

/// Compares the source address of direct connections with the addresses of the name.
pub(super) fn source_addresses(config: &Config, lookup: &Lookup) -> SourceAddresses {
    let finding = |finding: Finding, addresses| SourceAddresses { findings: vec![finding], addresses };
    if config.book.routing == RoutingPolicy::TorOnly {
        let text = "the clearnet name is not announced: peers reject announcements that come from an exit of Tor";
        let advice = "expect other servers to find it by the lists of peers only, or set tor.only to false";
        return finding(Finding::warning(Subject::Listings, text, advice), Vec::new());
    }
    let of_name: Vec<IpAddr> =
        lookup.configured.iter().chain(&lookup.local).chain(lookup.exits.iter().flatten()).copied().collect();
    if !config.announce_from.is_empty() {
        let bound = join(&config.announce_from);
        return if config.announce_from.iter().all(|ip| of_name.contains(&ip.to_canonical())) {
            let text = format!("announcements come from {bound}, as identity.bind says");
            finding(Finding::ok(Subject::Listings, text), config.announce_from.clone())
        } else {
            let text = format!("identity.bind is {bound}, but the name resolves to {}", join(&of_name));
            let advice = "behind a router this is right; otherwise set identity.bind to an address of the name";
            finding(Finding::warning(Subject::Listings, text, advice), config.announce_from.clone())
        };
    }
    let local = local_addresses(of_name.iter().copied(), config.book.allow_private);
    if !local.is_empty() {
        let text = format!("announcements come from {}, an address of the name", join(&local));
        return finding(Finding::ok(Subject::Listings, text), local);
    }
    let source = of_name.iter().find_map(|ip| Direct.source_address(*ip));
    match source {
        Some(source) if is_public(source) => {
            let text = format!("announcements come from {source}, but the name resolves to {}", join(&of_name));
            let advice = "peers reject them: add this address to the DNS record, or set identity.bind to another";
            finding(Finding::failure(Subject::Listings, text, advice), Vec::new())
        }
        Some(source) => {
            let text = format!(
                "announcements come from {source}, which a router replaces; peers must see {} instead",
                join(&of_name)
            );
            finding(Finding::ok(Subject::Listings, text), Vec::new())
        }
        None => SourceAddresses { findings: Vec::new(), addresses: Vec::new() },
    }
}

/// Announcement of one own name.
pub(super) struct Announcement<'a> {
    pub config: &'a Config,
    pub daemon: Option<&'a RunningDaemon>,
    pub dialer: &'a Dialer,
    /// Name that is announced.
    pub own: &'a Host,
    /// Whether the name was reached. Peers accept no other.
    pub is_reached: bool,
}

impl Announcement<'_> {
    /// Reports how many peers list the name, and asks some of the others to list it.
    ///
    /// Peers of both kinds are not asked in the same run: visits at the same time would link the two names.
    pub(super) async fn check(&self, ports: Ports, rng: &mut StdRng) -> Vec<Finding> {
        let onion = Some((self.own.clone(), ports)).filter(|(host, _)| host.is_onion());
        let identity = Identity { onion, ..self.config.identity.clone() };
        let Some(offer) = identity.announcement(self.own) else { return Vec::new() };
        let mut findings: Vec<Finding> =
            self.counts().map(|counts| count_finding(&offer.host, counts)).into_iter().collect();
        if !self.config.book.announce {
            let text = format!("{} is not announced to peers, as identity.announce is false", offer.host);
            findings.push(Finding::ok(Subject::Listings, text));
            return findings;
        }
        if would_link_names(&identity, self.own) {
            findings.extend(self.recorded_answers(&offer.host));
            return findings;
        }
        if !self.is_reached {
            let text = format!("no peer is asked to list {}, as it is not reachable", offer.host);
            findings.push(Finding::warning(Subject::Listings, text, "correct the failures of the name first"));
            return findings;
        }
        let (routing, seeds) = (self.config.book.routing, &self.config.book.seeds);
        let peers = self.daemon.map(|daemon| daemon.peers.as_slice());
        let candidates: Vec<_> =
            candidates(peers, seeds, Ingress::of(self.own), &offer.host, routing).into_iter().sample(rng, ASKED_PEERS);
        let answers = join_all(candidates.iter().map(|(host, ports)| self.ask(host, *ports, &offer))).await;
        findings.extend(answer_findings(&offer.host, answers));
        findings
    }

    /// Reports how many peers refused the name at their last visit by the daemon.
    fn recorded_answers(&self, own: &Host) -> Option<Finding> {
        let peers = self.daemon?.peers.iter().filter(|peer| is_of_ingress(peer, Ingress::of(self.own)));
        let answers: Vec<bool> = peers.filter_map(|peer| peer.announcement_accepted).collect();
        let accepted = answers.iter().filter(|accepted| **accepted).count();
        let text = format!(
            "{own}: {accepted} of {} announcements were accepted; no peer is asked now, as that would link both names",
            answers.len()
        );
        Some(if accepted == 0 && !answers.is_empty() {
            Finding::warning(Subject::Listings, text, "`waypost peers --json` shows the answer of each peer")
        } else {
            Finding::ok(Subject::Listings, text)
        })
    }

    /// Returns how many peers list the name; `None` without a daemon.
    fn counts(&self) -> Option<Listings> {
        let status = &self.daemon?.status;
        if self.own.is_onion() {
            return status.onion.as_ref().map(|onion| onion.listings);
        }
        let own = self.own.to_string();
        status.clearnet_names().find(|name| name.host == own).map(|name| name.listings)
    }

    /// Visits a peer and announces the name to it.
    async fn ask(&self, host: &Host, ports: Ports, offer: &AddPeerOffer) -> (Host, Result<Verified, ProbeError>) {
        (host.clone(), self.visit(host, ports, offer).await)
    }

    async fn visit(&self, host: &Host, ports: Ports, offer: &AddPeerOffer) -> Result<Verified, ProbeError> {
        let (book, route) = (&self.config.book, self.config.book.routing.via(host));
        let addresses = match host {
            Host::Onion(_) => Vec::new(),
            Host::Ip(ip) => vec![*ip],
            Host::Dns(name) => self.dialer.resolve(name, route).await?,
        };
        if !book.allow_private && !addresses.iter().all(|ip| is_public(*ip)) {
            return Err(ProbeError::NotPublic);
        }
        let endpoints = ports.iter().filter(|endpoint| is_dialable(host, route, *endpoint)).collect();
        let target = ProbeTarget {
            announce: Some(offer.host.clone()),
            ..ProbeTarget::without_extras(host.clone(), route, addresses, endpoints)
        };
        let expected = ProbeExpectations {
            host: None,
            chain: book.chain.clone(),
            proof: ChainProof::NotRequired,
            features: FeaturesStep::Included,
            order: RequestOrder::Together,
            announce: Some(offer.clone()),
            checkpoint_height: None,
            reference: None,
        };
        // As on scheduled visits: what a peer links is the name, not the command.
        let isolation = if host.is_onion() { Isolation::OnionSidePeers } else { Isolation::Peers };
        let dialer = Dialer { isolation, ..self.dialer.clone() };
        probe(&dialer, &target, &expected, Deadlines::for_route(route), |_| {}).await
    }
}

/// Returns whether an announcement now would link the onion name to a clearnet name, which is announced in the same run.
fn would_link_names(identity: &Identity, own: &Host) -> bool {
    own.is_onion() && identity.clearnet.is_some() && !identity.link_identities
}

/// Returns peers of the name's kind that lack the name: verified ones of the daemon, or seeds without a daemon.
///
/// Clearnet peers are dialled directly, as they check the source of an announcement. Those that only the onion side knows
/// are left out: a direct connection to a name that an attacker made known there would show the address of this node.
fn candidates(
    peers: Option<&[PeerInfo]>,
    seeds: &[RealName],
    ingress: Ingress,
    own: &Host,
    routing: RoutingPolicy,
) -> Vec<(Host, Ports)> {
    let is_asked =
        |host: &Host| Ingress::of(host) == ingress && (host.is_onion() || routing.via(host) == Route::Direct);
    let of_peer = |peer: &PeerInfo| {
        let host: Host = peer.host.parse().ok()?;
        let is_listed = peer.lists.iter().any(|listing| listing.host == own.to_string());
        let ports = Ports::new(peer.ports.tcp_port.and_then(Port::new), peer.ports.ssl_port.and_then(Port::new))?;
        let is_chosen =
            peer.state == PeerState::Verified && is_of_ingress(peer, ingress) && !is_listed && is_asked(&host);
        is_chosen.then_some((host, ports))
    };
    match peers {
        Some(peers) => peers.iter().filter_map(of_peer).collect(),
        None => seeds.iter().filter(|seed| is_asked(&seed.host)).map(|seed| (seed.host.clone(), seed.ports)).collect(),
    }
}

/// Returns whether the side that serves an ingress knows the peer.
fn is_of_ingress(peer: &PeerInfo, ingress: Ingress) -> bool {
    peer.side.serves(ingress)
}

fn count_finding(host: &Host, counts: Listings) -> Finding {
    let text = format!("{host} is {counts} verified peers of its kind");
    if counts.listed_by == 0 && counts.peers_of_its_kind > 0 {
        let advice = "peers list a name some hours after its announcement; the next findings show why they do not";
        Finding::warning(Subject::Listings, text, advice)
    } else {
        Finding::ok(Subject::Listings, text)
    }
}

/// Reports the answer of each peer. If all that answered refuse, that is a failure.
fn answer_findings(own: &Host, answers: Vec<(Host, Result<Verified, ProbeError>)>) -> Vec<Finding> {
    let mut findings: Vec<Finding> =
        answers.into_iter().map(|(peer, answer)| answer_finding(own, &peer, answer)).collect();
    let is_accepted = findings.iter().any(|finding| finding.level == Level::Ok);
    for finding in findings.iter_mut().filter(|_| is_accepted) {
        // The rules of a single peer are no problem of this node.
        finding.level = finding.level.min(Level::Warning);
    }
    findings
}

fn answer_finding(own: &Host, peer: &Host, answer: Result<Verified, ProbeError>) -> Finding {
    let report = match answer {
        Ok(verified) => verified.report,
        Err(error) => {
            let text = format!("{peer} could not be asked to list {own}: {error}");
            return Finding::warning(Subject::Listings, text, "run this again: other peers are asked then");
        }
    };
    let software = report.software.map(|software| format!(" ({software})")).unwrap_or_default();
    let is_listed = report.peer_list.0.iter().any(|entry| entry.name.host == *own);
    match report.add_peer_result {
        Some(false) => {
            let advice =
                if own.is_onion() { "it may accept few onion names at once; try again later" } else { REFUSED_ADVICE };
            Finding::failure(Subject::Listings, format!("{peer}{software} refuses to list {own}"), advice)
        }
        None if is_listed => Finding::ok(Subject::Listings, format!("{peer}{software} lists {own}")),
        None => {
            let text = format!("{peer}{software} was not asked to list {own}");
            Finding::warning(Subject::Listings, text, "it answered no further request; run this again")
        }
        Some(true) => Finding::ok(Subject::Listings, format!("{peer}{software} accepts {own}")),
    }
}

fn join(addresses: &[IpAddr]) -> String {
    let mut shown: Vec<String> = Vec::new();
    for ip in addresses.iter().map(IpAddr::to_string) {
        if !shown.contains(&ip) {
            shown.push(ip);
        }
    }
    shown.join(" and ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chain::Chain;

    const OWN: &str = "own.example";
    const ONION: &str = "explorerzydxu5ecjrkwceayqybizmpjjznk5izmitf2modhcusuqlid.onion";

    fn peer(host: &str, side: &str, state: &str, listed: &[&str]) -> PeerInfo {
        let lists: Vec<_> = listed.iter().map(|host| serde_json::json!({ "host": host, "since": 0 })).collect();
        serde_json::from_value(serde_json::json!({
            "host": host, "side": side, "state": state, "ssl_port": 50002, "lists": lists, "source": "seed",
            "self_reported": true, "first_seen": 0, "next_try": 0, "failures": 0, "key_changes": 0, "uptime": {},
            "history": [], "genesis_hash": null, "ip": null, "protocol": null,
        }))
        .unwrap()
    }

    fn asked(peers: &[PeerInfo], ingress: Ingress, routing: RoutingPolicy) -> Vec<String> {
        let candidates = candidates(Some(peers), &[], ingress, &OWN.parse().unwrap(), routing);
        candidates.into_iter().map(|(host, _)| host.to_string()).collect()
    }

    #[test]
    fn names_of_the_onion_side_are_never_asked_directly() {
        let peers = [
            peer("a.example", "clearnet", "verified", &[]),
            peer("spy.example", "onion", "verified", &[]),
            peer(ONION, "onion", "verified", &[]),
        ];
        assert_eq!(asked(&peers, Ingress::Clearnet, RoutingPolicy::Split), ["a.example"]);
        assert_eq!(asked(&peers, Ingress::Onion, RoutingPolicy::Split), [ONION]);
        assert_eq!(asked(&peers, Ingress::Clearnet, RoutingPolicy::TorOnly), [""; 0], "an exit's address is rejected");
    }

    #[test]
    fn onion_name_is_not_announced_together_with_an_unlinked_clearnet_name() {
        let name = |host: &str| Some((host.parse().unwrap(), Chain::BITCOIN.default_ports));
        let (onion, clearnet): (Host, Host) = (ONION.parse().unwrap(), OWN.parse().unwrap());
        let both = Identity { clearnet: name(OWN), onion: name(ONION), ..Identity::default() };
        assert!(would_link_names(&both, &onion) && !would_link_names(&both, &clearnet));
        assert!(!would_link_names(&Identity { link_identities: true, ..both }, &onion));
        assert!(!would_link_names(&Identity { onion: name(ONION), ..Identity::default() }, &onion));
    }

    #[test]
    fn only_verified_peers_without_the_name_are_asked() {
        let peers = [
            peer("listing.example", "both", "verified", &[OWN]),
            peer("other.example", "both", "verified", &["x.example"]),
            peer("stale.example", "both", "stale", &[]),
        ];
        assert_eq!(asked(&peers, Ingress::Clearnet, RoutingPolicy::Split), ["other.example"]);
        let seeds: Vec<RealName> = ["a.example s50002", &format!("{ONION} t50001")]
            .map(|line| RealName::parse(line, Chain::BITCOIN.default_ports).unwrap())
            .into();
        let own = OWN.parse().unwrap();
        let of_seeds = candidates(None, &seeds, Ingress::Onion, &own, RoutingPolicy::Split);
        assert_eq!(of_seeds.len(), 1, "without a daemon, seeds of the name's kind");
        assert!(of_seeds[0].0.is_onion());
    }
}
