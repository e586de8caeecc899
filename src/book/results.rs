//! Results of probes.

use super::admission;
use super::context::Context;
use super::path_health::{PathPopulation, PendingFailure};
use super::port_claims::PortClaim;
use super::probe_queue::{after_failure, after_success, jittered};
use super::self_announcement::ANNOUNCE_SPACING;
use super::table::InFlightProbe;
use super::{Action, BookConfig, BookNotice, PeerBook, PeerState, Source};
use crate::clock::Time;
use crate::connect::{FailureOrigin, ProbeError, Verified};
use crate::peer::{Fault, Host, Ports};
use crate::route::{Route, RouteRules, RoutingPolicy};
use crate::tor_state::ClearnetAccess;

impl PeerBook {
    pub(super) fn on_probe_result(
        &mut self,
        host: &Host,
        outcome: Result<Verified, ProbeError>,
        ctx: &mut Context<'_>,
    ) {
        let Some(probe) = self.peers.end_probe(host) else { return };
        let route = self.peers.route(host);
        match outcome {
            Ok(verified) => {
                self.on_path_proven(route, ctx);
                match self.chain.judge(self.peers.get(host), &verified.report, ctx.now) {
                    Some(fault) => self.on_peer_failure(host, ProbeError::ProtocolViolation(fault), ctx),
                    None => self.on_success(host, verified, &probe, ctx),
                }
            }
            Err(failure) => match failure.blame() {
                FailureOrigin::Peer => {
                    self.on_path_proven(route, ctx);
                    self.on_peer_failure(host, failure, ctx);
                }
                FailureOrigin::PeerUnconfirmed => self.on_peer_failure(host, failure, ctx),
                FailureOrigin::Local => {
                    if failure == ProbeError::TorUnavailable {
                        self.paths.on_tor_unavailable("Tor does not accept connections".to_owned(), ctx);
                    }
                    self.defer_without_blame(host, ctx);
                }
                FailureOrigin::Ambiguous => self.on_ambiguous_failure(host, failure, probe.started_at, ctx),
            },
        }
    }

    fn on_success(&mut self, host: &Host, verified: Verified, probe: &InFlightProbe, ctx: &mut Context<'_>) {
        let BookConfig { recheck_interval, max_advertised_age, initial_retry, .. } = self.config;
        let working_time = self.paths.working_time_for(host);
        self.peers.on_conclusive_result(host);
        let Some(entry) = self.peers.get(host) else { return };
        let was_verified = entry.state(ctx.now, max_advertised_age) == PeerState::Verified;
        let known_ports = entry.ports;
        let has_new_key = self.peers.update(host, |entry| entry.verified(&verified, working_time, ctx.now));
        let Some(entry) = self.peers.get(host) else { return };
        let endpoint = (verified.transport, verified.port);
        let is_endpoint_known = entry.ports.iter().any(|known| known == endpoint);
        let software = entry.software.clone();
        let may_announce = self.announces_at_once() && !probe.announces_self;
        let delay = if may_announce && self.should_announce_to(host, ctx.now) {
            // An own name proved reachable only after this probe had started.
            jittered(ANNOUNCE_SPACING, ctx.rng)
        } else if !is_endpoint_known && entry.ports != known_ports {
            // The peer reported new ports, which were not dialled yet.
            jittered(initial_retry, ctx.rng)
        } else {
            after_success(recheck_interval, max_advertised_age, ctx.rng)
        };
        if !is_endpoint_known {
            // The report may be wrong, for example behind a router. So the endpoint that answered is tried as well.
            let ports = Ports::single(verified.transport, verified.port);
            self.peers.add_port_claim(host, PortClaim { ports, from: None });
        }
        self.peers.reschedule(host, ctx.now + delay);
        self.save(host, ctx);
        ctx.snapshot_changed();
        if !was_verified {
            ctx.notify(BookNotice::Verified { host: host.clone(), software });
        }
        if has_new_key == Some(true) {
            ctx.notify(BookNotice::KeyChanged { host: host.clone() });
        }
        if !self.config.side.learns_from(host) {
            return;
        }
        self.record_port_claims(&verified.report.peer_list, ctx.rng);
        let is_unknown = |host: &Host| !self.peers.contains(host);
        let names = admission::sample_new_names(verified.report.peer_list, is_unknown, ctx.rng);
        for name in names {
            // Rejected unverified reports are not logged.
            let _ = self.try_add(name, Source::Peer(host.clone()), ctx);
        }
    }

    fn on_peer_failure(&mut self, host: &Host, failure: ProbeError, ctx: &mut Context<'_>) {
        let BookConfig { recheck_interval, max_advertised_age, initial_retry, .. } = self.config;
        // Ports that third parties claimed were dialled in the same probe.
        self.peers.on_conclusive_result(host);
        let Some(entry) = self.peers.get(host) else { return };
        let was_bad = entry.violation.is_some();
        // The notice follows the first failure after the last success became too old.
        let lapsed = entry.last_success.map(|success| success + max_advertised_age).filter(|until| *until < ctx.now);
        let was_tried_since = entry.history.back().is_some_and(|past| lapsed.is_some_and(|until| past.at > until));
        let next_probe_at = |violation, failures, ctx: &mut Context<'_>| {
            ctx.now
                + match violation {
                    // A peer that misbehaves is tried once per interval, unless it may be catching up.
                    Some(violation) if violation != ProbeError::ProtocolViolation(Fault::ChainBehind) => {
                        jittered(recheck_interval, ctx.rng)
                    }
                    _ => after_failure(failures, initial_retry, recheck_interval, ctx.rng),
                }
        };
        let is_bad = self.peers.update(host, |entry| {
            entry.record_failure(failure, ctx.now);
            entry.next_probe_at = next_probe_at(entry.violation, entry.failures, ctx);
            entry.violation.is_some()
        });
        self.save(host, ctx);
        if self.config.peers_as_backend {
            // The order of upstream candidates may have changed.
            ctx.snapshot_changed();
        }
        if is_bad == Some(true) && !was_bad {
            ctx.notify(BookNotice::Misbehaved { host: host.clone(), reason: failure });
            ctx.snapshot_changed();
        } else if lapsed.is_some() && !was_tried_since && !was_bad {
            ctx.notify(BookNotice::NoLongerAdvertised { host: host.clone(), reason: failure });
        }
    }

    /// Defers a peer without recording a failure.
    ///
    /// The delay grows with the number of such failures, since without another peer on the path nothing is ever
    /// attributed. While the path is down it stays short, as hardly any peer is probed then.
    fn defer_without_blame(&mut self, host: &Host, ctx: &mut Context<'_>) {
        let BookConfig { initial_retry, recheck_interval, .. } = self.config;
        let is_down = self.paths.health(self.peers.route(host)).is_down();
        let failures = if is_down { 1 } else { self.peers.count_unattributed_failure(host) };
        self.peers.reschedule(host, ctx.now + after_failure(failures, initial_retry, recheck_interval, ctx.rng));
    }

    fn on_ambiguous_failure(&mut self, host: &Host, failure: ProbeError, started_at: Time, ctx: &mut Context<'_>) {
        let route = self.peers.route(host);
        let population = self.path_population(route, ctx.now);
        let was_healthy = self.peers.get(host).is_some_and(|entry| self.is_healthy(entry, ctx.now));
        let pending = PendingFailure { host: host.clone(), failure, was_healthy, started_at, ended: ctx.now };
        self.paths.on_failure(route, pending, population, ctx);
        self.defer_without_blame(host, ctx);
        if self.paths.health(route).has_pending_failure() && !self.has_good_probe_in_flight(route) {
            self.expedite_path_check(route, ctx.now);
        }
    }

    /// Counts the peers on a path. Healthy ones are counted only if the verdict depends on them.
    fn path_population(&self, route: Route, now: Time) -> PathPopulation {
        let queue = self.peers.queue();
        let known = queue.len(route) + self.peers.probe_count_on(route);
        if !self.paths.health(route).would_decide(known) {
            return PathPopulation { known, healthy: PathPopulation::COUNT_CAP };
        }
        let in_flight = self.peers.probes().map(|(host, _)| host).filter(|host| self.peers.route(host) == route);
        let verified = queue.previously_verified(route).chain(in_flight).filter_map(|host| self.peers.get(host));
        let healthy = verified.filter(|entry| self.is_healthy(entry, now)).take(PathPopulation::COUNT_CAP).count();
        PathPopulation { known, healthy }
    }

    /// Records a proof of this path.
    pub(super) fn on_path_proven(&mut self, route: Route, ctx: &mut Context<'_>) {
        let before = self.paths.health(Route::Tor).working_time();
        let attributed = self.paths.on_proof(route, ctx);
        let RouteRules { policy, .. } = self.peers.rules();
        if policy == RoutingPolicy::TorOnly && self.clearnet_blocked().is_none() {
            self.paths.credit_clearnet(before);
        }
        for (host, failure) in attributed {
            self.on_peer_failure(&host, failure, ctx);
        }
        self.paths.persist(ctx);
    }

    /// Records which clearnet connections Tor accepts.
    ///
    /// Clearnet peers leave the queue while Tor refuses them, and return at their old times.
    pub(super) fn on_tor_clearnet(&mut self, tor_clearnet: ClearnetAccess, ctx: &mut Context<'_>) {
        let rules = self.peers.rules();
        if rules.tor_clearnet == tor_clearnet {
            return;
        }
        self.peers.set_rules(RouteRules { tor_clearnet, ..rules });
        if rules.policy == RoutingPolicy::TorOnly {
            ctx.notify(BookNotice::TorClearnet(tor_clearnet));
        }
    }

    pub(super) fn save(&self, host: &Host, ctx: &mut Context<'_>) {
        if let Some(entry) = self.peers.get(host) {
            ctx.actions.push(Action::Upsert(Box::new(entry.clone())));
        }
    }
}
