//! SOCKS ports of C tor with different flags, and a C tor that starts late.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::support::{self, ChildGuard, Daemon, Lab, TestDir, wait_until};

const EX1: &str = "ex1.example.com";

/// Running C tor.
pub(crate) struct CTor {
    _process: ChildGuard,
    control: u16,
    cookie: String,
    /// Warnings that the control port has reported.
    warnings: Arc<AtomicUsize>,
}

impl CTor {
    /// Starts a C tor and subscribes to the warnings of its control port.
    fn start(dir: &Path, control: u16, torrc: &str) -> CTor {
        std::fs::create_dir_all(dir).unwrap();
        let file = dir.join("torrc");
        let text = format!(
            "{torrc}\nDataDirectory {}\nControlPort 127.0.0.1:{control}\nCookieAuthentication 1\nLog notice file {}\n",
            dir.join("data").display(),
            dir.join("log").display()
        );
        std::fs::write(&file, text).unwrap();
        let mut tor = Command::new("tor");
        tor.arg("-f").arg(&file).stdout(Stdio::null()).stderr(Stdio::null());
        let path = std::env::var("PATH").unwrap_or_default();
        let process = ChildGuard::spawn(tor.env("PATH", format!("{path}:/usr/sbin")));
        let cookie = dir.join("data/control_auth_cookie");
        wait_until(20, "C tor has a control port", || {
            std::fs::read(&cookie).is_ok_and(|cookie| cookie.len() == 32)
                && TcpStream::connect(("127.0.0.1", control)).is_ok()
        });
        let cookie = std::fs::read(&cookie).unwrap().iter().map(|byte| format!("{byte:02x}")).collect();
        let tor = CTor { _process: process, control, cookie, warnings: Arc::default() };
        tor.count_warnings();
        tor
    }

    /// Sends a command to the control port, and returns the lines of the reply and of later events.
    fn command(&self, command: &str) -> impl Iterator<Item = String> + use<> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.control)).unwrap();
        write!(stream, "AUTHENTICATE {}\r\n{command}\r\n", self.cookie).unwrap();
        let mut lines = BufReader::new(stream).lines().map_while(Result::ok);
        assert_eq!(lines.next().unwrap(), "250 OK");
        lines
    }

    /// Returns the SOCKS user names of all circuits.
    fn socks_users(&self) -> BTreeSet<String> {
        let lines = self.command("GETINFO circuit-status\r\nQUIT");
        lines.filter_map(|line| Some(line.split_once("SOCKS_USERNAME=\"")?.1.split('"').next()?.to_owned())).collect()
    }

    fn count_warnings(&self) {
        let mut lines = self.command("SETEVENTS WARN");
        assert_eq!(lines.next().unwrap(), "250 OK");
        let warnings = Arc::clone(&self.warnings);
        std::thread::spawn(move || {
            for line in lines {
                // Only the first line of an event starts like this.
                if line.starts_with("650 WARN") || line.starts_with("650+WARN") || line.starts_with("650-WARN") {
                    warnings.fetch_add(1, Ordering::Relaxed);
                    println!("C tor: {line}");
                }
            }
        });
    }

    fn warnings(&self) -> usize {
        self.warnings.load(Ordering::Relaxed)
    }
}

/// Starts a client in the lab's Tor network with these ports and other lines of torrc.
pub(crate) fn lab_client(lab: &Lab, dir: &Path, control: u16, ports: &str) -> CTor {
    let torrc = lab.read("tor/client/torrc");
    let replaced =
        ["DataDirectory", "Nickname", "PidFile", "Log ", "RunAsDaemon", "SocksPort", "ControlPort", "Cookie"];
    let kept = torrc.lines().filter(|line| !replaced.iter().any(|key| line.starts_with(key)));
    CTor::start(dir, control, &kept.chain([ports]).collect::<Vec<_>>().join("\n"))
}

/// Writes a configuration with these keys of `[tor]`.
fn configure(dir: &TestDir, name: &str, tor: &str, onion: &str) -> PathBuf {
    dir.configure_named(
        name,
        &format!(
            "[tor]\nmode = \"socks\"\n{tor}\n[discovery]\nrecheck_interval = \"20s\"\n\
             initial_retry = \"10s\"\nseeds = [\"{EX1} s51002\", \"{onion} t50001\"]\n"
        ),
    )
}

fn is_verified(daemon: &Daemon, host: &str) -> bool {
    daemon.row(host)["state"] == "verified"
}

#[test]
fn c_tor_ports_of_every_kind_are_used_without_warnings() {
    if !support::in_namespace(c_tor_ports_of_every_kind_are_used_without_warnings, &[]) {
        return;
    }
    let dir = TestDir::new();
    let lab = Lab::start(dir.root());
    let onion = lab.read("tor/onion-1");
    let default = lab_client(
        &lab,
        &dir.path("default"),
        7100,
        "SocksPort 127.0.0.1:7001\nSocksPort 127.0.0.1:7002 OnionTrafficOnly\n\
         SocksPort 127.0.0.1:7003 OnionTrafficOnly ExtendedErrors\nSocksPort 127.0.0.1:7004 NoIPv4Traffic",
    );
    let safe = lab_client(&lab, &dir.path("safe"), 7200, "SocksPort 127.0.0.1:7011\nSafeSocks 1");

    check_default_port(&default, &configure(&dir, "default-port", "socks = \"127.0.0.1:7001\"", &onion), &onion);
    check_missing_names(&default, &configure(&dir, "only", "socks = \"127.0.0.1:7001\"\nonly = true", &onion));
    for port in [7002, 7003, 7004] {
        let config =
            configure(&dir, &format!("p{port}"), &format!("socks = \"127.0.0.1:{port}\"\nonly = true"), &onion);
        check_restricted_port(&default, &config, &onion, "onion_only");
    }
    let config = configure(&dir, "safe", "socks = \"127.0.0.1:7011\"\nonly = true", &onion);
    check_restricted_port(&safe, &config, &onion, "names_only");
}

fn check_default_port(tor: &CTor, config: &Path, onion: &str) {
    let before = tor.warnings();
    let daemon = Daemon::start(config);
    wait_until(120, "the onion server is verified", || is_verified(&daemon, onion));
    // Longer than two polls.
    std::thread::sleep(Duration::from_secs(12));
    assert_eq!(tor.warnings(), before, "C tor logged warnings");
    let status = daemon.status();
    assert_eq!(status["tor_source"]["kind"], "socks");
    assert_eq!(status["tor_source"]["addresses"][0], "127.0.0.1:7001");
    assert_eq!(status["tor_source"]["clearnet"], "allowed");
    assert!(daemon.waypost(&["status"]).contains("SOCKS 127.0.0.1:7001"));
    daemon.stop();
}

/// Tests that missing names, which any client may announce, do not mark Tor as down.
fn check_missing_names(tor: &CTor, config: &Path) {
    let before = tor.warnings();
    let daemon = Daemon::start(config);
    wait_until(120, "a clearnet server is verified through an exit", || is_verified(&daemon, EX1));
    for n in 0..3 {
        daemon.waypost(&["add", &format!("missing{n}.example.com"), "s50002"]);
    }
    wait_until(60, "a name is looked up by an exit", || {
        (0..3).all(|n| !daemon.row(&format!("missing{n}.example.com"))["last_try"].is_null())
    });
    std::thread::sleep(Duration::from_secs(5));
    assert_eq!(daemon.tor(), "ready");
    assert!(!daemon.log().contains("Tor is down"), "{}", daemon.log());
    println!("clearnet dials by address: {} warnings of C tor", tor.warnings() - before);
    daemon.stop();
}

fn check_restricted_port(tor: &CTor, config: &Path, onion: &str, access: &str) {
    let daemon = Daemon::start(config);
    wait_until(120, "the onion server is verified", || is_verified(&daemon, onion));
    wait_until(60, "status has the reason", || daemon.status()["clearnet_blocked"].is_string());
    let status = daemon.status();
    assert_eq!(status["tor_source"]["clearnet"], access);
    let ex1 = daemon.row(EX1);
    assert_eq!((&ex1["state"], &ex1["failures"]), (&"candidate".into(), &0.into()), "{ex1}");
    let before = tor.warnings();
    std::thread::sleep(Duration::from_secs(12));
    assert_eq!(tor.warnings(), before, "polls cause no warnings");
    assert_eq!(daemon.tor(), "ready");
    assert_eq!(daemon.row(EX1)["failures"], 0);
    let (output, ok) = support::waypost(config, &["probe", EX1, "--tls", "51002"]);
    assert!(!ok && output.contains("Tor's SOCKS port refuses"), "{output}");
    let (output, ok) = support::waypost(config, &["probe", onion, "--tcp", "50001"]);
    assert!(ok, "{output}");
    daemon.stop();
}

#[test]
fn socks_port_is_used_by_unix_socket_and_by_name_with_a_login() {
    if !support::in_namespace(socks_port_is_used_by_unix_socket_and_by_name_with_a_login, &[]) {
        return;
    }
    let dir = TestDir::new();
    let lab = Lab::start(dir.root());
    let onion = lab.read("tor/onion-1");
    let socket = dir.path("socks");
    let ports = format!("SocksPort 127.0.0.1:7001\nSocksPort unix:{} RelaxDirModeCheck", socket.display());
    let tor = lab_client(&lab, &dir.path("tor"), 7100, &ports);

    let address = format!("unix:{}", socket.display());
    let daemon = Daemon::start(&configure(&dir, "unix", &format!("socks = {address:?}\nonly = true"), &onion));
    wait_until(120, "servers are verified through the Unix socket", || {
        is_verified(&daemon, &onion) && is_verified(&daemon, EX1)
    });
    assert_eq!(daemon.status()["tor_source"]["addresses"][0], address.as_str());
    assert!(daemon.waypost(&["status"]).contains(&format!("SOCKS {address}")));
    daemon.stop();

    std::fs::write(dir.path("password"), "swordfish\n").unwrap();
    let keys = "socks = \"localhost:7001\"\nonly = true\nsocks_user = \"wp\"\nsocks_password_file = \"password\"";
    let config = configure(&dir, "named", keys, &onion);
    let daemon = Daemon::start(&config);
    wait_until(120, "servers are verified through the named port", || {
        is_verified(&daemon, &onion) && is_verified(&daemon, EX1)
    });
    assert_eq!(daemon.status()["tor_source"]["addresses"][0], "localhost:7001");
    let users = tor.socks_users();
    assert!(users.iter().filter(|user| user.starts_with("wp+")).count() >= 2, "one for each peer: {users:?}");
    let (output, ok) = support::waypost(&config, &["probe", &onion, "--tcp", "50001"]);
    assert!(ok && output.contains("localhost:7001"), "{output}");
    assert!(!daemon.log().contains("swordfish") && !daemon.waypost(&["status", "--json"]).contains("swordfish"));
    daemon.stop();

    let config = configure(&dir, "exact", &format!("{keys}\nsocks_exact_login = true"), &onion);
    let daemon = Daemon::start(&config);
    wait_until(120, "the onion server is verified with the exact login", || is_verified(&daemon, &onion));
    assert_eq!(daemon.status()["tor_source"]["shares_circuits"], true);
    assert!(tor.socks_users().contains("wp") && daemon.log().contains("may share circuits"), "{}", daemon.log());
    daemon.stop();
}

#[test]
#[cfg(feature = "embedded-tor")]
fn tor_that_starts_late_is_used_and_no_key_is_created() {
    if !support::in_namespace(tor_that_starts_late_is_used_and_no_key_is_created, &[]) {
        return;
    }
    let dir = TestDir::new();
    let sections = "[tor]\nmode = \"auto\"\nsocks = \"127.0.0.1:9050\"\n[discovery]\nseeds = []\n";
    let daemon = Daemon::start(&dir.configure(sections));
    wait_until(10, "Waypost waits for a Tor", || daemon.status()["tor_source"]["kind"] == "undecided");
    assert!(daemon.status()["tor_source"]["until"].is_u64());
    assert!(daemon.waypost(&["status"]).contains("waiting for a Tor on 127.0.0.1:9050"));
    std::thread::sleep(Duration::from_secs(4));
    let _tor = CTor::start(&dir.path("tor"), 9051, "SocksPort 127.0.0.1:9050");
    wait_until(20, "the late Tor is used", || daemon.status()["tor_source"]["kind"] == "socks");
    assert!(!dir.data().join("tor/state/keystore").exists(), "no onion key is created");
    assert!(daemon.status()["onion"].is_null());
    assert_eq!(daemon.log().matches("waiting for a Tor").count(), 1, "{}", daemon.log());
    daemon.stop();
}
