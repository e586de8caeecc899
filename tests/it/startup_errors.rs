//! Operator mistakes and faulty machines: each is reported in one line with the cause and advice.

use std::io::Write;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::support::{self, Daemon, OFFLINE, TestDir, call, wait_until};
use serde_json::json;

/// Creates a directory with the configuration of an offline daemon.
fn offline_dir() -> TestDir {
    let dir = TestDir::new();
    dir.configure_tcp(&format!("{OFFLINE}allow_private = true\n"));
    dir
}

/// Runs the daemon, which must end with this code and one line. Returns the line.
fn start_error(dir: &TestDir, code: i32) -> String {
    start_error_with(dir, code, &[])
}

fn start_error_with(dir: &TestDir, code: i32, environment: &[(&str, &str)]) -> String {
    end_of_run(dir, Command::new("timeout").args(["20", "env"]), environment, code)
}

/// Runs the daemon through another program, as `start_error` does.
fn start_error_by(dir: &TestDir, starter: &[&str], code: i32) -> String {
    end_of_run(dir, Command::new("timeout").arg("20").args(starter), &[], code)
}

fn end_of_run(dir: &TestDir, command: &mut Command, environment: &[(&str, &str)], code: i32) -> String {
    let output = command
        .args(environment.iter().map(|(name, value)| format!("{name}={value}")))
        .args([env!("CARGO_BIN_EXE_waypost"), "run", "--config"])
        .arg(dir.config())
        .env("WAYPOST_STATUS__LISTEN", "off")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{text}");
    assert_eq!((text.lines().count(), output.stdout.len()), (1, 0), "one line: {text}");
    assert!(text.starts_with("waypost: "), "{text}");
    text
}

#[test]
fn occupied_port_is_reported_with_its_process() {
    let dir = offline_dir();
    let _listener = TcpListener::bind(dir.address).unwrap();
    let text = start_error(&dir, 1);
    assert!(text.contains(&dir.address.to_string()) && text.contains("the port is in use by "), "{text}");
    assert!(text.contains(&format!("(process {})", std::process::id())), "{text}");
    assert!(text.contains("choose another port with listen.tcp"), "{text}");
}

#[test]
fn occupied_status_port_is_reported_with_its_key() {
    let dir = offline_dir();
    let page_address = support::free_address();
    let _listener = TcpListener::bind(page_address).unwrap();
    let text = start_error_with(&dir, 1, &[("WAYPOST_STATUS__LISTEN", &page_address.to_string())]);
    assert!(
        text.contains(&page_address.to_string()) && text.contains("choose another port with status.listen"),
        "{text}"
    );
}

#[test]
fn data_directory_that_others_can_write_to_is_refused() {
    let dir = offline_dir();
    std::fs::create_dir(dir.data()).unwrap();
    for mode in [0o770, 0o702, 0o1777] {
        support::set_mode(&dir.data(), mode);
        let text = start_error(&dir, 1);
        assert!(text.contains("other users can write") && text.contains("chmod go-w"), "{mode:o}: {text}");
    }
}

/// Runs in a namespace, whose first unprivileged port is always 1024.
#[test]
fn privileged_port_is_reported_with_capability() {
    if !support::in_namespace(privileged_port_is_reported_with_capability, &[]) {
        return;
    }
    let mut dir = offline_dir();
    dir.address = "127.0.0.1:443".parse().unwrap();
    dir.configure_tcp(&format!("{OFFLINE}allow_private = true\n"));
    // Only the capability is dropped; the user stays the same.
    let text = start_error_by(&dir, &["setpriv", "--bounding-set", "-net_bind_service", "--inh-caps", "-all"], 1);
    assert!(text.contains("127.0.0.1:443: ports below 1024 need a privilege"), "{text}");
    assert!(text.contains("higher port with listen.tcp") && text.contains("CAP_NET_BIND_SERVICE"), "{text}");
}

#[test]
fn foreign_address_is_not_reported_as_port_in_use() {
    if !support::in_namespace(foreign_address_is_not_reported_as_port_in_use, &[]) {
        return;
    }
    let mut dir = offline_dir();
    dir.address = "5.9.0.200:50001".parse().unwrap();
    dir.configure_tcp(&format!("{OFFLINE}allow_private = true\n"));
    let text = start_error(&dir, 1);
    assert!(text.contains("5.9.0.200:50001: no network interface of this machine has that address"), "{text}");
    assert!(text.contains("`ip address` lists") && text.contains("net.ipv4.ip_nonlocal_bind"), "{text}");
    assert!(!text.contains("in use"), "{text}");
}

#[test]
fn control_socket_with_long_path_is_reported() {
    let dir = offline_dir();
    let listen = format!("[listen]\ntcp = [\"{}\"]\n{OFFLINE}", dir.address);
    dir.write_config("waypost.toml", &dir.path(&"x".repeat(110)), &listen);
    let text = start_error(&dir, 1);
    assert!(text.contains("control.sock") && text.contains("a path of less than 108 bytes"), "{text}");
}

#[test]
fn data_dir_that_is_a_file_is_reported() {
    let dir = offline_dir();
    std::fs::write(dir.data(), "a file").unwrap();
    let text = start_error(&dir, 1);
    assert!(text.contains(dir.data().to_str().unwrap()) && text.contains("choose another data_dir"), "{text}");
}

#[test]
fn data_dir_of_another_user_is_reported() {
    let dir = offline_dir();
    let foreign = if rustix::process::geteuid().is_root() {
        std::fs::create_dir(dir.data()).unwrap();
        std::os::unix::fs::chown(dir.data(), Some(65534), Some(65534)).unwrap();
        dir.data()
    } else {
        PathBuf::from("/usr")
    };
    let listen = format!("[listen]\ntcp = [\"{}\"]\n{OFFLINE}", dir.address);
    dir.write_config("waypost.toml", &foreign, &listen);
    let text = start_error(&dir, 1);
    assert!(text.contains(foreign.to_str().unwrap()) && text.contains("belongs to another user"), "{text}");
    assert!(text.contains("choose another data_dir, or run as its owner"), "{text}");
}

#[test]
fn second_daemon_on_same_data_is_refused() {
    let dir = offline_dir();
    let daemon = dir.start();
    let text = start_error(&dir, 1);
    assert!(text.contains("another waypost runs on this data directory"), "{text}");
    assert!(text.contains("choose another data_dir"), "{text}");
    assert!(daemon.waypost(&["status"]).contains("regtest"), "the first daemon still runs");
    daemon.stop();
}

#[test]
fn unknown_key_is_reported_with_line_and_known_keys() {
    let dir = offline_dir();
    dir.configure_tcp("[discovery]\nrechek = \"1h\"\n");
    let text = start_error(&dir, 78);
    assert!(text.contains("waypost.toml, line 6: ") && text.contains("`rechek`"), "{text}");
    assert!(text.contains("expected one of") && text.contains("`recheck_interval`"), "{text}");
    let text = start_error_with(&dir, 78, &[("WAYPOST_DISCOVERY__RECHEK", "1h")]);
    assert!(text.contains("waypost.toml, line 6: "), "the file is read first: {text}");
}

#[test]
fn unset_clock_is_reported() {
    let dir = offline_dir();
    let faketime = support::faketime();
    let at = |when| {
        let environment = [("LD_PRELOAD", faketime.to_str().unwrap()), ("TZ", "UTC"), ("FAKETIME", when)];
        start_error_with(&dir, 1, &environment)
    };
    let text = at("1970-01-01 00:00:07");
    assert!(text.contains("says 1970-01-01T00:00:0") && text.contains("timedatectl set-ntp true"), "{text}");
    assert!(at("2026-10-31 23:59:00").contains("says 2026-10-31T23:59:0"));
    assert!(!dir.data().exists(), "no file was created");
}

#[test]
fn missing_tor_is_logged_once_and_clients_are_served() {
    let dir = offline_dir();
    let socks = support::free_address();
    let tables = format!("[tor]\nmode = \"socks\"\nsocks = \"{socks}\"\n[discovery]\nseeds = []\n");
    dir.configure_tcp(&tables);
    let daemon = dir.start();
    let missing = format!("no Tor on {socks}: ");
    let warnings = || daemon.log().lines().filter(|line| line.contains(&missing)).count();
    wait_until(5, "the log has the error", || warnings() == 1);
    let log = daemon.log();
    let line = log.lines().find(|line| line.contains(&missing)).unwrap();
    assert!(line.contains("WARN") && line.contains("start Tor") && line.contains("tor.socks"), "{line}");
    let status = daemon.waypost(&["status"]);
    let tor = status.lines().find(|line| line.trim_start().starts_with("tor ")).unwrap();
    assert!(tor.contains(&missing) && tor.contains("start Tor"), "{status}");
    // Waypost polls the SOCKS port every five seconds.
    std::thread::sleep(std::time::Duration::from_secs(11));
    assert_eq!(warnings(), 1, "logged more than once: {}", daemon.log());
    assert_eq!(call(&dir.address.to_string(), "server.ping", json!([])), serde_json::Value::Null);
    daemon.stop();
}

/// Small disk, mounted in a namespace.
struct Disk(PathBuf);

impl Disk {
    fn mount(at: &Path) -> Disk {
        std::fs::create_dir(at).unwrap();
        let mut mount = Command::new("mount");
        support::run(mount.args(["-t", "tmpfs", "-o", "size=8m,mode=700", "none"]).arg(at));
        Disk(at.to_owned())
    }

    /// Writes until the disk is full.
    fn fill(&self) {
        let mut filler = std::fs::File::create(self.0.join("filler")).unwrap();
        let error = loop {
            if let Err(error) = filler.write_all(&[0; 4096]) {
                break error;
            }
        };
        assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
    }

    fn free(&self) {
        std::fs::remove_file(self.0.join("filler")).unwrap();
    }
}

#[test]
fn full_disk_at_start_is_reported() {
    if !support::in_namespace(full_disk_at_start_is_reported, &[]) {
        return;
    }
    let dir = offline_dir();
    let disk = Disk::mount(&dir.data());
    disk.fill();
    let text = start_error(&dir, 1);
    assert!(text.contains(dir.data().to_str().unwrap()) && text.contains("No space left on device"), "{text}");
    assert!(text.contains("that the disk isn't full"), "{text}");
    disk.free();
    dir.start().stop();
}

#[test]
fn full_disk_at_run_time_loses_no_records() {
    if !support::in_namespace(full_disk_at_run_time_loses_no_records, &[]) {
        return;
    }
    let dir = offline_dir();
    let disk = Disk::mount(&dir.data());
    let daemon = dir.start();
    daemon.waypost(&["add", "127.0.0.5 t50001"]);
    wait_until(5, "the first record is on disk", || daemon.status()["store"]["pending"] == 0);
    disk.fill();
    // The journal has room for some hundred records before it needs more space.
    let mut hosts: Vec<String> = Vec::new();
    while !daemon.log().contains("can't write the store; peers stay in memory") {
        assert!(hosts.len() < 2000, "the full disk is not noticed");
        // Onion names are long, so fewer of them fill the journal.
        let [low, high] = u16::try_from(hosts.len()).unwrap().to_le_bytes();
        let mut key = [7; 32];
        (key[0], key[1]) = (low, high);
        hosts.push(waypost::peer::OnionAddress::from_public_key(key).to_string());
        daemon.waypost(&["add", &format!("{} t50001", hosts.last().unwrap())]);
    }
    let knows_all = |daemon: &Daemon| {
        let rows = daemon.rows();
        hosts.iter().all(|host| rows.iter().any(|row| row["host"] == **host))
    };
    assert!(knows_all(&daemon), "the peers are kept in memory");
    let status = daemon.waypost(&["status"]);
    let store = status.lines().find(|line| line.trim_start().starts_with("store ")).unwrap();
    assert!(store.contains("check the free disk space") && store.contains("pending"), "{status}");
    assert!(daemon.status()["store"]["pending"].as_u64().unwrap() > 0);
    assert_eq!(call(&dir.address.to_string(), "server.ping", json!([])), serde_json::Value::Null);
    disk.free();
    wait_until(70, "the pending records are written", || daemon.status()["store"]["pending"] == 0);
    assert!(daemon.log().contains("writes to the store succeed again"));
    daemon.stop();
    let daemon = dir.start();
    assert!(knows_all(&daemon), "no record was lost");
    daemon.stop();
}
