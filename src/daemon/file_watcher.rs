//! Reload of the certificate and the ban lists when their files change.

use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use tokio::sync::watch;
use tokio::task::block_in_place;

use super::ban_lists::BanLists;
use crate::api::BanListStatus;
use crate::ban_files::BanFile;
use crate::ban_list::Bans;
use crate::book::Event;
use crate::book_handle::{BookMessage, Inbox};
use crate::server::{CertificateSource, Credentials};

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

/// Watcher of the ban lists and the certificate, polled by its owner.
pub(crate) struct FileWatcher {
    bans: PublishedBans,
    /// `None` without a TLS listener.
    certificate: Option<WatchedCertificate>,
    inbox: Inbox,
}

/// Ban lists in force, with the senders of what others read.
pub(crate) struct PublishedBans {
    lists: BanLists,
    bans: watch::Sender<Arc<Bans>>,
    status: watch::Sender<Vec<BanListStatus>>,
}

impl PublishedBans {
    /// Publishes lists that were just read.
    pub(crate) fn new(lists: BanLists) -> PublishedBans {
        let bans = watch::Sender::new(Arc::new(lists.bans()));
        let status = watch::Sender::new(lists.status());
        PublishedBans { lists, bans, status }
    }

    /// Returns a receiver of the combined patterns.
    pub(crate) fn subscribe(&self) -> watch::Receiver<Arc<Bans>> {
        self.bans.subscribe()
    }

    /// Returns a receiver of the state of each list.
    pub(crate) fn subscribe_status(&self) -> watch::Receiver<Vec<BanListStatus>> {
        self.status.subscribe()
    }
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
    /// New bans go to the receivers of `bans` and to the book, a new certificate to its sender.
    pub(crate) fn new(
        bans: PublishedBans,
        certificate: Option<(CertificateSource, watch::Sender<Credentials>)>,
        inbox: Inbox,
    ) -> FileWatcher {
        let certificate = certificate.map(|(files, current)| WatchedCertificate {
            fingerprints: fingerprints(&files),
            files,
            current,
        });
        FileWatcher { bans, certificate, inbox }
    }

    /// Reads the files that changed since they were last read.
    pub(crate) async fn poll(&mut self) {
        if self.bans.lists.have_changed() {
            // Parsing a long list takes a tenth of a second.
            block_in_place(|| self.bans.lists.read_changed());
            self.publish_bans().await;
        }
        let changed = self
            .certificate
            .as_ref()
            .filter(|certificate| fingerprints(&certificate.files) != certificate.fingerprints);
        if let Some(files) = changed.map(|certificate| certificate.files.clone()) {
            self.read_certificate(files);
        }
    }

    /// Reads these ban lists and applies their bans, in place of the previous ones.
    pub(crate) async fn read_bans(&mut self, files: Vec<BanFile>) -> ReloadOutcome {
        if let Err(error) = block_in_place(|| self.bans.lists.replace(files)) {
            tracing::warn!("{error}; the previous ban lists stay in force");
            return ReloadOutcome::Failed;
        }
        self.publish_bans().await
    }

    /// Passes the bans to sessions and the book if they differ.
    async fn publish_bans(&mut self) -> ReloadOutcome {
        let PublishedBans { lists, bans, status } = &self.bans;
        status.send_replace(lists.status());
        let new = Arc::new(block_in_place(|| lists.bans()));
        if *bans.borrow() == new {
            return ReloadOutcome::Same;
        }
        bans.send_replace(Arc::clone(&new));
        let _ = self.inbox.send(BookMessage::Event(Event::BansReplaced(new))).await;
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
