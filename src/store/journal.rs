//! Journal of changes that are on disk, but not in the database yet.
//!
//! A transaction of the database writes at least seven pages of 4 KiB, however small the change is. A frame of the
//! journal is as long as the changes. So each batch is appended here, and the database gets many of them at once.
//!
//! The numbers of frames increase. The database records the last frame that it contains, within the transaction that
//! adds it. The journal is then written from its beginning again, and is not erased: frames of an earlier use have
//! lower numbers, and thus never count.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::path::Path;

use redb::StorageBackend;
use redb::backends::FileBackend;
use sha2::{Digest, Sha256};

use super::record::RecordChanges;

/// Size of the journal when it is full, in bytes: about 500 changes of peers.
///
/// A larger one would make transactions rarer, but the changes are in memory too until the database has them.
pub(crate) const CAPACITY: u64 = 512 * 1024;

/// Step in which the file grows. Writes within the file change no metadata, which saves writes of the file system.
const GROWTH: u64 = 64 * 1024;

/// Size of a page of the system, in bytes.
const PAGE: u64 = 4096;

/// Bytes of a checksum. It detects frames that were written in part, and is no protection against forgery.
const CHECKSUM_BYTES: usize = 16;

/// Open journal of one store.
pub(crate) struct Journal {
    file: Box<dyn StorageBackend>,
    /// Identifier of the store, part of each checksum: the journal of another store contains no valid frame.
    store_id: u64,
    /// Offset of the next frame.
    end: u64,
    /// Number of the last frame that was written, perhaps in part.
    last_number: u64,
    pending: RecordChanges,
}

impl Journal {
    /// Opens the journal of a store whose database contains the frames up to this number.
    pub(crate) fn open(
        file: Box<dyn StorageBackend>,
        store_id: u64,
        applied_number: u64,
    ) -> Result<Journal, redb::Error> {
        let mut journal =
            Journal { file, store_id, end: 0, last_number: applied_number, pending: RecordChanges::new() };
        let mut content = vec![0; usize::try_from(journal.file.len()?.min(CAPACITY)).unwrap_or(0)];
        journal.file.read(0, &mut content)?;
        let mut rest = content.as_slice();
        while let Some((number, changes, after)) = journal.parse_frame(rest) {
            journal.end += (rest.len() - after.len()) as u64;
            journal.last_number = number;
            journal.pending.extend(changes);
            rest = after;
        }
        Ok(journal)
    }

    /// Appends a frame and waits until it is on disk. Returns whether there was room for it.
    pub(crate) fn append(&mut self, changes: &RecordChanges) -> Result<bool, redb::Error> {
        let Ok(payload) = postcard::to_stdvec(changes) else { return Ok(false) };
        let Ok(length) = u32::try_from(payload.len()) else { return Ok(false) };
        let number = self.last_number.saturating_add(1);
        let mut frame = [number.to_le_bytes().as_slice(), &length.to_le_bytes()].concat();
        frame.extend(self.checksum(number, &payload));
        frame.extend(payload);
        let end = self.end + frame.len() as u64;
        if end > CAPACITY {
            return Ok(false);
        }
        // The number is used up even if the write fails, as the frame may be on disk nevertheless. It is then
        // overwritten by a frame with a higher number, or the database will record a higher number.
        self.last_number = number;
        if end > self.file.len()? {
            let grown = end.next_multiple_of(GROWTH).min(CAPACITY);
            self.file.set_len(grown)?;
            frame.resize(usize::try_from(grown - self.end).unwrap_or(frame.len()), 0);
        }
        self.write_pages(&frame)?;
        self.file.sync_data()?;
        self.end = end;
        self.pending.extend(changes.iter().map(|(key, value)| (key.clone(), value.clone())));
        Ok(true)
    }

    /// Returns the changes that the database lacks.
    pub(crate) fn pending(&self) -> &RecordChanges {
        &self.pending
    }

    /// Returns the number that the database records when it has all pending changes.
    pub(crate) fn last_number(&self) -> u64 {
        self.last_number
    }

    /// Starts at the beginning of the file, after the database has all pending changes.
    pub(crate) fn restart(&mut self) {
        self.end = 0;
        self.pending.clear();
    }

    /// Writes bytes at the end, page by page.
    ///
    /// The system caches what one call writes as one unit, and counts or writes the whole unit after a small change.
    fn write_pages(&self, mut bytes: &[u8]) -> Result<(), redb::Error> {
        let mut offset = self.end;
        while !bytes.is_empty() {
            let left = usize::try_from(PAGE - offset % PAGE).unwrap_or(bytes.len());
            let (page, rest) = bytes.split_at(left.min(bytes.len()));
            self.file.write(offset, page)?;
            offset += page.len() as u64;
            bytes = rest;
        }
        Ok(())
    }

    /// Returns the number and changes of the frame at the beginning, and the bytes after it.
    ///
    /// `None` if there is no whole frame, or one of an earlier use of the journal.
    fn parse_frame<'a>(&self, bytes: &'a [u8]) -> Option<(u64, RecordChanges, &'a [u8])> {
        let (number, rest) = bytes.split_first_chunk()?;
        let (length, rest) = rest.split_first_chunk()?;
        let (checksum, rest) = rest.split_first_chunk::<CHECKSUM_BYTES>()?;
        let (payload, rest) = rest.split_at_checked(usize::try_from(u32::from_le_bytes(*length)).ok()?)?;
        let number = u64::from_le_bytes(*number);
        if number <= self.last_number || self.checksum(number, payload) != *checksum {
            return None;
        }
        Some((number, postcard::from_bytes(payload).ok()?, rest))
    }

    fn checksum(&self, number: u64, payload: &[u8]) -> [u8; CHECKSUM_BYTES] {
        let hash = Sha256::new().chain_update(self.store_id.to_le_bytes()).chain_update(number.to_le_bytes());
        let hash: [u8; 32] = hash.chain_update(payload).finalize().into();
        hash.first_chunk().copied().unwrap_or_default()
    }
}

impl fmt::Debug for Journal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Journal").field("end", &self.end).field("pending", &self.pending.len()).finish_non_exhaustive()
    }
}

/// Opens or creates the file of a journal.
///
/// The name of a new file is on disk before its first frame: a power failure could otherwise lose both.
pub(crate) fn open_file(path: &Path) -> Result<Box<dyn StorageBackend>, redb::Error> {
    let is_new = !path.exists();
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
    if let (true, Some(folder)) = (is_new, path.parent()) {
        File::open(folder)?.sync_all()?;
    }
    Ok(Box::new(FileBackend::new(file)?))
}

#[cfg(test)]
mod tests {
    use super::super::record::RecordKey;
    use super::super::tests::Disk;
    use super::*;

    const STORE: u64 = 77;

    fn open(file: &Disk, store_id: u64, applied: u64) -> Journal {
        Journal::open(Box::new(file.clone()), store_id, applied).unwrap()
    }

    fn change(name: &str, bytes: usize) -> RecordChanges {
        RecordChanges::from([(RecordKey::Peer(name.to_owned()), Some(vec![1; bytes]))])
    }

    fn names(journal: &Journal) -> Vec<&str> {
        journal.pending().keys().filter_map(host).collect()
    }

    fn host(key: &RecordKey) -> Option<&str> {
        match key {
            RecordKey::Peer(host) => Some(host),
            _ => None,
        }
    }

    #[test]
    fn frames_are_read_again_until_one_is_damaged() {
        let file = Disk::default();
        let mut journal = open(&file, STORE, 0);
        for name in ["a", "b", "c"] {
            assert!(journal.append(&change(name, 100)).unwrap());
        }
        let end_of_second = journal.end * 2 / 3;
        drop(journal);
        assert_eq!(names(&open(&file, STORE, 0)), ["a", "b", "c"]);
        assert!(names(&open(&file, STORE + 1, 0)).is_empty(), "the journal of another store");
        assert!(names(&open(&file, STORE, 3)).is_empty(), "the database has all frames");
        file.write(end_of_second + 60, &[9]).unwrap();
        let mut journal = open(&file, STORE, 0);
        assert_eq!(names(&journal), ["a", "b"]);
        assert!(journal.append(&change("d", 100)).unwrap());
        assert_eq!(names(&open(&file, STORE, 0)), ["a", "b", "d"]);
    }

    #[test]
    fn frames_of_an_earlier_use_do_not_count() {
        let file = Disk::default();
        let mut journal = open(&file, STORE, 0);
        // Frames of equal length, so that old ones follow the new one directly.
        for name in ["a", "b", "c"] {
            assert!(journal.append(&change(name, 100)).unwrap());
        }
        let applied = journal.last_number();
        journal.restart();
        assert!(names(&journal).is_empty());
        assert!(journal.append(&change("d", 100)).unwrap());
        assert_eq!(names(&open(&file, STORE, applied)), ["d"]);
    }

    #[test]
    fn frame_of_a_failed_write_is_older_than_the_next_transaction() {
        let file = Disk::default();
        let mut journal = open(&file, STORE, 0);
        assert!(journal.append(&change("a", 100)).unwrap());
        // The frame reached the disk, though the write seemed to fail.
        let mut failed = open(&file, STORE, 0);
        assert!(failed.append(&change("b", 100)).unwrap());
        journal.last_number = failed.last_number;
        let applied = journal.last_number();
        journal.restart();
        assert!(names(&open(&file, STORE, applied)).is_empty());
        assert!(journal.append(&change("c", 100)).unwrap());
        assert_eq!(names(&open(&file, STORE, applied)), ["c"]);
    }

    #[test]
    fn full_journal_refuses_a_frame_and_keeps_the_others() {
        let file = Disk::default();
        let mut journal = open(&file, STORE, 0);
        let mut frames = 0;
        while journal.append(&change(&format!("n{frames:03}"), 10_000)).unwrap() {
            frames += 1;
        }
        assert_eq!((frames, file.len().unwrap()), (52, CAPACITY));
        assert_eq!(names(&open(&file, STORE, 0)).len(), 52);
    }
}
