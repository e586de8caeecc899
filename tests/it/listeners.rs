//! TLS, WebSocket, inherited sockets, limits and bans, with clients of other implementations.

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{ChildStdout, Command, Stdio};

use crate::support::{
    self, ChildGuard, Daemon, OFFLINE, TestClient, TestDir, call, lab_python, lab_script, wait_until,
};
use rustix::process::{Resource, Rlimit, getrlimit, prlimit};
use serde_json::{Value, json};

/// Directory with the configuration of an offline daemon, and free addresses.
struct ListenerDir {
    dir: TestDir,
    addresses: Vec<SocketAddr>,
}

impl ListenerDir {
    fn new() -> ListenerDir {
        ListenerDir { dir: TestDir::new(), addresses: (0..5).map(|_| support::free_address()).collect() }
    }

    /// Writes a configuration with keys of `[listen]` and further sections. `{0}` to `{4}` stand for the addresses.
    fn configure(&self, listen: &str, rest: &str) -> PathBuf {
        let mut text = format!("[listen]\n{listen}\n{OFFLINE}{rest}");
        for (number, address) in self.addresses.iter().enumerate() {
            text = text.replace(&format!("{{{number}}}"), &format!("\"{address}\""));
        }
        self.dir.configure(&text)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path(name)
    }
}

/// TLS client of another implementation, which sends a request on demand.
struct TlsClient {
    process: ChildGuard,
    responses: BufReader<ChildStdout>,
}

impl TlsClient {
    fn connect(address: SocketAddr, args: &[&str]) -> TlsClient {
        let mut child = Command::new(lab_python())
            .arg(lab_script("tls_call.py"))
            .args(args)
            .args([&address.to_string(), "server.ping"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let responses = BufReader::new(child.stdout.take().unwrap());
        TlsClient { process: ChildGuard(child), responses }
    }

    fn receive(&mut self) -> Value {
        let mut line = String::new();
        self.responses.read_line(&mut line).unwrap();
        serde_json::from_str(&line).expect("a response over TLS")
    }

    fn request(&mut self) -> Value {
        self.process.0.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
        self.receive()
    }
}

/// Connects and returns the hash of the server's certificate.
fn certificate_hash(address: SocketAddr) -> Value {
    TlsClient::connect(address, &[]).receive()["certificate"].clone()
}

#[test]
fn tls_and_websocket_use_certificate_without_identity() {
    let dir = ListenerDir::new();
    let config = dir.configure(
        "tcp = [{0}]\ntls = [{1}]\nwss = [{2}]\nws = [{3}]",
        "[identity]\nhost = \"wp.example\"\nssl_port = 50002\n",
    );
    let daemon = Daemon::start(&config);
    let pin = dir.path("data/tls-cert.pem");
    for version in ["1.2", "1.3"] {
        let answer =
            TlsClient::connect(dir.addresses[1], &["--tls", version, "--pin", pin.to_str().unwrap()]).receive();
        assert_eq!(answer["tls"], format!("TLSv{version}"));
    }
    for url in [format!("wss://{}/", dir.addresses[2]), format!("ws://{}/", dir.addresses[3])] {
        let output = Command::new(lab_python())
            .arg(lab_script("tls_call.py"))
            .args(["--ws", &url, "server.peers.subscribe"])
            .output()
            .unwrap();
        let stdout = String::from_utf8_lossy(&output.stdout);
        assert_eq!(stdout.trim(), r#"{"result": []}"#, "{url}: {}", String::from_utf8_lossy(&output.stderr));
    }
    let output = Command::new("openssl").args(["x509", "-noout", "-text", "-in"]).arg(&pin).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("CN = localhost") && !text.contains("wp.example"), "{text}");

    let first = certificate_hash(dir.addresses[1]);
    daemon.stop();
    let daemon = Daemon::start(&config);
    assert_eq!(certificate_hash(dir.addresses[1]), first, "created once");
    daemon.stop();
}

#[test]
fn replaced_certificate_is_loaded_and_sessions_continue() {
    let dir = ListenerDir::new();
    let data = |name: &str| support::repository("tests/data").join(name);
    let install = |name: &str| {
        // While the two files do not match, the previous certificate is kept.
        std::fs::copy(data(&format!("{name}.key")), dir.path("key.pem")).unwrap();
        std::fs::copy(data(&format!("{name}.pem")), dir.path("cert.pem")).unwrap();
    };
    install("v3-ec");
    let config = dir.configure("tcp = [{0}]\ntls = [{1}]\ncert = \"cert.pem\"\nkey = \"key.pem\"", "");
    let daemon = Daemon::start(&config);
    let mut old = TlsClient::connect(dir.addresses[1], &[]);
    let before = old.receive()["certificate"].clone();

    std::fs::write(dir.path("cert.pem"), "no certificate").unwrap();
    daemon.send_hangup();
    wait_until(5, "the wrong file is reported", || daemon.log().contains("the previous certificate is kept"));
    let now = || certificate_hash(dir.addresses[1]);
    assert_eq!(now(), before);

    install("v1-rsa");
    daemon.send_hangup();
    wait_until(5, "the new certificate is used", || now() != before);
    assert_eq!(old.request()["certificate"], before, "the old session continues");
    install("v3-ec");
    wait_until(15, "the changed file is read without a signal", || now() == before);
    daemon.stop();

    install("v3-ec");
    std::fs::copy(data("other-ec.key"), dir.path("key.pem")).unwrap();
    let (output, ok) = support::waypost(&config, &["run", "--log", "off"]);
    assert!(!ok && output.contains("key.pem") && output.contains("isn't that of"), "{output}");
}

#[test]
fn systemd_sockets_replace_listeners_of_their_kind() {
    let dir = ListenerDir::new();
    let config = dir.configure("tls = [{0}]", "");
    let activate = |sockets: &[String]| {
        let mut command = Command::new(lab_python());
        command.arg(lab_script("activate.py")).args(sockets).args(["--", env!("CARGO_BIN_EXE_waypost")]);
        command
    };
    let tcp = [format!("tcp={}", dir.addresses[1])];
    let daemon = Daemon::start_with(activate(&tcp), &config);
    assert_eq!(call(&dir.addresses[1].to_string(), "server.peers.subscribe", json!([])), json!([]));
    let listeners = daemon.status()["listeners"].clone();
    let expected = [format!("tcp://{}", dir.addresses[1]), format!("tls://{}", dir.addresses[0])];
    assert_eq!(listeners, json!(expected), "inherited sockets replace the listeners of their kind only");
    daemon.stop();
    let output = activate(&[format!("http={}", dir.addresses[2])])
        .args(["run", "--log", "off", "--config"])
        .arg(&config)
        .output()
        .unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(
        !output.status.success() && stderr.contains("\"http\"") && stderr.contains("FileDescriptorName"),
        "{stderr}"
    );
}

#[test]
fn limits_per_source_are_enforced() {
    let dir = ListenerDir::new();
    let config = dir.configure(
        "tcp = [{0}]",
        "[limits]\nmax_sessions = 12\nsessions_per_source = 8\nrequests_per_second = 2\nsource_requests_per_second = 10\n",
    );
    let daemon = Daemon::start(&config);
    let server = dir.addresses[0];
    let mut first: Vec<TestClient> = (0..8).map(|_| TestClient::connect_from("127.1.0.1", server)).collect();
    first.iter_mut().for_each(|client| assert!(client.is_served()));
    assert_eq!(TestClient::connect_from("127.1.0.9", server).error_code(), -102, "the ninth session of a /24");
    // Other sources are admitted. At the limit, the source with most sessions loses one.
    let mut others: Vec<TestClient> =
        (2..8).map(|n| TestClient::connect_from(&format!("127.{n}.0.1"), server)).collect();
    others.iter_mut().for_each(|client| assert!(client.is_served()));
    wait_until(5, "two of the first sessions were evicted", || daemon.status()["clients"]["evicted"] == 2);
    assert_eq!(daemon.status()["clients"]["open_sessions"], 12);
    assert!(first[0].is_closed(), "the oldest session was evicted");
    // A session has a burst of six requests. Further requests wait, and a batch of eight never fits. The limit of the
    // source is higher.
    (0..6).for_each(|_| assert!(others[0].is_served()));
    assert_eq!(daemon.status()["clients"]["delayed_requests"], 1);
    let batch = format!("[{}]", [r#"{"id":1,"method":"server.ping"}"#; 8].join(","));
    assert_eq!(others[1].request(&batch)["error"]["code"], -101);
    drop((first, others));
    wait_until(10, "all sessions have ended", || daemon.status()["clients"]["open_sessions"] == 0);

    // Reconnecting does not evade the limit.
    let refused = (0..60).filter(|_| TestClient::connect_from("127.9.0.1", server).error_code() == -101).count();
    assert!(refused > 20, "{refused} of 60");
    let counters = daemon.status()["clients"].clone();
    assert_eq!(counters["refused_source"].as_u64().unwrap(), 1 + u64::try_from(refused).unwrap());
    assert_eq!(counters["panicked_sessions"], 0);
    daemon.stop();
}

#[test]
fn banned_host_is_neither_served_nor_stored() {
    let dir = ListenerDir::new();
    let config = dir.configure("tcp = [{0}]", "");
    let daemon = Daemon::start(&config);
    let server = dir.addresses[0];
    daemon.waypost(&["add", "a.evil.example.com", "t50001"]);
    assert!(daemon.row("a.evil.example.com").is_object());
    assert!(TestClient::connect_from("127.5.0.1", server).is_served());
    daemon.waypost(&["ban", "127.5.0.0/16"]);
    daemon.waypost(&["ban", "*.evil.example.com"]);
    daemon.send_hangup();
    wait_until(10, "the banned peer is removed", || daemon.row("a.evil.example.com").is_null());
    assert!(TestClient::connect_from("127.5.7.7", server).is_closed());
    assert!(TestClient::connect_from("127.6.0.1", server).is_served());
    let (refused, ok) = support::waypost(&config, &["add", "b.evil.example.com", "t50001"]);
    assert!(!ok && refused.contains("banned"), "{refused}");
    daemon.waypost(&["unban", "127.5.0.0/16"]);
    wait_until(15, "the changed file is read without a signal", || {
        daemon.log().matches("read the ban list").count() >= 2
    });
    wait_until(5, "the unbanned client is served", || TestClient::connect_from("127.5.0.1", server).is_served());
    daemon.stop();

    let config = dir.configure("tcp = [{0}]", "ban_file = \"spies\"\n");
    std::fs::write(dir.path("spies"), "fine.example\n256.0.0.1\n").unwrap();
    let (output, ok) = support::waypost(&config, &["run", "--log", "off"]);
    assert!(!ok && output.contains("spies") && output.contains("line 2"), "{output}");
}

#[test]
fn onion_clients_are_distinguished_by_circuit() {
    let dir = ListenerDir::new();
    let config = dir.configure("tcp = [{0}]\nonion_tcp = [{1}]", "[limits]\nsessions_per_source = 2\n");
    let daemon = Daemon::start(&config);
    let onion = dir.addresses[1];
    let by_circuit = |circuit: u32| {
        let mut client = TestClient::connect(onion);
        client.send(&format!("PROXY TCP6 fc00:dead:beef:4dad::{circuit:x} ::1 65535 50001\r\n"));
        client
    };
    let mut held: Vec<TestClient> = [1, 1, 2, 2].map(by_circuit).into();
    held.iter_mut().for_each(|client| assert!(client.is_served()));
    assert_eq!(by_circuit(2).error_code(), -102);
    // Without the PROXY header, the limit per source does not apply to the onion listener.
    let mut held: Vec<TestClient> = (0..5).map(|_| TestClient::connect(onion)).collect();
    held.iter_mut().for_each(|client| assert!(client.is_served()));
    daemon.stop();
}

#[test]
fn clients_wait_while_file_descriptors_are_exhausted() {
    let dir = ListenerDir::new();
    let config = dir.configure("tcp = [{0}]", "");
    let daemon = Daemon::start(&config);
    let server = dir.addresses[0];
    let open = || u64::try_from(std::fs::read_dir(format!("/proc/{}/fd", daemon.id())).unwrap().count()).unwrap();
    let allow = |current: u64| {
        let before = prlimit(Some(daemon.pid()), Resource::Nofile, Rlimit { current: Some(current), maximum: None });
        // Only root may lift the hard limit; other users keep it.
        before.or_else(|_| {
            let maximum = getrlimit(Resource::Nofile).maximum;
            prlimit(Some(daemon.pid()), Resource::Nofile, Rlimit { current: Some(current), maximum })
        })
    };
    let before = allow(open() + 3).unwrap();
    let mut clients: Vec<TestClient> = (0..8).map(|_| TestClient::connect(server)).collect();
    wait_until(5, "the exhaustion is logged", || daemon.log().contains("can't accept connections; retrying"));
    allow(before.current.unwrap()).unwrap();
    clients.iter_mut().for_each(|client| assert!(client.is_served()));
    assert!(daemon.log().contains("accepting connections again"));
    assert_eq!(daemon.log().matches("can't accept connections").count(), 1, "logged once");
    daemon.stop();
}
