//! Header chain as a record in the store.

use std::collections::VecDeque;

use bitcoin::hashes::{Hash, sha256d};
use bitcoin::pow::Work;

use super::{BlockHash, ChainRules, HeaderChain, MAX_HEADERS, MEDIAN_TIMES, PERIOD, Root};
use crate::block_header::{BlockHeader, HEADER_BYTES};
use crate::chain::ChainParams;

/// Bytes before the headers: height, hash and compact target of the block below, the work, and the anchor's hash. A
/// checksum follows the headers.
const PREFIX_BYTES: usize = 4 + 32 + 4 + 32 + 32;

/// Reason why a stored chain is not used. The chain is then followed from the pinned block again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// The record is damaged.
    #[error("the stored block headers are damaged")]
    Damaged,
    /// The chain starts at another block, as after an update of the pinned block.
    #[error("the stored block headers start at another block")]
    OtherAnchor,
}

impl HeaderChain {
    /// Encodes the chain for the store.
    pub fn to_record(&self) -> Vec<u8> {
        let mut record = Vec::with_capacity(PREFIX_BYTES + self.headers.len() * HEADER_BYTES + 32);
        record.extend(self.root.height.to_be_bytes());
        record.extend(self.root.hash);
        record.extend(self.root.bits.to_be_bytes());
        record.extend(self.work.to_be_bytes());
        record.extend(self.rules.anchor_hash);
        self.headers.iter().for_each(|header| record.extend(header.to_bytes()));
        record.extend(checksum(&record));
        record
    }

    /// Decodes a chain, and checks its links and the work of each header.
    ///
    /// `None` if the work of the chain is not followed.
    pub fn from_record(chain: &ChainParams, record: &[u8]) -> Result<Option<HeaderChain>, RecordError> {
        let Some(rules) = ChainRules::of(chain) else { return Ok(None) };
        let (mut rest, sum) = record.split_last_chunk().ok_or(RecordError::Damaged)?;
        if checksum(rest) != *sum {
            return Err(RecordError::Damaged);
        }
        let root = Root { height: take_u32(&mut rest)?, hash: take_hash(&mut rest)?, bits: take_u32(&mut rest)? };
        let work = Work::from_be_bytes(take_hash(&mut rest)?);
        if take_hash(&mut rest)? != rules.anchor_hash {
            return Err(RecordError::OtherAnchor);
        }
        let (headers, excess) = rest.as_chunks::<HEADER_BYTES>();
        let is_at_anchor = root == Root::anchor(&rules);
        // A later root needs so many headers that the next retarget can be computed.
        let has_enough = is_at_anchor || headers.len() >= (PERIOD + MEDIAN_TIMES) as usize;
        if !excess.is_empty() || !has_enough || headers.len() > MAX_HEADERS as usize {
            return Err(RecordError::Damaged);
        }
        let headers: Option<VecDeque<BlockHeader>> =
            headers.iter().map(|bytes| BlockHeader::from_bytes(bytes)).collect();
        let chain = HeaderChain { rules, root, headers: headers.ok_or(RecordError::Damaged)?, work };
        if chain.is_linked() { Ok(Some(chain)) } else { Err(RecordError::Damaged) }
    }

    fn is_linked(&self) -> bool {
        let mut previous = self.root.hash;
        self.headers.iter().all(|header| {
            let is_next = header.previous_hash() == previous && header.meets_own_target();
            previous = header.hash();
            is_next
        })
    }
}

fn checksum(content: &[u8]) -> [u8; 32] {
    sha256d::Hash::hash(content).to_byte_array()
}

fn take_u32(rest: &mut &[u8]) -> Result<u32, RecordError> {
    let (bytes, after) = rest.split_first_chunk().ok_or(RecordError::Damaged)?;
    *rest = after;
    Ok(u32::from_be_bytes(*bytes))
}

fn take_hash(rest: &mut &[u8]) -> Result<BlockHash, RecordError> {
    let (bytes, after) = rest.split_first_chunk().ok_or(RecordError::Damaged)?;
    *rest = after;
    Ok(*bytes)
}
