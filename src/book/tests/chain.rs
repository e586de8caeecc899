//! Chains with more and with less work.

use std::sync::Arc;

use super::*;
use crate::book::{ChainPosition, ChainSummary};
use crate::header_chain::tests::extend;
use crate::header_chain::{CatchUp, ChainStanding, HeaderChain};
use crate::peer::Fault;

/// Seeds of different networks, all verified before.
fn harness(count: usize) -> BookHarness {
    let names: Vec<String> = (0..count).map(|n| format!("5.{n}.0.1 t50001")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut harness = BookHarness::of_chain(Chain::REGTEST, &names);
    for n in 0..count {
        harness.visit(n, Some(100), None);
    }
    harness
}

impl BookHarness {
    /// Ends the probe of a seed with this tip.
    fn visit(&mut self, n: usize, tip: Option<u32>, standing: Option<ChainStanding>) {
        let host: Host = format!("5.{n}.0.1").parse().unwrap();
        self.book.peers.begin_probe(&host, true, self.now);
        let mut verified = success("[]", None).unwrap();
        verified.ip = format!("5.{n}.0.1").parse().ok();
        (verified.report.tip_height, verified.report.standing) = (tip, standing);
        self.finish(&host.to_string(), Ok(verified));
    }

    fn violation(&self, n: usize) -> Option<ProbeError> {
        self.entry(&format!("5.{n}.0.1")).unwrap().violation
    }

    fn summary(&self) -> ChainSummary {
        self.book.chain_summary(self.now).unwrap()
    }
}

fn more_work(chain: &HeaderChain) -> Option<ChainStanding> {
    Some(ChainStanding::MoreWork(Arc::new(chain.clone())))
}

fn less_work(fork_height: u32, chain: &HeaderChain) -> Option<ChainStanding> {
    Some(ChainStanding::LessWork { fork_height, tip_hash: chain.tip_hash() })
}

#[test]
fn one_peer_with_more_work_overrides_all_others_and_the_backend() {
    let anchor = HeaderChain::new(&Chain::REGTEST).unwrap();
    let (base, _) = extend(&anchor, 50, 0);
    let (lies, honest) = (extend(&base, 50, 1).0, extend(&base, 60, 2).0);
    let mut harness = harness(61);
    let backend = Event::BackendTip { tip: 100, block: Some((0, [9; 32])), standing: more_work(&lies) };
    harness.handle(backend);
    for n in 0..60 {
        harness.visit(n, Some(100), Some(ChainStanding::OnChain));
    }
    assert_eq!(harness.summary().level, 60);
    harness.visit(60, Some(110), more_work(&honest));
    assert_eq!((harness.violation(60), harness.summary().chain.tip_hash()), (None, honest.tip_hash()));
    for n in 0..60 {
        harness.visit(n, Some(100), less_work(50, &lies));
        assert_eq!(harness.violation(n), Some(ProbeError::ProtocolViolation(Fault::LessWork)));
    }
    assert_eq!((harness.summary().level, harness.summary().less_work), (1, 60));
    harness.handle(Event::BackendTip { tip: 100, block: Some((0, [9; 32])), standing: less_work(50, &lies) });
    harness.visit(60, Some(110), Some(ChainStanding::OnChain));
    assert_eq!(harness.violation(60), None, "the backend overrides no work");
}

#[test]
fn chain_with_more_work_is_never_replaced_by_a_claim() {
    let anchor = HeaderChain::new(&Chain::REGTEST).unwrap();
    let (honest, lies) = (extend(&anchor, 60, 1).0, extend(&anchor, 59, 2).0);
    let mut harness = harness(3);
    harness.visit(0, Some(60), more_work(&honest));
    harness.visit(1, Some(u32::MAX), more_work(&lies));
    assert_eq!(harness.summary().chain.tip_hash(), honest.tip_hash());
    harness.visit(2, Some(60), Some(ChainStanding::OnChain));
    assert_eq!(harness.violation(2), None);
}

#[test]
fn short_branches_and_reorganised_chains_are_no_violations() {
    let anchor = HeaderChain::new(&Chain::REGTEST).unwrap();
    let (base, _) = extend(&anchor, 90, 0);
    let (known, other) = (extend(&base, 10, 1).0, extend(&base, 9, 2).0);
    let mut harness = harness(3);
    harness.visit(0, Some(100), more_work(&known));
    harness.visit(1, Some(99), less_work(90, &other));
    assert_eq!(harness.violation(1), None, "ten blocks");
    let (longer, _) = extend(&known, 1, 1);
    harness.visit(0, Some(101), more_work(&longer));
    harness.visit(1, Some(99), less_work(90, &other));
    assert_eq!(harness.violation(1), Some(ProbeError::ProtocolViolation(Fault::LessWork)), "eleven blocks");
    // The tip was on a branch when the visit began, and is now a block of the known chain.
    harness.visit(2, Some(101), less_work(50, &longer));
    assert_eq!(harness.violation(2), None);
}

#[test]
fn peer_that_is_behind_is_bad_and_one_ahead_is_not() {
    let anchor = HeaderChain::new(&Chain::REGTEST).unwrap();
    let (known, _) = extend(&anchor, 100, 0);
    let mut harness = harness(3);
    harness.visit(0, Some(5_000), more_work(&known));
    assert_eq!(harness.summary().ahead, 1);
    harness.visit(1, Some(94), Some(ChainStanding::OnChain));
    harness.visit(2, Some(95), Some(ChainStanding::OnChain));
    assert_eq!(harness.violation(1), Some(ProbeError::ProtocolViolation(Fault::ChainBehind)));
    assert_eq!(harness.violation(2), None);
    assert_eq!(harness.entry("5.1.0.1").unwrap().chain_position, Some(ChainPosition::Behind));
}

#[test]
fn headers_are_downloaded_from_few_networks_while_catching_up() {
    let anchor = HeaderChain::new(&Chain::REGTEST).unwrap();
    let mut harness = harness(6);
    let catch_up = |harness: &mut BookHarness, n: usize| {
        let host: Host = format!("5.{n}.0.1").parse().unwrap();
        harness.book.peers.begin_probe(&host, true, harness.now);
        harness.book.chain_reference(&host, harness.now).unwrap().catch_up
    };
    let states: Vec<CatchUp> = (0..6).map(|n| catch_up(&mut harness, n)).collect();
    assert_eq!(states, [[CatchUp::Required; 4].as_slice(), &[CatchUp::Deferred; 2]].concat());
    harness.visit(0, Some(100), more_work(&extend(&anchor, 100, 0).0));
    assert_eq!(catch_up(&mut harness, 5), CatchUp::Required, "a peer at the tip of the known chain ends it");
}

#[test]
fn chain_is_stored_once_a_day() {
    let anchor = HeaderChain::new(&Chain::REGTEST).unwrap();
    let mut harness = harness(1);
    let stores = |harness: &BookHarness| harness.actions.iter().any(|action| matches!(action, Action::SaveChain(_)));
    let (chain, _) = extend(&anchor, 143, 0);
    harness.visit(0, Some(143), more_work(&chain));
    assert!(!stores(&harness));
    let (chain, _) = extend(&chain, 1, 0);
    harness.visit(0, Some(144), more_work(&chain));
    assert!(stores(&harness));
    harness.visit(0, Some(145), more_work(&extend(&chain, 1, 0).0));
    assert!(!stores(&harness));
}
