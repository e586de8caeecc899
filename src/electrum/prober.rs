//! Requests to a peer that verify it, and the checks of its responses.

mod expectations;
mod header_responses;
mod step;

use std::borrow::Cow;
use std::collections::VecDeque;

use serde::Deserialize;
use serde_json::json;

pub use self::expectations::{AddPeerOffer, ChainProof, FeaturesStep, ProbeExpectations, RequestOrder};
use self::header_responses::{TipResponse, block_headers};
pub use self::step::ProbeStep;
use crate::block_header::BlockHeader;
use crate::book::height_to_compare;
use crate::chain::{Pin, ShownHeader};
use crate::connect::ProbeReport;
use crate::header_chain::{HeaderSync, SyncStep};
use crate::jsonrpc::{self, MAX_PROTOCOL, MAX_SOFTWARE_CHARS, MIN_PROTOCOL, Response, USER_AGENT};
use crate::peer::{Fault, Features, PeerList, Ports, foreign_text};

/// What the driver does after a line.
#[derive(Debug)]
pub enum ProberAction {
    /// Send these lines.
    Send(Vec<u8>),
    /// Read another line.
    Wait,
    /// The peer is verified.
    Done(Box<ProbeReport>),
    /// The peer answered, but did not prove that it serves the chain.
    Unproven,
}

/// Requests whose responses are all awaited before the next ones are chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The version, and all that needs no earlier response.
    Facts,
    /// The announcement to a peer whose chain is proven, and a block below its tip.
    Followup,
    /// The headers up to its tip.
    Headers,
}

/// What follows after a stage.
enum Next {
    Requests(Vec<ProbeStep>),
    Done,
    Unproven,
}

/// State machine of a conversation with one peer.
#[derive(Debug)]
pub struct Prober {
    expected: ProbeExpectations,
    stage: Stage,
    /// Requests of the stage that are not sent yet.
    queued: VecDeque<ProbeStep>,
    /// Requests without a response, with their ids.
    pending: Vec<(u64, ProbeStep)>,
    /// Number of requests that were sent at the last time.
    sent_together: usize,
    /// Whether the peer has answered the version.
    has_version: bool,
    /// Requests with an error before the version was answered, to be sent again after it.
    refused_early: Vec<ProbeStep>,
    next_id: u64,
    /// Request that the last line answered; `None` if it was no response.
    answered: Option<ProbeStep>,
    ignored_lines: u32,
    report: ProbeReport,
    /// Header of the peer's tip, with the work that is required.
    tip: Option<ShownHeader>,
    /// Height of the last requested block; `None` before the first.
    block_height: Option<u32>,
    /// Whether the peer showed the pinned block.
    shows_pin: bool,
    /// Comparison of the tip with the known chain, and the next request; `None` before it starts.
    sync: Option<(HeaderSync, SyncStep)>,
}

impl Prober {
    /// Maximum number of lines that are ignored.
    const MAX_IGNORED_LINES: u32 = 100;

    /// Starts a conversation and returns its first lines.
    ///
    /// The version is the first of them, which is all that the protocol requires: servers apply it to the others.
    pub fn new(expected: ProbeExpectations) -> (Prober, Vec<u8>) {
        let report = ProbeReport {
            software: None,
            negotiated_version: MIN_PROTOCOL,
            features: None,
            peer_list: PeerList::default(),
            tip_height: None,
            checkpoint: None,
            standing: None,
            add_peer_result: None,
        };
        let mut prober = Prober {
            block_height: expected.checkpoint_height,
            expected,
            stage: Stage::Facts,
            queued: VecDeque::from([ProbeStep::Version]),
            pending: Vec::new(),
            sent_together: 0,
            has_version: false,
            refused_early: Vec::new(),
            next_id: 0,
            answered: None,
            ignored_lines: 0,
            report,
            tip: None,
            shows_pin: false,
            sync: None,
        };
        prober.queued.extend(prober.fact_requests());
        let lines = prober.send_queued();
        (prober, lines)
    }

    /// Returns the request that the last line answered; `None` if it was no response.
    pub fn answered(&self) -> Option<ProbeStep> {
        self.answered
    }

    /// Returns the requests without a response.
    pub fn unanswered(&self) -> impl ExactSizeIterator<Item = ProbeStep> {
        self.pending.iter().map(|(_, step)| *step)
    }

    /// Returns how many requests were sent at the last time.
    pub fn sent_together(&self) -> usize {
        self.sent_together
    }

    /// Handles a line of the peer, and returns the next action or the violation.
    pub fn handle_line(&mut self, line: &str) -> Result<ProberAction, Fault> {
        self.answered = None;
        let (id, result) = match jsonrpc::parse_response(line).map_err(|_| Fault::Malformed)? {
            Response::Result { id, result } => (id, Some(result)),
            Response::Error { id } => (id, None),
            _ => return self.ignore(),
        };
        let Some(index) = self.pending.iter().position(|(pending, _)| *pending == id) else { return self.ignore() };
        let (_, step) = self.pending.remove(index);
        self.answered = Some(step);
        match result {
            Some(result) => self.handle_result(step, result.get())?,
            None => self.handle_error(step)?,
        }
        while self.pending.is_empty() && self.queued.is_empty() {
            match self.next_stage()? {
                Next::Requests(steps) => self.queued.extend(steps),
                Next::Done => return Ok(ProberAction::Done(Box::new(self.report.clone()))),
                Next::Unproven => return Ok(ProberAction::Unproven),
            }
        }
        let lines = self.send_queued();
        Ok(if lines.is_empty() { ProberAction::Wait } else { ProberAction::Send(lines) })
    }

    /// Handles an error. Only the version is mandatory, since an old server may not know the other methods.
    fn handle_error(&mut self, step: ProbeStep) -> Result<(), Fault> {
        match step {
            ProbeStep::Version => self.queued.push_front(ProbeStep::LegacyVersion),
            ProbeStep::LegacyVersion => return Err(Fault::VersionRefused),
            ProbeStep::Announce => self.report.add_peer_result = Some(false),
            ProbeStep::Chain => self.sync = None,
            ProbeStep::Features | ProbeStep::Peers | ProbeStep::Headers | ProbeStep::Pin | ProbeStep::Block => {
                // The server may refuse everything until it knows the version.
                if !self.has_version {
                    self.refused_early.push(step);
                }
            }
        }
        Ok(())
    }

    /// Returns what follows after the last response of a stage.
    fn next_stage(&mut self) -> Result<Next, Fault> {
        let needs_proof = self.required_pin().is_some();
        match self.stage {
            Stage::Facts if needs_proof && (self.tip.is_none() || !self.shows_pin) => Ok(Next::Unproven),
            Stage::Facts => {
                self.stage = Stage::Followup;
                let announcement = self.needs_announcement().then_some(ProbeStep::Announce);
                Ok(Next::Requests(announcement.into_iter().chain(self.lower_block()).collect()))
            }
            Stage::Followup if needs_proof && self.report.checkpoint.is_none() => Ok(Next::Unproven),
            Stage::Followup => {
                self.stage = Stage::Headers;
                self.start_sync()
            }
            Stage::Headers => Ok(self.continue_sync()),
        }
    }

    /// Returns the requests that need no earlier response.
    fn fact_requests(&self) -> Vec<ProbeStep> {
        let mut steps = vec![ProbeStep::Peers, ProbeStep::Headers];
        steps.extend(self.required_pin().map(|_| ProbeStep::Pin));
        steps.extend(self.block_height.map(|_| ProbeStep::Block));
        // Last, so that all others are answered by a server that closes the connection at it.
        steps.extend((self.expected.features == FeaturesStep::Included).then_some(ProbeStep::Features));
        steps
    }

    /// Returns the request for a block that a peer below the compared height has, if a proof is required.
    fn lower_block(&mut self) -> Option<ProbeStep> {
        let tip = self.report.tip_height;
        if tip.is_some_and(|tip| self.block_height.is_some_and(|height| height <= tip)) {
            return None;
        }
        self.report.checkpoint = None;
        self.block_height = self.required_pin().and(tip).map(height_to_compare);
        self.block_height.map(|_| ProbeStep::Block)
    }

    /// Compares the tip with the known chain.
    fn start_sync(&mut self) -> Result<Next, Fault> {
        let tip = self.tip.as_ref().and_then(|tip| BlockHeader::from_bytes(tip.basic_bytes()));
        let (Some(reference), Some(height), Some(tip)) = (self.expected.reference.clone(), self.report.tip_height, tip)
        else {
            // Without a pin, a peer that shows no header is only not compared.
            return Ok(Next::Done);
        };
        match HeaderSync::start(reference, height, &tip) {
            Ok(started) => {
                self.sync = Some(started);
                Ok(self.continue_sync())
            }
            Err(error) => error.fault().map_or(Ok(Next::Unproven), Err),
        }
    }

    /// Requests more headers, or ends with the position of the tip.
    fn continue_sync(&mut self) -> Next {
        match &self.sync {
            Some((_, SyncStep::Request { .. })) => Next::Requests(vec![ProbeStep::Chain]),
            Some((_, SyncStep::Done(standing))) => {
                self.report.standing = Some(standing.clone());
                Next::Done
            }
            // The peer did not deliver the headers that it claims.
            None => Next::Unproven,
        }
    }

    /// Handles the response to `blockchain.block.headers`.
    fn handle_headers(&mut self, headers: &[BlockHeader]) -> Result<(), Fault> {
        let Some((mut sync, _)) = self.sync.take() else { return Ok(()) };
        match sync.on_headers(headers) {
            Ok(step) => self.sync = Some((sync, step)),
            Err(error) => error.fault().map_or(Ok(()), Err)?,
        }
        Ok(())
    }

    /// Encodes the requests that may be sent now, each as a line.
    fn send_queued(&mut self) -> Vec<u8> {
        let mut lines = Vec::new();
        while self.expected.order == RequestOrder::Together || self.pending.is_empty() {
            let Some(step) = self.queued.pop_front() else { break };
            lines.extend(jsonrpc::encode_request(self.next_id, step.method(), &self.params(step)));
            self.pending.push((self.next_id, step));
            self.next_id += 1;
        }
        if !lines.is_empty() {
            self.sent_together = self.pending.len();
        }
        lines
    }

    fn params(&self, step: ProbeStep) -> serde_json::Value {
        match step {
            ProbeStep::Version => json!([USER_AGENT, [MIN_PROTOCOL.to_string(), MAX_PROTOCOL.to_string()]]),
            ProbeStep::LegacyVersion => json!([USER_AGENT, MIN_PROTOCOL.to_string()]),
            ProbeStep::Announce => {
                json!(self.expected.announce.iter().map(|offer| &offer.features).collect::<Vec<_>>())
            }
            ProbeStep::Pin => json!([self.required_pin().map(|pin| pin.header_height())]),
            ProbeStep::Block => json!([self.block_height]),
            ProbeStep::Chain => match &self.sync {
                Some((_, SyncStep::Request { start, count })) => json!([start, count]),
                _ => json!([]),
            },
            ProbeStep::Features | ProbeStep::Peers | ProbeStep::Headers => json!([]),
        }
    }

    /// Returns the pin that the peer must show; `None` if nothing is required.
    fn required_pin(&self) -> Option<Pin> {
        self.expected.chain.pin.filter(|_| self.expected.proof == ChainProof::Required)
    }

    /// Returns whether a tip is recent enough, and has the work of its height.
    fn is_tip_proven(&self, height: u32, header: &ShownHeader) -> bool {
        self.required_pin().is_none_or(|pin| height >= pin.min_tip) && self.has_work(height, header)
    }

    /// Returns whether a header after the pin has the work of its height. Without a pin, none is required.
    fn has_work(&self, height: u32, header: &ShownHeader) -> bool {
        let Some(blocks_after_pin) = self.required_pin().and_then(|pin| height.checked_sub(pin.height)) else {
            return true;
        };
        let (rule, header) = (self.expected.chain.work, BlockHeader::from_bytes(header.basic_bytes()));
        header.is_some_and(|header| header.has_work(rule, blocks_after_pin))
    }

    /// Whether the peer does not list the own name with the current ports.
    fn needs_announcement(&self) -> bool {
        // Other software lists no WebSockets.
        let ports = |ports: &Ports| ports.without_web_sockets();
        let lists = |offer: &AddPeerOffer| {
            self.report
                .peer_list
                .0
                .iter()
                .any(|listed| listed.name.host == offer.host && ports(&listed.name.ports) == ports(&offer.ports))
        };
        self.expected.announce.as_ref().is_some_and(|offer| !lists(offer))
    }

    fn ignore(&mut self) -> Result<ProberAction, Fault> {
        self.ignored_lines += 1;
        if self.ignored_lines > Self::MAX_IGNORED_LINES {
            Err(Fault::ExcessNotifications)
        } else {
            Ok(ProberAction::Wait)
        }
    }

    fn handle_result(&mut self, step: ProbeStep, result: &str) -> Result<(), Fault> {
        let malformed = |_| Fault::Malformed;
        match step {
            ProbeStep::Version | ProbeStep::LegacyVersion => self.handle_version(result),
            ProbeStep::Features => {
                let features = serde_json::from_str(result).map_err(malformed)?;
                self.check_features(&features)?;
                self.report.features = Some(features);
                Ok(())
            }
            ProbeStep::Peers => {
                self.report.peer_list =
                    PeerList::parse(result, self.expected.chain.default_ports).map_err(malformed)?;
                Ok(())
            }
            ProbeStep::Announce => {
                // Any other result is a refusal.
                self.report.add_peer_result = Some(result == "true");
                Ok(())
            }
            ProbeStep::Pin => {
                let header = self.header_from(result).zip(self.required_pin());
                self.shows_pin = header.is_some_and(|(header, pin)| pin.is_shown_by(&header));
                Ok(())
            }
            ProbeStep::Block => {
                // An invalid header is no violation. Without a pin, the peer is only not compared.
                let block = self.block_height.zip(self.header_from(result));
                let proven = block.filter(|(height, header)| self.has_work(*height, header));
                self.report.checkpoint = proven.map(|(height, header)| (height, header.id()));
                Ok(())
            }
            ProbeStep::Headers => {
                let TipResponse { hex, height } = TipResponse::parse(result).ok_or(Fault::Malformed)?;
                self.report.tip_height = height;
                let header = hex.and_then(|hex| self.expected.chain.header.parse(&hex));
                let tip = self.report.tip_height.zip(header);
                // Without a pin, a header of zeros is only not compared.
                let is_header = |header: &ShownHeader| self.required_pin().is_some() || !header.is_empty();
                let tip = tip.filter(|(_, header)| is_header(header));
                self.tip = tip.filter(|(height, header)| self.is_tip_proven(*height, header)).map(|(_, header)| header);
                Ok(())
            }
            ProbeStep::Chain => self.handle_headers(&block_headers(result)),
        }
    }

    /// Parses a pair of software and version, or the software alone in the first protocol.
    fn handle_version(&mut self, result: &str) -> Result<(), Fault> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum VersionReply {
            Pair(String, String),
            // Electrum Personal Server sends the version as a number.
            Number(String, f64),
            Software(String),
        }
        // An untagged enum is buffered whole, so its length is limited.
        if result.len() > 1024 {
            return Err(Fault::Malformed);
        }
        let (software, version) = match serde_json::from_str(result).map_err(|_| Fault::Malformed)? {
            VersionReply::Pair(software, version) => (software, version.parse().map_err(|_| Fault::Malformed)?),
            VersionReply::Number(software, version) => {
                (software, version.to_string().parse().map_err(|_| Fault::Malformed)?)
            }
            VersionReply::Software(software) => (software, MIN_PROTOCOL),
        };
        if version.cmp_semver(&MIN_PROTOCOL).is_lt() || version.cmp_semver(&MAX_PROTOCOL).is_gt() {
            return Err(Fault::VersionNotRequested);
        }
        self.report.software = Some(foreign_text(&software, MAX_SOFTWARE_CHARS)).filter(|name| !name.is_empty());
        self.report.negotiated_version = version;
        self.has_version = true;
        self.queued.extend(self.refused_early.drain(..));
        Ok(())
    }

    /// Parses a block header that is given as a string of hexadecimal digits.
    fn header_from(&self, result: &str) -> Option<ShownHeader> {
        let hex: Cow<'_, str> = serde_json::from_str(result).ok()?;
        self.expected.chain.header.parse(&hex)
    }

    fn check_features(&self, features: &Features) -> Result<(), Fault> {
        match &features.genesis_hash {
            Some(hash) if *hash != self.expected.chain.genesis_hash => return Err(Fault::WrongGenesis),
            _ => {}
        }
        // A server without `hosts` could be any server behind the name, so it is not verified.
        let listed = || features.hosts.iter().flatten();
        match &self.expected.host {
            None => Ok(()),
            Some(host) if listed().any(|(named, _)| named == host) => Ok(()),
            Some(_) if listed().next().is_none() => Err(Fault::NoHosts),
            Some(_) => Err(Fault::HostMismatch),
        }
    }
}

#[cfg(test)]
mod chain_tests;
#[cfg(test)]
mod tests;
