//! Results of probes.

use std::time::Duration;

use super::admission;
use super::context::Context;
use super::path_health::{Answer, PendingFailure};
use super::probe_queue::{after_failure, after_success, jittered};
use super::self_announcement::ANNOUNCE_SPACING;
use super::source_group::Payer;
use super::table::InFlightProbe;
use super::witnesses::witness_group;
use super::{Action, BookConfig, BookNotice, PeerBook, PeerState, Source, dial_policy};
use crate::clock::Time;
use crate::connect::{FailureOrigin, ProbeError, Verified};
use crate::peer::{Fault, Host, Port, Transport};
use crate::route::{Route, RouteRules, RoutingPolicy};
use crate::tor_state::ClearnetAccess;

/// Delay from a success to the extra visit of the peer's other endpoint.
///
/// It is short, as clients need both transports, and long enough for servers that limit connections per minute.
const OTHER_ENDPOINT_DELAY: Duration = Duration::from_secs(30);

/// Maximum age of a peer's last response for it to prove a path about which there is doubt.
const CURRENT_RESPONSE: Duration = Duration::from_secs(5);

impl PeerBook {
    pub(super) fn on_probe_result(
        &mut self,
        host: &Host,
        outcome: Result<Verified, ProbeError>,
        ctx: &mut Context<'_>,
    ) {
        let Some(probe) = self.peers.end_probe(host) else { return };
        let route = self.peers.route(host);
        let is_local = outcome.as_ref().is_err_and(|failure| failure.blame() == FailureOrigin::Local);
        // In a local outage, peers hold slots through no fault of theirs.
        if !is_local && !self.paths.health(route).is_down() {
            self.slots.charge(probe.payers.clone(), ctx.now.since(probe.started_at), ctx.now);
        }
        match outcome {
            Ok(verified) => {
                let health = self.paths.health(route);
                let is_doubtful = health.is_down() || health.has_pending_failure();
                if !is_doubtful || verified.since_response <= CURRENT_RESPONSE {
                    self.on_answer(host, ctx);
                }
                let voter = self.peers.get(host).and_then(|entry| self.voter(entry, ctx.now));
                let fault = self.chain.judge(voter, &verified.report, ctx.now);
                let position = self.chain.work.as_ref().and_then(|work| work.position(&verified.report));
                self.peers.update(host, |entry| entry.chain_position = position);
                match fault {
                    Some(fault) => self.on_peer_failure(host, ProbeError::ProtocolViolation(fault), ctx),
                    None => self.on_success(host, verified, &probe, ctx),
                }
            }
            Err(failure) => match failure.blame() {
                FailureOrigin::Peer => {
                    // The tip was not compared in this visit.
                    self.peers.update(host, |entry| entry.chain_position = None);
                    self.on_answer(host, ctx);
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
        let endpoint = (verified.transport, verified.port);
        // Endpoints are dialled in order until one answers, so those before it have failed.
        let failed: Vec<_> = probe.endpoints.iter().copied().take_while(|dialled| *dialled != endpoint).collect();
        let (before, had_reached) = (entry.ports, entry.reached.ports().is_some());
        let own_listings = self.own_listings(entry, &verified.report.peer_list, ctx.now);
        self.peers.record_limits(host, verified.limits, verified.ip, ctx.now);
        let has_new_key = self.peers.update(host, |entry| {
            entry.own_listings = own_listings;
            failed.iter().for_each(|failed| entry.reached.remove(*failed));
            if let (Some(own), Some(_)) = (&probe.announces, verified.report.add_peer_result) {
                entry.record_announcement(own, ctx.now);
            }
            entry.verified(&verified, working_time, ctx.now)
        });
        let Some(entry) = self.peers.get(host) else { return };
        let software = entry.software.clone();
        let route = self.peers.route(host);
        // At the first success, and when the peer reports new ports.
        let is_new = |claimed| !had_reached || before.iter().all(|known| known != claimed);
        let is_untried = |claimed| {
            let was_dialled = entry.reached.contains(claimed) || failed.contains(&claimed);
            !was_dialled && is_new(claimed) && dial_policy::is_dialable(host, route, claimed)
        };
        let is_untried_web_socket = |claimed: &(Transport, Port)| {
            !probe.web_sockets.contains(claimed)
                && (!had_reached || before.web_sockets().all(|known| known != *claimed))
        };
        let has_untried_endpoint = entry.permitted_ports().is_some_and(|ports| ports.iter().any(is_untried))
            || self.web_sockets_to_check(host, route, ctx.now).iter().any(is_untried_web_socket);
        let payer = Payer::of_peer(host, self.peers.get(host));
        let delay = if self.needs_further_announcement(host, probe, &verified, ctx.now) {
            jittered(ANNOUNCE_SPACING, ctx.rng)
        } else if has_untried_endpoint && self.budgets.charge_visit(host, payer, false, ctx.now) {
            // Only endpoints that were reached are advertised. Without a budget, the regular visits try this one.
            jittered(OTHER_ENDPOINT_DELAY.min(initial_retry), ctx.rng)
        } else {
            after_success(recheck_interval, max_advertised_age, ctx.rng)
        };
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
        self.peers.forget_limits(host);
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
        let population = self.path_population(route, host, ctx.now);
        let entry = self.peers.get(host);
        let witness = entry.filter(|entry| self.is_witness(entry, route, ctx.now)).map(witness_group);
        let has_standing = witness.is_some() && entry.is_some_and(|entry| self.has_standing(entry, ctx.now));
        let (host_failed, ended) = (host.clone(), ctx.now);
        let pending = PendingFailure { host: host_failed, failure, witness, has_standing, started_at, ended };
        self.paths.on_failure(route, pending, population, ctx);
        self.defer_without_blame(host, ctx);
        self.expedite_path_checks(route, ctx);
    }

    /// Records that a peer answered, which proves its path.
    fn on_answer(&mut self, host: &Host, ctx: &mut Context<'_>) {
        let has_standing = self.peers.get(host).is_some_and(|entry| self.has_standing(entry, ctx.now));
        self.on_path_proven(self.peers.route(host), Answer { host: Some(host.clone()), has_standing }, ctx);
    }

    /// Records that the node reached itself through Tor.
    pub(super) fn on_self_reached_through_tor(&mut self, ctx: &mut Context<'_>) {
        self.on_path_proven(Route::Tor, Answer { host: None, has_standing: true }, ctx);
    }

    fn on_path_proven(&mut self, route: Route, answer: Answer, ctx: &mut Context<'_>) {
        let before = self.paths.health(Route::Tor).working_time();
        let attributed = self.paths.on_answer(route, answer, ctx);
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
