//! The key of an onion service in C tor's file format.
//!
//! The service's directory contains `hs_ed25519_secret_key`, the public key and the host name. The
//! latter two show whether files of different services were mixed up.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use tor_llcrypto::pk::ed25519::ExpandedKeypair;

use crate::peer::{Host, OnionAddress};

const SECRET: &str = "hs_ed25519_secret_key";
const PUBLIC: &str = "hs_ed25519_public_key";
const HOSTNAME: &str = "hostname";

const SECRET_HEADER: &[u8; 32] = b"== ed25519v1-secret: type0 ==\0\0\0";
const PUBLIC_HEADER: &[u8; 32] = b"== ed25519v1-public: type0 ==\0\0\0";

/// Error of reading or writing a key in C tor's format.
#[derive(Debug, thiserror::Error)]
pub enum CTorError {
    /// A file can't be read.
    #[error("can't read {}: {reason}; pass the HiddenServiceDir of torrc, and run this as a user that may read it", path.display())]
    Read { path: PathBuf, reason: io::Error },
    /// The directory of an exported key can't be written.
    #[error("can't write {}: {reason}; pass a directory that doesn't exist yet, in one that you may write to", path.display())]
    Write { path: PathBuf, reason: io::Error },
    /// A file is not a key.
    #[error("{} is no key of a version 3 onion service: {reason}; pass the HiddenServiceDir of torrc, or the {SECRET} in it", path.display())]
    Malformed { path: PathBuf, reason: &'static str },
    /// The public key or host name belongs to another secret key.
    #[error("{} does not match the secret key next to it, which is {onion}'s; pass files that belong together, or a directory with the secret key only", path.display())]
    Mismatch { path: PathBuf, onion: OnionAddress },
}

/// Reads a key from C tor's service directory or its secret key file, and derives the address.
pub(super) fn read(from: &Path) -> Result<(ExpandedKeypair, OnionAddress), CTorError> {
    let file = if from.is_dir() { from.join(SECRET) } else { from.to_owned() };
    let secret = key_bytes(&file, SECRET_HEADER)?;
    let malformed = |reason| CTorError::Malformed { path: file.clone(), reason };
    let pair =
        ExpandedKeypair::from_secret_key_bytes(secret).ok_or_else(|| malformed("the secret scalar is invalid"))?;
    let onion = OnionAddress::from_public_key(pair.public().to_bytes());
    let public = file.with_file_name(PUBLIC);
    if public.exists() && OnionAddress::from_public_key(key_bytes(&public, PUBLIC_HEADER)?) != onion {
        return Err(CTorError::Mismatch { path: public, onion });
    }
    let hostname = file.with_file_name(HOSTNAME);
    if hostname.exists() {
        let name = read_prefix(&hostname)?;
        let name = std::str::from_utf8(&name).ok().and_then(|name| name.trim().parse::<Host>().ok());
        if name != Some(Host::Onion(onion)) {
            return Err(CTorError::Mismatch { path: hostname, onion });
        }
    }
    Ok((pair, onion))
}

/// Writes a key as C tor's service directory, which must not exist yet.
pub(super) fn write(pair: &ExpandedKeypair, onion: OnionAddress, to: &Path) -> Result<(), CTorError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        |reason| CTorError::Write { path, reason }
    };
    DirBuilder::new().mode(0o700).create(to).map_err(failed(to))?;
    let public = pair.public().to_bytes();
    for (name, content) in [
        (PUBLIC, [&PUBLIC_HEADER[..], &public].concat()),
        (HOSTNAME, format!("{onion}\n").into_bytes()),
        (SECRET, [&SECRET_HEADER[..], &pair.to_secret_key_bytes()].concat()),
    ] {
        let path = to.join(name);
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        let written = file.and_then(|mut file| {
            file.write_all(&content)?;
            file.sync_all()
        });
        written.map_err(failed(&path))?;
    }
    Ok(())
}

/// Reads what follows the header of a key file.
fn key_bytes<const LENGTH: usize>(path: &Path, header: &[u8; 32]) -> Result<[u8; LENGTH], CTorError> {
    let malformed = |reason| CTorError::Malformed { path: path.to_owned(), reason };
    let bytes = read_prefix(path)?;
    let body = bytes.strip_prefix(header).ok_or_else(|| malformed("the file header doesn't match"))?;
    body.try_into().map_err(|_| malformed("the file is cut short or too long"))
}

/// Reads the first 1000 bytes of a file, more than any file here may have.
fn read_prefix(path: &Path) -> Result<Vec<u8>, CTorError> {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(1000).read_to_end(&mut bytes));
    read.map_err(|reason| CTorError::Read { path: path.to_owned(), reason })?;
    Ok(bytes)
}

#[cfg(test)]
pub(super) mod tests {
    use data_encoding::{HEXLOWER, HEXLOWER_PERMISSIVE};
    use tempfile::TempDir;

    use super::*;

    /// Key and address created by C tor.
    const KEY: &str = "a0bdea58c655844904ee80ee3bea3cd563af1217638be4298c9e2e9759c9af6f\
                           78cbe739ba2b58e53fd60f692abf5284245d97e939d20e0d9cf684908ed8c166";
    pub(crate) const NAME: &str = "72n4n7glt255fsievbykqpkyhnxxn3plesgtafcj2a5hidbfjzljrzqd.onion";

    /// Creates a service directory with that key.
    pub(crate) fn folder() -> TempDir {
        write_folder(KEY, NAME)
    }

    /// Creates a service directory with another key, and returns its address.
    pub(crate) fn another_folder() -> (TempDir, OnionAddress) {
        let secret: [u8; 64] = std::array::from_fn(|n| u8::try_from(n).unwrap() * 3);
        let onion =
            OnionAddress::from_public_key(ExpandedKeypair::from_secret_key_bytes(secret).unwrap().public().to_bytes());
        (write_folder(&HEXLOWER.encode(&secret), &onion.to_string()), onion)
    }

    fn write_folder(key: &str, name: &str) -> TempDir {
        let folder = tempfile::tempdir().unwrap();
        let secret: [u8; 64] = HEXLOWER_PERMISSIVE.decode(key.as_bytes()).unwrap().try_into().unwrap();
        let public = ExpandedKeypair::from_secret_key_bytes(secret).unwrap().public().to_bytes();
        std::fs::write(folder.path().join(SECRET), [&SECRET_HEADER[..], &secret].concat()).unwrap();
        std::fs::write(folder.path().join(PUBLIC), [&PUBLIC_HEADER[..], &public].concat()).unwrap();
        std::fs::write(folder.path().join(HOSTNAME), format!("{name}\n")).unwrap();
        folder
    }

    #[test]
    fn address_equals_that_of_c_tor() {
        let folder = folder();
        assert_eq!(read(folder.path()).unwrap().1.to_string(), NAME);
        let file = folder.path().join(SECRET);
        assert_eq!(read(&file).unwrap().1.to_string(), NAME);
        let alone = tempfile::tempdir().unwrap();
        std::fs::copy(file, alone.path().join("my.key")).unwrap();
        assert_eq!(read(&alone.path().join("my.key")).unwrap().1.to_string(), NAME);
    }

    #[test]
    fn written_directory_is_that_of_c_tor() {
        let original = folder();
        let (pair, onion) = read(original.path()).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let copy = dir.path().join("service");
        write(&pair, onion, &copy).unwrap();
        for name in [PUBLIC, HOSTNAME] {
            let [written, expected] = [&copy, original.path()].map(|dir| std::fs::read(dir.join(name)).unwrap());
            assert_eq!(written, expected, "{name}");
        }
        // The secret scalar is written modulo the order of the group, which has the same public key.
        assert_eq!(read(&copy).unwrap().1, onion);
        let mode = |path: &Path| std::os::unix::fs::MetadataExt::mode(&path.metadata().unwrap()) & 0o777;
        assert_eq!((mode(&copy), mode(&copy.join(SECRET))), (0o700, 0o600));
        let text = write(&pair, onion, &copy).err().unwrap().to_string();
        assert!(text.contains("can't write") && text.contains("doesn't exist yet"), "{text}");
    }

    #[test]
    fn malformed_key_is_named_and_not_shown() {
        let folder = folder();
        let file = folder.path().join(SECRET);
        let good = std::fs::read(&file).unwrap();
        let longer = [&good[..], b"x"].concat();
        let other_header = [&PUBLIC_HEADER[..], &good[32..]].concat();
        for (bytes, reason) in [
            (&good[..95], "cut short"),
            (&longer, "too long"),
            (&other_header, "header doesn't match"),
            (b"-----BEGIN RSA PRIVATE KEY-----", "header doesn't match"),
            (b"", "header doesn't match"),
        ] {
            std::fs::write(&file, bytes).unwrap();
            let error = read(folder.path()).err().unwrap();
            let text = error.to_string();
            assert!(text.contains(reason) && text.contains("HiddenServiceDir") && text.contains(SECRET), "{text}");
            let shown = format!("{text}{error:?}");
            assert!(!["a0bdea58", "160, 189"].iter().any(|secret| shown.contains(secret)), "{shown}");
        }
        std::fs::remove_file(&file).unwrap();
        let text = read(folder.path()).err().unwrap().to_string();
        assert!(text.contains("can't read") && text.contains(SECRET), "{text}");
    }

    #[test]
    fn files_of_different_keys_are_refused() {
        let (other, _) = another_folder();
        for name in [PUBLIC, HOSTNAME] {
            let folder = folder();
            std::fs::copy(other.path().join(name), folder.path().join(name)).unwrap();
            let text = read(folder.path()).err().unwrap().to_string();
            assert!(text.contains(name) && text.contains(NAME) && text.contains("belong together"), "{text}");
        }
        let folder = folder();
        for name in ["", "example.com", "72n4n7glt255fsievbykqpkyhnxxn3plesgtafcj2a5hidbfjzljrzqa.onion"] {
            std::fs::write(folder.path().join(HOSTNAME), name).unwrap();
            assert!(matches!(read(folder.path()), Err(CTorError::Mismatch { .. })), "{name}");
        }
    }
}
