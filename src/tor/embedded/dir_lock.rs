//! Lock that restricts a Tor directory to one process.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Exclusive use of a directory until this value is dropped.
#[derive(Debug)]
pub struct DirLock {
    _file: File,
}

/// Error of taking the lock of a directory.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process holds the lock.
    #[error("{} is in use: another waypost runs on this data directory; stop it first", .0.display())]
    Held(PathBuf),
    /// The directory or its parent belongs to another user.
    #[error("{} belongs to another user; run this command as its owner", .0.display())]
    WrongOwner(PathBuf),
    /// The directory or its lock file can't be created or locked.
    #[error("can't lock {}: {reason}; check that this user may write to it", path.display())]
    Io {
        /// The directory.
        path: PathBuf,
        /// The cause.
        reason: io::Error,
    },
}

impl DirLock {
    /// Creates the directory if it is missing, with mode 0700, and locks it.
    ///
    /// A file in the directory holds the lock. The file remains after the lock is released.
    pub fn take(dir: &Path) -> Result<DirLock, LockError> {
        let failed = |reason| LockError::Io { path: dir.to_owned(), reason };
        // Root could write too, but the owner could then not read the files.
        for path in dir.parent().into_iter().chain([dir]) {
            if path.metadata().is_ok_and(|metadata| metadata.uid() != rustix::process::geteuid().as_raw()) {
                return Err(LockError::WrongOwner(path.to_owned()));
            }
        }
        DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(failed)?;
        let path = dir.join("lock");
        let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path);
        let file = file.map_err(failed)?;
        match file.try_lock() {
            Ok(()) => Ok(DirLock { _file: file }),
            Err(TryLockError::WouldBlock) => Err(LockError::Held(dir.to_owned())),
            Err(TryLockError::Error(reason)) => Err(failed(reason)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn held_lock_is_refused() {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path().join("data/tor");
        let lock = DirLock::take(&dir).unwrap();
        let error = DirLock::take(&dir).unwrap_err();
        assert!(matches!(&error, LockError::Held(path) if *path == dir), "{error}");
        drop(lock);
        DirLock::take(&dir).unwrap();
    }

    #[test]
    fn created_directory_is_private() {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path().join("data/tor");
        let _lock = DirLock::take(&dir).unwrap();
        let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&dir), mode(&temp.path().join("data")), mode(&dir.join("lock"))), (0o700, 0o700, 0o600));
    }

    #[test]
    fn path_that_is_no_directory_is_named() {
        let temp = tempfile::tempdir().unwrap();
        let file = temp.path().join("tor");
        std::fs::write(&file, "a file").unwrap();
        let text = DirLock::take(&file).unwrap_err().to_string();
        assert!(text.contains(file.to_str().unwrap()), "{text}");
    }
}
