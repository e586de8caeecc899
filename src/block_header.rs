//! Block headers, and the checks that need no other header.

use bitcoin::block::Header;
use bitcoin::consensus::{deserialize, serialize};
use bitcoin::hashes::Hash;
use bitcoin::params::MAINNET;
use bitcoin::pow::{CompactTarget, Target, Work};
use data_encoding::HEXLOWER_PERMISSIVE;

use crate::chain::WorkRule;

/// Blocks in two years, for which the target may become four times easier, and once more at the start.
///
/// Each retarget could ease it by that much. But in the history of the chain it never became more than twice as easy
/// as before, and each further step would make invented headers cheaper.
const BLOCKS_PER_EASING: u32 = 52 * 2016;

/// Length of a block header in bytes. Chains that split off with longer headers exist.
pub const HEADER_BYTES: usize = 80;

/// Header of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockHeader(Header);

impl BlockHeader {
    /// Parses exactly 80 bytes in hexadecimal; `None` for anything else.
    pub fn from_hex(hex: &str) -> Option<BlockHeader> {
        let bytes = HEXLOWER_PERMISSIVE.decode(hex.as_bytes()).ok()?;
        BlockHeader::from_bytes(&bytes)
    }

    /// Parses exactly 80 bytes; `None` for another length.
    pub fn from_bytes(bytes: &[u8]) -> Option<BlockHeader> {
        deserialize(bytes).ok().map(BlockHeader)
    }

    /// Returns the 80 bytes of the header.
    pub fn to_bytes(&self) -> Vec<u8> {
        serialize(&self.0)
    }

    /// Returns the hash of the block before.
    pub fn previous_hash(&self) -> [u8; 32] {
        self.0.prev_blockhash.to_byte_array()
    }

    /// Returns the time that the miner recorded, in seconds since 1970.
    pub fn time(&self) -> u32 {
        self.0.time
    }

    /// Returns the target in its compact form.
    pub fn bits(&self) -> u32 {
        self.0.bits.to_consensus()
    }

    /// Returns the expected number of hashes for a block with this target.
    pub fn work(&self) -> Work {
        self.0.work()
    }

    /// Returns whether the hash meets the target that the header states.
    pub fn meets_own_target(&self) -> bool {
        self.0.validate_pow(self.0.target()).is_ok()
    }

    /// Returns the double SHA-256 of the header.
    pub fn hash(&self) -> [u8; 32] {
        self.0.block_hash().to_byte_array()
    }

    /// Returns whether the header has the work that a rule requires of a block this many blocks after the pin.
    ///
    /// On followed chains, inventing a header within two years of the pin takes at least a quarter of the work of a
    /// real block.
    pub fn has_work(&self, rule: WorkRule, blocks_after_pin: u32) -> bool {
        match rule {
            WorkRule::Unchecked => true,
            WorkRule::OwnTarget => self.meets_own_target(),
            WorkRule::Followed { bits, .. } => {
                self.meets_own_target()
                    && self.0.target() <= easiest_target(bits, 1 + blocks_after_pin / BLOCKS_PER_EASING)
            }
        }
    }
}

/// Returns a target that was made four times easier this many times.
fn easiest_target(bits: u32, steps: u32) -> Target {
    let limit = Target::MAX_ATTAINABLE_MAINNET;
    let mut target = Target::from_compact(CompactTarget::from_consensus(bits));
    for _ in 0..steps {
        if target >= limit {
            return limit;
        }
        target = target.max_transition_threshold(&MAINNET);
    }
    target.min(limit)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::chain::{Chain, Retargets};

    /// First block after genesis.
    pub(crate) const BLOCK_1: &str = "010000006fe28c0ab6f1b372c1a6a246ae63f74f931e8365e15a089c68d6190000000000\
        982051fd1e4ba744bbbe680e1fee14677ba1a3c3540bf7b1cdb606e857233e0e61bc6649ffff001d01e36299";

    const EASIEST: WorkRule = WorkRule::Followed { bits: 0x1d00_ffff, retargets: Retargets::EveryPeriod };

    #[test]
    fn header_without_the_right_nonce_has_no_work() {
        let header = BlockHeader::from_hex(BLOCK_1).unwrap();
        let other = BlockHeader::from_hex(&BLOCK_1.replace("01e36299", "02e36299")).unwrap();
        for rule in [EASIEST, WorkRule::OwnTarget] {
            assert!(header.has_work(rule, 0) && !other.has_work(rule, 0), "{rule:?}");
        }
        assert!(other.has_work(WorkRule::Unchecked, 0));
    }

    #[test]
    fn header_of_another_length_is_none() {
        for hex in [
            BLOCK_1.trim_start_matches("01"),
            &format!("{BLOCK_1}00"),
            &format!("{BLOCK_1}{}", "00".repeat(84)),
            "",
            "zz",
        ] {
            assert_eq!(BlockHeader::from_hex(hex), None, "{hex}");
        }
    }

    #[test]
    fn work_of_an_old_block_is_too_little_after_a_recent_pin() {
        let header = BlockHeader::from_hex(BLOCK_1).unwrap();
        let work = Chain::BITCOIN.work;
        assert!(!header.has_work(work, 1));
        assert!(!header.has_work(work, 10 * BLOCKS_PER_EASING), "after twenty years");
        assert!(header.has_work(Chain::TESTNET4.work, 10_000), "blocks may have the minimum difficulty");
    }

    #[test]
    fn target_eases_by_four_with_each_step() {
        let WorkRule::Followed { bits, .. } = Chain::BITCOIN.work else { panic!("not followed") };
        let work = |steps| easiest_target(bits, steps).difficulty_float();
        assert!((work(0) / work(1) - 4.0).abs() < 0.001);
        assert!((work(1) / work(3) - 16.0).abs() < 0.001);
        assert_eq!(easiest_target(bits, u32::MAX), Target::MAX_ATTAINABLE_MAINNET);
    }

    proptest! {
        #[test]
        fn arbitrary_header_never_panics(bytes in proptest::collection::vec(any::<u8>(), 80), height: u32) {
            let header = BlockHeader::from_hex(&data_encoding::HEXLOWER.encode(&bytes)).unwrap();
            prop_assert!(!header.has_work(EASIEST, height) || header.hash() != [0; 32]);
        }
    }
}
