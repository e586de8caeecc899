//! Reload of the certificate and the ban list when their files change.

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

/// Path of the ban list, and whether the file must exist.
#[derive(Debug, Clone)]
pub(crate) struct BanFile {
    path: PathBuf,
    /// Whether a missing file is an error, as with a configured `discovery.ban_file`.
    required: bool,
}

impl BanFile {
    /// Creates the description of a ban file, and does not read it.
    pub(crate) fn new(path: PathBuf, required: bool) -> BanFile {
        BanFile { path, required }
    }

    /// Reads and parses the file.
    ///
    /// Returns an empty list if the file is missing and not required.
    pub(crate) fn read(&self) -> Result<Bans, DaemonError> {
        let failed = |error: &dyn Display| DaemonError::Bans { path: self.path.clone(), reason: error.to_string() };
        match std::fs::read_to_string(&self.path) {
            Ok(text) => Bans::parse(&text).map_err(|error| failed(&error)),
            Err(error) if error.kind() == ErrorKind::NotFound && !self.required => Ok(Bans::default()),
            Err(error) => Err(failed(&error)),
        }
    }
}

/// Result of reading a file again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ReloadOutcome {
    /// The content is the same.
    Same,
    /// The content differs and is in use.
    Changed,
    /// The file can't be read or used. The previous content stays in use; the reason is logged.
    Failed,
}

/// Watcher of the ban list and the certificate, polled by its owner.
pub(crate) struct FileWatcher {
    ban_file: BanFile,
    bans: watch::Sender<Arc<Bans>>,
    /// State of the ban file when it was last read; `None` if it was missing.
    bans_fingerprint: Option<Fingerprint>,
    /// `None` without a TLS listener.
    certificate: Option<WatchedCertificate>,
    inbox: Inbox,
}

/// Certificate in use, with the state of its files when they were last read.
struct WatchedCertificate {
    files: CertificateSource,
    current: watch::Sender<Credentials>,
    /// Of the certificate and of the key; `None` for a missing file.
    fingerprints: [Option<Fingerprint>; 2],
}

impl FileWatcher {
    /// Creates a watcher of files that were just read.
    ///
    /// New bans go to `bans` and to the book, a new certificate to its sender.
    pub(crate) fn new(
        ban_file: BanFile,
        bans: watch::Sender<Arc<Bans>>,
        certificate: Option<(CertificateSource, watch::Sender<Credentials>)>,
        inbox: Inbox,
    ) -> FileWatcher {
        let bans_fingerprint = fingerprint(&ban_file.path);
        let certificate = certificate.map(|(files, current)| WatchedCertificate {
            fingerprints: fingerprints(&files),
            files,
            current,
        });
        FileWatcher { ban_file, bans, bans_fingerprint, certificate, inbox }
    }

    /// Reads the files that changed since they were last read.
    pub(crate) async fn poll(&mut self) {
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

    /// Reads a ban file and applies its bans, in place of the previous file's.
    pub(crate) async fn read_bans(&mut self, file: BanFile) -> ReloadOutcome {
        let latest = fingerprint(&file.path);
        if file.path == self.ban_file.path {
            self.bans_fingerprint = latest;
        }
        let bans = match file.read() {
            Ok(bans) => bans,
            Err(error) => {
                tracing::warn!("{error}; the previous bans stay in force");
                return ReloadOutcome::Failed;
            }
        };
        (self.ban_file, self.bans_fingerprint) = (file, latest);
        if **self.bans.borrow() == bans {
            return ReloadOutcome::Same;
        }
        tracing::info!(patterns = bans.len(), "read the ban file");
        let bans = Arc::new(bans);
        self.bans.send_replace(Arc::clone(&bans));
        let _ = self.inbox.send(BookMessage::Event(Event::BansReplaced(bans))).await;
        ReloadOutcome::Changed
    }

    /// Reads a certificate and presents it to new clients, in place of the previous one.
    ///
    /// Does nothing without a TLS listener.
    pub(crate) fn read_certificate(&mut self, files: CertificateSource) -> ReloadOutcome {
        let Some(certificate) = &mut self.certificate else { return ReloadOutcome::Same };
        let latest = fingerprints(&files);
        if files == certificate.files {
            certificate.fingerprints = latest;
        }
        let credentials = match files.load() {
            Ok(credentials) => credentials,
            Err(error) => {
                tracing::warn!(%error, "the previous certificate is kept");
                return ReloadOutcome::Failed;
            }
        };
        (certificate.files, certificate.fingerprints) = (files, latest);
        let changed = certificate.current.borrow().cert != credentials.cert;
        certificate.current.send_replace(credentials);
        if !changed {
            return ReloadOutcome::Same;
        }
        tracing::info!("read the certificate");
        ReloadOutcome::Changed
    }
}

/// Modification time and length of a file. A change of either triggers a read.
type Fingerprint = (SystemTime, u64);

/// Returns `None` if the file is missing or can't be examined.
fn fingerprint(path: &Path) -> Option<Fingerprint> {
    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.modified().ok()?, metadata.len()))
}

fn fingerprints(files: &CertificateSource) -> [Option<Fingerprint>; 2] {
    files.paths().map(|path| fingerprint(&path))
}
