//! Files that may change under a running daemon: the certificate, and whom we want nothing to do with.

use std::fmt::Display;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use tokio::sync::watch;

use super::DaemonError;
use crate::bans::Bans;
use crate::book::Event;
use crate::inbox::{Inbox, Input};
use crate::serve::{Credentials, Files};

/// The file of bans. Its absence is an error where the operator named it.
#[derive(Debug, Clone)]
pub struct BanFile {
    path: PathBuf,
    named: bool,
}

impl BanFile {
    pub fn new(path: PathBuf, named: bool) -> BanFile {
        BanFile { path, named }
    }

    pub fn read(&self) -> Result<Bans, DaemonError> {
        let failed = |error: &dyn Display| DaemonError::Bans { path: self.path.clone(), why: error.to_string() };
        match std::fs::read_to_string(&self.path) {
            Ok(text) => Bans::parse(&text).map_err(|error| failed(&error)),
            Err(error) if error.kind() == ErrorKind::NotFound && !self.named => Ok(Bans::default()),
            Err(error) => Err(failed(&error)),
        }
    }
}

/// What came of reading a file again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reread {
    Same,
    Changed,
    /// It can't be read, or not used; what was read before stays, and the log says why.
    Failed,
}

/// What is read again when it changes.
pub struct Watched {
    ban_file: BanFile,
    bans: watch::Sender<Arc<Bans>>,
    bans_seen: Option<Stamp>,
    /// Where callers come by TLS.
    certificate: Option<Certificate>,
    inbox: Inbox,
}

struct Certificate {
    files: Files,
    current: watch::Sender<Credentials>,
    seen: [Option<Stamp>; 2],
}

impl Watched {
    pub fn new(
        ban_file: BanFile,
        bans: watch::Sender<Arc<Bans>>,
        certificate: Option<(Files, watch::Sender<Credentials>)>,
        inbox: Inbox,
    ) -> Watched {
        let bans_seen = stamp(&ban_file.path);
        let certificate = certificate.map(|(files, current)| Certificate { seen: stamps(&files), files, current });
        Watched { ban_file, bans, bans_seen, certificate, inbox }
    }

    /// Reads what has changed since it was last read.
    pub async fn look(&mut self) {
        if stamp(&self.ban_file.path) != self.bans_seen {
            self.read_bans(self.ban_file.clone()).await;
        }
        let changed = self.certificate.as_ref().filter(|certificate| stamps(&certificate.files) != certificate.seen);
        if let Some(files) = changed.map(|certificate| certificate.files.clone()) {
            self.read_certificate(files);
        }
    }

    /// Has the bans of this file hold from now on.
    pub async fn read_bans(&mut self, file: BanFile) -> Reread {
        let seen = stamp(&file.path);
        if file.path == self.ban_file.path {
            self.bans_seen = seen;
        }
        let bans = match file.read() {
            Ok(bans) => bans,
            Err(error) => {
                tracing::warn!("{error}; the bans from before stay in force");
                return Reread::Failed;
            }
        };
        (self.ban_file, self.bans_seen) = (file, seen);
        if **self.bans.borrow() == bans {
            return Reread::Same;
        }
        tracing::info!(patterns = bans.len(), "read the ban file");
        let bans = Arc::new(bans);
        self.bans.send_replace(Arc::clone(&bans));
        let _ = self.inbox.send(Input::Event(Event::Bans(bans))).await;
        Reread::Changed
    }

    /// Has callers shown the certificate in these files from now on.
    pub fn read_certificate(&mut self, files: Files) -> Reread {
        let Some(certificate) = &mut self.certificate else { return Reread::Same };
        let seen = stamps(&files);
        if files == certificate.files {
            certificate.seen = seen;
        }
        let credentials = match files.load() {
            Ok(credentials) => credentials,
            Err(error) => {
                tracing::warn!(%error, "the certificate from before is kept");
                return Reread::Failed;
            }
        };
        (certificate.files, certificate.seen) = (files, seen);
        let changed = certificate.current.borrow().cert != credentials.cert;
        certificate.current.send_replace(credentials);
        if !changed {
            return Reread::Same;
        }
        tracing::info!("read the certificate");
        Reread::Changed
    }
}

/// What tells one state of a file from another.
type Stamp = (SystemTime, u64);

fn stamp(path: &Path) -> Option<Stamp> {
    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.modified().ok()?, metadata.len()))
}

fn stamps(files: &Files) -> [Option<Stamp>; 2] {
    files.paths().map(|path| stamp(&path))
}
