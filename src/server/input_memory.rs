//! Memory of the input that a session has received and not handled.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use super::memory::{MemoryCharge, Need, OutOfMemory};

/// Input of a session that is not charged, in bytes. Most requests of wallets are shorter.
const FREE_BYTES: usize = 4 * 1024;

/// Number of copies of a line that are in memory at most: as read, as a string, and to be forwarded.
const COPIES: usize = 3;

/// Input that a session has received and not handled.
///
/// It counts the bytes on the wire. So it includes partial TLS records and WebSocket frames.
pub(super) struct InputMemory {
    received: AtomicUsize,
    charge: Mutex<MemoryCharge>,
}

impl InputMemory {
    /// Starts without input.
    pub(super) fn new(charge: MemoryCharge) -> InputMemory {
        InputMemory { received: AtomicUsize::new(0), charge: Mutex::new(charge) }
    }

    /// Counts received bytes. They are charged before the next ones are read.
    pub(super) fn receive(&self, bytes: usize) {
        self.received.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Returns whether more than the free amount was received since the last request.
    pub(super) fn is_long(&self) -> bool {
        self.received.load(Ordering::Relaxed) > FREE_BYTES
    }

    /// Charges what was received beyond the free amount.
    pub(super) fn charge(&self) -> Result<(), OutOfMemory> {
        let received = self.received.load(Ordering::Relaxed);
        if received <= FREE_BYTES {
            return Ok(());
        }
        let mut charge = self.charge.lock().unwrap_or_else(PoisonError::into_inner);
        // In steps, as each change locks the pool.
        let needed = (COPIES * received).next_multiple_of(COPIES * FREE_BYTES);
        if needed > charge.bytes() { charge.resize(needed, Need::Required) } else { Ok(()) }
    }

    /// Releases the memory of a handled request. `rest` bytes of the next one are already received.
    pub(super) fn release(&self, rest: usize) {
        if self.received.swap(rest, Ordering::Relaxed) > FREE_BYTES {
            self.charge.lock().unwrap_or_else(PoisonError::into_inner).release();
        }
    }
}
