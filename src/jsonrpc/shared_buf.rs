//! Output buffer of shared parts.
//!
//! Sessions share long parts such as the peer list, so a response or a slow client costs no copy.

use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::{Buf, Bytes};

/// Shortest padded line in bytes, with the line feed.
const MIN_LINE_BYTES: usize = 1024;

/// Spaces for padding, shared by all lines.
static PADDING: [u8; 16 * 1024] = [b' '; 16 * 1024];

/// Zeros for pongs, shared by all of them.
static ZEROS: [u8; 16 * 1024] = [b'0'; 16 * 1024];

/// Number of parts in most responses.
const INITIAL_CAPACITY: usize = 8;

/// Sequence of shared byte strings that is written as one.
#[derive(Debug, Clone, Default)]
pub struct SharedBuf {
    pieces: VecDeque<Bytes>,
    length: usize,
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

    /// Appends bytes.
    pub fn push(&mut self, piece: impl Into<Bytes>) {
        let piece = piece.into();
        if !piece.is_empty() {
            self.length += piece.len();
            if self.pieces.capacity() == 0 {
                self.pieces.reserve(INITIAL_CAPACITY);
            }
            self.pieces.push_back(piece);
        }
    }

    /// Inserts bytes at the front.
    pub fn prepend(&mut self, piece: impl Into<Bytes>) {
        let piece = piece.into();
        self.length += piece.len();
        self.pieces.push_front(piece);
    }

    /// Appends all parts of another buffer.
    pub fn append(&mut self, mut other: SharedBuf) {
        self.length += other.length;
        if self.pieces.is_empty() {
            self.pieces = other.pieces;
        } else {
            self.pieces.append(&mut other.pieces);
        }
    }

    /// Pads a JSON object or array to a power of two, and adds the line feed.
    ///
    /// The spaces are inserted before the last bracket. The size of a response on the wire then
    /// reveals little about its content. ElectrumX 2 does the same, and also delays responses.
    pub fn into_padded_line(mut self) -> SharedBuf {
        let padded = padded_length(self.length);
        let Some(mut last) = self.pieces.pop_back() else { return self };
        let bracket = last.split_off(last.len() - 1);
        self.length -= last.len() + 1;
        self.push(last);
        self.push_padding(padded - self.length - 2);
        self.push(match &*bracket {
            b"]" => &b"]\n"[..],
            _ => &b"}\n"[..],
        });
        self
    }

    /// Ends a JSON array of which `sent` bytes were sent, with the padding of a line.
    pub fn push_array_end(&mut self, sent: usize) {
        let length = sent + self.length;
        self.push_padding(padded_length(length + 1) - length - 2);
        self.push(&b"]\n"[..]);
    }

    /// Removes the line feed at the end. Returns whether there was one.
    pub fn trim_line_feed(&mut self) -> bool {
        let Some(last) = self.pieces.back_mut().filter(|last| last.ends_with(b"\n")) else { return false };
        last.truncate(last.len() - 1);
        self.length -= 1;
        true
    }

    fn push_padding(&mut self, missing: usize) {
        self.push_repeated(&PADDING, missing);
    }

    /// Appends this many digits zero, without a copy.
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
        self.pieces.iter().flatten().copied().collect()
    }
}

/// Returns the length of a padded line whose JSON has this length.
fn padded_length(length: usize) -> usize {
    (length + 1).next_power_of_two().max(MIN_LINE_BYTES)
}

impl<B: Into<Bytes>> From<B> for SharedBuf {
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
        self.pieces.front().map_or(&[], |piece| piece)
    }

    fn chunks_vectored<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let filled = slices.iter_mut().zip(&self.pieces).map(|(slice, piece)| *slice = IoSlice::new(piece));
        filled.count()
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
