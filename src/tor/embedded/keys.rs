//! The key of the onion service in the embedded Tor's keystore.
//!
//! The keystore below Tor's state contains the key under the service's nickname. A copy of that
//! file is a copy of the address. All other keys and state of the service derive from it, or are
//! recreated. They are found by nickname rather than address, so they must be removed when the key
//! is replaced.

use std::error::Error;
use std::path::{Path, PathBuf};

use fs_mistrust::Mistrust;
use rand::SeedableRng;
use rand::rngs::{StdRng, SysRng};
use tor_hscrypto::pk::{HsIdKey, HsIdKeypair};
use tor_hsservice::{HsIdKeypairSpecifier, HsNickname};
use tor_keymgr::{ArtiNativeKeystore, KeyMgr, KeyMgrBuilder, KeyPathPattern, KeySpecifier, KeystoreSelector};
use tor_llcrypto::pk::ed25519::{ExpandedKeypair, Keypair};
use tor_persist::state_dir::StateDirectory;

use super::c_tor_key::{self, CTorError};
use super::client_config::error_chain;
use super::dir_lock::{DirLock, LockError};
use crate::peer::OnionAddress;

/// Directory of Tor's state in the data directory of a Waypost.
const STATE_DIR: &str = "tor/state";

/// Nickname of the service in Tor's files.
pub(super) const NICKNAME: &str = "waypost";

/// Error of reading, writing or importing the key of the onion service.
#[derive(Debug, thiserror::Error)]
pub enum OnionKeyError {
    /// The key to import is invalid, or the key can't be exported.
    #[error(transparent)]
    CTor(#[from] CTorError),
    /// The directory can't be locked.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The keystore contains another key, and replacing it was not requested.
    #[error("a key of {onion} exists already; copy {} if that address is still needed, then replace it with --replace", path.display())]
    KeyExists {
        /// Address of the existing key.
        onion: OnionAddress,
        /// Directory of the existing key.
        path: PathBuf,
    },
    /// The key in the keystore can't be read.
    #[error("can't read the key in {}: {reason}; restore it from a copy, or replace it with --import and --replace", path.display())]
    Unreadable {
        /// Directory of the key.
        path: PathBuf,
        /// The cause.
        reason: String,
    },
    /// There is no key.
    #[error("no key in {}; `waypost run` with the embedded Tor creates one, and so does --new", path.display())]
    NoKey {
        /// Directory of the key.
        path: PathBuf,
    },
    /// The keystore can't be opened or changed.
    #[error("can't use the keystore {}: {reason}", path.display())]
    Keystore {
        /// The keystore.
        path: PathBuf,
        /// The cause.
        reason: String,
    },
    /// The state of the old key can't be removed.
    #[error("can't remove the state of the old key in {}: {reason}; remove the directory and try again", path.display())]
    State {
        /// Directory of the state.
        path: PathBuf,
        /// The cause.
        reason: String,
    },
}

/// What [`import`] and [`generate`] do with another key that exists already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExistingKey {
    /// It is kept, and the command fails.
    Keep,
    /// It is replaced, and its state is removed.
    Replace,
}

/// Returns the address of the key below Tor's `state_dir`, if there is one.
pub fn onion_address(state_dir: &Path) -> Result<Option<OnionAddress>, OnionKeyError> {
    // Opening the keystore would create it.
    if matches!(keystore(state_dir).try_exists(), Ok(false)) {
        return Ok(None);
    }
    Keys::open(state_dir)?.onion()
}

/// Imports a key from C tor's service directory or secret key file, or from the data directory of another Waypost.
///
/// The next launch of the service uses it.
pub fn import(state_dir: &Path, from: &Path, existing: ExistingKey) -> Result<OnionAddress, OnionKeyError> {
    let other_state = from.join(STATE_DIR);
    let (pair, onion) = if keystore(&other_state).is_dir() {
        let keys = Keys::open(&other_state)?;
        let pair = keys.pair()?.ok_or_else(|| OnionKeyError::NoKey { path: keys.key_dir() })?;
        with_address(pair)
    } else {
        c_tor_key::read(from)?
    };
    install(state_dir, pair, onion, existing)
}

/// Creates a key, which the next launch of the service uses.
pub fn generate(state_dir: &Path, existing: ExistingKey) -> Result<OnionAddress, OnionKeyError> {
    let mut rng = StdRng::try_from_rng(&mut SysRng).map_err(|reason| failed(state_dir, &reason))?;
    let (pair, onion) = with_address(HsIdKeypair::from(ExpandedKeypair::from(&Keypair::generate(&mut rng))));
    install(state_dir, pair, onion, existing)
}

/// Writes the key below Tor's `state_dir` as C tor's service directory, which must not exist yet.
pub fn export(state_dir: &Path, to: &Path) -> Result<OnionAddress, OnionKeyError> {
    let no_key = || OnionKeyError::NoKey { path: key_dir(state_dir) };
    // Opening the keystore would create it.
    if matches!(keystore(state_dir).try_exists(), Ok(false)) {
        return Err(no_key());
    }
    let (pair, onion) = with_address(Keys::open(state_dir)?.pair()?.ok_or_else(no_key)?);
    c_tor_key::write(&pair, onion, to)?;
    Ok(onion)
}

/// Returns a key with its address.
fn with_address(pair: HsIdKeypair) -> (ExpandedKeypair, OnionAddress) {
    let onion = OnionAddress::from_public_key(*HsIdKey::from(&pair).id().as_ref());
    (pair.into(), onion)
}

fn install(
    state_dir: &Path,
    pair: ExpandedKeypair,
    onion: OnionAddress,
    existing: ExistingKey,
) -> Result<OnionAddress, OnionKeyError> {
    let _lock = DirLock::take(state_dir.parent().unwrap_or(state_dir))?;
    let keys = Keys::open(state_dir)?;
    let old = keys.onion();
    match &old {
        Ok(Some(old)) if *old == onion => return Ok(onion),
        Ok(Some(old)) if existing == ExistingKey::Keep => {
            return Err(OnionKeyError::KeyExists { onion: *old, path: keys.key_dir() });
        }
        Err(_) if existing == ExistingKey::Keep => return old.map(|_| onion),
        _ => {}
    }
    // State goes first: keys without state are harmless, state without keys is not.
    keys.remove_state()?;
    // A readable key is overwritten, so that there is a key at every moment.
    keys.remove_keys(if old.is_err() { KeySet::WithIdentity } else { KeySet::WithoutIdentity })?;
    keys.put(pair.into())?;
    Ok(onion)
}

fn keystore(state_dir: &Path) -> PathBuf {
    state_dir.join("keystore")
}

/// Returns the directory of the service's keys below Tor's `state_dir`.
pub(super) fn key_dir(state_dir: &Path) -> PathBuf {
    keystore(state_dir).join("hss").join(NICKNAME)
}

/// Which keys of the service are meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum KeySet {
    WithIdentity,
    WithoutIdentity,
}

/// The keystore of a state directory.
struct Keys<'a> {
    state_dir: &'a Path,
    manager: KeyMgr,
    nickname: HsNickname,
}

impl<'a> Keys<'a> {
    fn open(state_dir: &'a Path) -> Result<Keys<'a>, OnionKeyError> {
        let failed = |reason: &dyn Error| failed(state_dir, reason);
        // The default would panic on a machine that has no list of users.
        let mistrust = Mistrust::builder().build().map_err(|reason| failed(&reason))?;
        let store = ArtiNativeKeystore::from_path_and_mistrust(keystore(state_dir), &mistrust);
        let store = store.map_err(|reason| failed(&reason))?;
        let manager =
            KeyMgrBuilder::default().primary_store(Box::new(store)).build().map_err(|reason| failed(&reason))?;
        let nickname = NICKNAME.parse().map_err(|reason| failed(&reason))?;
        Ok(Keys { state_dir, manager, nickname })
    }

    fn onion(&self) -> Result<Option<OnionAddress>, OnionKeyError> {
        Ok(self.pair()?.map(|pair| with_address(pair).1))
    }

    /// Returns the key of the service; `None` if there is none.
    fn pair(&self) -> Result<Option<HsIdKeypair>, OnionKeyError> {
        let pair = self.manager.get::<HsIdKeypair>(&self.identity());
        pair.map_err(|reason| OnionKeyError::Unreadable { path: self.key_dir(), reason: error_chain(&reason) })
    }

    fn put(&self, pair: HsIdKeypair) -> Result<(), OnionKeyError> {
        let put = self.manager.insert(pair, &self.identity(), KeystoreSelector::Primary, true);
        put.map(|_old| ()).map_err(|reason| failed(self.state_dir, &reason))
    }

    /// Removes the service's keys, with or without its identity.
    fn remove_keys(&self, keys: KeySet) -> Result<(), OnionKeyError> {
        let failed = |reason: &dyn Error| failed(self.state_dir, reason);
        let identity = self.identity().arti_path().map_err(|reason| failed(&reason))?;
        let all = KeyPathPattern::Arti(format!("hss/{NICKNAME}/**/*"));
        for entry in self.manager.list_matching(&all).map_err(|reason| failed(&reason))? {
            if keys == KeySet::WithIdentity || entry.key_path().arti() != Some(&identity) {
                self.manager.remove_entry(&entry).map_err(|reason| failed(&reason))?;
            }
        }
        Ok(())
    }

    /// Removes the service's introduction points and their state, but not its keys.
    fn remove_state(&self) -> Result<(), OnionKeyError> {
        let path = self.state_dir.join("hss").join(NICKNAME);
        let failed = |reason: &dyn Error| OnionKeyError::State { path: path.clone(), reason: error_chain(reason) };
        let mistrust = Mistrust::builder().build().map_err(|reason| failed(&reason))?;
        let state = StateDirectory::new(self.state_dir, &mistrust).map_err(|reason| failed(&reason))?;
        let instance = state.acquire_instance(&self.nickname).map_err(|reason| failed(&reason))?;
        instance.purge().map_err(|reason| failed(&reason))
    }

    /// Returns the directory of the service's keys.
    fn key_dir(&self) -> PathBuf {
        key_dir(self.state_dir)
    }

    fn identity(&self) -> HsIdKeypairSpecifier {
        HsIdKeypairSpecifier::new(self.nickname.clone())
    }
}

fn failed(state_dir: &Path, error: &dyn Error) -> OnionKeyError {
    OnionKeyError::Keystore { path: keystore(state_dir), reason: error_chain(error) }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use arti_client::TorClient;
    use arti_client::config::TorClientConfigBuilder;
    use safelog::DisplayRedacted;
    use tempfile::TempDir;
    use tor_hsservice::config::OnionServiceConfigBuilder;
    use tor_rtcompat::PreferredRuntime;

    use super::c_tor_key::tests::{NAME, another_folder, folder};
    use super::*;

    /// File of the service's identity key.
    const IDENTITY: &str = "keystore/hss/waypost/ks_hs_id.ed25519_expanded_private";

    fn temp_state() -> (TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("data/tor/state");
        (dir, state)
    }

    /// Returns the address with which an embedded Tor would launch the service.
    fn launched(state: &Path) -> String {
        let config = TorClientConfigBuilder::from_directories(state, state.with_file_name("cache")).build().unwrap();
        let service = OnionServiceConfigBuilder::default().nickname(NICKNAME.parse().unwrap()).build().unwrap();
        let service = TorClient::<PreferredRuntime>::create_onion_service(&config, service).unwrap();
        service.generate_identity_key(KeystoreSelector::Primary).unwrap().display_unredacted().to_string()
    }

    fn write(path: &Path) {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, "old").unwrap();
        for path in path.ancestors().take_while(|path| path.file_name().unwrap() != "state") {
            let mode = if path.is_dir() { 0o700 } else { 0o600 };
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
        }
    }

    #[test]
    fn imported_key_is_used_at_launch() {
        let (_dir, state) = temp_state();
        assert_eq!(onion_address(&state).unwrap(), None);
        assert!(!state.exists(), "reading created it");
        assert_eq!(import(&state, folder().path(), ExistingKey::Keep).unwrap().to_string(), NAME);
        assert_eq!(onion_address(&state).unwrap().unwrap().to_string(), NAME);
        assert_eq!(launched(&state), NAME);
        for path in state.join(IDENTITY).ancestors().take(6) {
            let mode = path.metadata().unwrap().permissions().mode() & 0o777;
            assert_eq!(mode, if path.is_dir() { 0o700 } else { 0o600 }, "{}", path.display());
        }
    }

    #[test]
    fn new_key_is_exported_and_imported_elsewhere() {
        let (dir, state) = temp_state();
        let text = export(&state, &dir.path().join("none")).unwrap_err().to_string();
        assert!(text.contains("no key") && !state.exists(), "{text}");
        let onion = generate(&state, ExistingKey::Keep).unwrap();
        assert_eq!(launched(&state), onion.to_string());
        let text = generate(&state, ExistingKey::Keep).unwrap_err().to_string();
        assert!(text.contains(&onion.to_string()) && text.contains("--replace"), "{text}");
        let service = dir.path().join("service");
        assert_eq!(export(&state, &service).unwrap(), onion);
        // By C tor's directory, and by the data directory.
        for from in [service.as_path(), &dir.path().join("data")] {
            let (_other, other_state) = temp_state();
            assert_eq!(import(&other_state, from, ExistingKey::Keep).unwrap(), onion);
            assert_eq!(launched(&other_state), onion.to_string());
        }
        assert_ne!(generate(&state, ExistingKey::Replace).unwrap(), onion);
    }

    #[test]
    fn generated_address_is_read() {
        let (_dir, state) = temp_state();
        let made = launched(&state);
        assert_eq!(onion_address(&state).unwrap().unwrap().to_string(), made);
    }

    #[test]
    fn key_is_replaced_with_its_state_only_on_request() {
        let (_dir, state) = temp_state();
        let (other, onion) = another_folder();
        import(&state, other.path(), ExistingKey::Keep).unwrap();
        let period = "+20000_1440_43200";
        let old_files = [
            format!("keystore/hss/waypost/ks_hs_blind_id{period}.ed25519_expanded_private"),
            format!("keystore/hss/waypost/ks_hs_desc_sign{period}.ed25519_private"),
            format!("keystore/hss/waypost/ipts/k_sid+{}.ed25519_private", "01".repeat(32)),
            "hss/waypost/ipts.json".to_owned(),
            "hss/waypost/iptpub.json".to_owned(),
            format!("hss/waypost/iptreplay/{}.bin", "01".repeat(32)),
        ];
        let other_service = "keystore/hss/another/ks_hs_id.ed25519_expanded_private".to_owned();
        for old in old_files.iter().chain([&other_service]) {
            write(&state.join(old));
        }

        let text = import(&state, folder().path(), ExistingKey::Keep).unwrap_err().to_string();
        assert!(
            text.contains(&onion.to_string()) && text.contains("--replace") && text.contains("hss/waypost"),
            "{text}"
        );
        import(&state, other.path(), ExistingKey::Replace).unwrap();
        assert_eq!(
            old_files.iter().filter(|old| state.join(old).exists()).count(),
            old_files.len(),
            "the same key replaces nothing"
        );

        assert_eq!(import(&state, folder().path(), ExistingKey::Replace).unwrap().to_string(), NAME);
        assert_eq!(launched(&state), NAME);
        for old in old_files {
            assert!(!state.join(&old).exists(), "{old} is left");
        }
        assert!(state.join(other_service).exists());
    }

    #[test]
    fn damaged_key_is_an_error_and_can_be_replaced() {
        let (_dir, state) = temp_state();
        import(&state, another_folder().0.path(), ExistingKey::Keep).unwrap();
        write(&state.join(IDENTITY));
        for error in
            [onion_address(&state).unwrap_err(), import(&state, folder().path(), ExistingKey::Keep).unwrap_err()]
        {
            let text = error.to_string();
            assert!(text.contains("keystore/hss/waypost") && text.contains("--replace"), "{text}");
        }
        assert_eq!(import(&state, folder().path(), ExistingKey::Replace).unwrap().to_string(), NAME);
        assert_eq!(launched(&state), NAME);
    }

    #[test]
    fn import_is_refused_while_locked_or_readable_by_others() {
        let (_dir, state) = temp_state();
        let lock = DirLock::take(state.parent().unwrap()).unwrap();
        let text = import(&state, folder().path(), ExistingKey::Keep).unwrap_err().to_string();
        assert!(text.contains("another waypost"), "{text}");
        drop(lock);
        import(&state, folder().path(), ExistingKey::Keep).unwrap();
        std::fs::set_permissions(keystore(&state), std::fs::Permissions::from_mode(0o755)).unwrap();
        let text = onion_address(&state).unwrap_err().to_string();
        assert!(text.contains("permission"), "{text}");
    }
}
