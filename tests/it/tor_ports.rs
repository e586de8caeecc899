//! SOCKS ports of real C tor clients that are set up in different ways, and one that starts late.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::support::{self, Daemon, lab_script, run, wait_until};

const EX1: &str = "ex1.example.com";

/// A C tor, which ends with this value.
struct CTor {
    child: Child,
    /// Warnings since the start, as the control port reports them.
    warnings: Arc<AtomicUsize>,
}

impl CTor {
    /// Starts it with this configuration, and waits until its control port reports events.
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
        tor.arg("-f").arg(&file).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let path = std::env::var("PATH").unwrap_or_default();
        let child = tor.env("PATH", format!("{path}:/usr/sbin")).spawn().unwrap();
        let tor = CTor { child, warnings: Arc::default() };
        let cookie = dir.join("data/control_auth_cookie");
        wait_until(20, "C tor has a control port", || {
            std::fs::read(&cookie).is_ok_and(|cookie| cookie.len() == 32)
                && TcpStream::connect(("127.0.0.1", control)).is_ok()
        });
        tor.count_warnings(control, &std::fs::read(&cookie).unwrap());
        tor
    }

    fn count_warnings(&self, control: u16, cookie: &[u8]) {
        let mut stream = TcpStream::connect(("127.0.0.1", control)).unwrap();
        let cookie: String = cookie.iter().map(|byte| format!("{byte:02x}")).collect();
        write!(stream, "AUTHENTICATE {cookie}\r\nSETEVENTS WARN\r\n").unwrap();
        let mut lines = BufReader::new(stream).lines();
        for _ in 0..2 {
            assert_eq!(lines.next().unwrap().unwrap(), "250 OK");
        }
        let warnings = Arc::clone(&self.warnings);
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                // An event of several lines ends with one of another form.
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

impl Drop for CTor {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A client of the lab's Tor network, with these ports instead of its own.
fn lab_client(lab: &Path, dir: &Path, control: u16, ports: &str) -> CTor {
    let torrc = std::fs::read_to_string(lab.join("tor/client/torrc")).unwrap();
    let own = ["DataDirectory", "Nickname", "PidFile", "Log ", "RunAsDaemon", "SocksPort", "ControlPort", "Cookie"];
    let kept = torrc.lines().filter(|line| !own.iter().any(|key| line.starts_with(key)));
    CTor::start(dir, control, &kept.chain([ports]).collect::<Vec<_>>().join("\n"))
}

fn config(dir: &Path, name: &str, tor: &str, onion: &str) -> PathBuf {
    let path = dir.join(format!("{name}.toml"));
    let text = format!(
        "network = \"regtest\"\ndata_dir = {:?}\n[tor]\nmode = \"socks\"\n{tor}\n[discovery]\nrecheck_interval = \"20s\"\n\
         initial_retry = \"10s\"\nseeds = [\"{EX1} s51002\", \"{onion} t50001\"]\n",
        dir.join(name)
    );
    std::fs::write(&path, text).unwrap();
    path
}

fn is_verified(daemon: &Daemon, host: &str) -> bool {
    daemon.row(host)["state"] == "verified"
}

#[test]
fn c_tor_ports_of_every_kind_are_used_without_warnings() {
    if !support::in_namespace(c_tor_ports_of_every_kind_are_used_without_warnings, &[]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let lab = dir.path().join("lab");
    run(Command::new(lab_script("up.sh")).arg(&lab));
    let onion = std::fs::read_to_string(lab.join("tor/onion-1")).unwrap().trim().to_owned();
    let usual = lab_client(
        &lab,
        &dir.path().join("usual"),
        7100,
        "SocksPort 127.0.0.1:7001\nSocksPort 127.0.0.1:7002 OnionTrafficOnly\n\
         SocksPort 127.0.0.1:7003 OnionTrafficOnly ExtendedErrors\nSocksPort 127.0.0.1:7004 NoIPv4Traffic",
    );
    let safe = lab_client(&lab, &dir.path().join("safe"), 7200, "SocksPort 127.0.0.1:7011\nSafeSocks 1");

    check_default_port(&usual, &config(dir.path(), "usual", "socks = \"127.0.0.1:7001\"", &onion), &onion);
    check_missing_names(&usual, &config(dir.path(), "only", "socks = \"127.0.0.1:7001\"\nonly = true", &onion));
    for port in [7002, 7003, 7004] {
        let config =
            config(dir.path(), &format!("p{port}"), &format!("socks = \"127.0.0.1:{port}\"\nonly = true"), &onion);
        check_restricted_port(&usual, &config, &onion, "onion_only");
    }
    let config = config(dir.path(), "safe", "socks = \"127.0.0.1:7011\"\nonly = true", &onion);
    check_restricted_port(&safe, &config, &onion, "names_only");
}

fn check_default_port(tor: &CTor, config: &Path, onion: &str) {
    let before = tor.warnings();
    let daemon = Daemon::start(config);
    wait_until(120, "the onion server is verified", || is_verified(&daemon, onion));
    // Two polls and more.
    std::thread::sleep(Duration::from_secs(12));
    assert_eq!(tor.warnings(), before, "C tor warns of nothing");
    let status = daemon.status();
    assert_eq!(status["tor_source"]["kind"], "socks");
    assert_eq!(status["tor_source"]["addresses"][0], "127.0.0.1:7001");
    assert_eq!(status["tor_source"]["clearnet"], "allowed");
    assert!(daemon.waypost(&["status"]).contains("SOCKS 127.0.0.1:7001"));
    daemon.stop();
}

/// Anyone may introduce such a name.
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
#[cfg(feature = "embedded-tor")]
fn tor_that_starts_late_is_used_and_no_key_is_created() {
    if !support::in_namespace(tor_that_starts_late_is_used_and_no_key_is_created, &[]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (config, data) = (dir.path().join("waypost.toml"), dir.path().join("data"));
    let text = format!(
        "network = \"regtest\"\ndata_dir = {data:?}\n[tor]\nmode = \"auto\"\nsocks = \"127.0.0.1:9050\"\n[discovery]\nseeds = []\n"
    );
    std::fs::write(&config, text).unwrap();
    let daemon = Daemon::start(&config);
    wait_until(10, "a Tor is awaited", || daemon.status()["tor_source"]["kind"] == "undecided");
    assert!(daemon.status()["tor_source"]["until"].is_u64());
    assert!(daemon.waypost(&["status"]).contains("waiting for a Tor on 127.0.0.1:9050"));
    std::thread::sleep(Duration::from_secs(4));
    let _tor = CTor::start(&dir.path().join("tor"), 9051, "SocksPort 127.0.0.1:9050");
    wait_until(20, "that Tor is used", || daemon.status()["tor_source"]["kind"] == "socks");
    assert!(!data.join("tor/state/keystore").exists(), "no onion key");
    assert!(daemon.status()["onion"].is_null());
    assert_eq!(daemon.log().matches("waiting for a Tor").count(), 1, "{}", daemon.log());
    daemon.stop();
}
