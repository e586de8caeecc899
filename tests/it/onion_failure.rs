//! An embedded onion service that cannot be launched is reported, and recovers without a restart.

use std::path::PathBuf;
use std::process::Command;

use crate::support::{self, Daemon, TestDir, fetch, lab_script, run, set_mode, wait_until};

const PAGE: &str = "127.0.0.1:4280";

fn configure(dir: &TestDir, listen: &str) -> PathBuf {
    dir.configure(&format!(
        "[listen]\n{listen}\n[tor]\nmode = \"embedded\"\narti_config = {:?}\n\
         [discovery]\nseeds = []\n[status]\nlisten = \"{PAGE}\"\n",
        dir.path("tor/arti.toml")
    ))
}

fn has_metric(line: &str) -> bool {
    fetch(PAGE, "/metrics").1.lines().any(|metric| metric == line)
}

fn wait_until_onion_runs(daemon: &Daemon) {
    wait_until(120, "the onion service is reached", || {
        let status = daemon.status();
        status["onion_error"].is_null() && status["onion"]["last_reached"].is_u64()
    });
    wait_until(10, "the metrics have the state", || has_metric("waypost_onion_up 1"));
}

#[test]
fn failing_onion_service_is_reported_and_recovers() {
    if !support::in_namespace(failing_onion_service_is_reported_and_recovers, &[]) {
        return;
    }
    let dir = TestDir::new();
    run(Command::new(lab_script("tor-network.sh")).arg("up").arg(dir.path("tor")).arg("127.0.0.1:50011"));
    let usual = configure(&dir, "tcp = [\"127.0.0.1:50001\"]");
    let daemon = Daemon::start(&usual);
    wait_until_onion_runs(&daemon);
    let name = daemon.status()["onion"]["host"].clone();
    daemon.stop();

    // A damaged key: Tor runs, and refuses to launch the service.
    let key = dir.path("data/tor/state/keystore/hss/waypost/ks_hs_id.ed25519_expanded_private");
    let valid = std::fs::read(&key).unwrap();
    std::fs::write(&key, "no key").unwrap();
    let daemon = Daemon::start(&usual);
    wait_until(120, "status has the error", || daemon.status()["onion_error"]["stage"] == "launch");
    let status = daemon.waypost(&["status"]);
    assert!(status.lines().any(|line| line.trim_start().starts_with("no onion ")), "{status}");
    wait_until(5, "the health check has the error", || {
        fetch(PAGE, "/healthz").1.contains("the onion service does not run")
    });
    let (code, health) = fetch(PAGE, "/healthz");
    assert!(code == 200 && health.starts_with("ok\n"), "clients are still served: {code} {health}");
    assert!(has_metric("waypost_onion_up 0") && has_metric("waypost_onion_failed{stage=\"launch\"} 1"));
    assert!(fetch(PAGE, "/").1.contains("The onion service does not run"));
    std::fs::write(&key, &valid).unwrap();
    wait_until_onion_runs(&daemon);
    assert_eq!(daemon.status()["onion"]["host"], name, "the same key");
    assert!(has_metric("waypost_onion_failed{stage=\"launch\"} 0"));
    daemon.stop();

    // Without another listener, the node is unhealthy.
    std::fs::write(&key, "no key").unwrap();
    let daemon = Daemon::start(&configure(&dir, "tcp = []"));
    wait_until(120, "no client is served", || fetch(PAGE, "/healthz").0 == 503);
    assert!(fetch(PAGE, "/healthz").1.contains("the onion service, the only way in"));
    daemon.stop();
    std::fs::write(&key, &valid).unwrap();

    // With a key that other users can write to, Tor does not start.
    set_mode(&key, 0o666);
    let daemon = Daemon::start(&configure(&dir, "tcp = [\"127.0.0.1:50001\"]"));
    wait_until(30, "status has the error", || daemon.status()["onion_error"]["stage"] == "tor_start");
    assert_eq!(daemon.tor(), "down");
    wait_until(5, "the metrics have the state", || has_metric("waypost_onion_failed{stage=\"tor_start\"} 1"));
    set_mode(&key, 0o600);
    wait_until_onion_runs(&daemon);
    daemon.stop();
}
