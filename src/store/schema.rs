//! The tables, and how an older store becomes a newer one.

use redb::{Database, ReadableDatabase, ReadableTable, TableError, WriteTransaction};

use super::chain::{self, ChainName};
use super::tables::{LABELS, META, PEERS, REACH};
use crate::network::Network;
use crate::route::Route;

const VERSION: &str = "schema";

/// Each makes a store of the version that is its place in the list one of the next. A store begins as version 0, which
/// is an empty file. Once released, an entry never changes: a change of the records appends another.
const MIGRATIONS: &[Migration] = &[create_tables, announcements, uptimes, labels];

type Migration = fn(&WriteTransaction) -> Result<(), redb::Error>;

#[derive(Debug)]
pub enum Error {
    Newer { found: u64, known: u64 },
    OtherChain(ChainName),
    Redb(Box<redb::Error>),
}

impl<E: Into<redb::Error>> From<E> for Error {
    fn from(error: E) -> Error {
        Error::Redb(Box::new(error.into()))
    }
}

/// Upgrades a store of this chain to the current schema, in one transaction.
///
/// A store that is newer, or of another chain, is left as it is.
pub fn migrate(database: &Database, network: Network) -> Result<(), Error> {
    let missing = missing_migrations(database)?;
    let recorded = chain::recorded(database)?;
    if let (true, Some(chain)) = (missing.is_empty(), &recorded) {
        return if chain.is(network) { Ok(()) } else { Err(Error::OtherChain(chain.clone())) };
    }
    let transaction = database.begin_write()?;
    apply(&transaction, missing)?;
    let known = match recorded {
        Some(chain) => Some(chain),
        None => chain::inferred(&transaction, Some(network))?,
    };
    match known {
        // Without a commit nothing is written.
        Some(other) if !other.is(network) => return Err(Error::OtherChain(other)),
        _ => chain::record(&transaction, &network.into())?,
    }
    transaction.commit()?;
    Ok(())
}

/// Finds out whose chain a store holds without changing it; `None` where nothing tells.
pub fn chain_of(database: &Database) -> Result<Option<ChainName>, Error> {
    if let Some(chain) = chain::recorded(database)? {
        return Ok(Some(chain));
    }
    let missing = missing_migrations(database)?;
    let transaction = database.begin_write()?;
    apply(&transaction, missing)?;
    let chain = chain::inferred(&transaction, None)?;
    transaction.abort()?;
    Ok(chain)
}

fn missing_migrations(database: &Database) -> Result<&'static [Migration], Error> {
    let known = MIGRATIONS.len() as u64;
    let found = version(database)?;
    let missing = usize::try_from(found).ok().and_then(|found| MIGRATIONS.get(found..));
    missing.ok_or(Error::Newer { found, known })
}

fn apply(transaction: &WriteTransaction, missing: &[Migration]) -> Result<(), Error> {
    for migration in missing {
        migration(transaction)?;
    }
    transaction.open_table(META)?.insert(VERSION, MIGRATIONS.len() as u64)?;
    Ok(())
}

pub fn route_key(via: Route) -> &'static str {
    match via {
        Route::Direct => "direct",
        Route::Tor => "tor",
    }
}

fn version(database: &Database) -> Result<u64, redb::Error> {
    match database.begin_read()?.open_table(META) {
        Ok(meta) => Ok(meta.get(VERSION)?.map_or(0, |version| version.value())),
        Err(TableError::TableDoesNotExist(_)) => Ok(0),
        Err(error) => Err(error.into()),
    }
}

/// From nothing to the first version.
fn create_tables(transaction: &WriteTransaction) -> Result<(), redb::Error> {
    transaction.open_table(PEERS)?;
    transaction.open_table(REACH)?;
    Ok(())
}

/// Each peer has a place for when it learnt us, at the end of its record: nothing, which postcard writes as a zero.
fn announcements(transaction: &WriteTransaction) -> Result<(), redb::Error> {
    append_bytes(transaction, &[0])
}

/// Then one for how much of the time it was there, of which nothing is known: no moment, and four windows of two zeros.
fn uptimes(transaction: &WriteTransaction) -> Result<(), redb::Error> {
    append_bytes(transaction, &[0; 9])
}

/// Adds the table that names the store's chain, among other texts.
fn labels(transaction: &WriteTransaction) -> Result<(), redb::Error> {
    transaction.open_table(LABELS)?;
    Ok(())
}

fn append_bytes(transaction: &WriteTransaction, more: &[u8]) -> Result<(), redb::Error> {
    let mut peers = transaction.open_table(PEERS)?;
    let mut longer = Vec::new();
    for record in peers.iter()? {
        let (host, entry) = record?;
        longer.push((host.value().to_owned(), [entry.value(), more].concat()));
    }
    for (host, entry) in longer {
        peers.insert(host.as_str(), entry.as_slice())?;
    }
    Ok(())
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// Makes a store look like one of another version.
    pub fn set_version(database: &Database, version: u64) {
        let transaction = database.begin_write().unwrap();
        transaction.open_table(META).unwrap().insert(VERSION, version).unwrap();
        if version < 4 {
            transaction.delete_table(LABELS).unwrap();
        }
        transaction.commit().unwrap();
    }
}
