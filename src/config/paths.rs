//! Paths: expansion of `~/`, relative paths, and the default data directory.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::{ConfigFile, InvalidValue, invalid};
use crate::backend::UpstreamAddr;
use crate::chain::Chain;
use crate::socks_address::SocksAddress;

/// File that every command without `--config` reads, if it exists.
pub const DEFAULT_FILE: &str = "/etc/waypost/waypost.toml";

/// Returns the default file, or `None` if it does not exist.
///
/// An inaccessible file is returned too, so that the attempt to read it reports the cause.
pub fn default_file() -> Option<PathBuf> {
    use std::io::ErrorKind::{NotADirectory, NotFound};
    match std::fs::metadata(DEFAULT_FILE) {
        Err(error) if matches!(error.kind(), NotFound | NotADirectory) => None,
        _ => Some(DEFAULT_FILE.into()),
    }
}

/// Directories of the user, from the environment.
#[derive(Debug, Default)]
pub(super) struct UserDirs {
    home: Option<PathBuf>,
    data: Option<PathBuf>,
}

impl UserDirs {
    /// Reads `HOME` and `XDG_DATA_HOME`.
    pub(super) fn new(environment: &[(OsString, OsString)]) -> UserDirs {
        let value = |name: &str| {
            let set = environment.iter().find(|(key, _)| key == name).map(|(_, value)| value);
            set.filter(|value| !value.is_empty()).map(PathBuf::from)
        };
        UserDirs { home: value("HOME"), data: value("XDG_DATA_HOME") }
    }

    /// Returns the default data directory of all chains. `None` without `XDG_DATA_HOME` and `HOME`.
    fn shared_data_dir(&self) -> Option<PathBuf> {
        let base = self.data.clone().or_else(|| Some(self.home.as_ref()?.join(".local/share")));
        Some(base?.join("waypost"))
    }

    /// Replaces a leading `~/` by the home directory.
    fn expand(&self, key: &'static str, path: &mut PathBuf) -> Result<(), InvalidValue> {
        let bytes = path.as_os_str().as_bytes();
        let Some(rest) = bytes.strip_prefix(b"~") else { return Ok(()) };
        let below = match rest {
            [] => Path::new(""),
            [b'/', below @ ..] => Path::new(OsStr::from_bytes(below)),
            _ => {
                let reason = format!("{}: only ~/ is expanded; write the whole path", path.display());
                return Err(invalid(key, reason));
            }
        };
        let Some(home) = &self.home else {
            let reason = format!("{}: HOME is not set, so ~ can't be expanded; write the whole path", path.display());
            return Err(invalid(key, reason));
        };
        *path = home.join(below);
        Ok(())
    }

    /// Expands `~/` in every key that is a path.
    pub(super) fn expand_all(&self, raw: &mut ConfigFile) -> Result<(), InvalidValue> {
        let servers = raw.backend.electrum.iter_mut().flat_map(|targets| &mut targets.servers);
        for server in servers {
            if let UpstreamAddr::Unix(path) = server {
                self.expand("backend.electrum", path)?;
            }
        }
        if let Some(SocksAddress::Unix(path)) = &mut raw.tor.socks {
            self.expand("tor.socks", path)?;
        }
        let paths = [
            ("data_dir", raw.data_dir.as_mut()),
            ("listen.cert", raw.listen.cert.as_mut()),
            ("listen.key", raw.listen.key.as_mut()),
            ("listen.onion_clients", raw.listen.onion_clients.as_mut()),
            ("tor.arti_config", raw.tor.arti_config.as_mut()),
            ("tor.onion_auth_dir", raw.tor.onion_auth_dir.as_mut()),
            ("tor.socks_password_file", raw.tor.socks_password_file.as_mut()),
            ("discovery.ban_file", raw.discovery.ban_file.as_mut()),
            ("discovery.asmap", raw.discovery.asmap.as_mut()),
        ];
        for (key, path) in paths {
            path.map_or(Ok(()), |path| self.expand(key, path))?;
        }
        let lists = raw.discovery.ban_lists.as_mut();
        lists.into_iter().flatten().try_for_each(|path| self.expand("discovery.ban_lists", path))
    }

    /// Sets the default data directory if none is set.
    ///
    /// Bitcoin uses the directory that older versions shared between all chains. Other chains use a directory below it.
    /// For those, the shared directory is returned, since it may still contain the chain's files.
    pub(super) fn set_data_dir(&self, raw: &mut ConfigFile) -> Option<PathBuf> {
        if raw.data_dir.is_some() {
            return None;
        }
        let shared = self.shared_data_dir()?;
        match &raw.network {
            Some(name) if *name != Chain::default().name => {
                raw.data_dir = Some(shared.join(name.as_str()));
                Some(shared)
            }
            _ => {
                raw.data_dir = Some(shared);
                None
            }
        }
    }
}

/// Makes relative paths of a file start at the directory of the file.
pub(super) fn join_to_folder(raw: &mut ConfigFile, file: Option<&Path>) {
    let Some(folder) = file.and_then(Path::parent) else { return };
    let socks = match &mut raw.tor.socks {
        Some(SocksAddress::Unix(path)) => Some(path),
        _ => None,
    };
    let paths = [
        &mut raw.tor.arti_config,
        &mut raw.tor.onion_auth_dir,
        &mut raw.tor.socks_password_file,
        &mut raw.listen.cert,
        &mut raw.listen.key,
        &mut raw.listen.onion_clients,
        &mut raw.discovery.ban_file,
        &mut raw.discovery.asmap,
    ];
    let lists = raw.discovery.ban_lists.as_mut();
    for path in paths.into_iter().flatten().chain(socks).chain(lists.into_iter().flatten()) {
        *path = folder.join(&*path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dirs(environment: &[(&str, &str)]) -> UserDirs {
        UserDirs::new(&environment.iter().map(|(name, value)| (name.into(), value.into())).collect::<Vec<_>>())
    }

    #[test]
    fn every_path_expands_the_home_directory() {
        let mut raw: ConfigFile = toml::from_str(
            "data_dir = \"~\"\n[listen]\ncert = \"~/c\"\nkey = \"~/k\"\nonion_clients = \"~/o\"\n[tor]\narti_config = \"~/a\"\nonion_auth_dir = \"~/u\"\nsocks_password_file = \"~/p\"\nsocks = \"unix:~/s\"\n\
             [discovery]\nban_file = \"~/b/~/c\"\nban_lists = [\"~/d\", \"e\"]\nasmap = \"m\"\n[backend]\nelectrum = \"unix:~/electrs\"\n",
        )
        .unwrap();
        dirs(&[("HOME", "/home/me")]).expand_all(&mut raw).unwrap();
        join_to_folder(&mut raw, Some(Path::new("/etc/waypost/waypost.toml")));
        assert_eq!(raw.data_dir.as_deref(), Some(Path::new("/home/me/")));
        assert_eq!(raw.listen.cert.as_deref(), Some(Path::new("/home/me/c")));
        assert_eq!(raw.discovery.asmap.as_deref(), Some(Path::new("/etc/waypost/m")));
        assert_eq!(raw.listen.key.as_deref(), Some(Path::new("/home/me/k")));
        assert_eq!(raw.listen.onion_clients.as_deref(), Some(Path::new("/home/me/o")));
        assert_eq!(raw.tor.onion_auth_dir.as_deref(), Some(Path::new("/home/me/u")));
        assert_eq!(raw.tor.arti_config.as_deref(), Some(Path::new("/home/me/a")));
        assert_eq!(raw.discovery.ban_file.as_deref(), Some(Path::new("/home/me/b/~/c")));
        assert_eq!(raw.tor.socks_password_file.as_deref(), Some(Path::new("/home/me/p")));
        assert_eq!(raw.tor.socks, Some("unix:/home/me/s".parse().unwrap()));
        let lists = ["/home/me/d", "/etc/waypost/e"].map(PathBuf::from);
        assert_eq!(raw.discovery.ban_lists, Some(lists.into()));
        assert_eq!(raw.backend.electrum, Some("unix:/home/me/electrs".parse().unwrap()));
    }

    #[test]
    fn path_that_cannot_be_expanded_names_its_key() {
        let mut raw: ConfigFile = toml::from_str("[listen]\ncert = \"~/c\"\nkey = \"k\"\n").unwrap();
        let error = dirs(&[("HOME", "")]).expand_all(&mut raw).unwrap_err();
        assert!(error.key == "listen.cert" && error.reason.contains("HOME is not set"), "{error}");
        let mut raw: ConfigFile = toml::from_str("data_dir = \"~other/waypost\"\n").unwrap();
        let error = dirs(&[("HOME", "/home/me")]).expand_all(&mut raw).unwrap_err();
        assert!(error.key == "data_dir" && error.reason.contains("write the whole path"), "{error}");
    }

    #[test]
    fn default_data_directory_differs_per_chain() {
        let default = |chain: Option<&Chain>, environment: &[(&str, &str)]| {
            let network = chain.map(|chain| chain.name.clone());
            let mut raw = ConfigFile { network, ..ConfigFile::default() };
            let shared = dirs(environment).set_data_dir(&mut raw);
            (raw.data_dir, shared)
        };
        let home = [("HOME", "/home/me")];
        let shared = PathBuf::from("/home/me/.local/share/waypost");
        assert_eq!(default(None, &home), (Some(shared.clone()), None));
        assert_eq!(default(Some(&Chain::BITCOIN), &home), (Some(shared.clone()), None));
        let testnet4 = shared.join("testnet4");
        assert_eq!(default(Some(&Chain::TESTNET4), &home), (Some(testnet4), Some(shared)));
        let both = [("HOME", "/home/me"), ("XDG_DATA_HOME", "/data")];
        assert_eq!(default(Some(&Chain::SIGNET), &both).0, Some("/data/waypost/signet".into()));
        assert_eq!(default(None, &[]), (None, None));
        let mut explicit = ConfigFile {
            data_dir: Some("/d".into()),
            network: Some(Chain::SIGNET.name.clone()),
            ..ConfigFile::default()
        };
        assert_eq!(dirs(&home).set_data_dir(&mut explicit), None);
        assert_eq!(explicit.data_dir, Some("/d".into()));
    }
}
