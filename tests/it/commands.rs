//! The command line as a user meets it: what it prints, and how it ends when something is wrong.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use crate::support::{self, Daemon, call, wait_until};
use serde_json::{Value, json};

/// A folder with a configuration in it, that listens on a port of its own and knows nobody.
struct Place {
    dir: tempfile::TempDir,
    address: SocketAddr,
}

impl Place {
    fn new() -> Place {
        let place = Place { dir: tempfile::tempdir().unwrap(), address: support::free_address() };
        place.configure("[discovery]\nseeds = []\n");
        place
    }

    fn configure(&self, more: &str) {
        let data = self.data();
        let text = format!(
            "network = \"regtest\"\ndata_dir = {data:?}\n[listen]\ntcp = [\"{}\"]\n[tor]\nmode = \"off\"\n{more}",
            self.address
        );
        std::fs::write(self.config(), text).unwrap();
    }

    fn config(&self) -> PathBuf {
        self.dir.path().join("waypost.toml")
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }
}

fn waypost(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_waypost"));
    command.args(args).env("WAYPOST_STATUS__LISTEN", "off").stdin(Stdio::null()).output().unwrap()
}

#[test]
fn wrong_usage_and_configuration_have_distinct_exit_codes() {
    assert_eq!(waypost(&["fly"]).status.code(), Some(2));
    let wrong = waypost(&["ban", "a b", "--config", "/dev/null"]);
    assert!(wrong.status.code() == Some(2) && String::from_utf8(wrong.stderr).unwrap().contains("*.domain"));
    let place = Place::new();
    place.configure("[discovery]\nrechek = \"1h\"\n");
    let output = waypost(&["check-config", "--config", place.config().to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(78));
    assert_eq!(waypost(&["run", "--config", "/nowhere.toml"]).status.code(), Some(78));
}

#[test]
fn check_config_output_is_a_configuration() {
    let place = Place::new();
    let config = place.config();
    let (first, ok) = support::waypost(&config, &["check-config"]);
    assert!(ok && first.contains("recheck_interval = \"1day\"") && first.contains("mode = \"off\""), "{first}");
    std::fs::write(&config, &first).unwrap();
    assert_eq!(support::waypost(&config, &["check-config"]), (first, true), "and reads it again to the same end");
}

#[test]
fn example_configurations_are_valid() {
    let contrib = Path::new(env!("CARGO_MANIFEST_DIR")).join("contrib");
    let mut files = vec![contrib.join("debian/waypost.toml"), contrib.join("container/waypost.toml")];
    files.extend(std::fs::read_dir(contrib.join("examples")).unwrap().map(|file| file.unwrap().path()));
    let mut checked = 0;
    for path in files {
        let needs_embedded = std::fs::read_to_string(&path).unwrap().contains("embedded");
        if needs_embedded && !cfg!(feature = "embedded-tor") {
            continue;
        }
        let (text, ok) = support::waypost(&path, &["check-config", "--skip-files"]);
        assert!(ok, "{}: {text}", path.display());
        checked += 1;
    }
    assert!(checked >= 5, "{checked}");
}

#[test]
fn client_command_without_daemon_explains_error() {
    let place = Place::new();
    let (text, ok) = support::waypost(&place.config(), &["status"]);
    assert!(!ok && text.contains("no daemon answers") && text.contains("waypost run"), "{text}");
}

#[test]
#[cfg(feature = "embedded-tor")]
fn onion_address_is_printed_after_import() {
    let place = Place::new();
    let onion = |args: &[&str]| support::waypost(&place.config(), &[&["onion-address"], args].concat());
    let (text, ok) = onion(&[]);
    assert!(!ok && text.contains("waypost run") && text.contains("--import"), "{text}");
    let service = tempfile::tempdir().unwrap();
    std::fs::write(service.path().join("hostname"), "not yet\n").unwrap();
    let from = service.path().to_str().unwrap();
    let (text, ok) = onion(&["--import", from]);
    assert!(!ok && text.contains("hs_ed25519_secret_key"), "{text}");
    let key = [b"== ed25519v1-secret: type0 ==\0\0\0".as_slice(), &[64; 64]].concat();
    std::fs::write(service.path().join("hs_ed25519_secret_key"), key).unwrap();
    std::fs::remove_file(service.path().join("hostname")).unwrap();
    let (text, ok) = onion(&["--import", from]);
    let (told, told_ok) = onion(&[]);
    assert!(ok && told_ok && told.trim().ends_with(".onion") && text.starts_with(told.trim()), "{told}{text}");
}

#[test]
#[cfg(not(feature = "embedded-tor"))]
fn onion_address_without_embedded_tor_fails() {
    let (text, ok) = support::waypost(&Place::new().config(), &["onion-address"]);
    assert!(!ok && text.contains("no Tor of its own"), "{text}");
}

#[test]
fn client_commands_query_and_change_daemon() {
    let place = Place::new();
    let daemon = Daemon::start(&place.config());
    let status = daemon.status();
    assert_eq!((&status["network"], &status["tor"]["state"]), (&json!("regtest"), &json!("off")));
    assert!(daemon.waypost(&["status"]).contains(&place.address.to_string()));
    let mode =
        |path: &Path| std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(path).unwrap().permissions()) & 0o777;
    assert_eq!((mode(&place.data()), mode(&place.data().join("control.sock"))), (0o700, 0o600), "ours alone");
    assert_eq!(daemon.waypost(&["peers"]).trim(), "no such peers");
    let onion = "explorerzydxu5ecjrkwceayqybizmpjjznk5izmitf2modhcusuqlid.onion";
    daemon.waypost(&["add", &format!("{onion} t"), "v1.4"]);
    assert!(daemon.waypost(&["peers", "--onion"]).contains("t51001"));
    let address = place.address.to_string();
    wait_until(5, "it is advertised without Tor", || {
        call(&address, "server.peers.subscribe", json!([]))[0][1] == onion
    });
    daemon.waypost(&["forget", onion]);
    daemon.waypost(&["ban", "b.example"]);
    wait_until(20, "the ban is heeded", || {
        support::waypost(&place.config(), &["add", "b.example t50001"]).0.contains("waypost unban")
    });
    let wrong = [
        (["forget", "a.example"], "waypost peers"),
        (["forget", "a..b"], "waypost peers"),
        (["add", "a.example"], "s50002"),
        (["add", "a..b t1"], "s50002"),
        (["add", "10.0.0.1 t50001"], "discovery.allow_private"),
    ];
    for (args, what_to_do) in wrong {
        let (text, ok) = support::waypost(&place.config(), &args);
        assert!(!ok && text.starts_with("waypost: ") && text.contains(what_to_do), "{args:?}: {text}");
    }
    daemon.stop();
}

#[test]
fn requests_over_tcp_are_answered() {
    let place = Place::new();
    place.configure(
        "[identity]\nhost = \"wp.example.com\"\ntcp_port = 50001\nbanner = \"hello\"\n[discovery]\nseeds = []\n",
    );
    let daemon = Daemon::start(&place.config());
    let address = place.address.to_string();
    let features = call(&address, "server.features", json!([]));
    assert_eq!(features["hosts"], json!({"wp.example.com": {"tcp_port": 50001, "ssl_port": null}}));
    assert_eq!(call(&address, "server.banner", json!([])), "hello");
    assert_eq!(call(&address, "server.add_peer", json!([{"hosts": {"10.0.0.1": {"tcp_port": 1}}}])), false);
    let raw = say(place.address, b"{\"id\":1,\"method\":\"blockchain.headers.subscribe\",\"params\":[]}\n");
    assert_eq!((raw.len(), raw.contains("-32601")), (1024, true), "{raw}");
    let raw = say(place.address, b"[[[[[[[[[\n");
    assert!(raw.contains("-32700"), "{raw}");
    assert_eq!(daemon.status()["clients"]["malformed_lines"], 1);
    daemon.stop();
}

/// One line to the daemon, and all that comes back within a moment.
fn say(address: SocketAddr, line: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(line).unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn damaged_store_is_kept_and_recreated() {
    let place = Place::new();
    std::fs::create_dir(place.data()).unwrap();
    std::fs::write(place.data().join("peers.redb"), b"no database at all").unwrap();
    let daemon = Daemon::start(&place.config());
    let log = daemon.log();
    daemon.stop();
    let kept = files(&place.data()).into_iter().find(|name| name.contains("damaged")).unwrap();
    assert!(log.contains(&kept), "{log}");
}

#[test]
fn log_in_json_has_nothing_about_clients() {
    let place = Place::new();
    place.configure("[log]\nformat = \"json\"\n[discovery]\nseeds = []\n");
    let daemon = Daemon::start(&place.config());
    call(&place.address.to_string(), "server.ping", json!([]));
    let log = daemon.log();
    daemon.stop();
    for line in log.lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        assert_eq!(line["level"], "INFO");
    }
    assert!(log.lines().count() <= 3, "nothing of callers: {log}");
}

#[test]
fn initial_crawl_is_logged_once() {
    let place = Place::new();
    place.configure("[discovery]\nseeds = [\"127.1.0.1 t50001\", \"127.2.0.1 t50001\"]\nallow_private = true\n");
    let end = "first crawl: every name was tried once; 0 verified of 2 known";
    let daemon = Daemon::start(&place.config());
    wait_until(20, "it has ended", || daemon.log().contains(end));
    daemon.stop();
    let daemon = Daemon::start(&place.config());
    std::thread::sleep(Duration::from_secs(12));
    assert_eq!(daemon.log().matches("first crawl").count(), 1, "{}", daemon.log());
    daemon.stop();
}

fn files(dir: &Path) -> Vec<String> {
    std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn ipv4_and_ipv6_listeners_share_a_port() {
    let place = Place::new();
    let port = place.address.port();
    let text = format!(
        "data_dir = {:?}\n[listen]\ntcp = [\"0.0.0.0:{port}\", \"[::]:{port}\"]\n[tor]\nmode = \"off\"\n[discovery]\nseeds = []\n",
        place.data()
    );
    std::fs::write(place.config(), text).unwrap();
    let daemon = Daemon::start(&place.config());
    for address in [format!("127.0.0.1:{port}"), format!("[::1]:{port}")] {
        assert_eq!(call(&address, "server.ping", json!([])), Value::Null);
    }
    daemon.stop();
}

#[cfg(feature = "embedded-tor")]
#[test]
fn unsafe_directory_for_embedded_tor_is_reported() {
    use std::os::unix::fs::PermissionsExt;

    let place = Place::new();
    let open = place.dir.path().join("open");
    std::fs::create_dir(&open).unwrap();
    std::fs::set_permissions(&open, std::fs::Permissions::from_mode(0o777)).unwrap();
    // Should it start all the same, it finds nobody.
    let arti = "[tor_network]\nfallback_caches = [{ rsa_identity = \"0000000000000000000000000000000000000001\", \
                ed_identity = \"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\", orports = [\"127.0.0.1:1\"] }]\n";
    std::fs::write(place.dir.path().join("arti.toml"), arti).unwrap();
    let text = format!(
        "data_dir = {:?}\n[listen]\ntcp = [\"{}\"]\n[tor]\nmode = \"embedded\"\narti_config = \"arti.toml\"\n[discovery]\nseeds = []\n",
        open.join("data"),
        place.address
    );
    std::fs::write(place.config(), text).unwrap();
    let daemon = Daemon::start(&place.config());
    wait_until(20, "Tor is down, and why", || {
        let tor = daemon.status()["tor"].to_string();
        tor.contains("down") && tor.contains(&format!("{open:?}").replace('"', "\\\"")) && tor.contains("chmod")
    });
    assert_eq!(call(&place.address.to_string(), "server.ping", json!([])), Value::Null, "and the rest goes on");
    daemon.stop();
}
