//! The TLS key of the server behind us: the first one that it shows is remembered, and no other taken after it.

use data_encoding::HEXLOWER;
use std::io;
use std::path::{Path, PathBuf};

use crate::atomic_file::{self, Readers};
use crate::connect::KeyHash;

#[derive(Debug, thiserror::Error)]
pub enum KeyPinError {
    #[error("it has another TLS key than before; if that is right, remove {}", .0.display())]
    Mismatch(PathBuf),
    #[error("the key that is remembered of it, {}: {error}", path.display())]
    File { path: PathBuf, error: io::Error },
}

/// Whether this is the key that is remembered in a file, or may be from now on.
pub fn verify_or_pin(path: &Path, key: KeyHash) -> Result<(), KeyPinError> {
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
