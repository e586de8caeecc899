//! Output and exit codes of the commands.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::path::Path;
#[cfg(feature = "embedded-tor")]
use std::process::{Command, Stdio};
use std::time::Duration;

#[cfg(feature = "embedded-tor")]
use crate::support::ChildGuard;
use crate::support::{self, OFFLINE, TestDir, binary, call, wait_until};
use serde_json::{Value, json};

/// Creates a directory with the configuration of an offline daemon.
fn offline_dir() -> TestDir {
    let dir = TestDir::new();
    dir.configure_tcp(OFFLINE);
    dir
}

#[test]
fn wrong_usage_and_configuration_have_distinct_exit_codes() {
    assert_eq!(binary(&["fly"]).output().unwrap().status.code(), Some(2));
    let wrong = binary(&["ban", "a b", "--config", "/dev/null"]).output().unwrap();
    assert!(wrong.status.code() == Some(2) && String::from_utf8(wrong.stderr).unwrap().contains("*.domain"));
    let dir = TestDir::new();
    let config = dir.configure_tcp("[discovery]\nrechek = \"1h\"\n");
    let output = binary(&["check-config", "--config", config.to_str().unwrap()]).output().unwrap();
    assert_eq!(output.status.code(), Some(78));
    assert_eq!(binary(&["run", "--config", "/nowhere.toml"]).output().unwrap().status.code(), Some(78));
}

#[test]
fn check_config_output_is_a_configuration() {
    let dir = offline_dir();
    let config = dir.config();
    let (first, ok) = support::waypost(&config, &["check-config"]);
    assert!(ok && first.contains("recheck_interval = \"1day\"") && first.contains("mode = \"off\""), "{first}");
    std::fs::write(&config, &first).unwrap();
    assert_eq!(support::waypost(&config, &["check-config"]), (first, true), "the output has the same values");
}

#[test]
fn example_configurations_are_valid() {
    let contrib = support::repository("contrib");
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
    let dir = offline_dir();
    let (text, ok) = support::waypost(&dir.config(), &["status"]);
    assert!(!ok && text.contains("no daemon answers") && text.contains("waypost run"), "{text}");
}

#[test]
#[cfg(feature = "embedded-tor")]
fn onion_address_is_printed_after_import() {
    let dir = offline_dir();
    let onion = |args: &[&str]| support::waypost(&dir.config(), &[&["onion-address"], args].concat());
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
    let (printed, printed_ok) = onion(&[]);
    assert!(ok && printed_ok && printed.trim().ends_with(".onion"), "{printed}");
    assert!(text.starts_with(printed.trim()), "{printed}{text}");
}

#[test]
#[cfg(feature = "embedded-tor")]
fn c_tor_has_the_address_of_an_exported_key() {
    let dir = offline_dir();
    let onion = |args: &[&str]| support::waypost(&dir.config(), &[&["onion-address"], args].concat());
    let (text, ok) = onion(&["--new"]);
    assert!(ok, "{text}");
    let address = text.lines().next().unwrap().to_owned();
    let service = dir.path("service");
    let (text, ok) = onion(&["--export", service.to_str().unwrap()]);
    assert!(ok && text.starts_with(&address), "{text}");
    // C tor derives these files from the secret key.
    for name in ["hostname", "hs_ed25519_public_key"] {
        std::fs::remove_file(service.join(name)).unwrap();
    }
    let mut tor = Command::new("tor");
    std::fs::write(dir.path("torrc"), "").unwrap();
    tor.arg("-f").arg(dir.path("torrc")).args(["--DisableNetwork", "1", "--SocksPort", "0"]);
    tor.arg("--DataDirectory").arg(dir.path("tor"));
    tor.arg("--HiddenServiceDir").arg(&service).args(["--HiddenServicePort", "50001"]).stdout(Stdio::null());
    let path = std::env::var("PATH").unwrap_or_default();
    let _tor = ChildGuard::spawn(tor.env("PATH", format!("{path}:/usr/sbin")));
    let hostname = || std::fs::read_to_string(service.join("hostname")).unwrap_or_default();
    wait_until(20, "C tor writes the address", || hostname().trim() == address);
}

#[test]
#[cfg(not(feature = "embedded-tor"))]
fn onion_address_without_embedded_tor_fails() {
    let (text, ok) = support::waypost(&offline_dir().config(), &["onion-address"]);
    assert!(!ok && text.contains("no embedded Tor"), "{text}");
}

#[test]
fn client_commands_query_and_change_daemon() {
    let dir = offline_dir();
    let daemon = dir.start();
    let status = daemon.status();
    assert_eq!((&status["network"], &status["tor"]["state"]), (&json!("regtest"), &json!("off")));
    let address = dir.address.to_string();
    assert!(daemon.waypost(&["status"]).contains(&address));
    let modes = (support::mode(&dir.data()), support::mode(&dir.data().join("control.sock")));
    assert_eq!(modes, (0o700, 0o600), "other users have no access");
    assert_eq!(daemon.waypost(&["peers"]).trim(), "no such peers");
    let onion = "explorerzydxu5ecjrkwceayqybizmpjjznk5izmitf2modhcusuqlid.onion";
    daemon.waypost(&["add", &format!("{onion} t"), "v1.4"]);
    assert!(daemon.waypost(&["peers", "--onion"]).contains("t51001"));
    wait_until(5, "the onion peer is advertised without Tor", || {
        call(&address, "server.peers.subscribe", json!([]))[0][1] == onion
    });
    daemon.waypost(&["forget", onion]);
    daemon.waypost(&["ban", "b.example"]);
    wait_until(20, "the ban is applied", || {
        support::waypost(&dir.config(), &["add", "b.example t50001"]).0.contains("waypost unban")
    });
    let wrong = [
        (["forget", "a.example"], "waypost peers"),
        (["forget", "a..b"], "waypost peers"),
        (["add", "a.example"], "s50002"),
        (["add", "a..b t1"], "s50002"),
        (["add", "10.0.0.1 t50001"], "discovery.allow_private"),
    ];
    for (args, advice) in wrong {
        let (text, ok) = support::waypost(&dir.config(), &args);
        assert!(!ok && text.starts_with("waypost: ") && text.contains(advice), "{args:?}: {text}");
    }
    daemon.stop();
}

#[test]
fn requests_over_tcp_are_answered() {
    let dir = TestDir::new();
    let identity = "[identity]\nhost = \"wp.example.com\"\ntcp_port = 50001\nbanner = \"hello\"\n";
    dir.configure_tcp(&format!("{identity}{OFFLINE}"));
    let daemon = dir.start();
    let address = dir.address.to_string();
    let features = call(&address, "server.features", json!([]));
    assert_eq!(features["hosts"], json!({"wp.example.com": {"tcp_port": 50001, "ssl_port": null}}));
    assert_eq!(call(&address, "server.banner", json!([])), "hello");
    assert_eq!(call(&address, "server.add_peer", json!([{"hosts": {"10.0.0.1": {"tcp_port": 1}}}])), false);
    let raw = raw_response(dir.address, b"{\"id\":1,\"method\":\"blockchain.headers.subscribe\",\"params\":[]}\n");
    assert_eq!((raw.len(), raw.contains("-32601")), (1024, true), "{raw}");
    let raw = raw_response(dir.address, b"[[[[[[[[[\n");
    assert!(raw.contains("-32700"), "{raw}");
    assert_eq!(daemon.status()["clients"]["malformed_lines"], 1);
    daemon.stop();
}

/// Sends one line and returns everything that the daemon sends back, with its padding.
fn raw_response(address: SocketAddr, line: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(line).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).unwrap();
    response
}

#[test]
fn damaged_store_is_kept_and_recreated() {
    let dir = offline_dir();
    std::fs::create_dir(dir.data()).unwrap();
    std::fs::write(dir.data().join("peers.redb"), b"no database at all").unwrap();
    let daemon = dir.start();
    let log = daemon.log();
    daemon.stop();
    let kept = file_names(&dir.data()).into_iter().find(|name| name.contains("damaged")).unwrap();
    assert!(log.contains(&kept), "{log}");
}

#[test]
fn log_in_json_has_nothing_about_clients() {
    let dir = TestDir::new();
    dir.configure_tcp(&format!("[log]\nformat = \"json\"\n{OFFLINE}"));
    let daemon = dir.start();
    call(&dir.address.to_string(), "server.ping", json!([]));
    let log = daemon.log();
    daemon.stop();
    for line in log.lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        assert_eq!(line["level"], "INFO");
    }
    assert!(log.lines().count() <= 3, "a line about clients: {log}");
}

#[test]
fn initial_crawl_is_logged_once() {
    let dir = TestDir::new();
    let seeds = "seeds = [\"127.1.0.1 t50001\", \"127.2.0.1 t50001\"]\nallow_private = true\n";
    dir.configure_tcp(&format!("[tor]\nmode = \"off\"\n[discovery]\n{seeds}"));
    let end = "initial crawl: every name was probed once; no server could be reached yet: is this machine online?";
    let daemon = dir.start();
    wait_until(20, "the crawl has ended", || daemon.log().contains(end));
    daemon.stop();
    let daemon = dir.start();
    std::thread::sleep(Duration::from_secs(12));
    assert_eq!(daemon.log().matches("initial crawl").count(), 1, "{}", daemon.log());
    daemon.stop();
}

fn file_names(dir: &Path) -> Vec<String> {
    std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn ipv4_and_ipv6_listeners_share_a_port() {
    let dir = TestDir::new();
    let port = dir.address.port();
    dir.configure(&format!("[listen]\ntcp = [\"0.0.0.0:{port}\", \"[::]:{port}\"]\n{OFFLINE}"));
    let daemon = dir.start();
    for address in [format!("127.0.0.1:{port}"), format!("[::1]:{port}")] {
        assert_eq!(call(&address, "server.ping", json!([])), Value::Null);
    }
    daemon.stop();
}

#[cfg(feature = "embedded-tor")]
#[test]
fn unsafe_directory_for_embedded_tor_is_reported() {
    let dir = TestDir::new();
    let open = dir.path("open");
    std::fs::create_dir(&open).unwrap();
    support::set_mode(&open, 0o777);
    // A Tor that starts in spite of the directory reaches no relay.
    let arti = "[tor_network]\nfallback_caches = [{ rsa_identity = \"0000000000000000000000000000000000000001\", \
                ed_identity = \"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\", orports = [\"127.0.0.1:1\"] }]\n";
    std::fs::write(dir.path("arti.toml"), arti).unwrap();
    let sections = format!(
        "[listen]\ntcp = [\"{}\"]\n[tor]\nmode = \"embedded\"\narti_config = \"arti.toml\"\n[discovery]\nseeds = []\n",
        dir.address
    );
    let daemon = support::Daemon::start(&dir.write_config("waypost.toml", &open.join("data"), &sections));
    wait_until(20, "Tor is down, with the reason", || {
        let tor = daemon.status()["tor"].to_string();
        tor.contains("down") && tor.contains(&format!("{open:?}").replace('"', "\\\"")) && tor.contains("chmod")
    });
    assert_eq!(call(&dir.address.to_string(), "server.ping", json!([])), Value::Null, "clients are served");
    daemon.stop();
}
