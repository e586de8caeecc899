//! Schema of the store and its migrations.

use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;

use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition, TableError, WriteTransaction};

use super::chain::{self, ChainName};
use super::tables::{HEADERS, LABELS, META, ONION_PEERS, PEERS, REACH, TRENDS};
use crate::book::Side;
use crate::chain::Chain;
use crate::peer::{Host, Port};
use crate::route::Route;

/// Key of the schema version in the metadata table.
const VERSION: &str = "schema";

/// Key of the samples in the table of trends.
pub(crate) const SAMPLES: &str = "samples";

/// Key of the store's identifier in the metadata table.
pub(crate) const STORE_ID: &str = "store";

/// Key of the number of the journal's last frame that the tables contain, in the metadata table.
pub(crate) const APPLIED_FRAME: &str = "applied_frame";

/// Migrations in order; the entry at index `n` turns version `n` into version `n + 1`.
///
/// Version 0 is an empty file. A released migration never changes; a new record format adds
/// another.
const MIGRATIONS: &[Migration] = &[
    create_tables,
    add_announcements,
    add_uptimes,
    add_labels,
    add_onion_side,
    add_reached,
    add_standing,
    add_headers,
    add_web_sockets,
    add_days_and_trends,
    add_journal,
];

/// First version with the table of the onion side.
const ONION_SIDE_VERSION: usize = 5;

/// First version that records when a peer became long-standing.
const STANDING_VERSION: usize = 7;

type Migration = fn(&WriteTransaction) -> Result<(), redb::Error>;

/// Reason why a store cannot be migrated.
#[derive(Debug)]
pub(crate) enum Error {
    /// The store has a newer schema than `known`.
    Newer { found: u64, known: u64 },
    /// The store belongs to another chain.
    OtherChain(ChainName),
    /// The database fails.
    Redb(Box<redb::Error>),
}

impl<E: Into<redb::Error>> From<E> for Error {
    fn from(error: E) -> Error {
        Error::Redb(Box::new(error.into()))
    }
}

/// Migrates a store of this chain to the current schema.
///
/// All migrations run in one transaction. A newer store and a store of another chain are not
/// changed.
pub(crate) fn migrate(database: &Database, chain: &Chain) -> Result<Migrated, Error> {
    let missing = missing_migrations(database)?;
    let recorded = chain::recorded(database)?;
    if let (true, Some(recorded)) = (missing.is_empty(), &recorded) {
        return if recorded.is(chain) { Ok(Migrated(missing)) } else { Err(Error::OtherChain(recorded.clone())) };
    }
    let transaction = database.begin_write()?;
    apply(&transaction, missing)?;
    let known = match recorded {
        Some(chain) => Some(chain),
        None => chain::inferred(&transaction, Some(chain))?,
    };
    match known {
        // The transaction is dropped without a commit, so nothing is written.
        Some(other) if !other.is(chain) => return Err(Error::OtherChain(other)),
        _ => chain::record(&transaction, &chain.into())?,
    }
    transaction.commit()?;
    Ok(Migrated(missing))
}

/// Migrations that an opening has run.
pub(crate) struct Migrated(&'static [Migration]);

impl Migrated {
    /// Returns whether a store with peers got the table of the onion side. A new store runs all migrations.
    pub(crate) fn adds_onion_table(&self) -> bool {
        let before = MIGRATIONS.len() - self.0.len();
        before > 0 && before < ONION_SIDE_VERSION
    }

    /// Returns whether the store was written before promotions to long-standing peers were limited.
    pub(crate) fn adds_standing(&self) -> bool {
        let before = MIGRATIONS.len() - self.0.len();
        before > 0 && before < STANDING_VERSION
    }
}

/// Returns the chain of a store without changing the store; `None` if unknown.
pub(crate) fn chain_of(database: &Database) -> Result<Option<ChainName>, Error> {
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

/// Returns the key of a route in the table of path uptimes.
pub(crate) fn route_key(side: Side, route: Route) -> &'static str {
    match (side, route) {
        (Side::Both | Side::Clearnet, Route::Direct) => "direct",
        (Side::Both | Side::Clearnet, Route::Tor) => "tor",
        (Side::Onion, Route::Direct) => "onion_direct",
        (Side::Onion, Route::Tor) => "onion_tor",
    }
}

/// Returns the key of a side in the table of block headers.
pub(crate) fn chain_key(side: Side) -> &'static str {
    match side {
        Side::Both | Side::Clearnet => "clearnet",
        Side::Onion => "onion",
    }
}

fn version(database: &Database) -> Result<u64, redb::Error> {
    match database.begin_read()?.open_table(META) {
        Ok(meta) => Ok(meta.get(VERSION)?.map_or(0, |version| version.value())),
        Err(TableError::TableDoesNotExist(_)) => Ok(0),
        Err(error) => Err(error.into()),
    }
}

/// Creates the tables of version 1.
fn create_tables(transaction: &WriteTransaction) -> Result<(), redb::Error> {
    transaction.open_table(PEERS)?;
    transaction.open_table(REACH)?;
    Ok(())
}

/// Appends the time of the last announcement to each record: `None`, one zero byte in postcard.
fn add_announcements(transaction: &WriteTransaction) -> Result<(), redb::Error> {
    append_bytes(transaction, PEERS, &[0])
}

/// Appends the uptime to each record: no time, and four windows of two zeros.
fn add_uptimes(transaction: &WriteTransaction) -> Result<(), redb::Error> {
    append_bytes(transaction, PEERS, &[0; 9])
}

/// Creates the table of labels, which names the chain.
fn add_labels(transaction: &WriteTransaction) -> Result<(), redb::Error> {
    transaction.open_table(LABELS)?;
    Ok(())
}

/// Creates the table of the onion side's peers.
fn add_onion_side(transaction: &WriteTransaction) -> Result<(), redb::Error> {
    transaction.open_table(ONION_PEERS)?;
    Ok(())
}

/// Appends the reached endpoints to each record: `None` for each transport.
fn add_reached(transaction: &WriteTransaction) -> Result<(), redb::Error> {
    append_bytes(transaction, PEERS, &[0; 2])?;
    append_bytes(transaction, ONION_PEERS, &[0; 2])
}

/// Appends the time of the promotion and the batch of the certificate to each record: `None` each.
fn add_standing(transaction: &WriteTransaction) -> Result<(), redb::Error> {
    append_bytes(transaction, PEERS, &[0; 2])?;
    append_bytes(transaction, ONION_PEERS, &[0; 2])
}

/// Creates the table of block headers.
fn add_headers(transaction: &WriteTransaction) -> Result<(), redb::Error> {
    transaction.open_table(HEADERS)?;
    Ok(())
}

/// Adds the ports of WebSockets to each record, within the ports and as reached endpoints: `None` each.
///
/// Appends the own names in the peer's list, of which there are none, and `None` as the result of an announcement.
fn add_web_sockets(transaction: &WriteTransaction) -> Result<(), redb::Error> {
    /// Beginning of a record: host, address, and ports for TCP and TLS.
    type Beginning = (Host, Option<IpAddr>, (Option<Port>, Option<Port>));
    rewrite(transaction, |record| {
        let rest = postcard::take_from_bytes::<Beginning>(record).map_or(record, |(_, rest)| rest);
        let (beginning, rest) = record.split_at(record.len() - rest.len());
        [beginning, &[0; 2], rest, &[0; 4]].concat()
    })
}

/// Appends the visits by day to each record: `None`. Creates the table of trends.
fn add_days_and_trends(transaction: &WriteTransaction) -> Result<(), redb::Error> {
    append_bytes(transaction, PEERS, &[0])?;
    append_bytes(transaction, ONION_PEERS, &[0])?;
    transaction.open_table(TRENDS)?;
    Ok(())
}

/// Adds the numbers that connect the store with its journal.
fn add_journal(transaction: &WriteTransaction) -> Result<(), redb::Error> {
    let mut meta = transaction.open_table(META)?;
    // Any number that differs between stores will do, and the hasher of the standard library has random keys.
    meta.insert(STORE_ID, RandomState::new().hash_one(VERSION))?;
    meta.insert(APPLIED_FRAME, 0)?;
    Ok(())
}

fn append_bytes(
    transaction: &WriteTransaction,
    table: TableDefinition<'_, &str, &[u8]>,
    suffix: &[u8],
) -> Result<(), redb::Error> {
    rewrite_table(transaction, table, |record| [record, suffix].concat())
}

fn rewrite(transaction: &WriteTransaction, change: impl Fn(&[u8]) -> Vec<u8>) -> Result<(), redb::Error> {
    rewrite_table(transaction, PEERS, &change)?;
    rewrite_table(transaction, ONION_PEERS, &change)
}

fn rewrite_table(
    transaction: &WriteTransaction,
    table: TableDefinition<'_, &str, &[u8]>,
    change: impl Fn(&[u8]) -> Vec<u8>,
) -> Result<(), redb::Error> {
    let mut peers = transaction.open_table(table)?;
    let mut changed = Vec::new();
    for record in peers.iter()? {
        let (host, entry) = record?;
        changed.push((host.value().to_owned(), change(entry.value())));
    }
    for (host, entry) in changed {
        peers.insert(host.as_str(), entry.as_slice())?;
    }
    Ok(())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Sets the recorded schema version, and removes tables that it lacks.
    pub(crate) fn set_version(database: &Database, version: u64) {
        let transaction = database.begin_write().unwrap();
        transaction.open_table(META).unwrap().insert(VERSION, version).unwrap();
        if version < 4 {
            transaction.delete_table(LABELS).unwrap();
        }
        transaction.commit().unwrap();
    }
}
