//! Which bytes of a block header are compared.

use bitcoin::hashes::{Hash, sha256d};
use data_encoding::HEXLOWER_PERMISSIVE;
use serde::{Deserialize, Serialize};

use super::BlockHash;

/// Length of Bitcoin's header, and of the part that chains with longer headers have in common with it.
const BASIC_BYTES: usize = 80;

/// Maximum length of a header whose bytes are all compared. Those of Zcash have 1,487 bytes.
const MAX_WHOLE_BYTES: usize = 4096;

/// Which part of a header is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HeaderRule {
    /// Exactly 80 bytes. Longer headers belong to another chain.
    Exact,
    /// The first 80 bytes of 80 or more. What follows proves merged mining, and some servers cut it off.
    First80,
    /// All bytes, from 80 to 4,096.
    #[default]
    Whole,
}

/// Header of a block, as a server shows it: the bytes that are compared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShownHeader(Box<[u8]>);

impl HeaderRule {
    /// Parses a header in hexadecimal; `None` if it has another length, or is no header.
    pub fn parse(self, hex: &str) -> Option<ShownHeader> {
        let digits = 2 * BASIC_BYTES;
        let compared = match self {
            HeaderRule::Exact if hex.len() != digits => return None,
            HeaderRule::Whole if hex.len() > 2 * MAX_WHOLE_BYTES => return None,
            HeaderRule::Exact | HeaderRule::Whole => hex.as_bytes(),
            HeaderRule::First80 => hex.as_bytes().get(..digits)?,
        };
        let bytes = HEXLOWER_PERMISSIVE.decode(compared).ok()?;
        (bytes.len() >= BASIC_BYTES).then(|| ShownHeader(bytes.into()))
    }
}

impl ShownHeader {
    /// Returns the double SHA-256 of the compared bytes, by which blocks of different servers are compared.
    ///
    /// On many chains it is the hash of the block.
    pub fn id(&self) -> BlockHash {
        sha256d::Hash::hash(&self.0).to_byte_array()
    }

    /// Returns the hash of the block before: the 32 bytes after the version.
    pub fn previous_hash(&self) -> BlockHash {
        let mut hash = BlockHash::default();
        hash.iter_mut().zip(self.0.iter().skip(4)).for_each(|(to, from)| *to = *from);
        hash
    }

    /// Returns the first 80 bytes, which contain the target.
    pub fn basic_bytes(&self) -> &[u8] {
        self.0.get(..BASIC_BYTES).unwrap_or(&self.0)
    }

    /// Returns whether all bytes are zero, as a server without the header may send them.
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|byte| *byte == 0)
    }
}
