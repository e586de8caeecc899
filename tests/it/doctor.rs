//! `waypost doctor`: each fault is found, and the advice names its remedy.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};

use crate::support::{self, Daemon, Lab, OFFLINE, TestDir, lab_script, wait_until};
use crate::tor_ports::lab_client;

const NAME: &str = "wp.example.com";
const MISSING_ONION: &str = "explorerzydxu5ecjrkwceayqybizmpjjznk5izmitf2modhcusuqlid.onion";
const REGTEST_GENESIS: &str = "0f9188f13cb7b2c71f2a335e3a4fc328bf5beb436012afca590b1a11466e2206";

/// Findings of one run.
struct Findings(Vec<Value>);

impl Findings {
    /// Runs `doctor` and checks that its exit code agrees with its findings.
    fn of(config: &Path) -> Findings {
        Findings::run(Command::new(env!("CARGO_BIN_EXE_waypost")), config)
    }

    /// Runs `doctor` through a command that takes its arguments and executes it.
    fn run(mut command: Command, config: &Path) -> Findings {
        command.args(["doctor", "--json", "--config"]).arg(config).env("WAYPOST_STATUS__LISTEN", "off");
        let output = command.stdin(Stdio::null()).output().unwrap();
        let report: Value = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)));
        let findings = Findings(report["findings"].as_array().unwrap().clone());
        println!("{findings}");
        let has_failure = findings.0.iter().any(|finding| finding["level"] == "failure");
        assert_eq!(output.status.code(), Some(i32::from(has_failure)), "{findings}");
        assert_eq!(report["outcome"] == "failure", has_failure);
        for finding in &findings.0 {
            assert_eq!(finding["level"] == "ok", finding["advice"].is_null(), "problems have advice: {finding}");
        }
        findings
    }

    /// Returns whether a finding has this subject and level, and all these words in text and advice.
    fn has(&self, subject: &str, level: &str, words: &[&str]) -> bool {
        self.0.iter().any(|finding| {
            let text = format!("{} {}", finding["text"], finding["advice"]);
            finding["subject"] == subject && finding["level"] == level && words.iter().all(|word| text.contains(word))
        })
    }

    #[track_caller]
    fn assert_has(&self, subject: &str, level: &str, words: &[&str]) {
        assert!(self.has(subject, level, words), "no {level} of {subject} with {words:?}:\n{self}");
    }

    /// Returns the number of failures of a subject.
    fn failures(&self, subject: &str) -> usize {
        self.0.iter().filter(|finding| finding["subject"] == subject && finding["level"] == "failure").count()
    }
}

impl std::fmt::Display for Findings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|finding| writeln!(f, "{finding}"))
    }
}

/// Returns a command that runs the program with this line in the hosts file.
fn with_hosts_entry(address: &str) -> Command {
    let mut command = Command::new(lab_script("split-horizon.sh"));
    command.arg(format!("{address} {NAME}")).arg(env!("CARGO_BIN_EXE_waypost"));
    command
}

#[test]
fn doctor_of_a_sound_node_finds_no_failure() {
    let dir = TestDir::new();
    let config = dir.configure_tcp(&format!(
        "{OFFLINE}allow_private = true\n[identity]\nhost = \"127.0.0.1\"\ntcp_port = {}\n",
        dir.address.port()
    ));
    let daemon = Daemon::start(&config);
    let findings = Findings::of(&config);
    for subject in ["configuration", "files", "clock", "disk", "descriptors", "daemon", "tor"] {
        assert!(findings.0.iter().any(|finding| finding["subject"] == subject), "{subject}:\n{findings}");
    }
    findings.assert_has("clearnet_name", "ok", &["TCP port", "answers"]);
    assert!(!findings.0.iter().any(|finding| finding["level"] == "failure"), "{findings}");
    daemon.stop();

    let findings = Findings::of(&config);
    findings.assert_has("daemon", "warning", &["no daemon answers", "waypost run"]);
    findings.assert_has("clearnet_name", "failure", &["connection refused", "daemon runs"]);
}

#[test]
fn doctor_reports_an_invalid_configuration() {
    let dir = TestDir::new();
    let findings = Findings::of(&dir.configure("[discovery]\nrechek_interval = \"1h\"\n"));
    findings.assert_has("configuration", "failure", &["rechek_interval"]);
    assert_eq!(findings.0.len(), 1);
    std::fs::write(dir.path("bans"), "not a host!\n").unwrap();
    let findings = Findings::of(&dir.configure(&format!("{OFFLINE}ban_file = {:?}\n", dir.path("bans"))));
    findings.assert_has("configuration", "failure", &["bans", "line 1"]);
}

#[test]
fn doctor_finds_a_closed_port() {
    let dir = TestDir::new();
    let closed = support::free_address().port();
    let config = dir.configure_tcp(&format!(
        "{OFFLINE}allow_private = true\n[identity]\nhost = \"127.0.0.1\"\ntcp_port = {}\nssl_port = {closed}\n",
        dir.address.port()
    ));
    let daemon = Daemon::start(&config);
    let findings = Findings::of(&config);
    findings.assert_has("clearnet_name", "ok", &[&format!("TCP port {}", dir.address.port())]);
    findings.assert_has("clearnet_name", "failure", &[&format!("TLS port {closed}"), "refused", "router"]);
    daemon.stop();
}

#[test]
fn doctor_finds_wrong_and_private_addresses_in_dns() {
    if !support::in_namespace(doctor_finds_wrong_and_private_addresses_in_dns, &[]) {
        return;
    }
    let dir = TestDir::new();
    let configure = |identity: &str| {
        dir.configure(&format!(
            "{OFFLINE}[listen]\ntcp = [\"127.0.0.1:50001\"]\n[identity]\nhost = \"{NAME}\"\ntcp_port = 50001\n{identity}"
        ))
    };
    let config = configure("");
    let daemon = Daemon::start(&config);
    // Another machine's address, where nothing listens.
    let findings = Findings::run(with_hosts_entry("88.99.0.2"), &config);
    findings.assert_has("clearnet_name", "failure", &["TCP port 50001", "88.99.0.2", "refused", "DNS record"]);
    let findings = Findings::run(with_hosts_entry("192.168.1.5"), &config);
    findings.assert_has("clearnet_name", "failure", &["192.168.1.5", "not public", "DNS record"]);
    let findings = Findings::run(with_hosts_entry("127.0.1.1"), &config);
    findings.assert_has("clearnet_name", "failure", &["127.0.1.1", "identity.address"]);
    let config = configure("address = \"5.9.0.9\"\n");
    let findings = Findings::run(with_hosts_entry("88.99.0.2"), &config);
    findings.assert_has("clearnet_name", "failure", &["88.99.0.2", "identity.address is 5.9.0.9", "DNS record"]);
    daemon.stop();
}

#[test]
fn doctor_finds_a_tor_without_the_service_or_without_isolation() {
    if !support::in_namespace(doctor_finds_a_tor_without_the_service_or_without_isolation, &[]) {
        return;
    }
    let dir = TestDir::new();
    let lab = Lab::start(dir.root());
    let _tor = lab_client(
        &lab,
        &dir.path("client"),
        7100,
        "SocksPort 127.0.0.1:7001\nSocksPort 127.0.0.1:7002 NoIsolateSOCKSAuth",
    );
    let (peer, own) = (lab.read("tor/onion-1"), lab.read("tor/onion-2"));
    let configure = |onion: &str, port: u16| {
        dir.configure(&format!(
            "[listen]\ntcp = [\"127.0.0.1:50001\"]\nonion_tcp = [\"127.0.0.1:50011\"]\nonion_port = 50001\n\
             [identity]\nonion_host = \"{onion}\"\n[tor]\nmode = \"socks\"\nsocks = \"127.0.0.1:{port}\"\n\
             [discovery]\nseeds = [\"{peer} t50001\"]\n"
        ))
    };
    let config = configure(MISSING_ONION, 7001);
    let daemon = Daemon::start(&config);
    let findings = Findings::of(&config);
    findings.assert_has("tor", "ok", &["onion peer accepts a connection"]);
    findings.assert_has("tor", "ok", &["different circuits"]);
    findings.assert_has("onion_name", "failure", &[MISSING_ONION, "not found", "HiddenServiceDir"]);
    daemon.stop();

    let config = configure(&own, 7002);
    let daemon = Daemon::start(&config);
    let findings = Findings::of(&config);
    findings.assert_has("tor", "failure", &["share circuits", "NoIsolateSOCKSAuth"]);
    findings.assert_has("onion_name", "ok", &[&own, "port 50001"]);
    daemon.stop();
    // The service exists, but nothing listens behind it.
    let findings = Findings::of(&config);
    findings.assert_has("onion_name", "failure", &[&own, "HiddenServicePort"]);

    let unused = configure(&own, support::free_address().port());
    Findings::of(&unused).assert_has("tor", "failure", &["no answer", "tor.socks"]);
}

#[test]
fn doctor_finds_a_backend_on_another_chain() {
    let dir = TestDir::new();
    let server = Daemon::start(&dir.configure_tcp(OFFLINE));
    let front = support::free_address();
    let write = |network: &str, backend: SocketAddr| {
        let path = dir.path("front.toml");
        let text = format!(
            "network = \"{network}\"\ndata_dir = {:?}\n{OFFLINE}[listen]\ntcp = [\"{front}\"]\n\
             [backend]\nelectrum = \"tcp://{backend}\"\n",
            dir.path("front")
        );
        std::fs::write(&path, text).unwrap();
        path
    };
    let findings = Findings::of(&write("signet", dir.address));
    findings.assert_has("backend", "failure", &["another chain than signet", "network"]);
    let findings = Findings::of(&write("regtest", dir.address));
    findings.assert_has("backend", "ok", &["regtest", "protocol"]);
    assert_eq!(findings.failures("backend"), 0, "{findings}");
    let findings = Findings::of(&write("regtest", support::free_address()));
    findings.assert_has("backend", "failure", &["connection refused", "backend.electrum"]);
    server.stop();
}

#[test]
fn doctor_finds_peers_that_refuse_to_list_the_node() {
    let dir = TestDir::new();
    let accepts = Arc::new(AtomicBool::new(false));
    let peer = start_peer(Arc::clone(&accepts));
    let config = dir.configure_tcp(&format!(
        "[tor]\nmode = \"off\"\n[discovery]\nseeds = [\"{} t{}\"]\nallow_private = true\n\
         [identity]\nhost = \"127.0.0.1\"\ntcp_port = {}\nannounce = true\n",
        peer.ip(),
        peer.port(),
        dir.address.port()
    ));
    let daemon = Daemon::start(&config);
    wait_until(30, "the peer is verified", || daemon.row("127.0.0.2")["state"] == "verified");
    wait_until(30, "the own name is reached", || daemon.status()["clearnet"]["last_reached"].is_u64());
    let findings = Findings::of(&config);
    findings.assert_has("listings", "failure", &["127.0.0.2", "refuses to list 127.0.0.1", "identity.bind"]);
    findings.assert_has("listings", "warning", &["listed by 0 of 1"]);
    accepts.store(true, Ordering::Relaxed);
    let findings = Findings::of(&config);
    findings.assert_has("listings", "ok", &["127.0.0.2", "accepts 127.0.0.1"]);
    assert_eq!(findings.failures("listings"), 0, "{findings}");
    daemon.stop();
    // Without a daemon, seeds would be asked, but the own name is not reachable then.
    let findings = Findings::of(&config);
    findings.assert_has("listings", "warning", &["not reachable"]);
}

/// Starts a peer that lists no other server, and accepts announcements as long as `accepts` is true.
fn start_peer(accepts: Arc<AtomicBool>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.2:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let accepts = Arc::clone(&accepts);
            std::thread::spawn(move || converse(stream, address, &accepts));
        }
    });
    address
}

fn converse(mut stream: TcpStream, own: SocketAddr, accepts: &AtomicBool) {
    for line in BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok) {
        let request: Value = serde_json::from_str(&line).unwrap();
        let result = match request["method"].as_str().unwrap() {
            "server.version" => json!(["Scripted 1.0", "1.4"]),
            "server.features" => json!({
                "hosts": { own.ip().to_string(): { "tcp_port": own.port() } }, "genesis_hash": REGTEST_GENESIS,
                "protocol_min": "1.4", "protocol_max": "1.4", "hash_function": "sha256", "pruning": null,
            }),
            "server.peers.subscribe" => json!([]),
            "server.add_peer" => json!(accepts.load(Ordering::Relaxed)),
            _ => Value::Null,
        };
        let reply = match result {
            Value::Null => {
                json!({ "jsonrpc": "2.0", "id": request["id"], "error": { "code": -32601, "message": "no" } })
            }
            result => json!({ "jsonrpc": "2.0", "id": request["id"], "result": result }),
        };
        if writeln!(stream, "{reply}").is_err() {
            return;
        }
    }
}
