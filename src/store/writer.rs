//! Writer thread: collects changes and commits them in batches.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tokio::sync::oneshot;

use super::Store;
use crate::backoff::Backoff;
use crate::book::{Entry, Side};
use crate::header_chain::HeaderChain;
use crate::peer::Host;
use crate::route::Route;
use crate::trends::Trends;

/// Time during which changes are collected, so that one sync serves many.
const BATCH_WINDOW: Duration = Duration::from_millis(200);

/// Delay before the first retry of a failed write; it doubles with each further failure.
const RETRY_MIN: Duration = Duration::from_secs(1);

/// Maximum delay between retries.
const RETRY_MAX: Duration = Duration::from_secs(60);

/// Change of one record.
#[derive(Debug)]
pub enum Change {
    /// Inserts or replaces a peer of this side.
    Save(Side, Box<Entry>),
    /// Removes a peer of this side.
    Remove(Side, Host),
    /// Sets the chain of block headers of this side.
    SaveChain(Side, Arc<HeaderChain>),
    /// Sets the total working time of a path of this side.
    Reach(Side, Route, Duration),
    /// Sets the samples of the node's state.
    SaveTrends(Box<Trends>),
}

/// State of the writer, shared with the status.
#[derive(Debug, Default)]
pub struct WriterStatus {
    failing: AtomicBool,
    batches: AtomicU64,
    waiting: AtomicU64,
}

/// Sender of changes to the writer thread.
#[derive(Debug, Clone)]
pub struct StoreHandle(Sender<Change>);

impl StoreHandle {
    /// Queues a change without waiting for the disk.
    pub fn write(&self, change: Change) {
        // The thread outlives all handles unless it panics, which `Writer::exited` reports.
        let _ = self.0.send(change);
    }
}

/// Owner of the writer thread.
#[derive(Debug)]
pub struct Writer {
    thread: JoinHandle<()>,
    /// Closes when the thread ends.
    exited: oneshot::Receiver<()>,
    status: Arc<WriterStatus>,
}

impl Writer {
    /// Starts the thread. It ends when all clones of its [`StoreHandle`] are dropped.
    pub fn spawn(store: Store) -> std::io::Result<(Writer, StoreHandle)> {
        let (sender, changes) = mpsc::channel();
        let (guard, exited) = oneshot::channel();
        let status = Arc::new(WriterStatus::default());
        let writer_loop = WriterLoop { store, pending: HashMap::new(), status: Arc::clone(&status) };
        let thread = thread::Builder::new().name("store".to_owned()).spawn(move || {
            let _guard = guard;
            writer_loop.run(&changes);
        })?;
        Ok((Writer { thread, exited, status }, StoreHandle(sender)))
    }

    /// Waits until the thread has ended. While handles exist, it ends only by a panic.
    pub async fn exited(&mut self) {
        let _ = (&mut self.exited).await;
    }

    /// Waits until the thread has written its last batch and ended.
    pub fn join(self) {
        // A panic of the thread was already printed.
        let _ = self.thread.join();
    }

    /// Returns the state that the thread updates.
    pub fn status(&self) -> Arc<WriterStatus> {
        Arc::clone(&self.status)
    }
}

impl WriterStatus {
    /// Returns whether the last write failed.
    pub fn is_failing(&self) -> bool {
        self.failing.load(Ordering::Relaxed)
    }

    /// Returns the number of written batches.
    pub fn batches(&self) -> u64 {
        self.batches.load(Ordering::Relaxed)
    }

    /// Returns the number of records that are not on disk yet.
    pub fn waiting(&self) -> u64 {
        self.waiting.load(Ordering::Relaxed)
    }
}

/// Record that a change concerns.
///
/// Only the last change of each record is kept, so the pending changes never outgrow the book.
#[derive(Debug, PartialEq, Eq, Hash)]
enum ChangeKey {
    Peer(Side, Host),
    Reach(Side, Route),
    Chain(Side),
    Trends,
}

struct WriterLoop {
    store: Store,
    pending: HashMap<ChangeKey, Change>,
    status: Arc<WriterStatus>,
}

impl WriterLoop {
    fn run(mut self, changes: &Receiver<Change>) {
        let mut failures = 0_u32;
        loop {
            if self.pending.is_empty() {
                match changes.recv() {
                    Ok(change) => self.coalesce(change),
                    Err(_) => return self.empty_journal(),
                }
                thread::sleep(BATCH_WINDOW);
            }
            changes.try_iter().for_each(|change| self.coalesce(change));
            match self.store.write(self.pending.values()) {
                Ok(()) => {
                    self.on_success();
                    failures = 0;
                }
                Err(error) => {
                    self.on_failure(&error);
                    failures = failures.saturating_add(1);
                    if !self.wait(changes, Backoff::new(RETRY_MIN, RETRY_MAX).after(failures)) {
                        self.final_flush();
                        return;
                    }
                }
            }
        }
    }

    fn coalesce(&mut self, change: Change) {
        let key = match &change {
            Change::Save(side, entry) => ChangeKey::Peer(*side, entry.host.clone()),
            Change::Remove(side, host) => ChangeKey::Peer(*side, host.clone()),
            Change::Reach(side, route, _) => ChangeKey::Reach(*side, *route),
            Change::SaveChain(side, _) => ChangeKey::Chain(*side),
            Change::SaveTrends(_) => ChangeKey::Trends,
        };
        self.pending.insert(key, change);
        self.status.waiting.store(self.pending.len() as u64, Ordering::Relaxed);
    }

    fn on_success(&mut self) {
        self.pending.clear();
        self.status.waiting.store(0, Ordering::Relaxed);
        self.status.batches.fetch_add(1, Ordering::Relaxed);
        if self.status.failing.swap(false, Ordering::Relaxed) {
            tracing::info!("writes to the store succeed again");
        }
    }

    fn on_failure(&self, error: &redb::Error) {
        if !self.status.failing.swap(true, Ordering::Relaxed) {
            tracing::error!(%error, "can't write the store; peers stay in memory and the write is retried");
        }
    }

    /// Writes the pending changes once more at shutdown.
    fn final_flush(&mut self) {
        match self.store.write(self.pending.values()) {
            Ok(()) => {
                self.on_success();
                self.empty_journal();
            }
            Err(error) => {
                tracing::error!(%error, records = self.pending.len(), "stopping with records that could not be written");
            }
        }
    }

    /// Completes the database at shutdown, so that its file can be copied alone.
    fn empty_journal(&mut self) {
        if let Err(error) = self.store.empty_journal() {
            tracing::warn!(%error, "can't complete the peer database; the next start does it from the journal");
        }
    }

    /// Waits before a retry while it collects changes; false once all handles are dropped.
    fn wait(&mut self, changes: &Receiver<Change>, mut left: Duration) -> bool {
        const STEP: Duration = Duration::from_millis(250);
        while !left.is_zero() {
            match changes.recv_timeout(STEP) {
                Ok(change) => {
                    self.coalesce(change);
                    changes.try_iter().for_each(|change| self.coalesce(change));
                    thread::sleep(STEP);
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return false,
            }
            left = left.saturating_sub(STEP);
        }
        true
    }
}
