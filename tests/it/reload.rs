//! Reload on SIGHUP: settings that change at once, settings that need a restart, and invalid configurations.

use std::net::SocketAddr;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::support::{self, Daemon, TestClient, TestDir, call, wait_until};
use serde_json::json;

/// Directory with a configuration of TCP and TLS listeners that changes.
struct ReloadDir {
    dir: TestDir,
    tls: SocketAddr,
}

impl ReloadDir {
    fn new() -> ReloadDir {
        ReloadDir { dir: TestDir::new(), tls: support::free_address() }
    }

    /// Writes a configuration with these further keys of `[listen]`, and these sections.
    fn configure(&self, listen: &str, sections: &str) -> PathBuf {
        self.dir.configure_tcp(&format!("tls = [\"{}\"]\n{listen}\n{sections}", self.tls))
    }
}

/// Makes a daemon read its configuration again. Returns what it logs.
fn reload(daemon: &Daemon) -> String {
    let before = daemon.log().len();
    daemon.send_hangup();
    let logged = || daemon.log().split_off(before);
    wait_until(10, "the configuration was read again", || logged().contains("reloaded"));
    logged()
}

/// Returns the certificate of a TLS listener, in PEM.
fn served_certificate(server: SocketAddr) -> String {
    let output = Command::new("openssl")
        .args(["s_client", "-connect", &server.to_string()])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let begin = text.find("-----BEGIN").unwrap_or_else(|| panic!("no certificate: {output:?}"));
    text.split_at(begin).1.split_inclusive("CERTIFICATE-----\n").take(2).collect()
}

const BATCH: &str =
    r#"[{"id":1,"method":"server.ping"},{"id":2,"method":"server.ping"},{"id":3,"method":"server.ping"}]"#;

const SECTIONS: &str =
    "[tor]\nmode = \"off\"\n[limits]\nmax_batch = 10\n[discovery]\nallow_private = true\nseeds = []\n";

#[test]
fn reload_applies_reloadable_settings() {
    let harness = ReloadDir::new();
    let data = |name: &str| support::repository("tests/data").join(name);
    let daemon = Daemon::start(&harness.configure("", SECTIONS));
    let mut before = TestClient::connect(harness.dir.address);
    assert_eq!(before.request(BATCH).as_array().unwrap().len(), 3);
    let certificate = served_certificate(harness.tls);
    assert!(reload(&daemon).contains("reloaded: nothing has changed"));

    // New limits apply to new sessions.
    harness.configure("", &SECTIONS.replace("max_batch = 10", "max_batch = 2\nsessions_per_source = 2"));
    assert!(reload(&daemon).ends_with("reloaded: limits\n"), "{}", daemon.log());
    assert_eq!(before.request(BATCH).as_array().unwrap().len(), 3, "an open session keeps its limits");
    let mut after = TestClient::connect(harness.dir.address);
    assert!(!after.request(BATCH)["error"].is_null());
    wait_until(5, "the third session of a source is rejected", || {
        let mut second = TestClient::connect(harness.dir.address);
        second.request("{\"id\":1,\"method\":\"server.ping\"}")["error"].is_null()
            && TestClient::connect(harness.dir.address).receive()["error"]["code"] == -102
    });

    // Seeds and the log level.
    assert!(!daemon.log().contains("DEBUG"));
    harness.configure("", &(SECTIONS.replace("[]", "[\"127.0.0.5 t50001\"]") + "[log]\nlevel = \"debug\"\n"));
    let logged = reload(&daemon);
    assert!(logged.contains("reloaded: discovery.seeds, limits, log.level\n"), "{logged}");
    wait_until(10, "the new seed is known", || daemon.waypost(&["peers"]).contains("127.0.0.5"));
    wait_until(10, "the log has level debug", || daemon.log().contains("DEBUG"));

    // Bans. The file is also read without a signal, later.
    std::fs::write(harness.dir.path("data/bans"), "127.0.0.5\n").unwrap();
    reload(&daemon);
    wait_until(2, "the banned peer is removed", || daemon.row("127.0.0.5").is_null());

    // The operator's certificate.
    let given = format!("cert = {:?}\nkey = {:?}\n", data("v3-ec.pem"), data("v3-ec.key"));
    harness.configure(&given, SECTIONS);
    let logged = reload(&daemon);
    assert!(
        logged.contains("reloaded: certificate, discovery.seeds, listen.cert, listen.key, log.level\n"),
        "{logged}"
    );
    assert_eq!(served_certificate(harness.tls).trim(), std::fs::read_to_string(data("v3-ec.pem")).unwrap().trim());
    harness.configure(&given.replace("v3-ec.key", "other-ec.key"), SECTIONS);
    let logged = reload(&daemon);
    assert!(logged.contains("isn't that of") && logged.contains("reloaded: nothing has changed"), "{logged}");
    harness.configure("", SECTIONS);
    assert!(reload(&daemon).contains("reloaded: certificate, listen.cert, listen.key\n"));
    assert_eq!(served_certificate(harness.tls), certificate, "the generated certificate is used again");
    assert!(before.request(BATCH).is_array(), "the session continues");
    daemon.stop();
}

#[test]
fn reload_reports_restart_settings_and_rejects_errors() {
    let harness = ReloadDir::new();
    let config = harness.configure("", SECTIONS);
    let daemon = Daemon::start(&config);
    let banner = "[identity]\nbanner = \"new\"\n[tor]\nmode = \"socks\"\n[limits]\nmax_batch = 10\n[discovery]\nallow_private = true\nseeds = []\n";
    harness.configure(&format!("ws = [\"{}\"]\n", support::free_address()), banner);
    let logged = reload(&daemon);
    let named = "WARN identity.banner, listen.ws, tor.mode: changed, and take effect at the next start\n";
    assert!(logged.contains(named) && logged.contains("reloaded: nothing has changed"), "{logged}");

    for (wrong, expected) in [
        ("[limits]\nbatsch = 2\n", "waypost.toml, line 8: unknown field `batsch`"),
        ("[limits]\nmax_batch = 2000\n", "waypost.toml, line 8: limits.max_batch: must be between"),
        ("[limits\n", "waypost.toml, line 7: "),
    ] {
        harness.configure("", wrong);
        let logged = reload(&daemon);
        let message = "ERROR configuration not reloaded, all settings are unchanged: ";
        assert!(logged.contains(message) && logged.contains(expected), "{logged}");
        assert_eq!(logged.lines().count(), 1, "{logged}");
    }
    std::fs::remove_file(&config).unwrap();
    let logged = reload(&daemon);
    assert!(logged.contains("not reloaded") && logged.contains("waypost.toml"), "{logged}");

    let address = harness.dir.address.to_string();
    assert_eq!(
        TestClient::connect(harness.dir.address).request(BATCH).as_array().unwrap().len(),
        3,
        "the previous limits apply"
    );
    assert_ne!(call(&address, "server.banner", json!([])), "new");
    harness.configure("", SECTIONS);
    assert!(reload(&daemon).ends_with("reloaded: nothing has changed\n"), "a valid configuration is read again");
    daemon.stop();
}

#[test]
fn reload_notifies_the_service_manager() {
    let harness = ReloadDir::new();
    let socket = UnixDatagram::bind(harness.dir.path("notify")).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let receive = || {
        let mut bytes = [0; 200];
        let length = socket.recv(&mut bytes).unwrap();
        String::from_utf8(bytes[..length].to_vec()).unwrap()
    };
    let mut command = Command::new(env!("CARGO_BIN_EXE_waypost"));
    command.env("NOTIFY_SOCKET", harness.dir.path("notify"));
    let daemon = Daemon::start_with(command, &harness.configure("", SECTIONS));
    assert_eq!(receive(), "READY=1\n");
    reload(&daemon);
    let message = receive();
    let since = message.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").unwrap_or_else(|| panic!("{message}"));
    assert!(since.trim().parse::<u64>().unwrap() > 0);
    assert_eq!(receive(), "READY=1\n");
    daemon.stop();
    assert_eq!(receive(), "STOPPING=1\n");
}
