//! Conversations about the chain of headers, with a scripted server.

use std::sync::Arc;

use serde_json::{Value, json};

use super::*;
use crate::chain::Chain;
use crate::header_chain::tests::{NOW, extend, mine};
use crate::header_chain::{CatchUp, ChainReference, ChainStanding, HeaderChain};

/// Server of these headers, from height 1 on.
struct Server {
    headers: Vec<BlockHeader>,
    tip_height: u32,
    /// Whether `blockchain.block.headers` answers with a list, as since protocol 1.6.
    answers_with_list: bool,
    refuses_headers: bool,
}

impl Server {
    fn new(headers: Vec<BlockHeader>) -> Server {
        let tip_height = u32::try_from(headers.len()).unwrap();
        Server { headers, tip_height, answers_with_list: false, refuses_headers: false }
    }

    fn answer(&self, method: &str, params: &Value) -> Option<Value> {
        let hex = |header: &BlockHeader| data_encoding::HEXLOWER.encode(&header.to_bytes());
        let at = |index: usize| usize::try_from(params[index].as_u64().unwrap()).unwrap();
        Some(match method {
            "server.version" => json!(["x", "1.4"]),
            "server.peers.subscribe" => json!([]),
            "blockchain.headers.subscribe" => json!({
                "height": self.tip_height, "hex": self.headers.last().map(hex).unwrap_or_default(),
            }),
            "blockchain.block.header" => json!(hex(self.headers.get(at(0).checked_sub(1)?)?)),
            "blockchain.block.headers" if !self.refuses_headers => {
                let chunk: Vec<String> = self.headers.iter().skip(at(0) - 1).take(at(1)).map(hex).collect();
                if self.answers_with_list {
                    json!({ "headers": chunk, "count": chunk.len(), "max": 2016 })
                } else {
                    json!({ "hex": chunk.concat(), "count": chunk.len(), "max": 2016 })
                }
            }
            _ => return None,
        })
    }

    /// Returns the position of the tip, `None` if the server is unproven, and the number of requests.
    fn visit(&self, known: &HeaderChain) -> (Result<Option<ChainStanding>, Fault>, usize) {
        let chain = Chain::REGTEST;
        let (mut prober, mut line) = Prober::new(ProbeExpectations {
            host: None,
            chain,
            proof: ChainProof::Required,
            features: FeaturesStep::Included,
            order: RequestOrder::Together,
            announce: None,
            checkpoint_height: Some(height_to_compare(known.height())),
            reference: Some(ChainReference { chain: Arc::new(known.clone()), catch_up: CatchUp::Required, now: NOW }),
        });
        let mut requests = 0;
        loop {
            let lines = std::mem::take(&mut line);
            for request_line in lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
                requests += 1;
                let request: Value = serde_json::from_slice(request_line).unwrap();
                let id = &request["id"];
                let response = match self.answer(request["method"].as_str().unwrap(), &request["params"]) {
                    Some(result) => json!({ "id": id, "result": result }),
                    None => json!({ "id": id, "error": { "code": 1, "message": "refused" } }),
                };
                match prober.handle_line(&response.to_string()) {
                    Ok(ProberAction::Send(next)) => line = next,
                    Ok(ProberAction::Done(report)) => return (Ok(report.standing), requests),
                    Ok(ProberAction::Unproven) => return (Ok(None), requests),
                    Ok(ProberAction::Wait) => {}
                    Err(fault) => return (Err(fault), requests),
                }
            }
            assert!(!line.is_empty(), "waits for another line");
        }
    }
}

fn regtest() -> HeaderChain {
    HeaderChain::new(&Chain::REGTEST).unwrap()
}

#[test]
fn headers_are_requested_only_if_they_are_missing() {
    let (known, headers) = extend(&regtest(), 120, 0);
    assert_eq!(Server::new(headers.clone()).visit(&known), (Ok(Some(ChainStanding::OnChain)), 5));
    let (longer, more) = extend(&known, 1, 0);
    let next_block = Server::new([headers.clone(), more].concat());
    assert_eq!(next_block.visit(&known), (Ok(Some(ChainStanding::MoreWork(Arc::new(longer)))), 5));
    let (longer, more) = extend(&known, 40, 0);
    let ahead = Server::new([headers, more].concat());
    assert_eq!(ahead.visit(&known), (Ok(Some(ChainStanding::MoreWork(Arc::new(longer.clone())))), 6));
    let of_protocol_1_6 = Server { answers_with_list: true, ..ahead };
    assert_eq!(of_protocol_1_6.visit(&known).0, Ok(Some(ChainStanding::MoreWork(Arc::new(longer)))));
}

#[test]
fn peer_ahead_must_deliver_valid_headers() {
    let (known, headers) = extend(&regtest(), 120, 0);
    let (longer, more) = extend(&known, 40, 0);
    let all = [headers.clone(), more].concat();
    let refusing = Server { refuses_headers: true, ..Server::new(all.clone()) };
    assert_eq!(refusing.visit(&known).0, Ok(None), "unproven");
    let claiming = Server { tip_height: 5_000, ..Server::new(headers.clone()) };
    assert_eq!(claiming.visit(&known).0, Ok(None), "the real tip at another height, without headers in between");
    let next_to_it = Server { tip_height: 159, ..Server::new(all.clone()) };
    assert_eq!(next_to_it.visit(&known).0, Err(Fault::BrokenChain), "a real tip at another height");
    let mut unlinked = all.clone();
    unlinked.remove(130);
    assert_eq!(Server::new(unlinked).visit(&known).0, Err(Fault::BrokenChain));
    let early = mine(longer.tip_hash(), longer.tip_time().unwrap() - 100_000, 0);
    let early = Server::new([all, vec![early, mine(early.hash(), early.time(), 0)]].concat());
    assert_eq!(early.visit(&longer).0, Err(Fault::InvalidBlockTime));
    let mut easier = mine(known.tip_hash(), NOW, 0).to_bytes();
    easier[72] ^= 1;
    let easier = BlockHeader::from_bytes(&easier).unwrap();
    assert_eq!(Server::new([headers, vec![easier]].concat()).visit(&known).0, Err(Fault::TooLittleWork));
}

#[test]
fn server_without_headers_is_not_compared_on_a_chain_without_a_pin() {
    let (known, _) = extend(&regtest(), 120, 0);
    assert_eq!(Server { tip_height: 160, ..Server::new(Vec::new()) }.visit(&known).0, Ok(None));
}
