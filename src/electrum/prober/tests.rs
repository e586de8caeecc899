use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::chain::{Chain, ChainParams, HeaderRule, PinProof, Retargets, WorkRule, hash_from_hex};
use crate::peer::Version;

const GENESIS: &str = "000000000019d6689c085ae165831e934ff763ae46a2a6c172b3f1b60a8ce26f";

fn expectations() -> ProbeExpectations {
    let host = Some("a.example".parse().unwrap());
    ProbeExpectations {
        host,
        chain: Chain::BITCOIN,
        proof: ChainProof::NotRequired,
        features: FeaturesStep::Included,
        order: RequestOrder::Together,
        announce: None,
        checkpoint_height: None,
        reference: None,
    }
}

/// Answers the requests with results in this order: version, the version again if the first is refused, features, peers,
/// tip, pinned block, compared block. `None` is an error, as are missing ones.
fn run(results: &[Option<&str>]) -> Result<ProbeReport, Fault> {
    Ok(run_prober(expectations(), results)?.unwrap())
}

/// Returns the report; `None` if the peer is unproven.
fn run_prober(expected: ProbeExpectations, results: &[Option<&str>]) -> Result<Option<ProbeReport>, Fault> {
    let refuses_version = results.first().is_some_and(Option::is_none);
    let result_of = |step| {
        let index = match step {
            ProbeStep::Version => 0,
            ProbeStep::LegacyVersion => 1,
            ProbeStep::Features => 1 + usize::from(refuses_version),
            ProbeStep::Peers => 2 + usize::from(refuses_version),
            ProbeStep::Headers => 3 + usize::from(refuses_version),
            ProbeStep::Pin => 4,
            ProbeStep::Block => 5,
            ProbeStep::Announce | ProbeStep::Chain => return None,
        };
        results.get(index).copied().flatten().map(str::to_owned)
    };
    converse(expected, result_of, |responses| responses).map(|(report, _)| report)
}

/// Answers all requests, those of one turn in the order that `reorder` returns. Returns the report, and the number of
/// turns.
fn converse(
    expected: ProbeExpectations,
    result_of: impl Fn(ProbeStep) -> Option<String>,
    reorder: impl Fn(Vec<String>) -> Vec<String>,
) -> Result<(Option<ProbeReport>, usize), Fault> {
    let (mut prober, _) = Prober::new(expected);
    for turn in 1..20 {
        let response = |(id, step): &(u64, ProbeStep)| match result_of(*step) {
            Some(result) => format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{result}}}"#),
            None => format!(r#"{{"jsonrpc":"2.0","id":{id},"error":{{"code":-32601,"message":"unknown"}}}}"#),
        };
        let responses = reorder(prober.pending.iter().map(response).collect());
        assert!(!responses.is_empty());
        for line in responses {
            match prober.handle_line(&line)? {
                ProberAction::Done(report) => return Ok((Some(*report), turn)),
                ProberAction::Unproven => return Ok((None, turn)),
                ProberAction::Send(_) | ProberAction::Wait => {}
            }
        }
    }
    panic!("still waits for {:?}", prober.pending);
}

const VERSION: Option<&str> = Some(r#"["ElectrumX 2.0.0","1.4"]"#);
const PEERS: Option<&str> = Some(r#"[["5.9.0.1","b.example",["v1.4","s50002"]]]"#);
const HEADERS: Option<&str> = Some(r#"{"hex":"00","height":900000}"#);

fn features(genesis: &str, host: &str) -> String {
    format!(r#"{{"genesis_hash":"{genesis}","hosts":{{"{host}":{{"ssl_port":50002}}}}}}"#)
}

#[test]
fn current_peer_reports_all_fields() {
    let report = run(&[VERSION, Some(&features(GENESIS, "A.example")), PEERS, HEADERS]).unwrap();
    assert_eq!(report.software.as_deref(), Some("ElectrumX 2.0.0"));
    assert_eq!(report.negotiated_version, Version::new(1, 4));
    assert_eq!(report.tip_height, Some(900_000));
    assert_eq!(report.peer_list.0.len(), 1);
}

#[test]
fn peer_of_the_first_protocol_is_verified() {
    let report = run(&[None, Some(r#""ElectrumServer 1.0""#), None, Some("[]"), None]).unwrap();
    assert_eq!(report.negotiated_version, MIN_PROTOCOL);
    assert_eq!(report.features, None);
    let block = Some(r#"{"block_height":7,"version":1}"#);
    assert_eq!(run(&[Some(r#""x""#), None, None, block]).unwrap().tip_height, Some(7));
}

#[test]
fn skipped_features_are_not_requested() {
    let mut expected = expectations();
    expected.features = FeaturesStep::Skipped;
    let report = run_prober(expected, &[VERSION, Some(&features(GENESIS, "a.example")), PEERS, HEADERS]);
    let report = report.unwrap().unwrap();
    assert_eq!((report.features, report.tip_height), (None, Some(900_000)));
}

#[test]
fn version_may_be_a_number() {
    let report = run(&[Some(r#"["ElectrumPersonalServer 0.2.4",1.4]"#), None, None, None]).unwrap();
    assert_eq!(report.negotiated_version, Version::new(1, 4));
}

#[test]
fn requested_range_includes_protocol_1_7() {
    let (_, line) = Prober::new(expectations());
    assert!(String::from_utf8(line).unwrap().contains(r#"["1.0","1.7"]"#));
    let features = r#"{"hosts":{"a.example":{}},"protocol_max":"1.7.0","method_flavours":{"x":[1]}}"#;
    let (mut prober, _) = Prober::new(expectations());
    let version = prober.handle_line(r#"{"id":0,"result":["ElectrumX 2.0.0","1.7.0"]}"#);
    assert!(matches!(version, Ok(ProberAction::Wait)));
    assert!(matches!(prober.handle_line(&format!(r#"{{"id":3,"result":{features}}}"#)), Ok(ProberAction::Wait)));
    assert_eq!(prober.answered(), Some(ProbeStep::Features));
    // Protocol 1.7 adds notifications without meaning, and leaves out `hash_function`. A ping is no response, even
    // under the id of the pending request.
    for line in [
        r#"{"jsonrpc":"2.0","method":"server.ping","params":["00"]}"#,
        r#"{"jsonrpc":"2.0","id":2,"method":"server.ping","params":[2]}"#,
    ] {
        assert!(matches!(prober.handle_line(line), Ok(ProberAction::Wait)), "{line}");
        assert_eq!(prober.answered(), None, "{line}");
    }
}

/// Requests that need no earlier response, as a pair of the results and the number of turns.
#[test]
fn verification_takes_one_turn_in_any_order_of_responses() {
    let offer = AddPeerOffer {
        host: "own.example".parse().unwrap(),
        ports: Chain::BITCOIN.default_ports,
        features: Features::default(),
    };
    let tip = format!(r#"{{"hex":"{BLOCK_1}","height":300}}"#);
    let result_of = |step| match step {
        ProbeStep::Version => VERSION.map(str::to_owned),
        ProbeStep::Features => Some(features(GENESIS, "a.example")),
        ProbeStep::Peers => PEERS.map(str::to_owned),
        ProbeStep::Headers => Some(tip.clone()),
        ProbeStep::Pin => Some(format!("\"{BLOCK_1}\"")),
        ProbeStep::Block => Some(format!("\"{GENESIS_HEADER}\"")),
        ProbeStep::Announce => Some("true".to_owned()),
        ProbeStep::LegacyVersion | ProbeStep::Chain => None,
    };
    let visit = |order, announce: Option<AddPeerOffer>, checkpoint_height, is_reversed: bool| {
        let mut expected = expectations();
        expected.chain = Chain::Custom(Arc::new(early_bitcoin()));
        expected.proof = ChainProof::Required;
        expected.checkpoint_height = checkpoint_height;
        (expected.order, expected.announce) = (order, announce);
        let reorder = |mut responses: Vec<String>| {
            if is_reversed {
                responses.reverse();
            }
            responses
        };
        let (report, turns) = converse(expected, result_of, reorder).unwrap();
        let report = report.unwrap();
        assert!(report.features.is_some() && report.checkpoint.is_some() && report.tip_height == Some(300));
        (turns, report.add_peer_result)
    };
    for is_reversed in [false, true] {
        assert_eq!(visit(RequestOrder::Together, None, Some(200), is_reversed), (1, None));
        assert_eq!(visit(RequestOrder::Together, None, Some(400), is_reversed), (2, None), "a block below the tip");
        assert_eq!(visit(RequestOrder::Together, Some(offer.clone()), None, is_reversed), (2, Some(true)));
    }
    assert_eq!(visit(RequestOrder::OneByOne, Some(offer), Some(400), false), (8, Some(true)));
}

/// Some servers refuse all requests until they have answered the version.
#[test]
fn request_refused_before_the_version_is_sent_again() {
    let (mut prober, lines) = Prober::new(expectations());
    assert_eq!(lines.iter().filter(|byte| **byte == b'\n').count(), 4);
    let refusal = |id: u64| format!(r#"{{"id":{id},"error":{{"code":1,"message":"use server.version first"}}}}"#);
    for id in [2, 1] {
        assert!(matches!(prober.handle_line(&refusal(id)), Ok(ProberAction::Wait)));
    }
    let Ok(ProberAction::Send(again)) = prober.handle_line(r#"{"id":0,"result":["x","1.4"]}"#) else { panic!("sent") };
    let again = String::from_utf8(again).unwrap();
    assert!(again.contains("headers.subscribe") && again.contains("peers.subscribe"), "{again}");
    assert_eq!(again.lines().count(), 2);
    // An error after the version is final, also for a request that was sent with it.
    assert!(matches!(prober.handle_line(&refusal(3)), Ok(ProberAction::Wait)));
    assert!(matches!(prober.handle_line(r#"{"id":4,"result":{"height":7}}"#), Ok(ProberAction::Wait)));
    let Ok(ProberAction::Done(report)) = prober.handle_line(&refusal(5)) else { panic!("done") };
    assert_eq!((report.tip_height, report.features), (Some(7), None));
}

/// A server without the pinned block may be of another chain, whose operators have no interest in the name.
#[test]
fn unproven_peer_is_not_told_the_own_name() {
    let mut expected = expectations();
    expected.chain = Chain::Custom(Arc::new(early_bitcoin()));
    expected.proof = ChainProof::Required;
    let (host, ports) = ("own.example".parse().unwrap(), Chain::BITCOIN.default_ports);
    expected.announce = Some(AddPeerOffer { host, ports, features: Features::default() });
    let tip = format!(r#"{{"hex":"{BLOCK_1}","height":300}}"#);
    let result_of = |step| match step {
        ProbeStep::Version => VERSION.map(str::to_owned),
        ProbeStep::Headers => Some(tip.clone()),
        ProbeStep::Peers => PEERS.map(str::to_owned),
        ProbeStep::Announce => panic!("announced"),
        _ => None,
    };
    assert_eq!(converse(expected, result_of, |responses| responses).unwrap(), (None, 1));
}

#[test]
fn violating_peer_is_rejected() {
    let fault = |results: &[Option<&str>]| run(results).unwrap_err();
    let other = Chain::TESTNET4;
    assert_eq!(fault(&[VERSION, Some(&features(&other.genesis_hash, "a.example"))]), Fault::WrongGenesis);
    assert_eq!(fault(&[VERSION, Some(&features(GENESIS, "b.example"))]), Fault::HostMismatch);
    assert_eq!(fault(&[VERSION, Some(r#"{"hosts":{}}"#)]), Fault::NoHosts);
    assert_eq!(fault(&[VERSION, Some("{}")]), Fault::NoHosts);
    assert_eq!(fault(&[VERSION, Some(r#"{"hosts":null}"#)]), Fault::NoHosts);
    assert_eq!(fault(&[VERSION, Some("[]")]), Fault::Malformed);
    assert_eq!(fault(&[VERSION, None, Some("{}")]), Fault::Malformed);
    assert_eq!(fault(&[VERSION, None, PEERS, Some("[]")]), Fault::Malformed);
    assert_eq!(fault(&[Some("7")]), Fault::Malformed);
    for version in ["1.8", "2.0", "0.10"] {
        assert_eq!(fault(&[Some(&format!(r#"["x","{version}"]"#))]), Fault::VersionNotRequested, "{version}");
    }
    assert_eq!(fault(&[None, None]), Fault::VersionRefused);
}

const GENESIS_HEADER: &str = "0100000000000000000000000000000000000000000000000000000000000000000000003ba3edfd7a7b12b2\
    7ac72c3e67768f617fc81bc3888a51323a9fb8aa4b1e5e4a29ab5f49ffff001d1dac2b7c";
const BLOCK_1: &str = "010000006fe28c0ab6f1b372c1a6a246ae63f74f931e8365e15a089c68d6190000000000982051fd1e4ba744bbbe\
    680e1fee14677ba1a3c3540bf7b1cdb606e857233e0e61bc6649ffff001d01e36299";

/// Hash of [`BLOCK_1`].
const BLOCK_1_HASH: &str = "00000000839a8e6886ab5951d76f411475428afc90947ee320161bbf18eb6048";

/// Returns Bitcoin with the block after genesis as its pin.
fn early_bitcoin() -> ChainParams {
    let hash = hash_from_hex(BLOCK_1_HASH).unwrap();
    let pin = Pin { height: 1, hash, shown_by: PinProof::OwnHeader, min_tip: 200 };
    let work = WorkRule::Followed { bits: 0x1d00_ffff, retargets: Retargets::EveryPeriod };
    ChainParams { pin: Some(pin), work, ..(*Chain::BITCOIN).clone() }
}

/// Returns whether a peer with this tip and these headers at the pinned and the compared height is verified.
fn proves(tip_height: u32, tip: &str, headers: &[Option<&str>]) -> bool {
    report_on(early_bitcoin(), tip_height, tip, headers).is_some()
}

/// Returns the report on a peer with such headers; `None` if it is unproven.
fn report_on(chain: ChainParams, tip_height: u32, tip: &str, headers: &[Option<&str>]) -> Option<ProbeReport> {
    let mut expected = expectations();
    expected.chain = Chain::Custom(Arc::new(chain));
    (expected.proof, expected.checkpoint_height) = (ChainProof::Required, Some(300));
    let tip = format!(r#"{{"hex":"{tip}","height":{tip_height}}}"#);
    let quoted: Vec<Option<String>> = headers.iter().map(|hex| hex.map(|hex| format!("\"{hex}\""))).collect();
    let headers: Vec<Option<&str>> = quoted.iter().map(Option::as_deref).collect();
    let results = [&[VERSION, None, PEERS, Some(tip.as_str())], headers.as_slice()].concat();
    run_prober(expected, &results).unwrap()
}

#[test]
fn only_complete_headers_with_work_prove_the_chain() {
    let invented = BLOCK_1.replace("01e36299", "02e36299");
    let extended = format!("{BLOCK_1}{}", "00".repeat(84));
    let pin = Some(BLOCK_1);
    assert!(proves(300, BLOCK_1, &[pin, Some(GENESIS_HEADER)]), "the book compares the block");
    assert!(proves(250, BLOCK_1, &[pin, Some(GENESIS_HEADER)]), "a peer below the compared height shows another block");
    for (tip_height, tip) in [(300, extended.as_str()), (300, &invented), (300, ""), (199, BLOCK_1)] {
        assert!(!proves(tip_height, tip, &[]), "tip {tip_height}: {tip}");
    }
    for header in [Some(GENESIS_HEADER), Some(&extended), Some(&invented), Some("00"), None] {
        assert!(!proves(300, BLOCK_1, &[header]), "Bitcoin Cash, longer headers, errors: {header:?}");
    }
    for header in [Some(extended.as_str()), Some(&invented), Some("00"), None] {
        assert!(!proves(300, BLOCK_1, &[pin, header]), "at the compared height: {header:?}");
    }
}

/// Work is not checked where blocks have another hash function. Then only the pin and the other peers decide.
#[test]
fn header_rule_and_pin_of_the_chain_decide() {
    let bitcoin = early_bitcoin();
    let merged = format!("{BLOCK_1}{}", "07".repeat(900));
    let first80 = ChainParams { header: HeaderRule::First80, work: WorkRule::Unchecked, ..bitcoin.clone() };
    let shown = |chain: &ChainParams, header: &str| {
        let headers = [Some(header), Some(header)];
        report_on(chain.clone(), 300, header, &headers).and_then(|report| report.checkpoint)
    };
    assert!(shown(&first80, BLOCK_1).is_some());
    assert_eq!(shown(&first80, &merged), shown(&first80, BLOCK_1), "some servers cut off the proof of merged mining");
    assert_eq!(shown(&bitcoin, &merged), None);

    let genesis = hash_from_hex(GENESIS).unwrap();
    let pin = Pin { height: 0, hash: genesis, shown_by: PinProof::NextHeader, min_tip: 1 };
    let whole = ChainParams { header: HeaderRule::Whole, work: WorkRule::Unchecked, pin: Some(pin), ..bitcoin };
    assert!(shown(&whole, &merged).is_some() && shown(&whole, &merged) != shown(&whole, BLOCK_1));
    assert_eq!(shown(&whole, GENESIS_HEADER), None, "the header does not contain the pinned hash");
    let own_target = ChainParams { work: WorkRule::OwnTarget, ..whole };
    assert!(shown(&own_target, BLOCK_1).is_some());
    assert_eq!(shown(&own_target, &BLOCK_1.replace("01e36299", "02e36299")), None, "without work");
}

#[test]
fn missing_genesis_hash_is_accepted() {
    assert!(run(&[VERSION, Some(r#"{"hosts":{"a.example":{}}}"#), None, None]).is_ok());
}

#[test]
fn excess_notifications_are_rejected() {
    let (mut prober, _) = Prober::new(expectations());
    for _ in 0..Prober::MAX_IGNORED_LINES {
        let line = r#"{"method":"blockchain.headers.subscribe","params":[]}"#;
        assert!(matches!(prober.handle_line(line), Ok(ProberAction::Wait)));
    }
    assert!(matches!(prober.handle_line(r#"{"id":77,"result":1}"#), Err(Fault::ExcessNotifications)));
    assert!(matches!(prober.handle_line("nonsense"), Err(Fault::Malformed)));
}

proptest! {
    #[test]
    fn arbitrary_line_never_panics(lines in proptest::collection::vec("\\PC{0,60}", 0..5), id in 0..3u8) {
        let (mut prober, _) = Prober::new(expectations());
        for line in lines {
            let _ = prober.handle_line(&line);
            let _ = prober.handle_line(&format!("{{\"id\":{id},\"result\":{line}}}"));
        }
    }
}
