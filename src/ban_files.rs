//! Files of ban lists, with their signatures.

use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use crate::ban_list::{BanList, ListKey, ListName, SignedAt};

/// Maximum size of a ban list in bytes: 100,000 onion names take 6.3 MB.
pub const MAX_LIST_BYTES: u64 = 8 * 1024 * 1024;

/// Maximum size of a signature in bytes: minisign permits comments of 8 KiB.
const MAX_SIGNATURE_BYTES: u64 = 16 * 1024;

/// Origin of a ban list's path, which decides what is an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BanFileKind {
    /// Default path of the own list; a missing file is an empty list.
    OwnDefault,
    /// Value of `discovery.ban_file`.
    Own,
    /// Entry of `discovery.ban_lists`, which other programs or people write.
    Further,
}

/// File of a ban list, and how it is checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BanFile {
    path: PathBuf,
    kind: BanFileKind,
    /// Name of the list in messages.
    name: Arc<ListName>,
    /// Key of the required signature; `None` if no signature is required.
    key: Option<ListKey>,
}

/// Content of a ban list's file.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ListVersion {
    /// Patterns of the list.
    pub list: BanList,
    /// Time of the signature; `None` without a signature, or if its comment has no time.
    pub signed: Option<SignedAt>,
}

/// Ban list that can't be used, with advice.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the ban {} {}: {reason}; {}", self.noun(), path.display(), self.advice())]
pub struct BanFileError {
    path: PathBuf,
    kind: BanFileKind,
    reason: String,
    /// Whether the file does not exist, or may not be read by this user.
    is_inaccessible: bool,
}

/// Modification times and lengths of a list and its signature. A change of either triggers a read.
///
/// `None` for a file that is missing or can't be examined.
pub type Fingerprint = [Option<(SystemTime, u64)>; 2];

impl BanFile {
    /// Creates the description of the own ban file, and does not read it.
    pub fn own(path: PathBuf, kind: BanFileKind) -> BanFile {
        BanFile::new(path, kind, None)
    }

    /// Creates the description of a further list, which needs a signature if there is a key.
    pub fn further(path: PathBuf, key: Option<ListKey>) -> BanFile {
        BanFile::new(path, BanFileKind::Further, key)
    }

    fn new(path: PathBuf, kind: BanFileKind, key: Option<ListKey>) -> BanFile {
        let is_own = kind != BanFileKind::Further;
        let name = Arc::new(ListName { path: path.display().to_string(), is_own });
        BanFile { path, kind, name, key }
    }

    /// Returns the path of the list.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the name of the list.
    pub fn name(&self) -> &Arc<ListName> {
        &self.name
    }

    /// Returns whether another version of the list must be signed with the same key.
    pub fn has_key_of(&self, other: &BanFile) -> bool {
        self.key == other.key
    }

    /// Returns whether no list is expected at this path.
    pub fn is_optional(&self) -> bool {
        self.kind == BanFileKind::OwnDefault
    }

    /// Examines the files without reading them.
    pub fn fingerprint(&self) -> Fingerprint {
        let state = |path: &Path| {
            let metadata = std::fs::metadata(path).ok()?;
            Some((metadata.modified().ok()?, metadata.len()))
        };
        [state(&self.path), self.key.as_ref().and_then(|_| state(&self.signature_path()))]
    }

    /// Reads and parses the list, and verifies its signature if there is a key.
    pub fn read(&self) -> Result<ListVersion, BanFileError> {
        let bytes = match read_at_most(&self.path, MAX_LIST_BYTES) {
            Err(error) if error.kind() == ErrorKind::NotFound && self.is_optional() => {
                return Ok(ListVersion::default());
            }
            read => read.map_err(|error| BanFileError {
                is_inaccessible: error.kind() != ErrorKind::FileTooLarge,
                ..self.error(error.to_string())
            })?,
        };
        // The verified bytes are parsed: a second read could return others.
        let signed = match &self.key {
            Some(key) => self.verify(key, &bytes).map_err(|reason| self.error(reason))?,
            None => None,
        };
        let list = BanList::parse(&bytes).map_err(|error| self.error(error.to_string()))?;
        Ok(ListVersion { list, signed })
    }

    /// Creates an error about this file.
    pub fn error(&self, reason: String) -> BanFileError {
        BanFileError { path: self.path.clone(), kind: self.kind, reason, is_inaccessible: false }
    }

    fn verify(&self, key: &ListKey, list: &[u8]) -> Result<Option<SignedAt>, String> {
        let path = self.signature_path();
        let failed = |reason: &dyn std::fmt::Display| format!("its signature {} is unusable: {reason}", path.display());
        let signature = read_at_most(&path, MAX_SIGNATURE_BYTES).map_err(|error| failed(&error))?;
        key.verify(list, &String::from_utf8_lossy(&signature)).map_err(|error| failed(&error))
    }

    fn signature_path(&self) -> PathBuf {
        let mut path = self.path.clone().into_os_string();
        path.push(".minisig");
        path.into()
    }
}

impl BanFileError {
    /// Returns the key of the configuration that names the file.
    pub fn key(&self) -> &'static str {
        match self.kind {
            BanFileKind::OwnDefault | BanFileKind::Own => "discovery.ban_file",
            BanFileKind::Further => "discovery.ban_lists",
        }
    }

    /// Returns the path and the cause, without advice.
    pub fn cause(&self) -> String {
        format!("{}: {}", self.path.display(), self.reason)
    }

    /// Returns whether the file does not exist, or may not be read by this user.
    pub fn is_inaccessible(&self) -> bool {
        self.is_inaccessible
    }

    /// Returns what the operator can do.
    pub fn advice(&self) -> &'static str {
        match self.kind {
            BanFileKind::OwnDefault | BanFileKind::Own => "correct it, or choose another with discovery.ban_file",
            BanFileKind::Further => "correct it, or remove it from discovery.ban_lists",
        }
    }

    fn noun(&self) -> &'static str {
        if self.kind == BanFileKind::Further { "list" } else { "file" }
    }
}

/// Reads a file, unless it is larger than `max_bytes`.
fn read_at_most(path: &Path, max_bytes: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    // A file such as /dev/zero has no length, so the number of bytes read is limited.
    File::open(path)?.take(max_bytes + 1).read_to_end(&mut bytes)?;
    if u64::try_from(bytes.len()).is_ok_and(|length| length > max_bytes) {
        return Err(io::Error::new(ErrorKind::FileTooLarge, format!("larger than {max_bytes} bytes")));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = include_str!("../tests/data/minisign/key");
    const LIST: &str = include_str!("../tests/data/minisign/one");
    const SIGNATURE: &str = include_str!("../tests/data/minisign/one.minisig");

    #[test]
    fn missing_list_is_an_error_except_at_the_default_path() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bans");
        assert_eq!(BanFile::own(path.clone(), BanFileKind::OwnDefault).read(), Ok(ListVersion::default()));
        let error = BanFile::own(path.clone(), BanFileKind::Own).read().unwrap_err();
        assert_eq!(error.key(), "discovery.ban_file");
        let error = BanFile::further(path, None).read().unwrap_err().to_string();
        assert!(
            error.starts_with("the ban list /") && error.ends_with("remove it from discovery.ban_lists"),
            "{error}"
        );
    }

    #[test]
    fn list_with_a_key_needs_its_signature() {
        let dir = tempfile::tempdir().unwrap();
        let file = BanFile::further(dir.path().join("spies"), KEY.parse().ok());
        std::fs::write(file.path(), LIST).unwrap();
        let error = file.read().unwrap_err().to_string();
        assert!(error.contains("spies.minisig is unusable: No such file"), "{error}");
        std::fs::write(dir.path().join("spies.minisig"), SIGNATURE).unwrap();
        assert_eq!(file.read().unwrap().signed.map(SignedAt::as_secs), Some(1_795_000_000));
        let before = file.fingerprint();
        std::fs::write(dir.path().join("spies.minisig"), SIGNATURE.to_owned() + "\n").unwrap();
        assert_ne!(file.fingerprint(), before);
        std::fs::write(file.path(), "b.example\n").unwrap();
        let error = file.read().unwrap_err().to_string();
        assert!(error.contains("does not match the list"), "{error}");
    }

    #[test]
    fn large_file_is_not_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("large");
        std::fs::write(&path, vec![b'#'; usize::try_from(MAX_LIST_BYTES).unwrap()]).unwrap();
        assert!(BanFile::further(path.clone(), None).read().is_ok());
        std::fs::write(&path, vec![b'#'; usize::try_from(MAX_LIST_BYTES).unwrap() + 1]).unwrap();
        for path in [path, PathBuf::from("/dev/zero")] {
            let error = BanFile::further(path, None).read().unwrap_err().to_string();
            assert!(error.contains("larger than 8388608 bytes"), "{error}");
        }
    }
}
