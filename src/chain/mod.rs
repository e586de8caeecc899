//! Chains that Electrum servers serve. A chain is data: what differs between chains is in [`ChainParams`].

mod built_in;
mod header_rule;
mod name;

use std::borrow::Cow;
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

pub use header_rule::{HeaderRule, ShownHeader};
pub use name::{ChainName, InvalidChainName};

use crate::peer::{Ports, RealName};

/// Hash of a block, in the byte order of headers.
pub type BlockHash = [u8; 32];

/// Chain of a Waypost and its peers. A copy is cheap.
#[derive(Clone)]
pub enum Chain {
    /// One of [`Chain::BUILT_IN`].
    BuiltIn(&'static ChainParams),
    /// Chain from the `[chain]` section of a configuration.
    Custom(Arc<ChainParams>),
}

/// Constants of a chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChainParams {
    /// Name in configurations, JSON and the store.
    pub name: ChainName,
    /// Hash of the first block, 64 hexadecimal digits in display order.
    pub genesis_hash: Cow<'static, str>,
    /// Ports that a bare `t` or `s` in a real name stands for.
    pub default_ports: Ports,
    /// Seeds for an empty book, as real names.
    pub seeds: Cow<'static, [&'static str]>,
    /// Where its servers meet on IRC. `None`: nowhere known.
    pub irc: Option<IrcParams>,
    /// Block that every server of the chain has. `None`: chains with the same genesis can't be told apart.
    pub pin: Option<Pin>,
    /// Which part of a header is compared.
    pub header: HeaderRule,
    /// How the work of headers is checked.
    pub work: WorkRule,
}

/// Channel and nicks of servers on IRC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IrcParams {
    /// The channel.
    pub channel: &'static str,
    /// Start of the nick of each server.
    pub nick_prefix: &'static str,
}

/// Block that every server of a chain has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pin {
    /// Height of the block.
    pub height: u32,
    /// Its hash.
    pub hash: BlockHash,
    /// How a server shows that it has the block.
    pub shown_by: PinProof,
    /// Minimum height of the tip of a server that is not syncing.
    pub min_tip: u32,
}

/// How a server shows that it has the pinned block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PinProof {
    /// By its header, whose double SHA-256 is the block's hash.
    OwnHeader,
    /// By the next header, which contains the hash. It serves chains with any hash function.
    NextHeader,
}

/// How the work of headers is checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WorkRule {
    /// Not at all: blocks are hashed by another function, or mined together with those of another chain.
    Unchecked,
    /// The double SHA-256 of a header must meet the target that the header states. Its difficulty is not checked.
    OwnTarget,
    /// Headers after the pin, or after the first block, are followed with all rules of Bitcoin.
    Followed {
        /// Compact target of the block after the pin, or of the first block.
        bits: u32,
        /// Whether the target changes.
        retargets: Retargets,
    },
}

/// How the target of a followed chain changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retargets {
    /// Every 2,016 blocks, by the time that they took.
    EveryPeriod,
    /// Never.
    Never,
}

impl Chain {
    /// Returns the seeds; lines that are no real name are left out.
    pub fn default_seeds(&self) -> Vec<RealName> {
        self.seeds.iter().filter_map(|line| RealName::parse(line, self.default_ports).ok()).collect()
    }

    /// Returns the built-in chain with a name; `None` if there is none.
    pub fn built_in(name: &ChainName) -> Option<Chain> {
        Chain::BUILT_IN.into_iter().find(|chain| chain.name == *name)
    }
}

impl Deref for Chain {
    type Target = ChainParams;

    fn deref(&self) -> &ChainParams {
        match self {
            Chain::BuiltIn(params) => params,
            Chain::Custom(params) => params,
        }
    }
}

impl PartialEq for Chain {
    fn eq(&self, other: &Chain) -> bool {
        **self == **other
    }
}

impl Eq for Chain {}

impl Default for Chain {
    fn default() -> Chain {
        Chain::BITCOIN
    }
}

impl fmt::Debug for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Chain({})", self.name)
    }
}

/// Writes the name.
impl fmt::Display for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.name.fmt(f)
    }
}

impl Pin {
    /// Returns the height of the header that shows the pinned block.
    pub fn header_height(&self) -> u32 {
        match self.shown_by {
            PinProof::OwnHeader => self.height,
            PinProof::NextHeader => self.height.saturating_add(1),
        }
    }

    /// Returns whether a header at [`Pin::header_height`] shows the pinned block.
    pub fn is_shown_by(&self, header: &ShownHeader) -> bool {
        let hash = match self.shown_by {
            PinProof::OwnHeader => header.id(),
            PinProof::NextHeader => header.previous_hash(),
        };
        hash == self.hash
    }
}

/// Decodes the hash of a block from 64 hexadecimal digits in display order; `None` for anything else.
pub fn hash_from_hex(hex: &str) -> Option<BlockHash> {
    let bytes = data_encoding::HEXLOWER_PERMISSIVE.decode(hex.as_bytes()).ok()?;
    let mut hash: BlockHash = bytes.try_into().ok()?;
    hash.reverse();
    Some(hash)
}

#[cfg(test)]
mod tests;
