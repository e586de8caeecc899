//! Pinning of the backend's TLS key: the first key is stored, and no other is accepted.

use data_encoding::HEXLOWER;
use std::io;
use std::path::{Path, PathBuf};

use crate::atomic_file::{self, Readers};
use crate::connect::KeyHash;

/// Error of checking the backend's TLS key.
#[derive(Debug, thiserror::Error)]
pub enum KeyPinError {
    /// The key differs from the pinned one.
    #[error("TLS key changed; if this is expected, remove {}", .0.display())]
    Mismatch(PathBuf),
    /// The file of the pinned key can't be read or written.
    #[error("can't read or write the pinned TLS key {}: {error}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The cause.
        error: io::Error,
    },
}

/// Compares the key with the pinned one, or pins it if there is none.
pub(super) fn verify_or_pin(path: &Path, key: KeyHash) -> Result<(), KeyPinError> {
    let file_error = |error| KeyPinError::File { path: path.to_owned(), error };
    let key = HEXLOWER.encode(&key);
    match std::fs::read_to_string(path) {
        Ok(known) if known.trim() == key => Ok(()),
        Ok(_) => Err(KeyPinError::Mismatch(path.to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            atomic_file::write(path, format!("{key}\n").as_bytes(), Readers::Owner).map_err(file_error)
        }
        Err(error) => Err(file_error(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changed_key_is_rejected() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        assert!(verify_or_pin(&path, [1; 32]).is_ok());
        assert!(verify_or_pin(&path, [1; 32]).is_ok());
        assert!(matches!(verify_or_pin(&path, [2; 32]), Err(KeyPinError::Mismatch(_))));
        std::fs::remove_file(&path).unwrap();
        assert!(verify_or_pin(&path, [2; 32]).is_ok());
        assert!(matches!(verify_or_pin(&dir.path().join("no/key"), [2; 32]), Err(KeyPinError::File { .. })));
    }
}
