//! The thread that writes: it gathers changes for a moment and puts them on disk in one transaction.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tokio::sync::oneshot;

use super::Store;
use crate::backoff::Backoff;
use crate::book::Entry;
use crate::peer::Host;
use crate::route::Route;

/// Changes are gathered for this long. A sync of a slow disk fits into what is left of a second.
const BATCH_WINDOW: Duration = Duration::from_millis(200);

/// A failed write is repeated after the first of these, then after twice as long, up to the second.
const RETRY_MIN: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(60);

/// Something to be kept.
#[derive(Debug)]
pub enum Change {
    Save(Box<Entry>),
    Remove(Host),
    Reach(Route, Duration),
}

/// State of the writer, for the status.
#[derive(Debug, Default)]
pub struct WriterStatus {
    failing: AtomicBool,
    batches: AtomicU64,
    waiting: AtomicU64,
}

/// Takes changes for the thread to write.
#[derive(Debug, Clone)]
pub struct StoreHandle(Sender<Change>);

impl StoreHandle {
    /// Never waits: whatever the disk does, the book goes on.
    pub fn write(&self, change: Change) {
        // The thread ends only when nobody is left to call this.
        let _ = self.0.send(change);
    }
}

/// The writing thread.
#[derive(Debug)]
pub struct Writer {
    thread: JoinHandle<()>,
    /// Its other end is the thread's, and goes with it.
    alive: oneshot::Receiver<()>,
    status: Arc<WriterStatus>,
}

impl Writer {
    /// Begins the thread, which ends when its `Changes` and all their clones are gone.
    pub fn spawn(store: Store) -> std::io::Result<(Writer, StoreHandle)> {
        let (sender, changes) = mpsc::channel();
        let (life, alive) = oneshot::channel();
        let status = Arc::new(WriterStatus::default());
        let work = WriterLoop { store, pending: HashMap::new(), status: Arc::clone(&status) };
        let thread = thread::Builder::new().name("store".to_owned()).spawn(move || {
            let _life = life;
            work.run(&changes);
        })?;
        Ok((Writer { thread, alive, status }, StoreHandle(sender)))
    }

    /// Resolves when the thread has ended, which it does by itself only if it broke down.
    pub async fn exited(&mut self) {
        let _ = (&mut self.alive).await;
    }

    /// Waits until everything is written that ever will be.
    pub fn join(self) {
        // A panic in it was printed; there is nothing left to be done.
        let _ = self.thread.join();
    }

    pub fn status(&self) -> Arc<WriterStatus> {
        Arc::clone(&self.status)
    }
}

impl WriterStatus {
    /// Whether the last write failed.
    pub fn is_failing(&self) -> bool {
        self.failing.load(Ordering::Relaxed)
    }

    /// Transactions so far.
    pub fn batches(&self) -> u64 {
        self.batches.load(Ordering::Relaxed)
    }

    /// Records that are not on disk yet.
    pub fn waiting(&self) -> u64 {
        self.waiting.load(Ordering::Relaxed)
    }
}

/// What a change is about. Of several about the same thing only the last is written, so what waits can't outgrow the
/// book.
#[derive(Debug, PartialEq, Eq, Hash)]
enum ChangeKey {
    Peer(Host),
    Reach(Route),
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
                    Err(_) => return,
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
        let about = match &change {
            Change::Save(entry) => ChangeKey::Peer(entry.host.clone()),
            Change::Remove(host) => ChangeKey::Peer(host.clone()),
            Change::Reach(via, _) => ChangeKey::Reach(*via),
        };
        self.pending.insert(about, change);
        self.status.waiting.store(self.pending.len() as u64, Ordering::Relaxed);
    }

    fn on_success(&mut self) {
        self.pending.clear();
        self.status.waiting.store(0, Ordering::Relaxed);
        self.status.batches.fetch_add(1, Ordering::Relaxed);
        if self.status.failing.swap(false, Ordering::Relaxed) {
            tracing::info!("the store can be written again");
        }
    }

    fn on_failure(&self, error: &redb::Error) {
        if !self.status.failing.swap(true, Ordering::Relaxed) {
            tracing::error!(%error, "can't write the store; going on from memory and trying again");
        }
    }

    /// At the end, in case the trouble is over.
    fn final_flush(&mut self) {
        match self.store.write(self.pending.values()) {
            Ok(()) => self.on_success(),
            Err(error) => {
                tracing::error!(%error, records = self.pending.len(), "ending with records that could not be written");
            }
        }
    }

    /// Waits before the next try, still gathering; false when nobody is there any more.
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
