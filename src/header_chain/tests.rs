use std::sync::Arc;

use bitcoin::block::{Header, Version};
use bitcoin::hashes::Hash;
use bitcoin::pow::CompactTarget;
use bitcoin::{BlockHash as LibraryHash, TxMerkleNode};
use proptest::prelude::*;

use super::*;
use crate::chain::Chain;

/// Wall clock of the tests.
pub(crate) const NOW: u32 = 1_800_000_000;

/// Time of the first mined block.
const START: u32 = 1_700_000_000;

/// Mines a regtest header. Other `salt`, other block.
pub(crate) fn mine(previous: BlockHash, time: u32, salt: u8) -> BlockHeader {
    mine_with_bits(previous, time, salt, 0x207f_ffff)
}

fn mine_with_bits(previous: BlockHash, time: u32, salt: u8, bits: u32) -> BlockHeader {
    let mut header = Header {
        version: Version::TWO,
        prev_blockhash: LibraryHash::from_byte_array(previous),
        merkle_root: TxMerkleNode::from_byte_array([salt; 32]),
        time,
        bits: CompactTarget::from_consensus(bits),
        nonce: 0,
    };
    while header.validate_pow(header.target()).is_err() {
        header.nonce += 1;
    }
    BlockHeader::from_bytes(&bitcoin::consensus::serialize(&header)).unwrap()
}

/// Returns a chain with these many more blocks, ten minutes apart, and their headers.
pub(crate) fn extend(chain: &HeaderChain, blocks: u32, salt: u8) -> (HeaderChain, Vec<BlockHeader>) {
    let mut chain = chain.clone();
    let mut headers = Vec::new();
    for _ in 0..blocks {
        let time = chain.tip_time().map_or(START, |time| time + 600);
        let header = mine(chain.tip_hash(), time, salt);
        chain.append(header, NOW).unwrap();
        headers.push(header);
    }
    (chain, headers)
}

fn regtest() -> HeaderChain {
    HeaderChain::new(&Chain::REGTEST).unwrap()
}

/// A peer with these headers after the first block, which answers at most `limit` headers at a time.
struct Peer {
    headers: Vec<BlockHeader>,
    limit: usize,
}

impl Peer {
    fn new(headers: Vec<BlockHeader>) -> Peer {
        Peer { headers, limit: 2016 }
    }

    /// Runs a visit; returns its result and the number of headers that were sent.
    fn visit(
        &self,
        known: &HeaderChain,
        tip_height: u32,
        tip: BlockHeader,
    ) -> (Result<ChainStanding, HeaderError>, usize) {
        let mut sent = 0;
        let reference = ChainReference { chain: Arc::new(known.clone()), catch_up: CatchUp::Required, now: NOW };
        let started = HeaderSync::start(reference, tip_height, &tip);
        let (mut sync, mut step) = match started {
            Ok(started) => started,
            Err(error) => return (Err(error), 0),
        };
        loop {
            match step {
                SyncStep::Done(standing) => return (Ok(standing), sent),
                SyncStep::Request { start, count } => {
                    assert!(start > 0 && count > 0 && count <= 2016);
                    let rest = self.headers.get(start as usize - 1..).unwrap_or(&[]);
                    let chunk = &rest[..rest.len().min(count as usize).min(self.limit)];
                    sent += chunk.len();
                    step = match sync.on_headers(chunk) {
                        Ok(step) => step,
                        Err(error) => return (Err(error), sent),
                    };
                }
            }
        }
    }

    fn verify(&self, known: &HeaderChain) -> (Result<ChainStanding, HeaderError>, usize) {
        self.visit(known, u32::try_from(self.headers.len()).unwrap(), *self.headers.last().unwrap())
    }
}

#[test]
fn longer_chain_of_a_peer_is_followed() {
    let (known, headers) = extend(&regtest(), 50, 0);
    let (longer, more) = extend(&known, 30, 0);
    let peer = Peer::new([headers.clone(), more].concat());
    let (standing, sent) = peer.verify(&known);
    assert_eq!(standing, Ok(ChainStanding::MoreWork(Arc::new(longer.clone()))));
    assert_eq!(sent, 30, "only the missing headers");
    let in_parts = Peer { limit: 7, ..peer };
    assert_eq!(in_parts.verify(&known), (Ok(ChainStanding::MoreWork(Arc::new(longer.clone()))), 30));
    let (standing, sent) = Peer::new(headers).verify(&longer);
    assert_eq!((standing, sent), (Ok(ChainStanding::OnChain), 0), "a peer that is behind");
}

#[test]
fn next_block_needs_no_request() {
    let (known, mut headers) = extend(&regtest(), 50, 0);
    let (longer, more) = extend(&known, 1, 0);
    headers.extend(more);
    assert_eq!(Peer::new(headers).verify(&known), (Ok(ChainStanding::MoreWork(Arc::new(longer))), 0));
}

#[test]
fn branch_with_more_work_wins_at_any_depth() {
    for (common, known_blocks, other_blocks) in [(50, 5, 6), (50, 300, 301), (10, 2_500, 2_501), (0, 4_500, 4_600)] {
        let (base, headers) = extend(&regtest(), common, 0);
        let (known, known_headers) = extend(&base, known_blocks, 1);
        let (other, more) = extend(&base, other_blocks, 2);
        let (standing, _) = Peer::new([headers.clone(), more].concat()).verify(&known);
        let Ok(ChainStanding::MoreWork(chain)) = standing else { panic!("{known_blocks}: {standing:?}") };
        assert!(chain.has_more_work_than(&known));
        let (standing, _) = Peer::new([headers, known_headers].concat()).verify(&other);
        let tip_hash = known.tip_hash();
        assert_eq!(standing, Ok(ChainStanding::LessWork { fork_height: common, tip_hash }), "{known_blocks}");
    }
}

#[test]
fn claims_without_headers_are_rejected() {
    let (known, headers) = extend(&regtest(), 300, 0);
    let tip = *headers.last().unwrap();
    let peer = Peer::new(headers.clone());
    let visit = |height| peer.visit(&known, height, tip).0;
    assert_eq!(visit(300), Ok(ChainStanding::OnChain));
    for height in [301, 400, 300 + 2016, u32::MAX] {
        assert_eq!(visit(height), Err(HeaderError::Missing), "{height}");
    }
    for height in [299, 200, 1] {
        assert_eq!(visit(height), Err(HeaderError::BrokenLink), "the tip of another height: {height}");
    }
    let (_, more) = extend(&known, 10, 0);
    let one_block = Peer::new([headers.clone(), more].concat());
    assert_eq!(
        one_block.visit(&known, 5_000, tip).0,
        Err(HeaderError::Missing),
        "some new blocks, and a claim of more"
    );
    let lost = Peer::new(extend(&regtest(), 40, 9).1.split_off(20));
    assert_eq!(lost.visit(&known, 320, tip).0, Err(HeaderError::Missing));
    let unrelated = Peer { headers: [headers[5..].to_vec(), headers[..290].to_vec()].concat(), limit: 2016 };
    assert_eq!(unrelated.visit(&known, 320, mine([7; 32], START, 0)).0, Err(HeaderError::BrokenLink));
}

#[test]
fn peer_that_is_far_ahead_waits_while_others_catch_up() {
    let (known, _) = extend(&regtest(), 5, 0);
    let (_, headers) = extend(&regtest(), PERIOD + 6, 0);
    let reference = ChainReference { chain: Arc::new(known), catch_up: CatchUp::Deferred, now: NOW };
    let start = |height: u32| HeaderSync::start(reference.clone(), height, &headers[height as usize - 1]).unwrap().1;
    assert_eq!(start(PERIOD + 6), SyncStep::Done(ChainStanding::Unknown));
    assert_eq!(start(PERIOD + 5), SyncStep::Request { start: 6, count: PERIOD });
}

#[test]
fn invalid_headers_are_rejected() {
    let (known, _) = extend(&regtest(), 20, 0);
    let (tip, time) = (known.tip_hash(), known.tip_time().unwrap());
    let append = |header| known.clone().append(header, NOW);
    assert_eq!(append(mine(tip, time + 600, 0)), Ok(()));
    assert_eq!(append(mine(tip, time - 600 * 4, 0)), Ok(()), "after the median of eleven blocks");
    assert_eq!(append(mine(tip, time - 600 * 5, 0)), Err(HeaderError::InvalidTime), "the median itself");
    assert_eq!(append(mine(tip, NOW + 7200, 0)), Ok(()));
    assert_eq!(append(mine(tip, NOW + 7201, 0)), Err(HeaderError::InFuture));
    assert_eq!(append(mine([1; 32], time + 600, 0)), Err(HeaderError::BrokenLink));
    assert_eq!(append(mine_with_bits(tip, time + 600, 0, 0x207f_fffe)), Err(HeaderError::TooLittleWork));
    let mut bytes = mine(tip, time + 600, 0).to_bytes();
    while BlockHeader::from_bytes(&bytes).unwrap().meets_own_target() {
        bytes[76] += 1;
    }
    assert_eq!(append(BlockHeader::from_bytes(&bytes).unwrap()), Err(HeaderError::TooLittleWork));
}

#[test]
fn header_in_the_future_is_not_the_fault_of_the_peer() {
    let (known, mut headers) = extend(&regtest(), 20, 0);
    let (longer, more) = extend(&known, 3, 0);
    headers.extend(more);
    let future = mine(longer.tip_hash(), NOW + 10_000, 0);
    headers.extend([future, mine(future.hash(), NOW + 10_000, 0)]);
    assert_eq!(Peer::new(headers.clone()).verify(&known).0, Ok(ChainStanding::MoreWork(Arc::new(longer.clone()))));
    assert_eq!(Peer::new(headers).verify(&longer).0, Ok(ChainStanding::Unknown));
}

/// Rules of mainnet after a block of minimum work, with so easy a target that the test can mine a period.
fn easy_mainnet() -> HeaderChain {
    let rules = ChainRules::of(&Chain::BITCOIN).unwrap();
    HeaderChain::at_anchor(ChainRules { anchor_hash: [0; 32], anchor_bits: 0x207f_ffff, ..rules })
}

#[test]
fn target_changes_only_at_the_end_of_a_period() {
    let (chain, _) = extend(&easy_mainnet(), PERIOD - 1, 0);
    assert_eq!(chain.next_bits(), 0x207f_ffff);
    let (chain, _) = extend(&chain, 1, 0);
    assert_eq!(chain.next_bits(), 0x1d00_ffff, "at most the limit of mainnet");
    let easy = mine(chain.tip_hash(), chain.tip_time().unwrap() + 600, 0);
    assert_eq!(chain.clone().append(easy, NOW), Err(HeaderError::TooLittleWork));
    let too_early = mine_with_bits(extend(&easy_mainnet(), 5, 0).0.tip_hash(), START + 6000, 0, 0x207f_fffe);
    assert_eq!(extend(&easy_mainnet(), 5, 0).0.append(too_early, NOW), Err(HeaderError::TooLittleWork));
}

#[test]
fn memory_is_bounded_and_a_record_restores_the_chain() {
    let (chain, headers) = extend(&regtest(), 5_000, 0);
    assert_eq!((chain.headers.len(), chain.height()), (MAX_HEADERS as usize, 5_000));
    assert_eq!(chain.hash_at(4_000), Some(headers[3_999].hash()));
    assert_eq!(chain.hash_at(100), None);
    let record = chain.to_record();
    assert_eq!(HeaderChain::from_record(&Chain::REGTEST, &record), Ok(Some(chain)));
    assert_eq!(HeaderChain::from_record(&Chain::BITCOIN, &record), Err(RecordError::OtherAnchor));
    assert_eq!(HeaderChain::from_record(&Chain::SIGNET, &record), Ok(None));
    for at in [0, 10, 200, record.len() - 1] {
        let mut damaged = record.clone();
        damaged[at] ^= 0x40;
        assert_eq!(HeaderChain::from_record(&Chain::REGTEST, &damaged), Err(RecordError::Damaged), "byte {at}");
        assert_eq!(HeaderChain::from_record(&Chain::REGTEST, &record[..at]), Err(RecordError::Damaged));
    }
}

proptest! {
    #[test]
    fn arbitrary_headers_never_panic(
        headers in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 80), 0..4),
        tip_height: u32,
        blocks in 0..30_u32,
    ) {
        let headers: Vec<BlockHeader> = headers.iter().map(|bytes| BlockHeader::from_bytes(bytes).unwrap()).collect();
        let (known, real) = extend(&regtest(), blocks, 0);
        for tip in headers.iter().chain(&real) {
            let (result, _) = Peer::new(headers.clone()).visit(&known, tip_height, *tip);
            prop_assert!(!matches!(result, Ok(ChainStanding::MoreWork(_))));
        }
        prop_assert!(HeaderChain::from_record(&Chain::REGTEST, &headers.iter().flat_map(BlockHeader::to_bytes).collect::<Vec<u8>>()).is_err());
    }
}
