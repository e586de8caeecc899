//! Selection of the Tor at a first start with `tor.mode = "auto"`.
//!
//! The embedded Tor creates a key for its onion service, and a key selects the embedded Tor at
//! every later start. A system Tor may start some seconds after Waypost, so Waypost waits for one.
//! A Tor opens its SOCKS port at once, whether it reaches its network or not.

use std::path::Path;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::{TorBackend, TorChannels, report_probe};
use crate::clock;
use crate::dial::{SocksDetection, SocksPort, detect_tor};
use crate::tor_state::{TorKind, TorProbe, TorSource};

/// Time to wait for a Tor at a first start if none seems to be installed.
const WAIT: Duration = Duration::from_secs(30);

/// Time to wait if a Tor is installed: a slow machine may take minutes to boot.
const WAIT_IF_INSTALLED: Duration = Duration::from_mins(3);

/// Interval between two checks.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// Program and configuration files of a system Tor on common systems.
const TOR_FILES: [&str; 5] =
    ["/usr/bin/tor", "/usr/sbin/tor", "/usr/local/bin/tor", "/etc/tor/torrc", "/run/current-system/sw/bin/tor"];

/// Returns how long a first start waits for a system Tor.
pub(super) fn wait_limit() -> Duration {
    if is_installed(&TOR_FILES) { WAIT_IF_INSTALLED } else { WAIT }
}

fn is_installed(files: &[impl AsRef<Path>]) -> bool {
    files.iter().any(|file| file.as_ref().exists())
}

/// Returns the first of these ports where Tor answers.
async fn find(ports: &[SocksPort]) -> Option<&SocksPort> {
    for port in ports {
        if let SocksDetection::Tor(_) = detect_tor(port).await {
            return Some(port);
        }
    }
    None
}

/// Waits until a Tor answers on one of these ports, at most for `wait_limit`.
pub(super) async fn choose(socks: &[SocksPort], channels: &TorChannels, wait_limit: Duration) -> TorBackend {
    let (deadline, mut is_waiting) = (Instant::now() + wait_limit, false);
    loop {
        if let Some(port) = find(socks).await {
            tracing::info!(
                address = %port.address,
                "using this external Tor, without an onion service; tor.mode = \"embedded\" creates one, \
                 identity.onion_host announces one that this Tor runs"
            );
            return TorBackend::External;
        }
        if Instant::now() >= deadline || channels.inbox.is_closed() {
            break;
        }
        if !is_waiting {
            is_waiting = true;
            announce(socks, channels, wait_limit).await;
        }
        sleep(POLL_INTERVAL).await;
    }
    tracing::info!("no Tor found on a SOCKS port; using the embedded Tor from now on");
    TorBackend::Embedded
}

/// Logs and reports the wait and its end.
async fn announce(socks: &[SocksPort], channels: &TorChannels, wait_limit: Duration) {
    let until = clock::now() + wait_limit;
    let addresses = socks.iter().map(|port| port.address.clone()).collect();
    let source = TorSource { until: Some(until), ..TorSource::new(TorKind::Undecided, addresses) };
    let places = source.joined_addresses();
    tracing::info!(
        "waiting for a Tor on {places} until {until}, then starting the embedded Tor; set tor.mode to \"embedded\" or \"socks\" \
         to skip the wait"
    );
    channels.report.send_modify(|report| report.source = Some(source));
    let waiting_for = "a Tor on a SOCKS port".to_owned();
    report_probe(&channels.inbox, TorProbe::Starting { percent: 0, waiting_for }).await;
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;
    use tokio::sync::{mpsc, watch};
    use tokio::time::Instant;

    use super::*;
    use crate::book_handle::BookMessage;
    use crate::socks_address::SocksAddress;
    use crate::tor::{Report, TorHealth};

    fn channels() -> (TorChannels, mpsc::Receiver<BookMessage>) {
        let (inbox, inputs) = mpsc::channel(8);
        let (_, health) = watch::channel(TorHealth::default());
        let (onion_streams, _) = mpsc::channel(1);
        let (connector, onion_service, report) =
            (watch::Sender::new(None), watch::Sender::new(None), watch::Sender::default());
        (TorChannels { connector, inbox, health, onion_service, report, onion_streams }, inputs)
    }

    async fn unused_address() -> SocksAddress {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        listener.local_addr().unwrap().to_string().parse().unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn absent_tor_selects_embedded_after_the_wait() {
        let (channels, mut inputs) = channels();
        let (address, started_at) = (unused_address().await, Instant::now());
        assert!(matches!(choose(&[address.clone().into()], &channels, WAIT).await, TorBackend::Embedded));
        assert!((WAIT..WAIT + POLL_INTERVAL).contains(&started_at.elapsed()), "{:?}", started_at.elapsed());
        let Report { source, .. } = channels.report.borrow().clone();
        let source = source.unwrap();
        assert_eq!((source.kind, source.addresses), (TorKind::Undecided, vec![address]));
        assert!(source.until.is_some() && inputs.try_recv().is_ok());
        assert!(inputs.try_recv().is_err(), "announced once");
    }

    #[tokio::test(start_paused = true)]
    async fn closed_inbox_ends_the_wait() {
        let (channels, inputs) = channels();
        drop(inputs);
        let started_at = Instant::now();
        choose(&[unused_address().await.into()], &channels, WAIT).await;
        assert!(started_at.elapsed() < POLL_INTERVAL);
    }

    #[test]
    fn any_tor_file_means_installed() {
        let dir = tempfile::tempdir().unwrap();
        let (program, torrc) = (dir.path().join("tor"), dir.path().join("torrc"));
        assert!(!is_installed(&[&program, &torrc]));
        std::fs::write(&torrc, "").unwrap();
        assert!(is_installed(&[&program, &torrc]));
    }
}
