//! Periodic check of an own clearnet name, which is advertised only while it is reachable.
//!
//! Each name has a task of its own. The name is checked as a remote client would reach it: through Tor exits, if Tor is ready.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use rand::RngExt;
use rand::rngs::StdRng;
use tokio::sync::watch;
use tokio::time::sleep;

use super::name_check::{CIRCUITS_PER_CHECK, CheckedName, NameCheck};
use super::own_address_check::{Conclusion, Lookup};
use crate::backoff::Backoff;
use crate::book::Event;
use crate::book_handle::{BookMessage, Inbox};
use crate::config::local_addresses;
use crate::dial::NameAddresses;
use crate::electrum::identity::LocalIdentity;
use crate::peer::{Host, Ports};
use crate::route::Route;
use crate::tor::TorHealth;

/// Time to the next check after a success.
const CHECK_INTERVAL: Duration = Duration::from_hours(1);

/// Time to the next check after the first failure. Doubles with each further failure.
const RETRY_MIN: Duration = Duration::from_secs(5);
/// Longest time to the next check after failures.
const RETRY_MAX: Duration = Duration::from_mins(30);

/// Time from Tor becoming available to the check.
const SETTLE_DELAY: Duration = Duration::from_secs(1);

/// Number of isolation groups in rotation. A retry never uses the circuits of the previous check.
pub(super) const ISOLATION_GROUPS: u8 = 4 * CIRCUITS_PER_CHECK;

/// State of an own clearnet name, for the status.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct NameState {
    /// Advertised address; `None` if the name is not advertised or the address is unknown.
    pub address: Option<IpAddr>,
    /// Path by which the name was reached. `None` if it was not, or if it is advertised untested.
    pub via: Option<Route>,
    /// Failed checks in a row.
    pub failures: u32,
    /// Reason of the last failure; `None` after a success.
    pub last_error: Option<String>,
    /// Problems that do not prevent advertising the name.
    pub warnings: Vec<String>,
}

/// Task that checks an own clearnet name and reports the result to the book.
#[derive(Debug)]
pub(crate) struct ClearnetMonitor {
    /// The check, with its dialer.
    pub check: NameCheck,
    /// Name that is checked, and its configured ports.
    pub name: (Host, Ports),
    /// Key that configures the name, for the log.
    pub key: &'static str,
    /// First of the isolation groups of this name, whose number is [`ISOLATION_GROUPS`].
    pub first_group: u8,
    /// Own names, as they are advertised.
    pub local_identity: watch::Receiver<Arc<LocalIdentity>>,
    /// Local addresses that announce each name, updated after each check. `None`: they are configured.
    pub announce_from: Option<watch::Sender<NameAddresses>>,
    /// State of Tor. A check starts when it becomes ready.
    pub health: watch::Receiver<TorHealth>,
    /// State for the status, updated after each check.
    pub state: watch::Sender<NameState>,
    /// Channel to the book's task; the monitor ends with it.
    pub inbox: Inbox,
}

impl ClearnetMonitor {
    /// Checks the name periodically, until the book's task ends.
    pub(crate) async fn run(mut self, mut rng: StdRng) {
        let (host, ports) = self.name.clone();
        let mut group = 0;
        while !self.inbox.is_closed() {
            // Marked as seen here, so that a change during the check ends the delay early.
            let was_ready = self.health.borrow_and_update().state.is_ready();
            let had_tor = self.check.dialer.tor.borrow_and_update().is_some();
            let tor = self.health.borrow().state.clone();
            let CheckedName { lookup, conclusion, .. } =
                self.check.run(&tor, &host, ports, self.first_group + group).await;
            self.update_announce_from(&host, &conclusion, &lookup);
            group = (group + CIRCUITS_PER_CHECK) % ISOLATION_GROUPS;
            let failures = self.record(&host, ports, conclusion).await;
            let delay = match failures {
                0 => CHECK_INTERVAL,
                failures => Backoff::new(RETRY_MIN, RETRY_MAX).after(failures),
            };
            self.wait_for_trigger(delay.mul_f64(rng.random_range(0.8..1.2)), was_ready, had_tor).await;
        }
    }

    /// Announces a reached name from the addresses of this machine that it resolves to.
    ///
    /// Peers reject announcements from other addresses. After a failed check the addresses stay as they are.
    fn update_announce_from(&self, host: &Host, conclusion: &Conclusion, lookup: &Lookup) {
        let Some(announce_from) = &self.announce_from else { return };
        let advertised = match conclusion {
            Conclusion::Reached { ip, .. } => *ip,
            Conclusion::Assumed { ip, .. } => Some(*ip),
            Conclusion::Unreached { .. } | Conclusion::Pending => return,
        };
        let addresses = advertised.into_iter().chain(lookup.local.iter().copied());
        let local = local_addresses(addresses, self.check.allows_private);
        announce_from.send_modify(|known| drop(known.insert(host.clone(), local)));
    }

    /// Reports a conclusion to the book, the status and the log.
    ///
    /// Returns the number of failed checks in a row.
    async fn record(&self, host: &Host, ports: Ports, conclusion: Conclusion) -> u32 {
        let before = self.state.borrow().clone();
        let state = match conclusion {
            Conclusion::Reached { via, ip, ports, warnings } => {
                if before.last_error.is_some() || before.via.is_none() {
                    tracing::info!(name = %host, address = ?ip, "{} is reachable {via}", self.key);
                }
                if via == Route::Tor {
                    let _ = self.inbox.send(BookMessage::Event(Event::TorPathProven)).await;
                }
                self.advertise(host, ports, ip).await;
                NameState { address: ip, via: Some(via), warnings, ..NameState::default() }
            }
            Conclusion::Assumed { ip, warning } => {
                self.advertise(host, ports, Some(ip)).await;
                NameState { address: Some(ip), warnings: vec![warning], ..NameState::default() }
            }
            Conclusion::Unreached { reason, via } => {
                if before.failures == 0 {
                    tracing::warn!(name = %host, reason, "{} is not reachable", self.key);
                }
                // A check through Tor overrules an earlier success from this machine.
                if via == Route::Tor && before.via == Some(Route::Direct) {
                    let _ = self.inbox.send(BookMessage::Event(Event::SelfUnreachable(host.clone()))).await;
                }
                let failures = before.failures.saturating_add(1);
                let via = before.via.filter(|before| via == Route::Direct || *before == Route::Tor);
                let address = before.address.filter(|_| via.is_some());
                NameState { failures, via, address, last_error: Some(reason), warnings: Vec::new() }
            }
            Conclusion::Pending => {
                NameState { warnings: vec!["the name is tested once Tor is available".to_owned()], ..before }
            }
        };
        for warning in state.warnings.iter().filter(|warning| !before.warnings.contains(warning)) {
            tracing::warn!(name = %host, "{}: {warning}", self.key);
        }
        let failures = state.failures;
        self.state.send_replace(state);
        failures
    }

    /// Has the book advertise the name at these ports.
    async fn advertise(&self, host: &Host, ports: Ports, ip: Option<IpAddr>) {
        let entry = Box::new(self.local_identity.borrow().identity.listed(host, ports, ip));
        let _ = self.inbox.send(BookMessage::Event(Event::SelfReachable(entry))).await;
    }

    /// Waits for `delay`, or until Tor appears or becomes ready.
    ///
    /// A name that was reached through Tor is not checked sooner. Otherwise an exit would see the check each time that
    /// the onion service returns after an outage of Tor.
    async fn wait_for_trigger(&mut self, delay: Duration, was_ready: bool, had_tor: bool) {
        if self.state.borrow().via == Some(Route::Tor) {
            return sleep(delay).await;
        }
        let ClearnetMonitor { health, check: NameCheck { dialer, .. }, .. } = self;
        let ready = async {
            while !health.borrow_and_update().state.is_ready() {
                if health.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        };
        let appeared = async {
            if dialer.tor.wait_for(Option::is_some).await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            () = sleep(delay) => return,
            () = ready, if !was_ready => {}
            () = appeared, if !had_tor => {}
        }
        sleep(SETTLE_DELAY).await;
    }
}
