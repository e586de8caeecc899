//! The two paths to peers: their health, and the state of Tor.

use std::time::Duration;

use super::context::Context;
use super::event::{Action, BookNotice};
use super::path_health::{Answer, PathHealth, PathPopulation, PathVerdict, PendingFailure};
use crate::clock::Time;
use crate::connect::ProbeError;
use crate::peer::Host;
use crate::route::{PerRoute, Route, RoutingPolicy};
use crate::tor_state::{TorProbe, TorState};

/// Health of both paths, and the state of Tor.
#[derive(Debug)]
pub(super) struct Paths {
    health: PerRoute<PathHealth>,
    tor: TorState,
    /// Time of the last change between two kinds of state; `None` while Tor was never used.
    tor_since: Option<Time>,
    tor_probe: TorProbe,
}

/// Degree to which a path may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PathUsability {
    /// The path works.
    Usable,
    /// Only trial probes are allowed.
    Testing,
    /// Nothing may be dialled.
    Unavailable,
}

impl Paths {
    /// Creates both paths from their stored working times. Tor is off.
    pub(super) fn new(working_time: PerRoute<Duration>) -> Paths {
        let PerRoute { direct, tor } = working_time;
        let health = PerRoute { direct: PathHealth::new(direct), tor: PathHealth::new(tor) };
        Paths { health, tor: TorState::Off, tor_since: None, tor_probe: TorProbe::Off }
    }

    /// Returns the state of Tor.
    pub(super) fn tor(&self) -> &TorState {
        &self.tor
    }

    /// Returns since when Tor is off, starting, ready or down; `None` while it was never used.
    pub(super) fn tor_since(&self) -> Option<Time> {
        self.tor_since
    }

    /// Returns whether Tor is used at all.
    pub(super) fn has_tor(&self) -> bool {
        self.tor_probe != TorProbe::Off
    }

    /// Returns the health of a path.
    pub(super) fn health(&self, route: Route) -> &PathHealth {
        &self.health[route]
    }

    /// Returns the health of a path, to record trials.
    pub(super) fn health_mut(&mut self, route: Route) -> &mut PathHealth {
        &mut self.health[route]
    }

    /// Returns the degree to which a path may be used.
    pub(super) fn usability(&self, route: Route) -> PathUsability {
        match (route, &self.tor_probe) {
            (Route::Direct, _) if self.health.direct.is_down() => PathUsability::Testing,
            (Route::Direct, _) => PathUsability::Usable,
            (Route::Tor, TorProbe::Off | TorProbe::Unavailable { .. } | TorProbe::Starting { .. }) => {
                PathUsability::Unavailable
            }
            (Route::Tor, TorProbe::Reachable) if self.tor.is_ready() => PathUsability::Usable,
            (Route::Tor, TorProbe::Reachable) => PathUsability::Testing,
        }
    }

    /// Returns the total working time of the path that is natural for this host.
    pub(super) fn working_time_for(&self, host: &Host) -> Duration {
        self.health[RoutingPolicy::default().via(host)].working_time()
    }

    /// Credits clearnet hosts with the time since `before` in which they were reachable through Tor.
    pub(super) fn credit_clearnet(&mut self, before: Duration) {
        let gained = self.health.tor.working_time().saturating_sub(before);
        self.health.direct.add_working_time(gained);
    }

    /// Records that a peer was reached. Returns failures now attributed to their peers.
    pub(super) fn on_answer(&mut self, route: Route, answer: Answer, ctx: &mut Context<'_>) -> Vec<(Host, ProbeError)> {
        let was_down = self.health[route].is_down();
        let attributed = self.health[route].on_answer(answer, ctx.now);
        match route {
            _ if self.health[route].is_down() => {}
            Route::Direct if was_down => ctx.notify(BookNotice::NetworkUp),
            Route::Tor if !self.tor.is_ready() => self.set_tor(TorState::Ready, ctx),
            Route::Direct | Route::Tor => {}
        }
        attributed
    }

    /// Stores the working times that have grown enough.
    pub(super) fn persist(&mut self, ctx: &mut Context<'_>) {
        for route in Route::ALL {
            if let Some(total) = self.health[route].take_dirty() {
                ctx.actions.push(Action::SavePathUptime(route, total));
            }
        }
    }

    /// Records a failure that may be the path's fault.
    pub(super) fn on_failure(
        &mut self,
        route: Route,
        failure: PendingFailure,
        population: PathPopulation,
        ctx: &mut Context<'_>,
    ) {
        match (self.health[route].on_failure(failure, population, route), route) {
            (PathVerdict::Pending, _) => {}
            (PathVerdict::PathDown, Route::Direct) => ctx.notify(BookNotice::NetworkDown),
            (PathVerdict::PathDown, Route::Tor) => {
                let reason = "Tor reaches no onion service any more".to_owned();
                self.set_tor(TorState::Down { since: ctx.now, reason }, ctx);
            }
        }
    }

    /// Records the result of a check of Tor.
    pub(super) fn on_tor_probe(&mut self, probe: TorProbe, ctx: &mut Context<'_>) {
        if probe == self.tor_probe {
            return;
        }
        self.tor_probe = probe.clone();
        match probe {
            TorProbe::Off => {
                self.health.tor.mark_down(ctx.now);
                self.set_tor(TorState::Off, ctx);
            }
            TorProbe::Unavailable { reason } => self.on_tor_unavailable(reason, ctx),
            TorProbe::Starting { percent, waiting_for } => {
                // No peer can be reached until Tor is ready, so this time does not count as working time.
                self.health.tor.mark_down(ctx.now);
                self.set_tor(TorState::Starting { percent: Some(percent), waiting_for }, ctx);
            }
            TorProbe::Reachable => {
                self.health.tor.reset_trials(ctx.now);
                if !self.tor.is_ready() {
                    let waiting_for = "the first answer of an onion service".to_owned();
                    self.set_tor(TorState::Starting { percent: None, waiting_for }, ctx);
                }
            }
        }
    }

    /// Records that Tor does not accept connections.
    pub(super) fn on_tor_unavailable(&mut self, reason: String, ctx: &mut Context<'_>) {
        self.health.tor.mark_down(ctx.now);
        let since = match self.tor {
            TorState::Down { since, .. } => since,
            _ => ctx.now,
        };
        self.set_tor(TorState::Down { since, reason }, ctx);
    }

    /// Drops pending failures that are too old.
    pub(super) fn prune(&mut self, now: Time) {
        for route in Route::ALL {
            self.health[route].prune(now);
        }
    }

    fn set_tor(&mut self, state: TorState, ctx: &mut Context<'_>) {
        if self.tor != state {
            if std::mem::discriminant(&self.tor) != std::mem::discriminant(&state) {
                self.tor_since = Some(ctx.now);
            }
            self.tor = state.clone();
            ctx.notify(BookNotice::Tor(state));
            ctx.snapshot_changed();
        }
    }
}
