//! What somebody who runs it for the first time may do wrong, or may find wrong with the machine: each time there is one line that
//! says what it is and what to do.

use std::io::Write;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::support::{self, Daemon, call, wait_until};
use serde_json::json;

const QUIET: &str = "[tor]\nmode = \"off\"\n[discovery]\nseeds = []\nallow_private = true\n";

/// A folder with a configuration in it, that listens on a port of its own and knows nobody.
struct Place {
    dir: tempfile::TempDir,
    address: SocketAddr,
}

impl Place {
    fn new() -> Place {
        let place = Place { dir: tempfile::tempdir().unwrap(), address: support::free_address() };
        place.configure(&place.data(), QUIET);
        place
    }

    fn configure(&self, data: &Path, tables: &str) {
        let text =
            format!("network = \"regtest\"\ndata_dir = {data:?}\n[listen]\ntcp = [\"{}\"]\n{tables}", self.address);
        std::fs::write(self.config(), text).unwrap();
    }

    fn config(&self) -> PathBuf {
        self.dir.path().join("waypost.toml")
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// Runs the daemon as a newcomer does. It is expected to end by itself, with this code and one line, which it gives back.
    fn refused(&self, code: i32) -> String {
        self.refused_with(code, &[])
    }

    fn refused_with(&self, code: i32, environment: &[(&str, &str)]) -> String {
        self.ended(Command::new("timeout").args(["20", "env"]), environment, code)
    }

    /// The same with the daemon started by another program.
    fn refused_by(&self, starter: &[&str], code: i32) -> String {
        self.ended(Command::new("timeout").arg("20").args(starter), &[], code)
    }

    fn ended(&self, command: &mut Command, environment: &[(&str, &str)], code: i32) -> String {
        let output = command
            .args(environment.iter().map(|(name, value)| format!("{name}={value}")))
            .args([env!("CARGO_BIN_EXE_waypost"), "run", "--config"])
            .arg(self.config())
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
}

#[test]
fn occupied_port_is_reported_with_its_process() {
    let place = Place::new();
    let _taken = TcpListener::bind(place.address).unwrap();
    let text = place.refused(1);
    assert!(text.contains(&place.address.to_string()) && text.contains("the port is in use by "), "{text}");
    assert!(text.contains(&format!("(process {})", std::process::id())), "{text}");
    assert!(text.contains("choose another port with listen.tcp"), "{text}");
}

#[test]
fn occupied_status_port_is_reported_with_its_key() {
    let place = Place::new();
    let page = support::free_address();
    let _taken = TcpListener::bind(page).unwrap();
    let text = place.refused_with(1, &[("WAYPOST_STATUS__LISTEN", &page.to_string())]);
    assert!(text.contains(&page.to_string()) && text.contains("choose another port with status.listen"), "{text}");
}

/// In a namespace, as its first port without privilege is always 1024.
#[test]
fn privileged_port_is_reported_with_capability() {
    if !support::in_namespace(privileged_port_is_reported_with_capability, &[]) {
        return;
    }
    let mut place = Place::new();
    place.address = "127.0.0.1:443".parse().unwrap();
    place.configure(&place.data(), QUIET);
    // The daemon keeps its user, and loses the privilege alone.
    let text = place.refused_by(&["setpriv", "--bounding-set", "-net_bind_service", "--inh-caps", "-all"], 1);
    assert!(text.contains("127.0.0.1:443: ports below 1024 need a privilege"), "{text}");
    assert!(text.contains("higher port with listen.tcp") && text.contains("CAP_NET_BIND_SERVICE"), "{text}");
}

#[test]
fn foreign_address_is_not_reported_as_port_in_use() {
    if !support::in_namespace(foreign_address_is_not_reported_as_port_in_use, &[]) {
        return;
    }
    let mut place = Place::new();
    place.address = "5.9.0.200:50001".parse().unwrap();
    place.configure(&place.data(), QUIET);
    let text = place.refused(1);
    assert!(text.contains("5.9.0.200:50001: no network interface of this machine has that address"), "{text}");
    assert!(text.contains("`ip address` lists") && text.contains("net.ipv4.ip_nonlocal_bind"), "{text}");
    assert!(!text.contains("in use"), "{text}");
}

#[test]
fn control_socket_with_long_path_is_reported() {
    let place = Place::new();
    place.configure(&place.dir.path().join("x".repeat(110)), QUIET);
    let text = place.refused(1);
    assert!(text.contains("control.sock") && text.contains("a path of less than 108 bytes"), "{text}");
}

#[test]
fn data_dir_that_is_a_file_is_reported() {
    let place = Place::new();
    std::fs::write(place.data(), "a file").unwrap();
    let text = place.refused(1);
    assert!(text.contains(place.data().to_str().unwrap()) && text.contains("choose another data_dir"), "{text}");
}

#[test]
fn data_dir_of_another_user_is_reported() {
    let place = Place::new();
    let others = if rustix::process::geteuid().is_root() {
        std::fs::create_dir(place.data()).unwrap();
        std::os::unix::fs::chown(place.data(), Some(65534), Some(65534)).unwrap();
        place.data()
    } else {
        PathBuf::from("/usr")
    };
    place.configure(&others, QUIET);
    let text = place.refused(1);
    assert!(text.contains(others.to_str().unwrap()) && text.contains("belongs to another user"), "{text}");
    assert!(text.contains("choose another data_dir, or run as its owner"), "{text}");
}

#[test]
fn second_daemon_on_same_data_is_refused() {
    let place = Place::new();
    let daemon = Daemon::start(&place.config());
    let text = place.refused(1);
    assert!(text.contains("another waypost runs on this data directory"), "{text}");
    assert!(text.contains("choose another data_dir"), "{text}");
    assert!(daemon.waypost(&["status"]).contains("regtest"), "and the first goes on");
    daemon.stop();
}

#[test]
fn unknown_key_is_reported_with_line_and_known_keys() {
    let place = Place::new();
    place.configure(&place.data(), "[discovery]\nrechek = \"1h\"\n");
    let text = place.refused(78);
    assert!(text.contains("waypost.toml, line 6: ") && text.contains("`rechek`"), "{text}");
    assert!(text.contains("expected one of") && text.contains("`recheck_interval`"), "{text}");
    let text = place.refused_with(78, &[("WAYPOST_DISCOVERY__RECHEK", "1h")]);
    assert!(text.contains("waypost.toml, line 6: "), "the file is read first: {text}");
}

#[test]
fn unset_clock_is_reported() {
    let place = Place::new();
    let mut libraries = std::fs::read_dir("/usr/lib").unwrap();
    let faketime = libraries.find_map(|dir| {
        let path = dir.unwrap().path().join("faketime/libfaketime.so.1");
        path.exists().then_some(path)
    });
    let faketime = faketime.expect("libfaketime is missing: contrib/test.sh installs it");
    let at = |when| {
        let environment = [("LD_PRELOAD", faketime.to_str().unwrap()), ("TZ", "UTC"), ("FAKETIME", when)];
        place.refused_with(1, &environment)
    };
    let text = at("1970-01-01 00:00:07");
    assert!(text.contains("says 1970-01-01T00:00:0") && text.contains("timedatectl set-ntp true"), "{text}");
    assert!(at("2026-10-31 23:59:00").contains("says 2026-10-31T23:59:0"));
    assert!(!place.data().exists(), "nothing was begun");
}

#[test]
fn missing_tor_is_logged_once_and_clients_are_served() {
    let place = Place::new();
    let socks = support::free_address();
    let tables = format!("[tor]\nmode = \"socks\"\nsocks = \"{socks}\"\n[discovery]\nseeds = []\n");
    place.configure(&place.data(), &tables);
    let daemon = Daemon::start(&place.config());
    let missing = format!("no Tor on {socks}: ");
    let complaints = || daemon.log().lines().filter(|line| line.contains(&missing)).count();
    wait_until(5, "the log says so", || complaints() == 1);
    let log = daemon.log();
    let line = log.lines().find(|line| line.contains(&missing)).unwrap();
    assert!(line.contains("WARN") && line.contains("start Tor") && line.contains("tor.socks"), "{line}");
    let status = daemon.waypost(&["status"]);
    let tor = status.lines().find(|line| line.trim_start().starts_with("tor ")).unwrap();
    assert!(tor.contains(&missing) && tor.contains("start Tor"), "{status}");
    // It is looked for every five seconds.
    std::thread::sleep(std::time::Duration::from_secs(11));
    assert_eq!(complaints(), 1, "once is enough: {}", daemon.log());
    assert_eq!(call(&place.address.to_string(), "server.ping", json!([])), serde_json::Value::Null);
    daemon.stop();
}

/// A small disk of its own, to be used in a namespace only.
struct Disk(PathBuf);

impl Disk {
    fn mount(at: &Path) -> Disk {
        std::fs::create_dir(at).unwrap();
        let mut mount = Command::new("mount");
        support::run(mount.args(["-t", "tmpfs", "-o", "size=8m,mode=700", "none"]).arg(at));
        Disk(at.to_owned())
    }

    /// Leaves no byte of room.
    fn fill(&self) {
        let mut filler = std::fs::File::create(self.0.join("filler")).unwrap();
        let error = loop {
            if let Err(error) = filler.write_all(&[0; 4096]) {
                break error;
            }
        };
        assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
    }

    fn make_room(&self) {
        std::fs::remove_file(self.0.join("filler")).unwrap();
    }
}

#[test]
fn full_disk_at_start_is_reported() {
    if !support::in_namespace(full_disk_at_start_is_reported, &[]) {
        return;
    }
    let place = Place::new();
    let disk = Disk::mount(&place.data());
    disk.fill();
    let text = place.refused(1);
    assert!(text.contains(place.data().to_str().unwrap()) && text.contains("No space left on device"), "{text}");
    assert!(text.contains("that the disk isn't full"), "{text}");
    disk.make_room();
    Daemon::start(&place.config()).stop();
}

#[test]
fn full_disk_at_run_time_loses_no_records() {
    if !support::in_namespace(full_disk_at_run_time_loses_no_records, &[]) {
        return;
    }
    let place = Place::new();
    let disk = Disk::mount(&place.data());
    let daemon = Daemon::start(&place.config());
    daemon.waypost(&["add", "127.0.0.5 t50001"]);
    wait_until(5, "that is on disk", || daemon.status()["store"]["pending"] == 0);
    disk.fill();
    let hosts: Vec<String> = (0..60).map(|n| format!("127.0.1.{n}")).collect();
    hosts.iter().for_each(|host| drop(daemon.waypost(&["add", &format!("{host} t50001")])));
    wait_until(10, "the log says so", || daemon.log().contains("can't write the store; going on from memory"));
    assert!(hosts.iter().all(|host| daemon.row(host).is_object()), "and what is known is known");
    let status = daemon.waypost(&["status"]);
    let store = status.lines().find(|line| line.trim_start().starts_with("store ")).unwrap();
    assert!(store.contains("is the disk full?") && store.contains("60 records wait"), "{status}");
    assert_eq!(call(&place.address.to_string(), "server.ping", json!([])), serde_json::Value::Null);
    disk.make_room();
    wait_until(70, "it is written after all", || daemon.status()["store"]["pending"] == 0);
    assert!(daemon.log().contains("the store can be written again"));
    daemon.stop();
    let daemon = Daemon::start(&place.config());
    assert!(hosts.iter().all(|host| daemon.row(host).is_object()), "nothing was lost");
    daemon.stop();
}
