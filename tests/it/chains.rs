//! Chains other than Bitcoin: a real Litecoin server, an invented coin, and servers of chains that share a genesis.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::thread;

use bitcoin::hashes::{Hash, sha256};
use data_encoding::HEXLOWER;
use serde_json::{Value, json};
use waypost::chain::Chain;

use crate::support::{
    self, ChildGuard, Daemon, OFFLINE, TestDir, call, hosts, in_namespace, start_electrumx, wait_until,
};

/// Block 1 of Bitcoin, whose hash meets its target. Chains that share its genesis have it.
const BLOCK_1: &str = "010000006fe28c0ab6f1b372c1a6a246ae63f74f931e8365e15a089c68d6190000000000982051fd1e4ba744bbbe\
    680e1fee14677ba1a3c3540bf7b1cdb606e857233e0e61bc6649ffff001d01e36299";

/// Height of all scripted servers.
const TIP: u32 = 970_000;

/// A server that answers each request for a header with the same function of the height.
struct ScriptedServer {
    /// Real name with the port.
    name: String,
    host: String,
    /// Methods that clients requested.
    methods: Arc<Mutex<Vec<String>>>,
}

impl ScriptedServer {
    fn start(host: &str, genesis: &str, tip: u32, header: impl Fn(u32) -> String + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind((host, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let (methods, header) = (Arc::new(Mutex::new(Vec::new())), Arc::new(header));
        let features = json!({
            "genesis_hash": genesis, "hash_function": "sha256", "pruning": null, "protocol_min": "1.4",
            "protocol_max": "1.4.2", "server_version": "Scripted 1", "hosts": { host: { "tcp_port": port } }
        });
        let recorded = Arc::clone(&methods);
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (features, header, methods) = (features.clone(), Arc::clone(&header), Arc::clone(&recorded));
                thread::spawn(move || converse(&stream, &features, tip, &*header, &methods));
            }
        });
        ScriptedServer { name: format!("{host} t{port}"), host: host.to_owned(), methods }
    }

    fn received(&self, method: &str) -> bool {
        self.methods.lock().unwrap().iter().any(|received| received == method)
    }
}

fn converse(
    mut stream: &TcpStream,
    features: &Value,
    tip: u32,
    header: &dyn Fn(u32) -> String,
    methods: &Mutex<Vec<String>>,
) -> Option<()> {
    for line in BufReader::new(stream).lines() {
        let request: Value = serde_json::from_str(&line.ok()?).ok()?;
        let method = request["method"].as_str()?;
        methods.lock().unwrap().push(method.to_owned());
        let result = match method {
            "server.version" => json!(["Scripted 1", "1.4.2"]),
            "server.features" => features.clone(),
            "server.peers.subscribe" => json!([]),
            "blockchain.headers.subscribe" => json!({ "height": tip, "hex": header(tip) }),
            "blockchain.block.header" => json!(header(u32::try_from(request["params"][0].as_u64()?).ok()?)),
            _ => Value::Null,
        };
        writeln!(stream, "{}", json!({ "jsonrpc": "2.0", "id": request["id"], "result": result })).ok()?;
    }
    None
}

/// Starts a daemon with these settings and seeds.
fn start_daemon(dir: &TestDir, chain: &str, servers: &[&ScriptedServer]) -> Daemon {
    let seeds: Vec<_> = servers.iter().map(|server| &server.name).collect();
    dir.configure_tcp("");
    let config = format!(
        "{chain}\n[listen]\ntcp = [\"{}\"]\n[tor]\nmode = \"off\"\n[discovery]\nallow_private = true\nseeds = {}\n",
        dir.address,
        json!(seeds)
    );
    // Keys outside of sections come first in a file.
    let path = dir.config();
    std::fs::write(&path, format!("data_dir = {:?}\n{config}", dir.data())).unwrap();
    Daemon::start(&path)
}

fn is_probed(daemon: &Daemon, host: &str) -> bool {
    let row = daemon.row(host);
    !row["error"].is_null() || !row["last_success"].is_null()
}

#[test]
fn servers_of_chains_with_the_same_genesis_are_rejected_at_the_first_visit() {
    let genesis = &*Chain::BITCOIN.genesis_hash;
    assert_eq!(genesis, Chain::BITCOIN_CASH.genesis_hash);
    let cash = ScriptedServer::start("127.44.0.1", genesis, TIP, |_| BLOCK_1.to_owned());
    let longer = ScriptedServer::start("127.44.0.2", genesis, TIP, |_| format!("{BLOCK_1}{}", "00".repeat(84)));
    for network in ["bitcoin", "bitcoin-cash"] {
        let dir = TestDir::new();
        let daemon = start_daemon(&dir, &format!("network = \"{network}\""), &[&cash, &longer]);
        for server in [&cash, &longer] {
            wait_until(30, "the server is visited", || is_probed(&daemon, &server.host));
            let row = daemon.row(&server.host);
            assert!(row["last_success"].is_null() && row["state"] != "verified", "{network}: {row}");
            assert!(row["error"].as_str().unwrap().contains("chain"), "{network}: {row}");
        }
        assert_eq!(hosts(&dir.address.to_string()).len(), 0, "{network}");
        daemon.stop();
    }
    // The work of the header satisfies Bitcoin Cash, where only the pinned block is missing.
    assert!([&cash, &longer].iter().all(|server| server.received("blockchain.block.header")));
}

/// Headers of a coin with 100 bytes, hashed with another function.
fn invented_headers(seed: u8, tip: usize) -> Vec<Vec<u8>> {
    let mut headers: Vec<Vec<u8>> = Vec::new();
    for height in 0..=tip {
        let previous = headers.last().map_or([0; 32], |header| block_hash(header));
        // The branches have five blocks in common.
        let branch = if height < 5 { 0 } else { seed };
        let mut header = [&1_u32.to_le_bytes()[..], &previous, &[branch; 60]].concat();
        header.extend(u32::try_from(height).unwrap().to_le_bytes());
        headers.push(header);
    }
    headers
}

fn block_hash(header: &[u8]) -> [u8; 32] {
    sha256::Hash::hash(header).to_byte_array()
}

/// Returns a hash as explorers show it.
fn displayed(header: &[u8]) -> String {
    let mut hash = block_hash(header);
    hash.reverse();
    HEXLOWER.encode(&hash)
}

#[test]
fn invented_coin_is_described_in_ten_lines() {
    let (real, other) = (invented_headers(1, 120), invented_headers(2, 120));
    let genesis = displayed(&real[0]);
    assert_eq!(genesis, displayed(&other[0]));
    let chain = format!(
        "network = \"examplecoin\"\n[chain]\ngenesis_hash = \"{genesis}\"\ntcp_port = 51011\nssl_port = 51012\n\
         pin = \"50:{}\"\nmin_tip = 100\nheader = \"whole\"\nwork = \"none\"\n",
        displayed(&real[50])
    );
    assert!(chain.lines().count() <= 10);
    let start = |host: &str, tip: u32, headers: &[Vec<u8>]| {
        let headers: Vec<_> = headers.iter().map(|header| HEXLOWER.encode(header)).collect();
        ScriptedServer::start(host, &genesis, tip, move |height| headers[height as usize].clone())
    };
    let good = [start("127.45.0.1", 120, &real), start("127.45.1.1", 119, &real)];
    let bad = [start("127.45.2.1", 120, &other), start("127.45.3.1", 99, &real)];
    let dir = TestDir::new();
    let daemon = start_daemon(&dir, &chain, &[&good[0], &good[1], &bad[0], &bad[1]]);
    for server in &good {
        wait_until(30, "the server is verified", || daemon.row(&server.host)["state"] == "verified");
    }
    for server in &bad {
        wait_until(30, "the server is visited", || is_probed(&daemon, &server.host));
        let row = daemon.row(&server.host);
        assert!(row["last_success"].is_null(), "another branch, and a server that is syncing: {row}");
    }
    let expected = good.iter().map(|server| server.host.clone()).collect();
    wait_until(20, "both are advertised", || hosts(&dir.address.to_string()) == expected);
    assert_eq!(daemon.status()["network"], "examplecoin");
    let features = call(&dir.address.to_string(), "server.features", json!([]));
    assert_eq!(features["genesis_hash"], genesis);
    // The ports of the coin are those of bare letters.
    daemon.waypost(&["add", "127.45.9.1 s t"]);
    let ports = daemon.row("127.45.9.1");
    assert_eq!((&ports["tcp_port"], &ports["ssl_port"]), (&json!(51011), &json!(51012)), "{ports}");
    daemon.stop();

    let unprotected = chain.lines().filter(|line| !line.starts_with("pin") && !line.starts_with("min_tip"));
    let path = dir.path("unprotected.toml");
    std::fs::write(&path, unprotected.map(|line| format!("{line}\n")).collect::<String>()).unwrap();
    let output = support::binary(&["check-config", "--config", path.to_str().unwrap()]).output().unwrap();
    let warnings = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success() && warnings.contains("chain.pin is not set"), "{warnings}");
}

/// Port of litecoind's RPC server.
const LITECOIN_RPC: u16 = 19_443;

/// Starts a node of Litecoin's regtest with 120 blocks.
fn start_litecoind(dir: &Path) -> ChildGuard {
    let data = format!("-datadir={}", dir.display());
    std::fs::create_dir(dir).unwrap();
    let mut command = Command::new("litecoind");
    let network = ["-listen=0", "-dnsseed=0", "-connect=0", "-txindex", "-server", "-rpcuser=u", "-rpcpassword=p"];
    command.args(["-regtest", &data, &format!("-rpcport={LITECOIN_RPC}")]).args(network);
    let log = std::fs::File::create(dir.join("log")).unwrap();
    command.stdout(log.try_clone().unwrap()).stderr(log);
    let node = ChildGuard::spawn(&mut command);
    let cli = |args: &[&str]| {
        let login = ["-rpcuser=u", "-rpcpassword=p"];
        let mut command = Command::new("litecoin-cli");
        command.args(["-regtest", &data, &format!("-rpcport={LITECOIN_RPC}")]).args(login).args(args);
        command.output().unwrap()
    };
    wait_until(60, "litecoind answers", || cli(&["getblockcount"]).status.success());
    let mined = cli(&["generatetoaddress", "120", "mfWxJ45yp2SFn7UciZyNpvDKrzbhyfKrY8"]);
    assert!(mined.status.success(), "{mined:?}");
    node
}

/// The server is ElectrumX, and its node litecoind of Debian.
#[test]
fn litecoin_server_is_verified_advertised_and_used_as_backend() {
    if !in_namespace(litecoin_server_is_verified_advertised_and_used_as_backend, &[]) {
        return;
    }
    let dir = TestDir::new();
    let node = start_litecoind(&dir.path("litecoin"));
    let url = format!("DAEMON_URL=http://u:p@127.0.0.1:{LITECOIN_RPC}");
    let report = "tcp://ex1.example.com:51001,ssl://ex1.example.com:51002";
    let coin = ["COIN=Litecoin", "NET=regtest", &url, "PEER_DISCOVERY=off", "PEER_ANNOUNCE="];
    start_electrumx(&dir.path("ex"), &[&["ex1", "5.9.0.1", report], &coin[..]].concat());
    let config = |seeds: &str| {
        format!(
            "network = \"litecoin-regtest\"\ndata_dir = {:?}\n[listen]\ntcp = [\"{}\"]\n[tor]\nmode = \"off\"\n\
             [discovery]\nseeds = [{seeds}]\n[backend]\nelectrum = \"tcp://5.9.0.1:51001\"\n",
            dir.data(),
            dir.address
        )
    };
    std::fs::write(dir.config(), config("\"ex1.example.com s t\"")).unwrap();
    let daemon = Daemon::start(&dir.config());
    wait_until(60, "the server is verified", || daemon.row("ex1.example.com")["state"] == "verified");
    let waypost = dir.address.to_string();
    wait_until(20, "the server is advertised", || hosts(&waypost).contains("ex1.example.com"));
    wait_until(60, "the backend is known", || daemon.status()["backend"]["tip"] == 120);
    let tip = call(&waypost, "blockchain.headers.subscribe", json!([]));
    assert_eq!((&tip["height"], tip["hex"].as_str().unwrap().len()), (&json!(120), 160));
    let header = call(&waypost, "blockchain.block.header", json!([0]));
    assert_eq!(header, call("5.9.0.1:51001", "blockchain.block.header", json!([0])));
    let features = call(&waypost, "server.features", json!([]));
    assert_eq!(features["genesis_hash"], json!(Chain::LITECOIN_REGTEST.genesis_hash));
    daemon.stop();

    // A node of another chain neither accepts the server as backend nor as peer.
    let (bitcoin, other) = (TestDir::new(), "\"ex1.example.com s51002 t51001\"");
    bitcoin.configure_tcp(&OFFLINE.replace("[]", &format!("[{other}]")));
    let daemon = bitcoin.start();
    wait_until(60, "the server is visited", || is_probed(&daemon, "ex1.example.com"));
    let row = daemon.row("ex1.example.com");
    assert!(row["error"].as_str().unwrap().contains("genesis"), "{row}");
    daemon.stop();
    drop(node);
}
