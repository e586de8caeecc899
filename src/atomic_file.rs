//! Atomic replacement of small files.
//!
//! After a crash or on a full disk, a file has its old or its new content, never a part.

use std::fs::{self, File, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Users that can read a newly created file.
///
/// An existing file keeps its mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Readers {
    /// Mode 0600, for keys and state.
    Owner,
    /// Mode 0644, for files that another user's daemon reads.
    Everyone,
}

/// Replaces the content of a file and syncs it to disk.
///
/// # Errors
/// Returns any error of the file system. The old content then remains, and no temporary file is
/// left.
pub fn write(path: &Path, content: &[u8], readers: Readers) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let permissions = match (fs::metadata(path), readers) {
        (Ok(existing), _) => existing.permissions(),
        (Err(_), Readers::Owner) => Permissions::from_mode(0o600),
        (Err(_), Readers::Everyone) => Permissions::from_mode(0o644),
    };
    // Same directory, because a rename across file systems is not atomic.
    let mut file = tempfile::Builder::new().prefix(".waypost-").suffix(".new").tempfile_in(folder)?;
    file.write_all(content)?;
    file.as_file().set_permissions(permissions)?;
    file.as_file().sync_all()?;
    file.persist(path).map_err(|error| error.error)?;
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn new_file_gets_mode_of_its_readers() {
        let folder = tempfile::tempdir().unwrap();
        for (name, readers, expected) in [("key", Readers::Owner, 0o600), ("bans", Readers::Everyone, 0o644)] {
            let path = folder.path().join(name);
            write(&path, b"content", readers).unwrap();
            assert_eq!((fs::read(&path).unwrap(), mode(&path)), (b"content".to_vec(), expected));
        }
    }

    #[test]
    fn existing_file_keeps_mode_and_leaves_no_temporary_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bans");
        fs::write(&path, "old").unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
        write(&path, b"new", Readers::Owner).unwrap();
        assert_eq!((fs::read_to_string(&path).unwrap().as_str(), mode(&path)), ("new", 0o640));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn failed_write_keeps_old_content() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("missing").join("file");
        assert_eq!(write(&path, b"new", Readers::Owner).unwrap_err().kind(), io::ErrorKind::NotFound);
        // A directory cannot be replaced by a file.
        fs::create_dir(folder.path().join("missing")).unwrap();
        fs::create_dir(&path).unwrap();
        assert!(write(&path, b"new", Readers::Owner).is_err() && path.is_dir());
        assert_eq!(fs::read_dir(folder.path().join("missing")).unwrap().count(), 1);
    }
}
