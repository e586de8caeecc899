//! Chain whose peers a store holds.

use data_encoding::HEXLOWER;
use std::collections::BTreeMap;
use std::fmt;

use redb::{Database, ReadableDatabase, ReadableTable, TableError, WriteTransaction};

use super::tables::{LABELS, PEERS};
use crate::book::{Entry, Source};
use crate::chain::Chain;

/// Key of the chain's name in the table of labels.
const CHAIN: &str = "chain";

/// Recorded name of a chain, possibly unknown to this version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChainName(String);

impl ChainName {
    /// Returns whether this is the name of a chain.
    pub fn is(&self, chain: &Chain) -> bool {
        self.0 == chain.name.as_str()
    }
}

impl From<&Chain> for ChainName {
    fn from(chain: &Chain) -> ChainName {
        ChainName(chain.name.to_string())
    }
}

impl fmt::Display for ChainName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Reads the recorded chain; `None` if none is recorded.
pub(crate) fn recorded(database: &Database) -> Result<Option<ChainName>, redb::Error> {
    match database.begin_read()?.open_table(LABELS) {
        Ok(labels) => Ok(labels.get(CHAIN)?.map(|chain| ChainName(chain.value().to_owned()))),
        Err(TableError::TableDoesNotExist(_)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Records the chain of a store.
pub(crate) fn record(transaction: &WriteTransaction, chain: &ChainName) -> Result<(), redb::Error> {
    transaction.open_table(LABELS)?.insert(CHAIN, chain.0.as_str())?;
    Ok(())
}

/// Infers the chain from the verified peers or the built-in seeds.
///
/// The seeds count only if no peer is verified. The majority decides, so a store that was used
/// for another chain for a while keeps its own. On a tie, `preferred` wins. `None` if the store has
/// neither. Records must have the current schema.
pub(crate) fn inferred(
    transaction: &WriteTransaction,
    preferred: Option<&Chain>,
) -> Result<Option<ChainName>, redb::Error> {
    let chains = Chain::BUILT_IN;
    let mut peers_by_chain: BTreeMap<&str, (usize, &Chain)> = BTreeMap::new();
    let mut seeds_by_chain = peers_by_chain.clone();
    for record in transaction.open_table(PEERS)?.iter()? {
        let (_, value) = record?;
        let Ok(entry) = postcard::from_bytes::<Entry>(value.value()) else { continue };
        let verified = entry.last_success.and(entry.genesis_hash).map(|bytes| HEXLOWER.encode(&bytes));
        let chain = chains.iter().find(|chain| verified.as_deref() == Some(&*chain.genesis_hash));
        if let Some(chain) = chain {
            peers_by_chain.entry(chain.name.as_str()).or_insert((0, chain)).0 += 1;
        }
        if entry.source == Source::Seed {
            for chain in &chains {
                let ports = entry.ports.without_web_sockets();
                let is_seed = chain.default_seeds().iter().any(|seed| (&seed.host, seed.ports) == (&entry.host, ports));
                if is_seed {
                    seeds_by_chain.entry(chain.name.as_str()).or_insert((0, chain)).0 += 1;
                }
            }
        }
    }
    let known = if peers_by_chain.is_empty() { seeds_by_chain } else { peers_by_chain };
    let most = known.into_values().max_by_key(|(peers, chain)| (*peers, Some(*chain) == preferred));
    Ok(most.map(|(_, chain)| chain.into()))
}
