//! Peer database on disk: one redb file, one record for each peer, and a journal of the last batches.

mod chain;
mod journal;
mod record;
mod schema;
mod tables;
mod writer;

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::Duration;

use redb::{Builder, Database, ReadableDatabase, ReadableTable};

pub use chain::ChainName;
pub use writer::{Change, StoreHandle, Writer, WriterStatus};

use crate::book::{Entry, Side};
use crate::chain::Chain;
use crate::clock::Time;
use crate::header_chain::{HeaderChain, RecordError};
use crate::route::{PerRoute, Route};
use crate::trends::Trends;
use journal::Journal;
use record::RecordChanges;
use tables::{HEADERS, META, ONION_PEERS, PEERS, REACH, TRENDS};

/// Size of redb's cache in bytes. Small, because the book is in memory and only batches use the
/// cache.
const CACHE_BYTES: usize = 1024 * 1024;

/// Open store, locked against other processes.
pub struct Store {
    open: Box<dyn Fn() -> Result<Database, redb::Error> + Send>,
    /// Open database; `None` after a failed write, until the file is opened again.
    database: Option<Database>,
    /// Changes since the last transaction of the database.
    journal: Journal,
}

/// Content of a store at the time it was opened.
#[derive(Debug, Default)]
pub struct LoadedState {
    /// All peers whose record can be read, except those of the onion side.
    pub entries: Vec<Entry>,
    /// Total time during which each path worked.
    pub working_time: PerRoute<Duration>,
    /// Peers of the onion side; empty if the node has one book.
    pub onion_entries: Vec<Entry>,
    /// Whether this opening created the table of the onion side, in a store of an older version.
    pub has_new_onion_table: bool,
    /// Total time during which each path worked for the onion side.
    pub onion_working_time: PerRoute<Duration>,
    /// Chain of block headers; `None` if none is stored, or if it starts at another block.
    pub chain: Option<HeaderChain>,
    /// Chain of block headers of the onion side.
    pub onion_chain: Option<HeaderChain>,
    /// Samples of the node's state.
    pub trends: Trends,
    /// Number of unreadable records. They stay in the store.
    pub unreadable: usize,
    /// Damaged store that this one replaces; `None` if the store was intact.
    pub quarantined: Option<Quarantine>,
}

/// Damaged store that was renamed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quarantine {
    /// New path of the damaged store.
    pub path: PathBuf,
    /// Description of the damage.
    pub reason: String,
}

/// Reason why a store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process has opened the store.
    #[error("the store {} is in use: another waypost runs on this data directory; stop it, or choose another data_dir", .0.display())]
    Locked(PathBuf),
    /// The store has a schema that this version does not know.
    #[error("the store {} is of a newer waypost (schema {found}, this one knows {known}); run the newer one, or move the file away", path.display())]
    NewerSchema {
        /// Path of the store.
        path: PathBuf,
        /// Schema version of the store.
        found: u64,
        /// Newest schema version that this program knows.
        known: u64,
    },
    /// The store belongs to another chain.
    #[error(
        "the store {} holds peers of {found}, but network is {wanted}; set network = \"{found}\", or choose another data_dir for {wanted}",
        path.display()
    )]
    OtherChain {
        /// Path of the store.
        path: PathBuf,
        /// Chain of the store.
        found: ChainName,
        /// Configured chain.
        wanted: ChainName,
    },
    /// The operating system refuses access to the file.
    #[error("can't open the store {}: {error}; check that this user may write there and that the disk isn't full", path.display())]
    Io {
        /// Path of the store.
        path: PathBuf,
        /// Error of the operating system.
        error: std::io::Error,
    },
    /// The store is damaged and cannot be renamed.
    #[error("the store {} is damaged ({reason}), and can't be moved aside: {error}; move it away by hand", path.display())]
    QuarantineFailed {
        /// Path of the store.
        path: PathBuf,
        /// Description of the damage.
        reason: String,
        /// Error of the rename.
        error: std::io::Error,
    },
    /// Any other error of the database.
    #[error("can't use the store {}: {error}; check that the disk works and isn't full", path.display())]
    Other {
        /// Path of the store.
        path: PathBuf,
        /// Error of the database.
        error: Box<redb::Error>,
    },
}

impl Store {
    /// Opens or creates the store of a chain and loads its content.
    ///
    /// A damaged store is renamed, not deleted, and a new one is created.
    pub fn open(path: &Path, chain: &Chain, now: Time) -> Result<(Store, LoadedState), StoreError> {
        let reason = match Store::try_open(path, chain, now) {
            Ok(opened) => return Ok(opened),
            Err(OpenError::Damaged(reason)) => reason,
            Err(OpenError::Error(error)) => return Err(error),
        };
        let quarantine = quarantine_path(path, now);
        std::fs::rename(path, &quarantine).map_err(|error| StoreError::QuarantineFailed {
            path: path.to_owned(),
            reason: reason.clone(),
            error,
        })?;
        match Store::try_open(path, chain, now) {
            Ok((store, loaded)) => {
                let quarantined = Some(Quarantine { path: quarantine, reason });
                Ok((store, LoadedState { quarantined, ..loaded }))
            }
            Err(OpenError::Error(error)) => Err(error),
            Err(OpenError::Damaged(reason)) => {
                let error = std::io::Error::other("a new store at the same path was damaged as well");
                Err(StoreError::QuarantineFailed { path: path.to_owned(), reason, error })
            }
        }
    }

    fn try_open(path: &Path, chain: &Chain, now: Time) -> Result<(Store, LoadedState), OpenError> {
        let file = path.to_owned();
        let open = move || {
            let mut builder = Builder::new();
            builder.set_cache_size(CACHE_BYTES).set_check_integrity_on_open(true);
            Ok(builder.create(&file)?)
        };
        // redb may panic on damage that its checks miss. Such a panic counts as damage.
        let opened = catch_unwind(AssertUnwindSafe(|| {
            let database = open()?;
            let migrated = schema::migrate(&database, chain)?;
            let mut journal = open_journal(&database, journal::open_file(&journal_path(path))?)?;
            commit(&database, &mut journal, RecordChanges::new())?;
            let mut loaded =
                LoadedState { has_new_onion_table: migrated.adds_onion_table(), ..load(&database, chain)? };
            if migrated.adds_standing() {
                commit(&database, &mut journal, record::encode(&promote_reliable_peers(&mut loaded, now)))?;
            }
            Ok((database, journal, loaded))
        }));
        match opened {
            Ok(Ok((database, journal, loaded))) => {
                Ok((Store { open: Box::new(open), database: Some(database), journal }, loaded))
            }
            Ok(Err(error)) => Err(OpenError::classify(error, path, chain)),
            Err(_) => Err(OpenError::Damaged("the database panics on it".to_owned())),
        }
    }

    /// Writes a batch to disk. After a crash, all of its changes are there or none.
    pub fn write<'a>(&mut self, changes: impl IntoIterator<Item = &'a Change>) -> Result<(), redb::Error> {
        let changes = record::encode(changes);
        if changes.is_empty() {
            return Ok(());
        }
        if self.journal.append(&changes)? { Ok(()) } else { self.commit(changes) }
    }

    /// Moves the changes of the journal to the database.
    ///
    /// The store is complete without it. Afterwards the file of the database is complete on its own.
    pub fn empty_journal(&mut self) -> Result<(), redb::Error> {
        self.commit(RecordChanges::new())
    }

    /// Writes the changes of the journal and others to the database.
    fn commit(&mut self, changes: RecordChanges) -> Result<(), redb::Error> {
        let database = match self.database.take() {
            Some(database) => database,
            None => (self.open)()?,
        };
        commit(&database, &mut self.journal, changes)?;
        // redb requires the file to be reopened after a failure, so only a success keeps the
        // handle.
        self.database = Some(database);
        Ok(())
    }

    #[cfg(test)]
    fn with_backends(
        open: impl Fn() -> Result<Database, redb::Error> + Send + 'static,
        journal: impl redb::StorageBackend,
    ) -> Result<(Store, LoadedState), schema::Error> {
        let database = open()?;
        schema::migrate(&database, &Chain::BITCOIN)?;
        let mut journal = open_journal(&database, Box::new(journal))?;
        commit(&database, &mut journal, RecordChanges::new())?;
        let loaded = load(&database, &Chain::BITCOIN)?;
        Ok((Store { open: Box::new(open), database: Some(database), journal }, loaded))
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("open", &self.database.is_some()).finish_non_exhaustive()
    }
}

/// Store locked against other processes, without its content.
pub struct HeldStore {
    /// Chain whose peers the store holds; `None` if unknown.
    pub chain: Option<ChainName>,
    _database: Database,
}

impl HeldStore {
    /// Locks the store at `path`; `None` if it is missing, in use, newer or damaged.
    pub fn open(path: &Path) -> Option<HeldStore> {
        let opened = catch_unwind(|| {
            let database = Builder::new().set_cache_size(CACHE_BYTES).open(path).ok()?;
            let chain = schema::chain_of(&database).ok()?;
            Some(HeldStore { chain, _database: database })
        });
        opened.ok().flatten()
    }
}

impl fmt::Debug for HeldStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HeldStore").field("chain", &self.chain).finish_non_exhaustive()
    }
}

/// Failure to open a store: damage, which leads to a new store, or any other error.
enum OpenError {
    Damaged(String),
    Error(StoreError),
}

impl OpenError {
    fn classify(error: schema::Error, path: &Path, wanted: &Chain) -> OpenError {
        let path = path.to_owned();
        match error {
            schema::Error::Newer { found, known } => OpenError::Error(StoreError::NewerSchema { path, found, known }),
            schema::Error::OtherChain(found) => {
                OpenError::Error(StoreError::OtherChain { path, found, wanted: wanted.into() })
            }
            schema::Error::Redb(error) => match *error {
                redb::Error::DatabaseAlreadyOpen => OpenError::Error(StoreError::Locked(path)),
                redb::Error::Io(error) if error.kind() != std::io::ErrorKind::InvalidData => {
                    OpenError::Error(StoreError::Io { path, error })
                }
                error @ (redb::Error::Io(_)
                | redb::Error::Corrupted(_)
                | redb::Error::TableTypeMismatch { .. }
                | redb::Error::TableIsMultimap(_)
                | redb::Error::UpgradeRequired(_)) => OpenError::Damaged(error.to_string()),
                error => OpenError::Error(StoreError::Other { path, error: Box::new(error) }),
            },
        }
    }
}

/// Returns the path of the journal that belongs to the store at `path`.
fn journal_path(path: &Path) -> PathBuf {
    path.with_extension("journal")
}

/// Returns a path next to the store whose name contains the time.
fn quarantine_path(path: &Path, now: Time) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".damaged-{}", now.to_string().replace([':', '-'], "")));
    path.with_file_name(name)
}

/// Promotes the reliable peers of an older store, which were advertised without limits until then.
fn promote_reliable_peers(loaded: &mut LoadedState, now: Time) -> Vec<Change> {
    let mut changes = Vec::new();
    for (side, entries) in [(Side::Both, &mut loaded.entries), (Side::Onion, &mut loaded.onion_entries)] {
        for entry in entries.iter_mut().filter(|entry| !entry.source.is_operator()) {
            if entry.promote_from_older_store(now) {
                changes.push(Change::Save(side, Box::new(entry.clone())));
            }
        }
    }
    changes
}

fn load(database: &Database, chain: &Chain) -> Result<LoadedState, redb::Error> {
    let read = database.begin_read()?;
    let mut loaded = LoadedState::default();
    let mut entries = |table| -> Result<Vec<Entry>, redb::Error> {
        let mut entries = Vec::new();
        for record in read.open_table(table)?.iter()? {
            let (_, value) = record?;
            match postcard::from_bytes(value.value()) {
                Ok(entry) => entries.push(entry),
                Err(_) => loaded.unreadable += 1,
            }
        }
        Ok(entries)
    };
    let (main, onion) = (entries(PEERS)?, entries(ONION_PEERS)?);
    (loaded.entries, loaded.onion_entries) = (main, onion);
    let headers = read.open_table(HEADERS)?;
    let mut chain = |side| -> Result<Option<HeaderChain>, redb::Error> {
        let Some(record) = headers.get(schema::chain_key(side))? else { return Ok(None) };
        Ok(HeaderChain::from_record(chain, record.value()).unwrap_or_else(|error| {
            loaded.unreadable += usize::from(error == RecordError::Damaged);
            None
        }))
    };
    (loaded.chain, loaded.onion_chain) = (chain(Side::Both)?, chain(Side::Onion)?);
    if let Some(record) = read.open_table(TRENDS)?.get(schema::SAMPLES)? {
        loaded.trends = postcard::from_bytes(record.value()).unwrap_or_else(|_| {
            loaded.unreadable += 1;
            Trends::default()
        });
    }
    let reach = read.open_table(REACH)?;
    let total = |side, route| -> Result<Duration, redb::Error> {
        let millis = reach.get(schema::route_key(side, route))?.map_or(0, |millis| millis.value());
        Ok(Duration::from_millis(millis))
    };
    let totals = |side| -> Result<PerRoute<Duration>, redb::Error> {
        Ok(PerRoute { direct: total(side, Route::Direct)?, tor: total(side, Route::Tor)? })
    };
    loaded.working_time = totals(Side::Both)?;
    loaded.onion_working_time = totals(Side::Onion)?;
    Ok(loaded)
}

/// Opens the journal of this database.
fn open_journal(database: &Database, file: Box<dyn redb::StorageBackend>) -> Result<Journal, redb::Error> {
    let meta = database.begin_read()?.open_table(META)?;
    let number = |key| -> Result<u64, redb::Error> { Ok(meta.get(key)?.map_or(0, |number| number.value())) };
    Journal::open(file, number(schema::STORE_ID)?, number(schema::APPLIED_FRAME)?)
}

/// Writes the changes of the journal and later ones to the database, in one transaction.
fn commit(database: &Database, journal: &mut Journal, later: RecordChanges) -> Result<(), redb::Error> {
    if journal.pending().is_empty() && later.is_empty() {
        return Ok(());
    }
    let transaction = database.begin_write()?;
    record::apply(&transaction, journal.pending())?;
    record::apply(&transaction, &later)?;
    transaction.open_table(META)?.insert(schema::APPLIED_FRAME, journal.last_number())?;
    transaction.commit()?;
    journal.restart();
    Ok(())
}

#[cfg(test)]
mod tests;
