//! The configuration read again by a running daemon, on SIGHUP: what changes at once, what has to wait for the next start, and
//! that a wrong one changes nothing.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::support::{self, Daemon, call, wait_until};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

/// A daemon whose configuration changes.
struct Place {
    dir: tempfile::TempDir,
    tcp: SocketAddr,
    tls: SocketAddr,
}

impl Place {
    fn new() -> Place {
        Place { dir: tempfile::tempdir().unwrap(), tcp: support::free_address(), tls: support::free_address() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes a configuration with these lines in [listen], and these tables; without a level it is info.
    fn configure(&self, listen: &str, more: &str) -> PathBuf {
        let text = format!(
            "network = \"regtest\"\ndata_dir = {:?}\n[listen]\ntcp = [\"{}\"]\ntls = [\"{}\"]\n{listen}\n{more}",
            self.path("data"),
            self.tcp,
            self.tls
        );
        std::fs::write(self.path("waypost.toml"), text).unwrap();
        self.path("waypost.toml")
    }
}

/// Tells a daemon to read its configuration again; what it says until it has.
fn reload(daemon: &Daemon) -> String {
    let before = daemon.log().len();
    let pid = Pid::from_raw(i32::try_from(daemon.id()).unwrap()).unwrap();
    kill_process(pid, Signal::HUP).unwrap();
    let said = || daemon.log().split_off(before);
    wait_until(10, "it has read the configuration again", || said().contains("reloaded"));
    said()
}

/// A session, and what it is answered.
struct Session(BufReader<TcpStream>);

impl Session {
    fn new(server: SocketAddr) -> Session {
        let stream = TcpStream::connect(server).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        Session(BufReader::new(stream))
    }

    fn ask(&mut self, line: &str) -> Value {
        // Who is rejected hears why, and may find the door shut already.
        let _ = writeln!(self.0.get_mut(), "{line}");
        self.hear()
    }

    fn hear(&mut self) -> Value {
        let mut line = String::new();
        let _ = self.0.read_line(&mut line);
        serde_json::from_str(&line).unwrap_or_default()
    }
}

/// The certificate that callers by TLS are shown, in PEM.
fn shown(server: SocketAddr) -> String {
    let output = Command::new("openssl")
        .args(["s_client", "-connect", &server.to_string()])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let begins = text.find("-----BEGIN").unwrap_or_else(|| panic!("no certificate: {output:?}"));
    text.split_at(begins).1.split_inclusive("CERTIFICATE-----\n").take(2).collect()
}

const BATCH: &str =
    r#"[{"id":1,"method":"server.ping"},{"id":2,"method":"server.ping"},{"id":3,"method":"server.ping"}]"#;

const TABLES: &str = "[tor]\nmode = \"off\"\n[limits]\nmax_batch = 10\n[discovery]\nallow_private = true\nseeds = []\n";

#[test]
fn reload_applies_reloadable_settings() {
    let place = Place::new();
    let data = |name: &str| Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name);
    let daemon = Daemon::start(&place.configure("", TABLES));
    let mut before = Session::new(place.tcp);
    assert_eq!(before.ask(BATCH).as_array().unwrap().len(), 3);
    let certificate = shown(place.tls);
    assert!(reload(&daemon).contains("reloaded: nothing has changed"));

    // Limits, for those who come then.
    place.configure("", &TABLES.replace("max_batch = 10", "max_batch = 2\nsessions_per_source = 2"));
    assert!(reload(&daemon).ends_with("reloaded: limits\n"), "{}", daemon.log());
    assert_eq!(before.ask(BATCH).as_array().unwrap().len(), 3, "who was there keeps to what held then");
    let mut after = Session::new(place.tcp);
    assert!(!after.ask(BATCH)["error"].is_null());
    wait_until(5, "a third session is one too many", || {
        let mut second = Session::new(place.tcp);
        second.ask("{\"id\":1,\"method\":\"server.ping\"}")["error"].is_null()
            && Session::new(place.tcp).hear()["error"]["code"] == -102
    });

    // Seeds, and how much the log shows.
    assert!(!daemon.log().contains("DEBUG"));
    place.configure("", &(TABLES.replace("[]", "[\"127.0.0.5 t50001\"]") + "[log]\nlevel = \"debug\"\n"));
    let said = reload(&daemon);
    assert!(said.contains("reloaded: discovery.seeds, limits, log.level\n"), "{said}");
    wait_until(10, "the new seed is known", || daemon.waypost(&["peers"]).contains("127.0.0.5"));
    wait_until(10, "the log shows more", || daemon.log().contains("DEBUG"));

    // Bans, which may be noticed without being told as well.
    std::fs::write(place.path("data/bans"), "127.0.0.5\n").unwrap();
    reload(&daemon);
    wait_until(2, "the banned are dropped", || daemon.row("127.0.0.5").is_null());

    // A certificate from elsewhere.
    let given = format!("cert = {:?}\nkey = {:?}\n", data("v3-ec.pem"), data("v3-ec.key"));
    place.configure(&given, TABLES);
    let said = reload(&daemon);
    assert!(said.contains("reloaded: certificate, discovery.seeds, listen.cert, listen.key, log.level\n"), "{said}");
    assert_eq!(shown(place.tls).trim(), std::fs::read_to_string(data("v3-ec.pem")).unwrap().trim());
    place.configure(&given.replace("v3-ec.key", "other-ec.key"), TABLES);
    let said = reload(&daemon);
    assert!(said.contains("isn't that of") && said.contains("reloaded: nothing has changed"), "{said}");
    place.configure("", TABLES);
    assert!(reload(&daemon).contains("reloaded: certificate, listen.cert, listen.key\n"));
    assert_eq!(shown(place.tls), certificate, "our own again");
    assert!(before.ask(BATCH).is_array(), "nobody's session was dropped");
    daemon.stop();
}

#[test]
fn reload_reports_restart_settings_and_rejects_errors() {
    let place = Place::new();
    let config = place.configure("", TABLES);
    let daemon = Daemon::start(&config);
    let banner = "[identity]\nbanner = \"new\"\n[tor]\nmode = \"socks\"\n[limits]\nmax_batch = 10\n[discovery]\nallow_private = true\nseeds = []\n";
    place.configure(&format!("ws = [\"{}\"]\n", support::free_address()), banner);
    let said = reload(&daemon);
    let named = "WARN identity.banner, listen.ws, tor.mode: changed, and take effect at the next start\n";
    assert!(said.contains(named) && said.contains("reloaded: nothing has changed"), "{said}");

    for (wrong, expected) in [
        ("[limits]\nbatsch = 2\n", "waypost.toml, line 8: unknown field `batsch`"),
        ("[limits]\nmax_batch = 2000\n", "waypost.toml, line 8: limits.max_batch: must lie between"),
        ("[limits\n", "waypost.toml, line 7: "),
    ] {
        place.configure("", wrong);
        let said = reload(&daemon);
        assert!(said.contains("ERROR not reloaded, all stays as it was: ") && said.contains(expected), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
    }
    std::fs::remove_file(&config).unwrap();
    let said = reload(&daemon);
    assert!(said.contains("not reloaded") && said.contains("waypost.toml"), "{said}");

    let address = place.tcp.to_string();
    assert_eq!(Session::new(place.tcp).ask(BATCH).as_array().unwrap().len(), 3, "the limits from before");
    assert_ne!(call(&address, "server.banner", json!([])), "new");
    place.configure("", TABLES);
    assert!(reload(&daemon).ends_with("reloaded: nothing has changed\n"), "and a right one is taken again");
    daemon.stop();
}

#[test]
fn reload_notifies_the_service_manager() {
    let place = Place::new();
    let socket = UnixDatagram::bind(place.path("notify")).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let heard = || {
        let mut bytes = [0; 200];
        let length = socket.recv(&mut bytes).unwrap();
        String::from_utf8(bytes[..length].to_vec()).unwrap()
    };
    let mut command = Command::new(env!("CARGO_BIN_EXE_waypost"));
    command.env("NOTIFY_SOCKET", place.path("notify"));
    let daemon = Daemon::start_with(command, &place.configure("", TABLES));
    assert_eq!(heard(), "READY=1\n");
    reload(&daemon);
    let began = heard();
    let since = began.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").unwrap_or_else(|| panic!("{began}"));
    assert!(since.trim().parse::<u64>().unwrap() > 0);
    assert_eq!(heard(), "READY=1\n");
    daemon.stop();
    assert_eq!(heard(), "STOPPING=1\n");
}
