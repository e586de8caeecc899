//! Temporary directories with configurations.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use super::{Daemon, free_address};

/// Sections of a configuration without Tor and without seeds.
pub(crate) const OFFLINE: &str = "[tor]\nmode = \"off\"\n[discovery]\nseeds = []\n";

/// Temporary directory with configurations for regtest, removed on drop.
pub(crate) struct TestDir {
    dir: tempfile::TempDir,
    /// Free address for the TCP listener.
    pub address: SocketAddr,
}

impl TestDir {
    pub(crate) fn new() -> TestDir {
        TestDir { dir: tempfile::tempdir().unwrap(), address: free_address() }
    }

    pub(crate) fn root(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.root().join(name)
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.path("data")
    }

    pub(crate) fn config(&self) -> PathBuf {
        self.path("waypost.toml")
    }

    /// Writes `waypost.toml` with these sections, and with data in `data`.
    pub(crate) fn configure(&self, sections: &str) -> PathBuf {
        self.write_config("waypost.toml", &self.data(), sections)
    }

    /// Writes `waypost.toml` with the TCP listener, followed by further keys of `[listen]` and sections.
    pub(crate) fn configure_tcp(&self, rest: &str) -> PathBuf {
        self.configure(&format!("[listen]\ntcp = [\"{}\"]\n{rest}", self.address))
    }

    /// Writes `NAME.toml` with these sections, and with data in `NAME`.
    pub(crate) fn configure_named(&self, name: &str, sections: &str) -> PathBuf {
        self.write_config(&format!("{name}.toml"), &self.path(name), sections)
    }

    /// Writes a configuration for regtest with another data directory.
    pub(crate) fn write_config(&self, file: &str, data: &Path, sections: &str) -> PathBuf {
        let path = self.path(file);
        std::fs::write(&path, format!("network = \"regtest\"\ndata_dir = {data:?}\n{sections}")).unwrap();
        path
    }

    /// Starts a daemon with `waypost.toml`.
    pub(crate) fn start(&self) -> Daemon {
        Daemon::start(&self.config())
    }
}
