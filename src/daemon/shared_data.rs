//! Migration of a chain's files out of the former shared data directory.
//!
//! Older versions had one default data directory for all chains.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use super::{DaemonError, platform};
use crate::config::Config;
use crate::store::HeldStore;

/// Files of a data directory, in the order in which they are moved, without the store.
///
/// The store is moved last, so that the next start finds it and continues an interrupted move.
/// Until then it keeps Waypost from using the remaining files for another chain.
const FILES: [&str; 7] = ["bans", "backend-key", "irc-visit", "tls-cert.pem", "tls-key.pem", "tor", "peers.journal"];

/// Files that were moved, and files that were not.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Moved {
    /// Former paths of the moved files.
    pub moved: Vec<PathBuf>,
    /// Paths of the files that stayed, because the new directory has a file of that name.
    pub left: Vec<PathBuf>,
}

impl Moved {
    /// Logs the move. Logs nothing if there was none.
    pub fn log(&self, config: &Config) {
        if let (false, Some(shared)) = (self.moved.is_empty(), &config.shared_data_dir) {
            tracing::info!(
                from = %shared.display(), to = %config.data_dir.display(), files = ?names(&self.moved),
                "moved the data of {} to its own default data directory", config.book.chain
            );
        }
        if !self.left.is_empty() {
            let to = config.data_dir.display();
            tracing::warn!(files = ?self.left, %to, "files not moved, as files of these names exist in the new directory; remove or merge the older ones");
        }
    }
}

fn names(paths: &[PathBuf]) -> Vec<&str> {
    paths.iter().filter_map(|path| path.file_name()?.to_str()).collect()
}

/// Moves the chain's files from the shared data directory to its own.
///
/// Moves nothing if the chain's own directory has a store. Moves nothing while the shared store is
/// in use, or if it isn't known to belong to this chain.
pub fn move_shared_data(config: &Config) -> Result<Moved, DaemonError> {
    let mut result = Moved::default();
    let (Some(shared), store) = (&config.shared_data_dir, config.store_path()) else { return Ok(result) };
    let Some(old_store) = store.file_name().map(|name| shared.join(name)) else { return Ok(result) };
    if store.exists() || !old_store.exists() {
        return Ok(result);
    }
    // Held until the end, so that no daemon starts on partly moved data.
    let Some(held) = HeldStore::open(&old_store) else { return Ok(result) };
    if !held.chain.as_ref().is_some_and(|chain| chain.is(&config.book.chain)) {
        return Ok(result);
    }
    platform::data_directory(&config.data_dir)?;
    for name in FILES {
        move_file(&shared.join(name), &config.data_dir.join(name), &mut result)?;
    }
    // The other files are durable before the store moves, also across a power failure.
    for folder in [shared, &config.data_dir] {
        let synced = File::open(folder).and_then(|folder| folder.sync_all());
        synced.map_err(|error| failed(shared, &config.data_dir, error))?;
    }
    move_file(&old_store, &store, &mut result)?;
    drop(held);
    Ok(result)
}

/// Moves a file and records it in `result`. Does nothing if there is none.
fn move_file(from: &Path, to: &Path, result: &mut Moved) -> Result<(), DaemonError> {
    match (from.symlink_metadata(), to.symlink_metadata()) {
        (Err(error), _) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        (Ok(_), Err(error)) if error.kind() == io::ErrorKind::NotFound => {
            std::fs::rename(from, to).map_err(|error| failed(from, to, error))?;
            result.moved.push(from.to_owned());
            Ok(())
        }
        (Ok(_), Ok(_)) => {
            result.left.push(from.to_owned());
            Ok(())
        }
        (Err(error), _) | (_, Err(error)) => Err(failed(from, to, error)),
    }
}

fn failed(from: &Path, to: &Path, error: io::Error) -> DaemonError {
    DaemonError::MoveData { from: from.to_owned(), to: to.to_owned(), error }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::book::{Entry, Side, Source};
    use crate::chain::Chain;
    use crate::clock::Time;
    use crate::config::{self, ConfigFile};
    use crate::peer::RealName;
    use crate::store::{Change, Store};

    const NOW: Time = Time::from_secs(1_793_491_300);

    /// Temporary directory that stands in for `XDG_DATA_HOME`.
    struct Dirs {
        dir: tempfile::TempDir,
    }

    impl Dirs {
        fn new() -> Dirs {
            Dirs { dir: tempfile::tempdir().unwrap() }
        }

        fn shared(&self) -> PathBuf {
            self.dir.path().join("waypost")
        }

        fn config(&self, chain: Chain) -> Config {
            let environment = [("XDG_DATA_HOME".into(), self.dir.path().into())];
            config::load(
                None,
                environment.into_iter(),
                ConfigFile { network: Some(chain.name.clone()), ..ConfigFile::default() },
            )
            .unwrap()
        }

        /// Creates a store and the other files of a chain in the shared directory.
        fn fill(&self, chain: Chain) {
            std::fs::create_dir_all(self.shared().join("tor/state")).unwrap();
            for name in ["bans", "tls-key.pem", "tls-cert.pem", "tor/state/key", "control.sock"] {
                std::fs::write(self.shared().join(name), name).unwrap();
            }
            let (mut store, _) = Store::open(&self.shared().join("peers.redb"), &chain, NOW).unwrap();
            let name = RealName::parse("a.example t1", chain.default_ports).unwrap();
            store
                .write(&[Change::Save(
                    Side::Both,
                    Box::new(Entry::new(name, Source::Seed, std::time::Duration::ZERO, NOW)),
                )])
                .unwrap();
        }

        fn read(&self, path: &str) -> Option<String> {
            std::fs::read_to_string(self.shared().join(path)).ok()
        }
    }

    #[test]
    fn data_of_same_chain_is_moved_once() {
        let dirs = Dirs::new();
        dirs.fill(Chain::TESTNET4);
        let config = dirs.config(Chain::TESTNET4);
        let moved = move_shared_data(&config).unwrap();
        assert_eq!(names(&moved.moved), ["bans", "tls-cert.pem", "tls-key.pem", "tor", "peers.journal", "peers.redb"]);
        assert_eq!(dirs.read("testnet4/tor/state/key").as_deref(), Some("tor/state/key"));
        assert!(dirs.read("control.sock").is_some() && dirs.read("bans").is_none());
        let (_, loaded) = Store::open(&config.store_path(), &Chain::TESTNET4, NOW).unwrap();
        assert_eq!(loaded.entries.len(), 1);
        assert_eq!(move_shared_data(&config).unwrap(), Moved::default());
    }

    #[test]
    fn interrupted_move_is_continued() {
        let dirs = Dirs::new();
        dirs.fill(Chain::SIGNET);
        let config = dirs.config(Chain::SIGNET);
        // The state after a power failure that followed the first two files.
        std::fs::create_dir(&config.data_dir).unwrap();
        for name in ["bans", "tls-cert.pem"] {
            std::fs::rename(dirs.shared().join(name), config.data_dir.join(name)).unwrap();
        }
        let moved = move_shared_data(&config).unwrap();
        assert_eq!(names(&moved.moved), ["tls-key.pem", "tor", "peers.journal", "peers.redb"]);
        assert!(moved.left.is_empty(), "{:?}", moved.left);
    }

    #[test]
    fn data_of_other_chain_stays() {
        let dirs = Dirs::new();
        dirs.fill(Chain::BITCOIN);
        let before = dirs.read("bans");
        assert_eq!(move_shared_data(&dirs.config(Chain::TESTNET4)).unwrap(), Moved::default());
        assert_eq!(move_shared_data(&dirs.config(Chain::BITCOIN)).unwrap(), Moved::default());
        assert_eq!(dirs.read("bans"), before);
        assert!(!dirs.shared().join("testnet4").exists());
    }

    #[test]
    fn store_in_use_stays() {
        let dirs = Dirs::new();
        dirs.fill(Chain::TESTNET4);
        let path = dirs.shared().join("peers.redb");
        let _running = Store::open(&path, &Chain::TESTNET4, NOW).unwrap();
        assert_eq!(move_shared_data(&dirs.config(Chain::TESTNET4)).unwrap(), Moved::default());
        assert!(path.exists());
    }

    #[test]
    fn existing_file_is_not_overwritten() {
        let dirs = Dirs::new();
        dirs.fill(Chain::TESTNET4);
        let config = dirs.config(Chain::TESTNET4);
        std::fs::create_dir_all(config.data_dir.join("tor")).unwrap();
        std::fs::write(config.data_dir.join("bans"), "newer").unwrap();
        let moved = move_shared_data(&config).unwrap();
        assert_eq!(names(&moved.left), ["bans", "tor"]);
        assert_eq!(dirs.read("testnet4/bans").as_deref(), Some("newer"));
        assert_eq!(dirs.read("bans").as_deref(), Some("bans"));
        assert!(dirs.read("tor/state/key").is_some() && config.store_path().exists());
    }
}
