//! Client keys for restricted discovery, in C tor's files.
//!
//! Such a service encrypts its descriptor, so that only clients whose public keys it knows find it.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use data_encoding::BASE32_NOPAD;

use crate::peer::{Host, OnionAddress};
use crate::secret::Secret;

/// Maximum number of clients: Arti's limit for a descriptor, less one for Waypost itself.
const MAX_CLIENTS: usize = 159;

/// Extension of files with public keys, as in C tor's `authorized_clients`.
const PUBLIC_EXTENSION: &str = "auth";

/// Extension of files with private keys, as in C tor's `ClientOnionAuthDir`.
const PRIVATE_EXTENSION: &str = "auth_private";

/// Public key of a client that may reach the onion service (x25519).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientKey(pub [u8; 32]);

/// Private key with which Waypost reaches an onion peer.
#[derive(Clone, PartialEq, Eq)]
pub struct PeerKey {
    /// Name of the peer.
    pub onion: OnionAddress,
    /// The key (x25519), in base32.
    pub key: Secret,
}

impl fmt::Debug for PeerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeerKey").field("onion", &self.onion.to_string()).finish_non_exhaustive()
    }
}

impl fmt::Display for ClientKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "descriptor:x25519:{}", BASE32_NOPAD.encode(&self.0))
    }
}

/// Error of reading keys of clients.
#[derive(Debug, thiserror::Error)]
pub enum ClientKeyError {
    /// The directory or a file can't be read.
    #[error("can't read {}: {error}; let the user of Waypost read it", path.display())]
    Unreadable {
        /// Directory or file.
        path: PathBuf,
        /// Cause.
        error: io::Error,
    },
    /// A file has another content.
    #[error("no key in {}: expected a line {form}", path.display())]
    Invalid {
        /// File that was read.
        path: PathBuf,
        /// Form of the line.
        form: &'static str,
    },
    /// There are no keys.
    #[error("no file *.{extension} in {}; create one, or remove the key from the configuration", path.display())]
    Empty {
        /// Directory that was read.
        path: PathBuf,
        /// Extension of the files.
        extension: &'static str,
    },
    /// There are more clients than a descriptor has room for.
    #[error("more than {MAX_CLIENTS} files *.{PUBLIC_EXTENSION} in {}; remove some", .0.display())]
    TooMany(PathBuf),
}

/// Reads the public keys of the onion service's clients.
pub fn read_client_keys(dir: &Path) -> Result<Vec<ClientKey>, ClientKeyError> {
    let keys = read(dir, PUBLIC_EXTENSION, "descriptor:x25519:KEY, with the public key in base32", |text| {
        let key = text.strip_prefix("descriptor:x25519:")?;
        decode(key).map(ClientKey)
    })?;
    if keys.len() > MAX_CLIENTS { Err(ClientKeyError::TooMany(dir.to_owned())) } else { Ok(keys) }
}

/// Reads the private keys for onion peers that require one.
pub fn read_peer_keys(dir: &Path) -> Result<Vec<PeerKey>, ClientKeyError> {
    let form = "NAME:descriptor:x25519:KEY, with the onion name without .onion and the private key in base32";
    read(dir, PRIVATE_EXTENSION, form, |text| {
        let (name, rest) = text.split_once(':')?;
        let Ok(Host::Onion(onion)) = format!("{name}.onion").parse() else { return None };
        let key = rest.strip_prefix("descriptor:x25519:")?;
        decode(key).map(|_| PeerKey { onion, key: Secret::new(key.to_ascii_uppercase()) })
    })
}

/// Parses each file with this extension, in the order of the names.
fn read<T>(
    dir: &Path,
    extension: &'static str,
    form: &'static str,
    parse: impl Fn(&str) -> Option<T>,
) -> Result<Vec<T>, ClientKeyError> {
    let unreadable = |path: &Path, error| ClientKeyError::Unreadable { path: path.to_owned(), error };
    let entries = std::fs::read_dir(dir).map_err(|error| unreadable(dir, error))?;
    let mut paths = Vec::new();
    for entry in entries {
        let path = entry.map_err(|error| unreadable(dir, error))?.path();
        if path.extension().is_some_and(|found| found == extension) {
            paths.push(path);
        }
    }
    paths.sort();
    let mut keys = Vec::new();
    for path in paths {
        let text = std::fs::read_to_string(&path).map_err(|error| unreadable(&path, error))?;
        keys.push(parse(text.trim()).ok_or(ClientKeyError::Invalid { path, form })?);
    }
    if keys.is_empty() { Err(ClientKeyError::Empty { path: dir.to_owned(), extension }) } else { Ok(keys) }
}

/// Decodes a key. Like C tor, accepts both cases.
fn decode(base32: &str) -> Option<[u8; 32]> {
    BASE32_NOPAD.decode(base32.to_ascii_uppercase().as_bytes()).ok()?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAME: &str = "explorerzydxu5ecjrkwceayqybizmpjjznk5izmitf2modhcusuqlid";

    fn dir(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            std::fs::write(dir.path().join(name), text).unwrap();
        }
        dir
    }

    #[test]
    fn files_of_c_tor_are_read() {
        let key = BASE32_NOPAD.encode(&[7; 32]);
        let public = format!("descriptor:x25519:{}\n", key.to_ascii_lowercase());
        let clients = dir(&[("Alice.auth", &public), ("notes.txt", "x"), ("bob.auth~", "x")]);
        let keys = read_client_keys(clients.path()).unwrap();
        assert_eq!(keys, [ClientKey([7; 32])]);
        assert_eq!(keys[0].to_string(), format!("descriptor:x25519:{key}"));
        let peers = dir(&[("peer.auth_private", &format!("{NAME}:descriptor:x25519:{key}\n"))]);
        let keys = read_peer_keys(peers.path()).unwrap();
        assert_eq!((keys[0].onion.to_string(), keys[0].key.expose()), (format!("{NAME}.onion"), key.as_str()));
        assert!(!format!("{keys:?}").contains(&key));
    }

    #[test]
    fn file_without_a_key_is_named() {
        let key = BASE32_NOPAD.encode(&[7; 32]);
        for text in
            ["", "x", &key, "descriptor:x25519:", "descriptor:x25519:AAAA", &format!("descriptor:ed25519:{key}")]
        {
            let error = read_client_keys(dir(&[("alice.auth", text)]).path()).unwrap_err().to_string();
            assert!(error.contains("alice.auth") && error.contains("expected a line"), "{error}");
            let private = [text.to_owned(), format!("{NAME}.onion:{text}"), format!("short:descriptor:x25519:{key}")];
            for text in private {
                let error = read_peer_keys(dir(&[("peer.auth_private", &text)]).path()).unwrap_err().to_string();
                assert!(error.contains("peer.auth_private") && !error.contains(&key), "{error}");
            }
        }
    }

    #[test]
    fn directory_without_keys_is_refused() {
        assert!(matches!(read_client_keys(dir(&[]).path()), Err(ClientKeyError::Empty { .. })));
        assert!(matches!(read_peer_keys(Path::new("/nowhere")), Err(ClientKeyError::Unreadable { .. })));
        let public = format!("descriptor:x25519:{}", BASE32_NOPAD.encode(&[7; 32]));
        let names: Vec<String> = (0..=MAX_CLIENTS).map(|number| format!("{number}.auth")).collect();
        let files: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), public.as_str())).collect();
        assert!(matches!(read_client_keys(dir(&files).path()), Err(ClientKeyError::TooMany(_))));
    }
}
