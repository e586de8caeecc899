//! Private keys for onion services, in a directory that Arti reads.
//!
//! Arti reads C tor's files at each connection to an onion service. They are written at each start
//! of a client, since the files of the operator may belong to another user. With restricted
//! discovery, the onion service accepts Waypost itself by a key that is created for each launch.

use std::fs::{DirBuilder, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use data_encoding::BASE32_NOPAD;
use rand::rngs::{StdRng, SysRng};
use rand::{Rng, SeedableRng};
use tor_hscrypto::pk::HsClientDescEncKey;
use tor_llcrypto::pk::curve25519::{PublicKey, StaticSecret};

use crate::peer::OnionAddress;
use crate::tor::{ClientKey, PeerKey};

/// File with the key for the own service.
const OWN_FILE: &str = "own.auth_private";

/// Returns the directory of the keys, below Tor's directory.
pub(super) fn keys_dir(tor_dir: &Path) -> PathBuf {
    tor_dir.join("client-keys")
}

/// Replaces the directory by one with the keys for these peers.
pub(super) fn create(tor_dir: &Path, peers: &[PeerKey]) -> Result<(), String> {
    let dir = keys_dir(tor_dir);
    let failed = |error: io::Error| {
        format!("can't write {}: {error}; check permissions and free space of the data directory", dir.display())
    };
    match std::fs::remove_dir_all(&dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => DirBuilder::new().recursive(true).mode(0o700).create(&dir).map_err(failed)?,
    }
    for (number, PeerKey { onion, key }) in peers.iter().enumerate() {
        write(&dir.join(format!("peer-{number}.auth_private")), onion, key.expose()).map_err(failed)?;
    }
    Ok(())
}

/// Key with which Waypost reaches its own service.
pub(super) struct OwnKey([u8; 32]);

impl OwnKey {
    /// Creates a random key.
    pub(super) fn generate() -> Result<OwnKey, String> {
        let mut rng = StdRng::try_from_rng(&mut SysRng).map_err(|error| format!("no random numbers: {error}"))?;
        let mut secret = [0; 32];
        rng.fill_bytes(&mut secret);
        Ok(OwnKey(secret))
    }

    /// Returns the public key, which the service must know.
    pub(super) fn public(&self) -> ClientKey {
        ClientKey(PublicKey::from(&StaticSecret::from(self.0)).to_bytes())
    }

    /// Stores the key for the service of this name.
    pub(super) fn store(&self, tor_dir: &Path, name: &OnionAddress) -> Result<(), String> {
        let path = keys_dir(tor_dir).join(OWN_FILE);
        write(&path, name, &BASE32_NOPAD.encode(&self.0))
            .map_err(|error| format!("can't write {}: {error}", path.display()))
    }
}

/// Converts a key to Arti's type.
pub(super) fn public_key(ClientKey(bytes): ClientKey) -> HsClientDescEncKey {
    HsClientDescEncKey::from(PublicKey::from(bytes))
}

fn write(path: &Path, name: &OnionAddress, key: &str) -> io::Result<()> {
    let name = name.to_string();
    let name = name.strip_suffix(".onion").unwrap_or(&name);
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    writeln!(file, "{name}:descriptor:x25519:{key}")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::tor::read_peer_keys;

    #[test]
    fn directory_has_the_keys_of_the_last_start() {
        let dir = tempfile::tempdir().unwrap();
        let peer = |byte| PeerKey {
            onion: OnionAddress::from_public_key([byte; 32]),
            key: crate::secret::Secret::new(BASE32_NOPAD.encode(&[byte; 32])),
        };
        create(dir.path(), &[peer(1), peer(2)]).unwrap();
        assert_eq!(read_peer_keys(&keys_dir(dir.path())).unwrap(), [peer(1), peer(2)]);
        create(dir.path(), &[peer(3)]).unwrap();
        let (own, name) = (OwnKey::generate().unwrap(), OnionAddress::from_public_key([4; 32]));
        own.store(dir.path(), &name).unwrap();
        let keys = read_peer_keys(&keys_dir(dir.path())).unwrap();
        assert_eq!((keys.len(), keys[0].onion, &keys[1]), (2, name, &peer(3)));
        let mode = std::fs::metadata(keys_dir(dir.path()).join(OWN_FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(public_key(own.public()).to_string(), own.public().to_string());
    }
}
