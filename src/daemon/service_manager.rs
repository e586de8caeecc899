//! Notifications for a service manager such as systemd: ready, alive, stopping.

use sd_notify::{NotifyState, notify};
use tokio::time::{Instant, sleep_until, timeout};

use crate::api::AdminRequest;
use crate::book_handle::{self, Inbox};

/// We take callers in.
pub fn ready() {
    tell(&[NotifyState::Ready]);
}

/// We read our configuration again, until we are ready once more.
pub fn reloading() {
    // Newer ones want to know since when.
    match NotifyState::monotonic_usec_now() {
        Ok(since) => tell(&[NotifyState::Reloading, since]),
        Err(error) => tracing::debug!(%error, "the service manager isn't told that we reload"),
    }
}

pub fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// Says that we are alive as often as is wanted, for as long as the book's task answers.
pub async fn run_watchdog(inbox: Inbox) {
    let Some(longest) = sd_notify::watchdog_enabled() else { return std::future::pending().await };
    let mut next = Instant::now();
    loop {
        sleep_until(next).await;
        next = Instant::now() + longest / 3;
        let answered = timeout(longest / 3, book_handle::query(&inbox, AdminRequest::Status)).await;
        if answered.is_ok_and(|answer| answer.is_ok()) {
            tell(&[NotifyState::Watchdog]);
        } else {
            tracing::error!("the book's task doesn't answer");
        }
    }
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = notify(states) {
        tracing::warn!(%error, "can't tell the service manager how we are");
    }
}
