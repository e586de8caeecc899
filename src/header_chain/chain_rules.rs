//! Consensus rules that a block header must follow.

use bitcoin::params::{MAINNET, Params, REGTEST};
use bitcoin::pow::CompactTarget;

use crate::block_header::BlockHeader;
use crate::chain::{BlockHash, ChainParams, Retargets, WorkRule, hash_from_hex};
use crate::peer::Fault;

/// Maximum time of a header after the local clock, in seconds: two hours, as in Bitcoin Core.
const MAX_FUTURE_SECS: u32 = 2 * 60 * 60;

/// Rules of a chain, and the block from which its headers are followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChainRules {
    pub(super) retargets: Retargets,
    /// Height of the anchor: the pinned block, or the first block.
    pub(super) anchor_height: u32,
    /// Hash of the anchor.
    pub(super) anchor_hash: BlockHash,
    /// Compact target of the block after the anchor.
    pub(super) anchor_bits: u32,
}

/// Rule that a header breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// A header does not name the block before it, or the tip is not among the headers.
    #[error("header without a link to the chain")]
    BrokenLink,
    /// The target is not the one that the retarget rule gives, or the hash does not meet it.
    #[error("header without the required work")]
    TooLittleWork,
    /// The time is not after the median of the eleven blocks before.
    #[error("header with an invalid time")]
    InvalidTime,
    /// The time is more than two hours after the local clock, which may be wrong.
    #[error("header with a time in the future; check the clock of this machine")]
    InFuture,
    /// The peer claims blocks whose headers it does not deliver.
    #[error("headers up to the tip are missing")]
    Missing,
}

impl HeaderError {
    /// Returns the violation of a peer that sent the header; `None` if the peer may be right.
    pub fn fault(self) -> Option<Fault> {
        match self {
            HeaderError::BrokenLink => Some(Fault::BrokenChain),
            HeaderError::TooLittleWork => Some(Fault::TooLittleWork),
            HeaderError::InvalidTime => Some(Fault::InvalidBlockTime),
            HeaderError::InFuture | HeaderError::Missing => None,
        }
    }
}

impl ChainRules {
    /// Returns the rules of a chain; `None` if its work is not followed.
    ///
    /// The anchor is the pinned block or, without one, the first.
    pub fn of(chain: &ChainParams) -> Option<ChainRules> {
        let WorkRule::Followed { bits, retargets } = chain.work else { return None };
        let (anchor_height, anchor_hash) = match chain.pin {
            Some(pin) => (pin.height, pin.hash),
            None => (0, hash_from_hex(&chain.genesis_hash)?),
        };
        Some(ChainRules { retargets, anchor_height, anchor_hash, anchor_bits: bits })
    }

    /// Checks the target, the proof of work and the time of a header.
    pub(super) fn check(
        &self,
        header: &BlockHeader,
        required_bits: u32,
        median_time: Option<u32>,
        now: u32,
    ) -> Result<(), HeaderError> {
        if header.bits() != required_bits || !header.meets_own_target() {
            return Err(HeaderError::TooLittleWork);
        }
        if median_time.is_some_and(|median| header.time() <= median) {
            return Err(HeaderError::InvalidTime);
        }
        if header.time() > now.saturating_add(MAX_FUTURE_SECS) {
            return Err(HeaderError::InFuture);
        }
        Ok(())
    }

    /// Returns the compact target after a period with these first and last headers.
    pub(super) fn retarget(&self, bits: u32, first: &BlockHeader, last: &BlockHeader) -> u32 {
        // Times may run backwards within a period. The library limits the span to a quarter of two weeks.
        next_bits(bits, last.time().saturating_sub(first.time()), self.params())
    }

    fn params(&self) -> &'static Params {
        match self.retargets {
            Retargets::EveryPeriod => &MAINNET,
            Retargets::Never => &REGTEST,
        }
    }
}

/// Returns the compact target after a period of this many seconds.
fn next_bits(bits: u32, period_secs: u32, params: &Params) -> u32 {
    let bits = CompactTarget::from_consensus(bits);
    CompactTarget::from_next_work_required(bits, period_secs.into(), params).to_consensus()
}

#[cfg(test)]
mod tests {
    use bitcoin::pow::Target;

    use super::super::PERIOD;
    use super::*;
    use crate::chain::Chain;

    /// Blocks at both ends of periods of mainnet, and examples that reach the limits, as in Bitcoin Core's tests.
    #[test]
    fn retargets_of_mainnet_are_reproduced() {
        for (first, last, bits, expected) in [
            (1_231_006_505, 1_233_061_996, 0x1d00_ffff, 0x1d00_ffff),
            (1_261_130_161, 1_262_152_739, 0x1d00_ffff, 0x1d00_d86a),
            (1_279_008_237, 1_279_297_671, 0x1c05_a3f4, 0x1c01_68fd),
            (1_263_163_443, 1_269_211_443, 0x1c38_7f6f, 0x1d00_e1fd),
        ] {
            assert_eq!(next_bits(bits, last - first, &MAINNET), expected, "{bits:x}");
        }
        assert_eq!(next_bits(0x207f_ffff, 1, &REGTEST), 0x207f_ffff, "regtest has no retargets");
    }

    /// Last block of each period of mainnet: the compact target of the next period, and the hash.
    const PERIODS: &str = include_str!("../../tests/data/mainnet-periods.txt");

    #[test]
    fn targets_of_all_periods_are_within_one_retarget_and_met_by_the_hashes() {
        let mut bits = 0x1d00_ffff;
        let mut height = 0;
        for line in PERIODS.lines() {
            let (next, hash) = line.split_once(' ').unwrap();
            let next = u32::from_str_radix(next, 16).unwrap();
            height += PERIOD;
            let target = Target::from_compact(CompactTarget::from_consensus(bits));
            assert!(target.is_met_by(hash.parse().unwrap()), "block {}", height - 1);
            let is_between = |shortest: u32, longest: u32| {
                let [low, high] = [shortest, longest]
                    .map(|secs| Target::from_compact(CompactTarget::from_consensus(next_bits(bits, secs, &MAINNET))));
                let target = Target::from_compact(CompactTarget::from_consensus(next));
                low <= target && target <= high
            };
            assert!(is_between(0, u32::MAX), "period that begins at {height}");
            bits = next;
        }
        let rules = ChainRules::of(&Chain::BITCOIN).unwrap();
        assert_eq!((height - 1, bits), (rules.anchor_height, rules.anchor_bits), "the last period ends at the pin");
    }

    #[test]
    fn pin_of_bitcoin_is_the_last_block_of_a_period() {
        let rules = ChainRules::of(&Chain::BITCOIN).unwrap();
        assert!((rules.anchor_height + 1).is_multiple_of(PERIOD));
    }

    #[test]
    fn only_bitcoin_and_regtest_are_followed() {
        let followed = Chain::BUILT_IN.into_iter().filter(|chain| ChainRules::of(chain).is_some());
        assert_eq!(followed.map(|chain| chain.to_string()).collect::<Vec<_>>(), ["bitcoin", "regtest"]);
    }
}
