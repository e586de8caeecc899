//! What callers and strangers touch, met by other software: TLS, WebSocket, sockets of systemd's, limits, bans.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::support::{self, Daemon, call, lab_python, lab_script, wait_until};
use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, prlimit};
use serde_json::{Value, json};
use socket2::{Domain, Socket, Type};

const PEERS: &str = r#"{"id":1,"method":"server.peers.subscribe"}"#;

/// A folder with a configuration in it, and addresses that nobody else uses.
struct Place {
    dir: tempfile::TempDir,
    addresses: Vec<SocketAddr>,
}

impl Place {
    fn new() -> Place {
        Place { dir: tempfile::tempdir().unwrap(), addresses: (0..5).map(|_| support::free_address()).collect() }
    }

    /// A configuration whose [listen] and other tables are these; `{0}` to `{4}` in them are the addresses.
    fn config(&self, listen: &str, more: &str) -> PathBuf {
        let mut text = format!(
            "network = \"regtest\"\ndata_dir = {:?}\n[listen]\n{listen}\n[tor]\nmode = \"off\"\n[discovery]\nseeds = []\n{more}",
            self.path("data")
        );
        for (number, address) in self.addresses.iter().enumerate() {
            text = text.replace(&format!("{{{number}}}"), &format!("\"{address}\""));
        }
        std::fs::write(self.path("waypost.toml"), text).unwrap();
        self.path("waypost.toml")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}

/// Software that isn't ours on the other end of a TLS session, which makes a call whenever it is asked to.
struct TlsCaller {
    child: Child,
    answers: BufReader<std::process::ChildStdout>,
}

impl TlsCaller {
    fn new(address: SocketAddr, args: &[&str]) -> TlsCaller {
        let mut child = Command::new(lab_python())
            .arg(lab_script("tls_call.py"))
            .args(args)
            .args([&address.to_string(), "server.ping"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let answers = BufReader::new(child.stdout.take().unwrap());
        TlsCaller { child, answers }
    }

    fn answer(&mut self) -> Value {
        let mut line = String::new();
        self.answers.read_line(&mut line).unwrap();
        serde_json::from_str(&line).expect("an answer over TLS")
    }

    fn ask_again(&mut self) -> Value {
        self.child.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
        self.answer()
    }
}

impl Drop for TlsCaller {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn tls_and_websocket_use_certificate_without_identity() {
    let place = Place::new();
    let config = place.config(
        "tcp = [{0}]\ntls = [{1}]\nwss = [{2}]\nws = [{3}]",
        "[identity]\nhost = \"wp.example\"\nssl_port = 50002\n",
    );
    let daemon = Daemon::start(&config);
    let pin = place.path("data/tls-cert.pem");
    for version in ["1.2", "1.3"] {
        let answer = TlsCaller::new(place.addresses[1], &["--tls", version, "--pin", pin.to_str().unwrap()]).answer();
        assert_eq!(answer["tls"], format!("TLSv{version}"));
    }
    for url in [format!("wss://{}/", place.addresses[2]), format!("ws://{}/", place.addresses[3])] {
        let output = Command::new(lab_python())
            .arg(lab_script("tls_call.py"))
            .args(["--ws", &url, "server.peers.subscribe"])
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert_eq!(said.trim(), r#"{"result": []}"#, "{url}: {}", String::from_utf8_lossy(&output.stderr));
    }
    let shown = Command::new("openssl").args(["x509", "-noout", "-text", "-in"]).arg(&pin).output().unwrap();
    let shown = String::from_utf8(shown.stdout).unwrap();
    assert!(shown.contains("CN = localhost") && !shown.contains("wp.example"), "{shown}");

    let first = TlsCaller::new(place.addresses[1], &[]).answer()["certificate"].clone();
    daemon.stop();
    let daemon = Daemon::start(&config);
    assert_eq!(TlsCaller::new(place.addresses[1], &[]).answer()["certificate"], first, "made once");
    daemon.stop();
}

#[test]
fn replaced_certificate_is_loaded_and_sessions_continue() {
    let place = Place::new();
    let data = |name: &str| Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name);
    let install = |name: &str| {
        // The key first: in between, the two don't fit together, and what was read before stays.
        std::fs::copy(data(&format!("{name}.key")), place.path("key.pem")).unwrap();
        std::fs::copy(data(&format!("{name}.pem")), place.path("cert.pem")).unwrap();
    };
    install("v3-ec");
    let config = place.config("tcp = [{0}]\ntls = [{1}]\ncert = \"cert.pem\"\nkey = \"key.pem\"", "");
    let daemon = Daemon::start(&config);
    let mut old = TlsCaller::new(place.addresses[1], &[]);
    let before = old.answer()["certificate"].clone();

    std::fs::write(place.path("cert.pem"), "no certificate").unwrap();
    hang_up(&daemon);
    wait_until(5, "a wrong file is reported", || daemon.log().contains("the certificate from before is kept"));
    let now = || TlsCaller::new(place.addresses[1], &[]).answer()["certificate"].clone();
    assert_eq!(now(), before);

    install("v1-rsa");
    hang_up(&daemon);
    wait_until(5, "the new one is shown", || now() != before);
    assert_eq!(old.ask_again()["certificate"], before, "the old session goes on");
    install("v3-ec");
    wait_until(15, "a changed file is noticed without being told", || now() == before);
    daemon.stop();

    install("v3-ec");
    std::fs::copy(data("other-ec.key"), place.path("key.pem")).unwrap();
    let (output, ok) = support::waypost(&config, &["run", "--log", "off"]);
    assert!(!ok && output.contains("key.pem") && output.contains("isn't that of"), "{output}");
}

#[test]
fn systemd_sockets_replace_listeners_of_their_kind() {
    let place = Place::new();
    let config = place.config("tls = [{0}]", "");
    let activate = |sockets: &[String]| {
        let mut command = Command::new(lab_python());
        command.arg(lab_script("activate.py")).args(sockets).args(["--", env!("CARGO_BIN_EXE_waypost")]);
        command
    };
    let tcp = [format!("tcp={}", place.addresses[1])];
    let daemon = Daemon::start_with(activate(&tcp), &config);
    assert_eq!(call(&place.addresses[1].to_string(), "server.peers.subscribe", json!([])), json!([]));
    let listeners = daemon.status()["listeners"].clone();
    let expected = [format!("tcp://{}", place.addresses[1]), format!("tls://{}", place.addresses[0])];
    assert_eq!(listeners, json!(expected), "what systemd brings replaces that kind alone");
    daemon.stop();
    let output = activate(&[format!("http={}", place.addresses[2])])
        .args(["run", "--log", "off", "--config"])
        .arg(&config)
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && said.contains("\"http\"") && said.contains("FileDescriptorName"), "{said}");
}

#[test]
fn limits_per_source_are_enforced() {
    let place = Place::new();
    let config = place.config(
        "tcp = [{0}]",
        "[limits]\nmax_sessions = 12\nsessions_per_source = 8\nrequests_per_second = 2\nsource_requests_per_second = 10\n",
    );
    let daemon = Daemon::start(&config);
    let server = place.addresses[0];
    let mut first: Vec<TcpStream> = (0..8).map(|_| connect("127.1.0.1", server)).collect();
    first.iter_mut().for_each(|stream| assert!(ask(stream, PEERS)["error"].is_null()));
    assert_eq!(code(&mut connect("127.1.0.9", server)), -102, "the ninth of one /24");
    // Others find room, and when there is none left, the one with most sessions has to give.
    let mut others: Vec<TcpStream> = (2..8).map(|n| connect(&format!("127.{n}.0.1"), server)).collect();
    others.iter_mut().for_each(|stream| assert!(ask(stream, PEERS)["error"].is_null()));
    wait_until(5, "two of the first were disconnected", || daemon.status()["clients"]["evicted"] == 2);
    assert_eq!(daemon.status()["clients"]["open_sessions"], 12);
    assert_eq!(first[0].read(&mut [0; 16]).unwrap_or(0), 0, "the oldest");
    // Six at once is what a session may ask for, further ones wait, and some of a batch of eight would for ever; the source's share
    // is larger.
    (0..6).for_each(|_| assert!(ask(&mut others[0], PEERS)["error"].is_null()));
    assert_eq!(daemon.status()["clients"]["delayed_requests"], 1);
    let batch = format!("[{}]", [r#"{"id":1,"method":"server.ping"}"#; 8].join(","));
    assert_eq!(ask(&mut others[1], &batch)["error"]["code"], -101);
    drop((first, others));
    wait_until(10, "all have left", || daemon.status()["clients"]["open_sessions"] == 0);

    // To call again and again is no way around it.
    let refused = (0..60).filter(|_| code(&mut connect("127.9.0.1", server)) == -101).count();
    assert!(refused > 20, "{refused} of 60");
    let callers = daemon.status()["clients"].clone();
    assert_eq!(callers["refused_source"].as_u64().unwrap(), 1 + u64::try_from(refused).unwrap());
    assert_eq!(callers["panicked_sessions"], 0);
    daemon.stop();
}

#[test]
fn banned_host_is_neither_served_nor_stored() {
    let place = Place::new();
    let config = place.config("tcp = [{0}]", "");
    let daemon = Daemon::start(&config);
    let server = place.addresses[0];
    daemon.waypost(&["add", "a.evil.example.com", "t50001"]);
    assert!(daemon.row("a.evil.example.com").is_object());
    assert!(ask(&mut connect("127.5.0.1", server), PEERS)["error"].is_null());
    daemon.waypost(&["ban", "127.5.0.0/16"]);
    daemon.waypost(&["ban", "*.evil.example.com"]);
    hang_up(&daemon);
    wait_until(10, "the banned are dropped", || daemon.row("a.evil.example.com").is_null());
    assert_eq!(connect("127.5.7.7", server).read(&mut [0; 16]).unwrap_or(0), 0);
    assert!(ask(&mut connect("127.6.0.1", server), PEERS)["error"].is_null());
    let (refused, ok) = support::waypost(&config, &["add", "b.evil.example.com", "t50001"]);
    assert!(!ok && refused.contains("banned"), "{refused}");
    daemon.waypost(&["unban", "127.5.0.0/16"]);
    wait_until(15, "a changed file is noticed without being told", || {
        connect("127.5.0.1", server).write_all(PEERS.as_bytes()).is_ok()
            && daemon.log().matches("read the ban file").count() >= 2
    });
    assert!(ask(&mut connect("127.5.0.1", server), PEERS)["error"].is_null());
    daemon.stop();

    let config = place.config("tcp = [{0}]", "ban_file = \"spies\"\n");
    std::fs::write(place.path("spies"), "fine.example\n256.0.0.1\n").unwrap();
    let (output, ok) = support::waypost(&config, &["run", "--log", "off"]);
    assert!(!ok && output.contains("spies") && output.contains("line 2"), "{output}");
}

#[test]
fn onion_clients_are_distinguished_by_circuit() {
    let place = Place::new();
    let config = place.config("tcp = [{0}]\nonion_tcp = [{1}]", "[limits]\nsessions_per_source = 2\n");
    let daemon = Daemon::start(&config);
    let onion = place.addresses[1];
    let by_circuit = |circuit: u32| {
        let mut stream = connect("127.0.0.1", onion);
        write!(stream, "PROXY TCP6 fc00:dead:beef:4dad::{circuit:x} ::1 65535 50001\r\n").unwrap();
        stream
    };
    let mut held: Vec<TcpStream> = [1, 1, 2, 2].map(by_circuit).into();
    held.iter_mut().for_each(|stream| assert!(ask(stream, PEERS)["error"].is_null()));
    assert_eq!(code(&mut by_circuit(2)), -102);
    // Without such a line nobody can tell, and nobody is held to another's use.
    let mut held: Vec<TcpStream> = (0..5).map(|_| connect("127.0.0.1", onion)).collect();
    held.iter_mut().for_each(|stream| assert!(ask(stream, PEERS)["error"].is_null()));
    daemon.stop();
}

#[test]
fn clients_wait_while_file_descriptors_are_exhausted() {
    let place = Place::new();
    let config = place.config("tcp = [{0}]", "");
    let daemon = Daemon::start(&config);
    let server = place.addresses[0];
    let open = || u64::try_from(std::fs::read_dir(format!("/proc/{}/fd", daemon.id())).unwrap().count()).unwrap();
    let allow = |current: u64| {
        let before = prlimit(Some(pid(&daemon)), Resource::Nofile, Rlimit { current: Some(current), maximum: None });
        // Only root may set the upper limit to none; others leave it.
        before.or_else(|_| {
            let maximum = getrlimit(Resource::Nofile).maximum;
            prlimit(Some(pid(&daemon)), Resource::Nofile, Rlimit { current: Some(current), maximum })
        })
    };
    let before = allow(open() + 3).unwrap();
    let mut callers: Vec<TcpStream> = (0..8).map(|_| connect("127.0.0.1", server)).collect();
    wait_until(5, "it says so", || daemon.log().contains("can't take callers in for the moment"));
    allow(before.current.unwrap()).unwrap();
    callers.iter_mut().for_each(|stream| assert!(ask(stream, PEERS)["error"].is_null()));
    assert!(daemon.log().contains("taking callers in again"));
    assert_eq!(daemon.log().matches("can't take callers in").count(), 1, "once is enough");
    daemon.stop();
}

fn pid(daemon: &Daemon) -> Pid {
    Pid::from_raw(i32::try_from(daemon.id()).unwrap()).unwrap()
}

fn hang_up(daemon: &Daemon) {
    kill_process(pid(daemon), Signal::HUP).unwrap();
}

/// A connection from this address, of which loopback has many.
fn connect(from: &str, to: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::new(from.parse::<IpAddr>().unwrap(), 0).into()).unwrap();
    socket.connect(&to.into()).unwrap();
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    stream
}

fn ask(stream: &mut TcpStream, line: &str) -> Value {
    writeln!(stream, "{line}").unwrap();
    hear(stream)
}

fn hear(stream: &mut TcpStream) -> Value {
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).unwrap();
    serde_json::from_str(&line).unwrap_or_default()
}

/// The error that a caller is met with; 0 where it gets an answer.
fn code(stream: &mut TcpStream) -> i64 {
    let _ = writeln!(stream, "{PEERS}");
    hear(stream)["error"]["code"].as_i64().unwrap_or_default()
}
