//! The move of a chain's files out of the directory that once was the default of all chains.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use super::{DaemonError, platform};
use crate::config::Config;
use crate::store::HeldStore;

/// The names of files in a data directory, except the store.
///
/// The store is moved last. Until then it stays where the next start finds it and continues, and where Waypost refuses
/// to run for another chain, which would take the other files for its own.
const FILES: [&str; 6] = ["bans", "backend-key", "irc-visit", "tls-cert.pem", "tls-key.pem", "tor"];

/// What was moved, and what was not because the new directory had a file of that name.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Moved {
    pub moved: Vec<PathBuf>,
    pub left: Vec<PathBuf>,
}

impl Moved {
    pub fn log(&self, config: &Config) {
        if let (false, Some(shared)) = (self.moved.is_empty(), &config.shared_data_dir) {
            tracing::info!(
                from = %shared.display(), to = %config.data_dir.display(), files = ?names(&self.moved),
                "moved the data of {}, which has a default data directory of its own now", config.book.network
            );
        }
        if !self.left.is_empty() {
            let to = config.data_dir.display();
            tracing::warn!(files = ?self.left, %to, "not moved, as such files are there already; remove or merge the older ones");
        }
    }
}

fn names(paths: &[PathBuf]) -> Vec<&str> {
    paths.iter().filter_map(|path| path.file_name()?.to_str()).collect()
}

/// Moves the chain's files to its own default directory, unless they are there.
///
/// Nothing is moved while the store in the shared directory is in use, or is or may be another chain's.
pub fn move_shared_data(config: &Config) -> Result<Moved, DaemonError> {
    let mut result = Moved::default();
    let (Some(shared), store) = (&config.shared_data_dir, config.store_path()) else { return Ok(result) };
    let Some(old_store) = store.file_name().map(|name| shared.join(name)) else { return Ok(result) };
    if store.exists() || !old_store.exists() {
        return Ok(result);
    }
    // Held until all is moved, so that no daemon starts in between.
    let Some(held) = HeldStore::open(&old_store) else { return Ok(result) };
    if !held.chain.as_ref().is_some_and(|chain| chain.is(config.book.network)) {
        return Ok(result);
    }
    platform::data_directory(&config.data_dir)?;
    for name in FILES {
        move_file(&shared.join(name), &config.data_dir.join(name), &mut result)?;
    }
    // On disk before the store is, whatever happens to the platform.
    for folder in [shared, &config.data_dir] {
        let synced = File::open(folder).and_then(|folder| folder.sync_all());
        synced.map_err(|error| failed(shared, &config.data_dir, error))?;
    }
    move_file(&old_store, &store, &mut result)?;
    drop(held);
    Ok(result)
}

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
    use crate::book::{Entry, Source};
    use crate::clock::Time;
    use crate::config::{self, ConfigFile};
    use crate::network::Network;
    use crate::peer::RealName;
    use crate::store::{Change, Store};

    const NOW: Time = Time::from_secs(1_793_491_300);

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

        fn config(&self, network: Network) -> Config {
            let environment = [("XDG_DATA_HOME".into(), self.dir.path().into())];
            config::load(None, environment.into_iter(), ConfigFile { network: Some(network), ..ConfigFile::default() })
                .unwrap()
        }

        /// Puts a store and the other files of a chain into the shared directory.
        fn fill(&self, network: Network) {
            std::fs::create_dir_all(self.shared().join("tor/state")).unwrap();
            for name in ["bans", "tls-key.pem", "tls-cert.pem", "tor/state/key", "control.sock"] {
                std::fs::write(self.shared().join(name), name).unwrap();
            }
            let (mut store, _) = Store::open(&self.shared().join("peers.redb"), network, NOW).unwrap();
            let name = RealName::parse("a.example t1", network.default_ports()).unwrap();
            store
                .write(&[Change::Save(Box::new(Entry::new(name, Source::Seed, std::time::Duration::ZERO, NOW)))])
                .unwrap();
        }

        fn read(&self, path: &str) -> Option<String> {
            std::fs::read_to_string(self.shared().join(path)).ok()
        }
    }

    #[test]
    fn data_of_the_chain_is_moved_once() {
        let dirs = Dirs::new();
        dirs.fill(Network::Testnet4);
        let config = dirs.config(Network::Testnet4);
        let moved = move_shared_data(&config).unwrap();
        assert_eq!(names(&moved.moved), ["bans", "tls-cert.pem", "tls-key.pem", "tor", "peers.redb"]);
        assert_eq!(dirs.read("testnet4/tor/state/key").as_deref(), Some("tor/state/key"));
        assert!(dirs.read("control.sock").is_some() && dirs.read("bans").is_none());
        let (_, kept) = Store::open(&config.store_path(), Network::Testnet4, NOW).unwrap();
        assert_eq!(kept.entries.len(), 1);
        assert_eq!(move_shared_data(&config).unwrap(), Moved::default());
    }

    #[test]
    fn interrupted_move_is_continued() {
        let dirs = Dirs::new();
        dirs.fill(Network::Signet);
        let config = dirs.config(Network::Signet);
        // As if the platform had stopped after the first two.
        std::fs::create_dir(&config.data_dir).unwrap();
        for name in ["bans", "tls-cert.pem"] {
            std::fs::rename(dirs.shared().join(name), config.data_dir.join(name)).unwrap();
        }
        let moved = move_shared_data(&config).unwrap();
        assert_eq!(names(&moved.moved), ["tls-key.pem", "tor", "peers.redb"]);
        assert!(moved.left.is_empty(), "{:?}", moved.left);
    }

    #[test]
    fn data_of_another_chain_stays() {
        let dirs = Dirs::new();
        dirs.fill(Network::Bitcoin);
        let before = dirs.read("bans");
        assert_eq!(move_shared_data(&dirs.config(Network::Testnet4)).unwrap(), Moved::default());
        assert_eq!(move_shared_data(&dirs.config(Network::Bitcoin)).unwrap(), Moved::default());
        assert_eq!(dirs.read("bans"), before);
        assert!(!dirs.shared().join("testnet4").exists());
    }

    #[test]
    fn store_in_use_stays() {
        let dirs = Dirs::new();
        dirs.fill(Network::Testnet4);
        let path = dirs.shared().join("peers.redb");
        let _running = Store::open(&path, Network::Testnet4, NOW).unwrap();
        assert_eq!(move_shared_data(&dirs.config(Network::Testnet4)).unwrap(), Moved::default());
        assert!(path.exists());
    }

    #[test]
    fn existing_files_are_never_overwritten() {
        let dirs = Dirs::new();
        dirs.fill(Network::Testnet4);
        let config = dirs.config(Network::Testnet4);
        std::fs::create_dir_all(config.data_dir.join("tor")).unwrap();
        std::fs::write(config.data_dir.join("bans"), "newer").unwrap();
        let moved = move_shared_data(&config).unwrap();
        assert_eq!(names(&moved.left), ["bans", "tor"]);
        assert_eq!(dirs.read("testnet4/bans").as_deref(), Some("newer"));
        assert_eq!(dirs.read("bans").as_deref(), Some("bans"));
        assert!(dirs.read("tor/state/key").is_some() && config.store_path().exists());
    }
}
