//! Notifications for a service manager such as systemd: ready, reloading, stopping, watchdog.

use sd_notify::{NotifyState, notify};
use tokio::time::{Instant, sleep_until, timeout};

use crate::api::AdminRequest;
use crate::book_handle::{self, Inbox};

/// Reports that clients are served, at the start and after each reload.
pub(crate) fn ready() {
    send(&[NotifyState::Ready]);
}

/// Reports that the configuration is being reloaded, until `ready` is called.
pub(crate) fn reloading() {
    // Units of Type=notify-reload require the time of the reload.
    match NotifyState::monotonic_usec_now() {
        Ok(since) => send(&[NotifyState::Reloading, since]),
        Err(error) => tracing::debug!(%error, "the reload was not reported to the service manager"),
    }
}

/// Reports that the daemon is shutting down.
pub(crate) fn stopping() {
    send(&[NotifyState::Stopping]);
}

/// Sends watchdog notifications while the book's task responds.
///
/// Sends three per watchdog period of the service manager, and waits forever if it has none.
pub(crate) async fn run_watchdog(inbox: Inbox) {
    let Some(period) = sd_notify::watchdog_enabled() else { return std::future::pending().await };
    let mut next = Instant::now();
    loop {
        sleep_until(next).await;
        next = Instant::now() + period / 3;
        let response = timeout(period / 3, book_handle::query(&inbox, AdminRequest::Status)).await;
        if response.is_ok_and(|status| status.is_ok()) {
            send(&[NotifyState::Watchdog]);
        } else {
            tracing::error!("the book's task does not respond; the watchdog is not notified");
        }
    }
}

fn send(states: &[NotifyState<'_>]) {
    if let Err(error) = notify(states) {
        tracing::warn!(%error, "notification of the service manager failed");
    }
}
