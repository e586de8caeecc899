//! Verdicts about every known kind of server, on scripted conversations over loopback.
//!
//! Each file in `tests/data/servers` has the responses of one kind to the requests of a probe, and the verdict about it
//! as a peer and as a seed. `docs/interoperability.md` has a row for each.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::watch;
use waypost::chain::{Chain, ChainParams, Pin as PinnedBlock, PinProof, Retargets, WorkRule, hash_from_hex};
use waypost::connect::{ProbeError, ProbeTarget, Verified};
use waypost::dial::{Dialer, Direct, Isolation, LocalAddresses, Tls};
use waypost::electrum::identity::Identity;
use waypost::electrum::prober::{AddPeerOffer, ChainProof, FeaturesStep, ProbeExpectations, RequestOrder};
use waypost::peer::{Host, Port, Ports, Transport};
use waypost::probe::{Deadlines, probe};
use waypost::route::Route;

/// Block 1 of Bitcoin, which stands for the pinned block and for the tip.
const PIN: &str = "010000006fe28c0ab6f1b372c1a6a246ae63f74f931e8365e15a089c68d6190000000000982051fd1e4ba744bbbe\
    680e1fee14677ba1a3c3540bf7b1cdb606e857233e0e61bc6649ffff001d01e36299";
const PIN_HASH: &str = "00000000839a8e6886ab5951d76f411475428afc90947ee320161bbf18eb6048";

/// The first block of Bitcoin, which stands for the block at the compared height.
const BLOCK: &str = "0100000000000000000000000000000000000000000000000000000000000000000000003ba3edfd7a7b12b2\
    7ac72c3e67768f617fc81bc3888a51323a9fb8aa4b1e5e4a29ab5f49ffff001d1dac2b7c";

const PINNED_HEIGHT: u32 = 1;
const COMPARED_HEIGHT: u32 = 290;
const SHORT: Deadlines = Deadlines { response: Duration::from_millis(400), total: Duration::from_secs(5) };

/// One kind of server.
#[derive(Debug, Deserialize)]
struct Server {
    about: String,
    host: Host,
    /// Response to each request: an object, `"close"` or `"silent"`. Some depend on the parameters.
    responses: BTreeMap<String, Value>,
    as_peer: String,
    as_seed: String,
}

#[tokio::test]
async fn every_kind_of_server_gets_its_verdict() {
    let table = std::fs::read_to_string("docs/interoperability.md").unwrap();
    let servers = servers();
    assert!(servers.len() >= 18, "{}", servers.len());
    for server in servers {
        let [as_peer, as_seed] = [visit(&server, true).await, visit(&server, false).await];
        let verdict = |outcome: &Result<Verified, ProbeError>| match outcome {
            Ok(_) => "verified".to_owned(),
            Err(error) => error.to_string().split(':').next().unwrap_or_default().to_owned(),
        };
        assert_eq!(
            [verdict(&as_peer), verdict(&as_seed)],
            [server.as_peer.clone(), server.as_seed.clone()],
            "{server:?}"
        );
        if let Ok(verified) = &as_seed {
            check_report(&server, verified);
        }
        let row = format!("| {} | {} | {} |\n", server.about, server.as_peer, server.as_seed);
        assert!(table.contains(&row), "docs/interoperability.md lacks {row}");
    }
}

/// Compares what a verified server reports with its responses.
fn check_report(server: &Server, verified: &Verified) {
    let report = &verified.report;
    let version = &server.responses["server.version"]["result"];
    assert_eq!(report.software.as_deref(), version[0].as_str(), "{server:?}");
    let agreed = version[1].as_str().map_or_else(|| version[1].to_string(), str::to_owned);
    assert_eq!(report.negotiated_version.to_string(), agreed, "{server:?}");
    assert_eq!(report.tip_height, Some(300), "{server:?}");
    let features = &server.responses["server.features"];
    assert_eq!(verified.limits.skips_features, features.is_string(), "{server:?}");
    let ports = report.features.as_ref().and_then(|features| features.ports_for(&server.host)).flatten();
    let declared = &features["result"]["hosts"][server.host.to_string()];
    let number = |key: &str| declared[key].as_u64().map(|port| Port::new(port.try_into().unwrap()).unwrap());
    let expected = Ports::new(number("tcp_port"), number("ssl_port"));
    let expected = expected.map(|ports| ports.with_web_sockets(number("ws_port"), number("wss_port")));
    assert_eq!(ports, expected, "{server:?}");
    let listed = server.responses["server.peers.subscribe"]["result"].as_array().unwrap().len();
    assert_eq!(report.peer_list.0.len(), listed, "{server:?}");
    let accepted = &server.responses["server.add_peer"];
    if !accepted.is_string() {
        assert_eq!(report.add_peer_result, Some(accepted["result"] == json!(true)), "{server:?}");
    }
}

/// Probes a server. As a peer, its features must list the dialled host.
async fn visit(server: &Server, is_peer: bool) -> Result<Verified, ProbeError> {
    let address = serve(server.responses.clone());
    let (_found, tor) = watch::channel(None);
    let (direct, announce_from) = (Some(Direct), LocalAddresses::default());
    let dialer = Dialer { tls: Tls::new().unwrap(), direct, tor, isolation: Isolation::Peers, announce_from };
    let endpoint = (Transport::Tcp, Port::new(address.port()).unwrap());
    let target = ProbeTarget::without_extras(server.host.clone(), Route::Direct, vec![address.ip()], vec![endpoint]);
    // Servers that don't respond to an announcement are not asked, as in a second visit.
    let responds = !server.responses["server.add_peer"].is_string();
    let expected = ProbeExpectations {
        host: is_peer.then(|| server.host.clone()),
        chain: early_bitcoin(),
        proof: ChainProof::Required,
        features: FeaturesStep::Included,
        order: RequestOrder::Together,
        announce: responds.then(announcement),
        checkpoint_height: Some(COMPARED_HEIGHT),
        reference: None,
    };
    // Boxed, as the compiler limits the depth of types.
    let probe: Pin<Box<dyn Future<Output = _>>> = Box::pin(probe(&dialer, &target, &expected, SHORT, |_| {}));
    probe.await
}

/// Returns Bitcoin with an early block as its pin, which the servers show.
fn early_bitcoin() -> Chain {
    let hash = hash_from_hex(PIN_HASH).unwrap();
    let pin = PinnedBlock { height: PINNED_HEIGHT, hash, shown_by: PinProof::OwnHeader, min_tip: 200 };
    let work = WorkRule::Followed { bits: 0x1d00_ffff, retargets: Retargets::EveryPeriod };
    Chain::Custom(Arc::new(ChainParams { pin: Some(pin), work, ..(*Chain::BITCOIN).clone() }))
}

fn announcement() -> AddPeerOffer {
    let name = ("own.example".parse().unwrap(), Chain::BITCOIN.default_ports);
    let identity = Identity { clearnet: Some(name), ..Identity::default() };
    let own = identity.clearnet.iter().map(|(host, _)| host).next().unwrap();
    identity.announcement(own).unwrap()
}

fn servers() -> Vec<Server> {
    let mut paths: Vec<_> =
        std::fs::read_dir(Path::new("tests/data/servers")).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.iter().map(|path| serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()).collect()
}

/// Starts a server with these responses. It ends with the test.
fn serve(responses: BTreeMap<String, Value>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let responses = responses.clone();
            thread::spawn(move || converse(stream, &responses));
        }
    });
    address
}

/// Responds to requests until the client leaves, or a response is to close the connection.
fn converse(mut stream: TcpStream, responses: &BTreeMap<String, Value>) {
    let reader = BufReader::new(stream.try_clone().unwrap());
    for line in reader.lines().map_while(Result::ok) {
        let request: Value = serde_json::from_str(&line).unwrap();
        let method = request["method"].as_str().unwrap();
        let response = response(&responses[method], &request["params"]);
        match response.as_str() {
            Some("close") => break,
            Some("silent") => continue,
            _ => {}
        }
        let mut response = response.clone();
        response["id"] = request["id"].clone();
        let text = response.to_string().replace("$PIN", PIN).replace("$TIP", PIN).replace("$BLOCK", BLOCK);
        if stream.write_all(format!("{text}\n").as_bytes()).is_err() {
            break;
        }
    }
    let _ = stream.shutdown(Shutdown::Both);
}

/// Chooses among responses that depend on the parameters: the form of a version, or the height of a block.
fn response<'a>(of_method: &'a Value, params: &Value) -> &'a Value {
    let cases = [
        ("pinned", params[0] == json!(PINNED_HEIGHT)),
        ("compared", params[0] == json!(COMPARED_HEIGHT)),
        ("range", params[1].is_array()),
        ("single", params[1].is_string()),
    ];
    let chosen = cases.into_iter().find(|(key, fits)| *fits && of_method.get(key).is_some());
    chosen.map_or(of_method, |(key, _)| &of_method[key])
}
