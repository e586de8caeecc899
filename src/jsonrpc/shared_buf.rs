//! Output buffer of shared and copied parts.
//!
//! Sessions share long parts such as the peer list, so a response or a slow client costs no copy. Short parts are copied
//! into one buffer, as a reference to each would cost more.

use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::{Buf, Bytes, BytesMut};

/// Shortest padded line in bytes, with the line feed.
const MIN_LINE_BYTES: usize = 1024;

/// Longest part that is copied, in bytes: a shortest line with its padding.
const MAX_COPIED_BYTES: usize = MIN_LINE_BYTES;

/// Spaces for padding, shared by all lines.
static PADDING: [u8; 16 * 1024] = [b' '; 16 * 1024];

/// Zeros for pongs, shared by all of them.
static ZEROS: [u8; 16 * 1024] = [b'0'; 16 * 1024];

/// Sequence of byte strings that is written as one.
#[derive(Debug, Clone, Default)]
pub struct SharedBuf {
    /// Parts before the tail.
    pieces: VecDeque<Bytes>,
    /// Copied parts at the end.
    tail: BytesMut,
    length: usize,
    /// Bytes that were copied, in the tail or in parts before it.
    copied: usize,
}

impl SharedBuf {
    /// Returns the number of bytes.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Returns whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Returns the number of bytes that were copied, and thus take memory of their own.
    pub fn copied_bytes(&self) -> usize {
        self.copied
    }

    /// Returns all bytes if they are in one piece.
    pub fn as_one_piece(&self) -> Option<&[u8]> {
        self.pieces.is_empty().then_some(&self.tail)
    }

    /// Appends bytes. Long ones are shared, short ones are copied.
    pub fn push(&mut self, piece: impl AsRef<[u8]> + Into<Bytes>) {
        if piece.as_ref().len() <= MAX_COPIED_BYTES {
            self.copy(piece.as_ref());
        } else {
            self.share(piece.into());
        }
    }

    /// Appends a copy of bytes.
    pub fn copy(&mut self, bytes: &[u8]) {
        if self.tail.capacity() == 0 {
            // Most responses are a shortest line.
            self.tail.reserve(MIN_LINE_BYTES);
        }
        self.tail.extend_from_slice(bytes);
        self.length += bytes.len();
        self.copied += bytes.len();
    }

    fn share(&mut self, piece: Bytes) {
        self.length += piece.len();
        if !self.tail.is_empty() {
            self.pieces.push_back(std::mem::take(&mut self.tail).freeze());
        }
        self.pieces.push_back(piece);
    }

    /// Inserts bytes at the front.
    pub fn prepend(&mut self, piece: impl Into<Bytes>) {
        let piece = piece.into();
        self.length += piece.len();
        self.pieces.push_front(piece);
    }

    /// Appends all parts of another buffer.
    pub fn append(&mut self, other: SharedBuf) {
        if self.is_empty() {
            *self = other;
            return;
        }
        for piece in other.pieces {
            self.push(piece);
        }
        self.copy(&other.tail);
    }

    /// Pads a JSON object or array to a power of two, and adds the line feed.
    ///
    /// The spaces are inserted before the last bracket. The size of a response on the wire then
    /// reveals little about its content. ElectrumX 2 does the same, and also delays responses.
    pub fn into_padded_line(mut self) -> SharedBuf {
        let padded = padded_length(self.length);
        let Some(bracket) = self.pop() else { return self };
        self.push_padding(padded - self.length - 2);
        self.copy(&[bracket, b'\n']);
        self
    }

    /// Ends a JSON array of which `sent` bytes were sent, with the padding of a line.
    pub fn push_array_end(&mut self, sent: usize) {
        let length = sent + self.length;
        self.push_padding(padded_length(length + 1) - length - 2);
        self.copy(b"]\n");
    }

    /// Removes the line feed at the end. Returns whether there was one.
    pub fn trim_line_feed(&mut self) -> bool {
        let last = if self.tail.is_empty() { self.pieces.back().map(|piece| &**piece) } else { Some(&*self.tail) };
        last.is_some_and(|last| last.ends_with(b"\n")) && self.pop().is_some()
    }

    /// Removes the last byte, and returns it.
    fn pop(&mut self) -> Option<u8> {
        let last = match self.tail.split_last() {
            Some((last, rest)) => {
                let (last, rest) = (*last, rest.len());
                self.tail.truncate(rest);
                last
            }
            None => {
                let mut piece = self.pieces.pop_back()?;
                let (last, rest) = piece.split_last().map(|(last, rest)| (*last, rest.len()))?;
                piece.truncate(rest);
                if !piece.is_empty() {
                    self.pieces.push_back(piece);
                }
                last
            }
        };
        self.length -= 1;
        Some(last)
    }

    fn push_padding(&mut self, missing: usize) {
        self.push_repeated(&PADDING, missing);
    }

    /// Appends this many digits zero. Many of them are not copied.
    pub fn push_zeros(&mut self, count: usize) {
        self.push_repeated(&ZEROS, count);
    }

    fn push_repeated(&mut self, block: &'static [u8], mut missing: usize) {
        while missing > 0 && !block.is_empty() {
            let now = missing.min(block.len());
            self.push(block.get(..now).unwrap_or(block));
            missing -= now;
        }
    }

    /// Copies all parts into one vector.
    pub fn to_vec(&self) -> Vec<u8> {
        self.pieces.iter().flatten().chain(&self.tail).copied().collect()
    }
}

/// Returns the length of a padded line whose JSON has this length.
fn padded_length(length: usize) -> usize {
    (length + 1).next_power_of_two().max(MIN_LINE_BYTES)
}

impl<B: AsRef<[u8]> + Into<Bytes>> From<B> for SharedBuf {
    fn from(piece: B) -> SharedBuf {
        let mut pieces = SharedBuf::default();
        pieces.push(piece);
        pieces
    }
}

impl Buf for SharedBuf {
    fn remaining(&self) -> usize {
        self.length
    }

    fn chunk(&self) -> &[u8] {
        self.pieces.front().map_or(&*self.tail, |piece| piece)
    }

    fn chunks_vectored<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let parts = self.pieces.iter().map(|piece| &**piece).chain((!self.tail.is_empty()).then_some(&*self.tail));
        slices.iter_mut().zip(parts).map(|(slice, part)| *slice = IoSlice::new(part)).count()
    }

    fn advance(&mut self, mut count: usize) {
        count = count.min(self.length);
        self.length -= count;
        while let Some(front) = self.pieces.front_mut() {
            if count < front.len() {
                front.advance(count);
                return;
            }
            count -= front.len();
            self.pieces.pop_front();
        }
        self.tail.advance(count);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn lines_are_padded_to_powers_of_two() {
        for (length, expected) in [(2, 1024), (1022, 1024), (1023, 1024), (1024, 2048), (5000, 8192), (90_000, 131_072)]
        {
            let mut text = vec![b'x'; length];
            text[length - 1] = b'}';
            let line = SharedBuf::from(text).into_padded_line();
            assert_eq!((line.len(), line.to_vec().len()), (expected, expected), "of {length}");
            assert!(line.to_vec().ends_with(b"}\n"));
        }
        let line = SharedBuf::from(&br#"{"id":1,"result":null}"#[..]).into_padded_line().to_vec();
        assert!(serde_json::from_slice::<serde_json::Value>(&line).is_ok());
        assert!(SharedBuf::default().into_padded_line().is_empty());
    }

    proptest! {
        #[test]
        fn partial_reads_yield_all_bytes(
            texts in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..20), 0..8),
            steps in proptest::collection::vec(1..30usize, 200),
        ) {
            let mut pieces = SharedBuf::default();
            texts.iter().cloned().for_each(|text| pieces.push(text));
            let mut taken = Vec::new();
            for step in steps {
                let step = step.min(pieces.remaining());
                let mut slices = [IoSlice::new(&[]); 3];
                let filled = pieces.chunks_vectored(&mut slices);
                let seen: Vec<u8> = slices[..filled].iter().flat_map(|slice| slice.iter().copied()).collect();
                let step = step.min(seen.len());
                taken.extend_from_slice(&seen[..step]);
                pieces.advance(step);
            }
            prop_assert_eq!(taken, texts.concat());
        }
    }
}
