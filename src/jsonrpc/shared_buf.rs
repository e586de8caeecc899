//! What is sent, in pieces: the long ones are shared by everybody who is told the same, so that neither an answer nor a caller
//! who takes its time over one costs a copy.

use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::{Buf, Bytes};

/// Lines fill at least this many bytes, the line's end included.
const MIN_LINE_BYTES: usize = 1024;

static PADDING: [u8; 16 * 1024] = [b' '; 16 * 1024];

/// As many pieces as most answers have.
const INITIAL_CAPACITY: usize = 8;

/// Bytes in their order, to be written as one.
#[derive(Debug, Clone, Default)]
pub struct SharedBuf {
    pieces: VecDeque<Bytes>,
    length: usize,
}

impl SharedBuf {
    pub fn len(&self) -> usize {
        self.length
    }

    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

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

    /// Puts it before all others.
    pub fn prepend(&mut self, piece: &'static [u8]) {
        self.length += piece.len();
        self.pieces.push_front(Bytes::from_static(piece));
    }

    pub fn append(&mut self, mut other: SharedBuf) {
        self.length += other.length;
        if self.pieces.is_empty() {
            self.pieces = other.pieces;
        } else {
            self.pieces.append(&mut other.pieces);
        }
    }

    /// Fills a dictionary or a list, in JSON, up with spaces before its last bracket, so that with its line's end, which is added too, it is as long as
    /// the next power of two: then the size of an answer says little of what is in it to who watches the wire. ElectrumX 2
    /// does the same, though it also holds answers back, which we don't.
    pub fn into_padded_line(mut self) -> SharedBuf {
        let padded = (self.length + 1).next_power_of_two().max(MIN_LINE_BYTES);
        let Some(mut last) = self.pieces.pop_back() else { return self };
        let bracket = last.split_off(last.len() - 1);
        self.length -= last.len() + 1;
        self.push(last);
        let mut missing = padded - self.length - 2;
        while missing > 0 {
            let now = missing.min(PADDING.len());
            self.push(PADDING.get(..now).unwrap_or(&PADDING));
            missing -= now;
        }
        self.push(match &*bracket {
            b"]" => &b"]\n"[..],
            _ => &b"}\n"[..],
        });
        self
    }

    /// All of it in one.
    pub fn to_vec(&self) -> Vec<u8> {
        self.pieces.iter().flatten().copied().collect()
    }
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
