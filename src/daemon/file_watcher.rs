//! Files that may change under a running daemon: the certificate and the ban list.

use std::fmt::Display;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use tokio::sync::watch;

use super::DaemonError;
use crate::ban_list::Bans;
use crate::book::Event;
use crate::book_handle::{BookMessage, Inbox};
use crate::server::{CertificateSource, Credentials};

/// The file of bans. Its absence is an error where the operator named it.
#[derive(Debug, Clone)]
pub struct BanFile {
    path: PathBuf,
    required: bool,
}

impl BanFile {
    pub fn new(path: PathBuf, required: bool) -> BanFile {
        BanFile { path, required }
    }

    pub fn read(&self) -> Result<Bans, DaemonError> {
        let failed = |error: &dyn Display| DaemonError::Bans { path: self.path.clone(), reason: error.to_string() };
        match std::fs::read_to_string(&self.path) {
            Ok(text) => Bans::parse(&text).map_err(|error| failed(&error)),
            Err(error) if error.kind() == ErrorKind::NotFound && !self.required => Ok(Bans::default()),
            Err(error) => Err(failed(&error)),
        }
    }
}

/// What came of reading a file again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReloadOutcome {
    Same,
    Changed,
    /// It can't be read, or not used; what was read before stays, and the log says why.
    Failed,
}

/// What is read again when it changes.
pub struct FileWatcher {
    ban_file: BanFile,
    bans: watch::Sender<Arc<Bans>>,
    bans_fingerprint: Option<Fingerprint>,
    /// Where callers come by TLS.
    certificate: Option<Certificate>,
    inbox: Inbox,
}

struct Certificate {
    files: CertificateSource,
    current: watch::Sender<Credentials>,
    fingerprints: [Option<Fingerprint>; 2],
}

impl FileWatcher {
    pub fn new(
        ban_file: BanFile,
        bans: watch::Sender<Arc<Bans>>,
        certificate: Option<(CertificateSource, watch::Sender<Credentials>)>,
        inbox: Inbox,
    ) -> FileWatcher {
        let bans_fingerprint = fingerprint(&ban_file.path);
        let certificate =
            certificate.map(|(files, current)| Certificate { fingerprints: fingerprints(&files), files, current });
        FileWatcher { ban_file, bans, bans_fingerprint, certificate, inbox }
    }

    /// Reads what has changed since it was last read.
    pub async fn poll(&mut self) {
        if fingerprint(&self.ban_file.path) != self.bans_fingerprint {
            self.read_bans(self.ban_file.clone()).await;
        }
        let changed = self
            .certificate
            .as_ref()
            .filter(|certificate| fingerprints(&certificate.files) != certificate.fingerprints);
        if let Some(files) = changed.map(|certificate| certificate.files.clone()) {
            self.read_certificate(files);
        }
    }

    /// Has the bans of this file hold from now on.
    pub async fn read_bans(&mut self, file: BanFile) -> ReloadOutcome {
        let seen = fingerprint(&file.path);
        if file.path == self.ban_file.path {
            self.bans_fingerprint = seen;
        }
        let bans = match file.read() {
            Ok(bans) => bans,
            Err(error) => {
                tracing::warn!("{error}; the bans from before stay in force");
                return ReloadOutcome::Failed;
            }
        };
        (self.ban_file, self.bans_fingerprint) = (file, seen);
        if **self.bans.borrow() == bans {
            return ReloadOutcome::Same;
        }
        tracing::info!(patterns = bans.len(), "read the ban file");
        let bans = Arc::new(bans);
        self.bans.send_replace(Arc::clone(&bans));
        let _ = self.inbox.send(BookMessage::Event(Event::BansReplaced(bans))).await;
        ReloadOutcome::Changed
    }

    /// Has callers shown the certificate in these files from now on.
    pub fn read_certificate(&mut self, files: CertificateSource) -> ReloadOutcome {
        let Some(certificate) = &mut self.certificate else { return ReloadOutcome::Same };
        let seen = fingerprints(&files);
        if files == certificate.files {
            certificate.fingerprints = seen;
        }
        let credentials = match files.load() {
            Ok(credentials) => credentials,
            Err(error) => {
                tracing::warn!(%error, "the certificate from before is kept");
                return ReloadOutcome::Failed;
            }
        };
        (certificate.files, certificate.fingerprints) = (files, seen);
        let changed = certificate.current.borrow().cert != credentials.cert;
        certificate.current.send_replace(credentials);
        if !changed {
            return ReloadOutcome::Same;
        }
        tracing::info!("read the certificate");
        ReloadOutcome::Changed
    }
}

/// What tells one state of a file from another.
type Fingerprint = (SystemTime, u64);

fn fingerprint(path: &Path) -> Option<Fingerprint> {
    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.modified().ok()?, metadata.len()))
}

fn fingerprints(files: &CertificateSource) -> [Option<Fingerprint>; 2] {
    files.paths().map(|path| fingerprint(&path))
}
