//! The book on disk: one redb file, a record for each peer, written in batches.

mod chain;
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

use crate::book::Entry;
use crate::clock::Time;
use crate::network::Network;
use crate::route::Route;
use tables::{PEERS, REACH};

/// redb's cache. The whole book is in memory anyway, so only what a batch touches is worth keeping.
const CACHE_BYTES: usize = 1024 * 1024;

/// An open store. Another process can't open it meanwhile.
pub struct Store {
    open: Box<dyn Fn() -> Result<Database, redb::Error> + Send>,
    /// None after a failed write, until the file has been opened again.
    database: Option<Database>,
}

/// What a store held when it was opened.
#[derive(Debug, Default)]
pub struct LoadedState {
    pub entries: Vec<Entry>,
    /// How long each way out has worked in all.
    pub direct: Duration,
    pub tor: Duration,
    /// Records that can't be read; they are left where they are.
    pub unreadable: usize,
    /// Where a damaged store was moved to, and why.
    pub quarantined: Option<(PathBuf, String)>,
}

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("the store {} is in use: another waypost runs on this data directory; stop it, or choose another data_dir", .0.display())]
    Locked(PathBuf),
    #[error("the store {} is of a newer waypost (schema {found}, this one knows {known}); run the newer one, or move the file away", path.display())]
    NewerSchema { path: PathBuf, found: u64, known: u64 },
    #[error(
        "the store {} holds peers of {found}, but network is {wanted}; set network = \"{found}\", or choose another data_dir for {wanted}",
        path.display()
    )]
    OtherChain { path: PathBuf, found: ChainName, wanted: Network },
    #[error("can't open the store {}: {error}; see that this user may write there and that the disk isn't full", path.display())]
    Io { path: PathBuf, error: std::io::Error },
    #[error("the store {} is damaged ({reason}), and can't be moved aside: {error}; move it away by hand", path.display())]
    QuarantineFailed { path: PathBuf, reason: String, error: std::io::Error },
    #[error("can't use the store {}: {error}; see that the disk is well and not full", path.display())]
    Other { path: PathBuf, error: Box<redb::Error> },
}

impl Store {
    /// Opens or creates this chain's store, and reads all of it.
    ///
    /// A damaged store is moved aside, not deleted, and a new one is created in its place.
    pub fn open(path: &Path, network: Network, now: Time) -> Result<(Store, LoadedState), StoreError> {
        let reason = match Store::try_open(path, network) {
            Ok(opened) => return Ok(opened),
            Err(OpenError::Damaged(reason)) => reason,
            Err(OpenError::Error(error)) => return Err(error),
        };
        let aside = quarantine_path(path, now);
        std::fs::rename(path, &aside).map_err(|error| StoreError::QuarantineFailed {
            path: path.to_owned(),
            reason: reason.clone(),
            error,
        })?;
        match Store::try_open(path, network) {
            Ok((store, kept)) => Ok((store, LoadedState { quarantined: Some((aside, reason)), ..kept })),
            Err(OpenError::Error(error)) => Err(error),
            Err(OpenError::Damaged(reason)) => {
                let error = std::io::Error::other("a new store in its place was damaged as well");
                Err(StoreError::QuarantineFailed { path: path.to_owned(), reason, error })
            }
        }
    }

    fn try_open(path: &Path, network: Network) -> Result<(Store, LoadedState), OpenError> {
        let file = path.to_owned();
        let open = move || {
            let mut builder = Builder::new();
            builder.set_cache_size(CACHE_BYTES).set_check_integrity_on_open(true);
            Ok(builder.create(&file)?)
        };
        // What was damaged cleverly enough may still make redb panic; the file is to blame, not the daemon.
        let opened = catch_unwind(AssertUnwindSafe(|| {
            let database = open()?;
            schema::migrate(&database, network)?;
            let kept = load(&database)?;
            Ok((database, kept))
        }));
        match opened {
            Ok(Ok((database, kept))) => Ok((Store { open: Box::new(open), database: Some(database) }, kept)),
            Ok(Err(error)) => Err(OpenError::classify(error, path, network)),
            Err(_) => Err(OpenError::Damaged("it breaks the database".to_owned())),
        }
    }

    /// Writes a batch, all of it or nothing. It is on disk when this returns.
    pub fn write<'a>(&mut self, changes: impl IntoIterator<Item = &'a Change>) -> Result<(), redb::Error> {
        let database = match self.database.take() {
            Some(database) => database,
            None => (self.open)()?,
        };
        write(&database, changes)?;
        // After a failure redb wants its file opened again, so only a success puts it back.
        self.database = Some(database);
        Ok(())
    }

    #[cfg(test)]
    fn with_opener(open: impl Fn() -> Result<Database, redb::Error> + Send + 'static) -> Result<Store, schema::Error> {
        let database = open()?;
        schema::migrate(&database, Network::Bitcoin)?;
        Ok(Store { open: Box::new(open), database: Some(database) })
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("open", &self.database.is_some()).finish_non_exhaustive()
    }
}

/// A store that is held so that no other process opens it meanwhile.
pub struct HeldStore {
    /// The chain whose peers it holds; `None` where nothing tells.
    pub chain: Option<ChainName>,
    _database: Database,
}

impl HeldStore {
    /// Holds the store at `path`; `None` if it is missing, in use, newer or damaged.
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

/// Why a store didn't open, as far as it matters for what to do then.
enum OpenError {
    Damaged(String),
    Error(StoreError),
}

impl OpenError {
    fn classify(error: schema::Error, path: &Path, wanted: Network) -> OpenError {
        let path = path.to_owned();
        match error {
            schema::Error::Newer { found, known } => OpenError::Error(StoreError::NewerSchema { path, found, known }),
            schema::Error::OtherChain(found) => OpenError::Error(StoreError::OtherChain { path, found, wanted }),
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

/// Path next to the store whose name states when the damage was found.
fn quarantine_path(path: &Path, now: Time) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".damaged-{}", now.to_string().replace([':', '-'], "")));
    path.with_file_name(name)
}

fn load(database: &Database) -> Result<LoadedState, redb::Error> {
    let read = database.begin_read()?;
    let mut kept = LoadedState::default();
    for record in read.open_table(PEERS)?.iter()? {
        let (_, value) = record?;
        match postcard::from_bytes(value.value()) {
            Ok(entry) => kept.entries.push(entry),
            Err(_) => kept.unreadable += 1,
        }
    }
    let reach = read.open_table(REACH)?;
    let total = |via| -> Result<Duration, redb::Error> {
        let millis = reach.get(schema::route_key(via))?.map_or(0, |millis| millis.value());
        Ok(Duration::from_millis(millis))
    };
    kept.direct = total(Route::Direct)?;
    kept.tor = total(Route::Tor)?;
    Ok(kept)
}

fn write<'a>(database: &Database, changes: impl IntoIterator<Item = &'a Change>) -> Result<(), redb::Error> {
    let transaction = database.begin_write()?;
    {
        let mut peers = transaction.open_table(PEERS)?;
        let mut reach = transaction.open_table(REACH)?;
        for change in changes {
            match change {
                Change::Save(entry) => {
                    let Ok(record) = postcard::to_stdvec(entry) else { continue };
                    peers.insert(entry.host.to_string().as_str(), record.as_slice())?;
                }
                Change::Remove(host) => {
                    peers.remove(host.to_string().as_str())?;
                }
                Change::Reach(via, total) => {
                    let millis = u64::try_from(total.as_millis()).unwrap_or(u64::MAX);
                    reach.insert(schema::route_key(*via), millis)?;
                }
            }
        }
    }
    Ok(transaction.commit()?)
}

#[cfg(test)]
mod tests;
