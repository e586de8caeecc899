//! The end that asks: what we say to a peer to find out whether it is one.

use data_encoding::HEXLOWER_PERMISSIVE;
use std::borrow::Cow;

use serde::Deserialize;
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::jsonrpc::{self, MAX_PROTOCOL, MIN_PROTOCOL, Response, USER_AGENT};
use crate::peer::{Fault, Features, Host, LenientScalar, PeerList, Ports, ProbeReport};

/// What a peer is held against.
#[derive(Debug, Clone)]
pub struct ProbeExpectations {
    /// The host that was dialled, which the peer must know itself by; None for ourselves, who may not say it yet.
    pub host: Option<Host>,
    pub genesis_hash: &'static str,
    pub default_ports: Ports,
    /// What to tell it of us, should it not list us.
    pub announce: Option<AddPeerOffer>,
    /// The height at which to ask for its block.
    pub compare: Option<u32>,
}

/// Own name, as it is announced to peers.
#[derive(Debug, Clone)]
pub struct AddPeerOffer {
    pub host: Host,
    pub ports: Ports,
    /// With this name alone: not everybody reads further than to the first.
    pub features: Features,
}

/// The questions, in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProbeStep {
    Version,
    /// The same once more, as the first protocol put it.
    LegacyVersion,
    Features,
    Peers,
    /// Only where it doesn't list us.
    Announce,
    Headers,
    /// Which block it has, at a height where it has one.
    Block,
}

/// What to do after a line.
#[derive(Debug)]
pub enum ProberAction {
    Send(Vec<u8>),
    /// That line answered nothing; read on.
    Wait,
    Done(Box<ProbeReport>),
}

/// One conversation with one peer.
#[derive(Debug)]
pub struct Prober {
    expected: ProbeExpectations,
    step: ProbeStep,
    id: u64,
    notifications: u32,
    report: ProbeReport,
}

impl Prober {
    /// Notifications and the like that are let pass.
    const MAX_IGNORED: u32 = 100;

    /// The conversation, and the line that opens it.
    pub fn new(expected: ProbeExpectations) -> (Prober, Vec<u8>) {
        let report = ProbeReport {
            software: None,
            negotiated_version: MIN_PROTOCOL,
            features: None,
            peer_list: PeerList::default(),
            tip_height: None,
            checkpoint: None,
            add_peer_result: None,
        };
        let client = Prober { expected, step: ProbeStep::Version, id: 0, notifications: 0, report };
        let line = client.next_request();
        (client, line)
    }

    /// The question that waits for its answer.
    pub fn step(&self) -> ProbeStep {
        self.step
    }

    pub fn handle_line(&mut self, line: &str) -> Result<ProberAction, Fault> {
        let answer = match jsonrpc::parse_response(line).map_err(|_| Fault::Malformed)? {
            Response::Result { id, result } if id == self.id => Some(result),
            Response::Error { id } if id == self.id => None,
            _ => return self.ignore(),
        };
        match answer {
            Some(result) => self.handle_result(result.get())?,
            // Refusing to say which version is refusing to talk; a server too old to know the rest is still a server.
            None if self.step == ProbeStep::LegacyVersion => return Err(Fault::VersionRefused),
            None if self.step == ProbeStep::Announce => self.report.add_peer_result = Some(false),
            None => {}
        }
        let next = match self.step {
            ProbeStep::Version if answer.is_none() => ProbeStep::LegacyVersion,
            ProbeStep::Version | ProbeStep::LegacyVersion => ProbeStep::Features,
            ProbeStep::Features => ProbeStep::Peers,
            ProbeStep::Peers if self.needs_announcement() => ProbeStep::Announce,
            ProbeStep::Peers | ProbeStep::Announce => ProbeStep::Headers,
            ProbeStep::Headers if self.checkpoint_height().is_some() => ProbeStep::Block,
            ProbeStep::Headers | ProbeStep::Block => return Ok(ProberAction::Done(Box::new(self.report.clone()))),
        };
        self.step = next;
        self.id += 1;
        Ok(ProberAction::Send(self.next_request()))
    }

    fn next_request(&self) -> Vec<u8> {
        let params = match self.step {
            ProbeStep::Version => json!([USER_AGENT, [MIN_PROTOCOL.to_string(), MAX_PROTOCOL.to_string()]]),
            ProbeStep::LegacyVersion => json!([USER_AGENT, MIN_PROTOCOL.to_string()]),
            ProbeStep::Announce => json!(self.expected.announce.iter().map(|ours| &ours.features).collect::<Vec<_>>()),
            ProbeStep::Block => json!([self.checkpoint_height()]),
            _ => json!([]),
        };
        jsonrpc::encode_request(self.id, self.step.method(), &params)
    }

    /// The height at which its chain reaches far enough to be compared.
    fn checkpoint_height(&self) -> Option<u32> {
        self.expected.compare.filter(|height| self.report.tip_height.is_some_and(|tip| *height <= tip))
    }

    /// Whether it has yet to hear of us, with the right ports.
    fn needs_announcement(&self) -> bool {
        let lists = |ours: &AddPeerOffer| {
            self.report
                .peer_list
                .0
                .iter()
                .any(|listed| listed.name.host == ours.host && listed.name.ports == ours.ports)
        };
        self.expected.announce.as_ref().is_some_and(|ours| !lists(ours))
    }

    fn ignore(&mut self) -> Result<ProberAction, Fault> {
        self.notifications += 1;
        if self.notifications > Self::MAX_IGNORED { Err(Fault::ExcessNotifications) } else { Ok(ProberAction::Wait) }
    }

    fn handle_result(&mut self, result: &str) -> Result<(), Fault> {
        let malformed = |_| Fault::Malformed;
        match self.step {
            ProbeStep::Version | ProbeStep::LegacyVersion => self.handle_version(result),
            ProbeStep::Features => {
                let features = serde_json::from_str(result).map_err(malformed)?;
                self.check_features(&features)?;
                self.report.features = Some(features);
                Ok(())
            }
            ProbeStep::Peers => {
                self.report.peer_list = PeerList::parse(result, self.expected.default_ports).map_err(malformed)?;
                Ok(())
            }
            ProbeStep::Announce => {
                // Whatever else it should say, it doesn't say that it took us in.
                self.report.add_peer_result = Some(result == "true");
                Ok(())
            }
            ProbeStep::Block => {
                // Who answers otherwise may well be a server all the same: there is only nothing to compare.
                self.report.checkpoint = self.checkpoint_height().zip(block_hash(result));
                Ok(())
            }
            ProbeStep::Headers => {
                let headers: Headers = jsonrpc::from_object(result).map_err(malformed)?;
                self.report.tip_height = headers.height.number().or_else(|| headers.block_height.number());
                Ok(())
            }
        }
    }

    /// A pair of software and version; in the first protocol the software alone.
    fn handle_version(&mut self, result: &str) -> Result<(), Fault> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum VersionReply {
            Pair(String, String),
            First(String),
        }
        // Longer than any name; and what can be one of two shapes is read into memory whole.
        if result.len() > 1024 {
            return Err(Fault::Malformed);
        }
        let (software, agreed) = match serde_json::from_str(result).map_err(|_| Fault::Malformed)? {
            VersionReply::Pair(software, version) => (software, version.parse().map_err(|_| Fault::Malformed)?),
            VersionReply::First(software) => (software, MIN_PROTOCOL),
        };
        self.report.software = printable(&software);
        self.report.negotiated_version = agreed;
        Ok(())
    }

    fn check_features(&self, features: &Features) -> Result<(), Fault> {
        match &features.genesis_hash {
            Some(hash) if hash != self.expected.genesis_hash => return Err(Fault::WrongGenesis),
            _ => {}
        }
        let knows_itself = self.expected.host.as_ref().is_none_or(|host| features.ports_for(host).is_some());
        if knows_itself { Ok(()) } else { Err(Fault::HostMismatch) }
    }
}

impl ProbeStep {
    pub fn method(self) -> &'static str {
        match self {
            ProbeStep::Version | ProbeStep::LegacyVersion => "server.version",
            ProbeStep::Features => "server.features",
            ProbeStep::Peers => "server.peers.subscribe",
            ProbeStep::Announce => "server.add_peer",
            ProbeStep::Headers => "blockchain.headers.subscribe",
            ProbeStep::Block => "blockchain.block.header",
        }
    }
}

/// The hash of the block whose header this is, in hexadecimal digits.
fn block_hash(result: &str) -> Option<[u8; 32]> {
    const HEADER: usize = 80;
    let header: Cow<'_, str> = serde_json::from_str(result).ok()?;
    let header = HEXLOWER_PERMISSIVE.decode(header.as_bytes()).ok().filter(|header| header.len() == HEADER)?;
    Some(Sha256::digest(Sha256::digest(header)).into())
}

/// Today's `height`, or the first protocol's `block_height`.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Headers {
    height: LenientScalar,
    block_height: LenientScalar,
}

/// A stranger's text on its way to a log and a terminal: short, and without control codes.
fn printable(text: &str) -> Option<String> {
    let text: String = text.chars().filter(|c| !c.is_control()).take(60).collect();
    Some(text.trim().to_owned()).filter(|text| !text.is_empty())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::network::Network;
    use crate::peer::Version;

    const GENESIS: &str = Network::Bitcoin.genesis_hash();

    fn client() -> Prober {
        let host = Some("a.example".parse().unwrap());
        let default_ports = Network::Bitcoin.default_ports();
        Prober::new(ProbeExpectations { host, genesis_hash: GENESIS, default_ports, announce: None, compare: None }).0
    }

    /// Answers each question with the next of `results`, `None` being an error.
    fn converse(results: &[Option<&str>]) -> Result<ProbeReport, Fault> {
        let mut client = client();
        for (id, result) in results.iter().enumerate() {
            let line = match result {
                Some(result) => format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{result}}}"#),
                None => format!(r#"{{"jsonrpc":"2.0","id":{id},"error":{{"code":-32601,"message":"unknown"}}}}"#),
            };
            if let ProberAction::Done(report) = client.handle_line(&line)? {
                return Ok(*report);
            }
        }
        panic!("still at {:?}", client.step());
    }

    const VERSION: Option<&str> = Some(r#"["ElectrumX 2.0.0","1.4"]"#);
    const PEERS: Option<&str> = Some(r#"[["5.9.0.1","b.example",["v1.4","s50002"]]]"#);
    const HEADERS: Option<&str> = Some(r#"{"hex":"00","height":900000}"#);

    fn features(genesis: &str, host: &str) -> String {
        format!(r#"{{"genesis_hash":"{genesis}","hosts":{{"{host}":{{"ssl_port":50002}}}}}}"#)
    }

    #[test]
    fn a_peer_of_today_reports_all() {
        let report = converse(&[VERSION, Some(&features(GENESIS, "A.example")), PEERS, HEADERS]).unwrap();
        assert_eq!(report.software.as_deref(), Some("ElectrumX 2.0.0"));
        assert_eq!(report.negotiated_version, Version::new(1, 4));
        assert_eq!(report.tip_height, Some(900_000));
        assert_eq!(report.peer_list.0.len(), 1);
    }

    #[test]
    fn a_peer_of_the_first_protocol_is_no_worse() {
        let report = converse(&[None, Some(r#""ElectrumServer 1.0""#), None, Some("[]"), None]).unwrap();
        assert_eq!(report.negotiated_version, MIN_PROTOCOL);
        assert_eq!(report.features, None);
        let block = Some(r#"{"block_height":7,"version":1}"#);
        assert_eq!(converse(&[Some(r#""x""#), None, None, block]).unwrap().tip_height, Some(7));
    }

    #[test]
    fn bad_peers_are_found_out() {
        let bad = |results: &[Option<&str>]| converse(results).unwrap_err();
        let other = Network::Testnet4.genesis_hash();
        assert_eq!(bad(&[VERSION, Some(&features(other, "a.example"))]), Fault::WrongGenesis);
        assert_eq!(bad(&[VERSION, Some(&features(GENESIS, "b.example"))]), Fault::HostMismatch);
        assert_eq!(bad(&[VERSION, Some(r#"{"hosts":{}}"#)]), Fault::HostMismatch);
        assert_eq!(bad(&[VERSION, Some("[]")]), Fault::Malformed);
        assert_eq!(bad(&[VERSION, None, Some("{}")]), Fault::Malformed);
        assert_eq!(bad(&[VERSION, None, PEERS, Some("[]")]), Fault::Malformed);
        assert_eq!(bad(&[Some("7")]), Fault::Malformed);
        assert_eq!(bad(&[None, None]), Fault::VersionRefused);
    }

    #[test]
    fn a_missing_genesis_hash_is_forgiven() {
        assert!(converse(&[VERSION, Some("{}"), None, None]).is_ok());
    }

    #[test]
    fn talk_of_other_things_is_let_pass_for_a_while() {
        let mut client = client();
        for _ in 0..Prober::MAX_IGNORED {
            let line = r#"{"method":"blockchain.headers.subscribe","params":[]}"#;
            assert!(matches!(client.handle_line(line), Ok(ProberAction::Wait)));
        }
        assert!(matches!(client.handle_line(r#"{"id":77,"result":1}"#), Err(Fault::ExcessNotifications)));
        assert!(matches!(client.handle_line("nonsense"), Err(Fault::Malformed)));
    }

    #[test]
    fn names_are_made_fit_to_print() {
        assert_eq!(printable("\u{1b}[31mred\n"), Some("[31mred".to_owned()));
        assert_eq!(printable("\r\n"), None);
        assert_eq!(printable(&"x".repeat(500)).unwrap().len(), 60);
    }

    proptest! {
        #[test]
        fn any_line_is_heard_without_panic(lines in proptest::collection::vec("\\PC{0,60}", 0..5), id in 0..3u8) {
            let mut client = client();
            for line in lines {
                let _ = client.handle_line(&line);
                let _ = client.handle_line(&format!("{{\"id\":{id},\"result\":{line}}}"));
            }
        }
    }
}
