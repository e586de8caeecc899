//! Files that may change under a running daemon: the certificate, and whom we want nothing to do with.

use std::fmt::Display;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::signal::unix::Signal;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};

use super::DaemonError;
use crate::bans::Bans;
use crate::book::Event;
use crate::inbox::{Inbox, Input};
use crate::serve::{Credentials, Files};

/// Between two looks whether a file has changed.
const LOOK: Duration = Duration::from_secs(5);

/// The file of bans. Its absence is an error where the operator named it.
#[derive(Debug)]
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

/// What is read again when it changes.
pub struct Watched {
    pub ban_file: BanFile,
    pub bans: watch::Sender<Arc<Bans>>,
    /// Where callers come by TLS.
    pub certificate: Option<(Files, watch::Sender<Credentials>)>,
    pub inbox: Inbox,
}

impl Watched {
    /// Looks every few seconds, and whenever we are told to. What can't be read is left as it was, with a word in the log.
    pub async fn run(self, mut hangups: Signal) {
        let mut looks = interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut seen = self.stamps();
        while !self.inbox.is_closed() {
            let told = tokio::select! {
                _ = looks.tick() => false,
                Some(()) = hangups.recv() => true,
            };
            let now = self.stamps();
            let (before_bans, before_certificate) = std::mem::replace(&mut seen, now.clone());
            if told || now.0 != before_bans {
                self.reload_bans().await;
            }
            if told || now.1 != before_certificate {
                self.reload_certificate();
            }
        }
    }

    fn stamps(&self) -> (Option<Stamp>, Vec<Option<Stamp>>) {
        let certificate = self.certificate.iter().flat_map(|(files, _)| files.paths());
        (stamp(&self.ban_file.path), certificate.map(|path| stamp(&path)).collect())
    }

    async fn reload_bans(&self) {
        match self.ban_file.read() {
            Ok(bans) => {
                tracing::info!(patterns = bans.len(), "read the ban file");
                let bans = Arc::new(bans);
                self.bans.send_replace(Arc::clone(&bans));
                let _ = self.inbox.send(Input::Event(Event::Bans(bans))).await;
            }
            Err(error) => tracing::warn!("{error}; the bans from before stay in force"),
        }
    }

    fn reload_certificate(&self) {
        let Some((files, current)) = &self.certificate else { return };
        match files.load() {
            Ok(credentials) => {
                let new = current.borrow().cert != credentials.cert;
                current.send_replace(credentials);
                tracing::info!(new, "read the certificate");
            }
            Err(error) => tracing::warn!(%error, "the certificate from before is kept"),
        }
    }
}

/// What tells one state of a file from another.
type Stamp = (SystemTime, u64);

fn stamp(path: &Path) -> Option<Stamp> {
    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.modified().ok()?, metadata.len()))
}
