//! A caller's bytes cut into lines, of which few may be long at a time.

use std::sync::Arc;

use bytes::BytesMut;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::codec::{Decoder, LinesCodec, LinesCodecError};

use crate::jsonrpc::MAX_REQUEST_BYTES;

/// What all long lines together may take of our memory.
const POOL: usize = 64 * 1024 * 1024;

/// How long lines may become. The server behind us is sent whole transactions; what we are asked ourselves is short.
#[derive(Debug, Clone)]
pub struct LongLinePool {
    longest: usize,
    places: Arc<Semaphore>,
}

impl LongLinePool {
    pub fn new(longest: usize) -> LongLinePool {
        let longest = longest.max(MAX_REQUEST_BYTES);
        // A line is held as bytes and as text for a moment.
        LongLinePool { longest, places: Arc::new(Semaphore::new((POOL / (2 * longest)).max(1))) }
    }
}

/// Lines of up to [`MAX_CALL`] for everybody; longer ones for who finds a place.
#[derive(Debug)]
pub struct LineCodec {
    codec: LinesCodec,
    long: LongLinePool,
    permit: Option<OwnedSemaphorePermit>,
}

impl LineCodec {
    pub fn new(long: &LongLinePool) -> LineCodec {
        LineCodec { codec: LinesCodec::new_with_max_length(long.longest), long: long.clone(), permit: None }
    }

    pub fn longest(&self) -> usize {
        self.long.longest
    }

    /// Gives the place of a long line back, when it is done with.
    pub fn release_permit(&mut self) {
        self.permit = None;
    }
}

impl Decoder for LineCodec {
    type Item = String;
    type Error = LinesCodecError;

    fn decode(&mut self, bytes: &mut BytesMut) -> Result<Option<String>, LinesCodecError> {
        let line = self.codec.decode(bytes)?;
        if line.is_none() && bytes.len() > MAX_REQUEST_BYTES && self.permit.is_none() {
            let place = Arc::clone(&self.long.places).try_acquire_owned();
            self.permit = Some(place.map_err(|_| LinesCodecError::MaxLineLengthExceeded)?);
        }
        Ok(line)
    }

    fn decode_eof(&mut self, bytes: &mut BytesMut) -> Result<Option<String>, LinesCodecError> {
        self.codec.decode_eof(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_lines_find_as_many_places_as_there_are() {
        let long = LongLinePool::new(16 * 1024 * 1024);
        let half = || BytesMut::from(&vec![b'x'; 2 * MAX_REQUEST_BYTES][..]);
        let (mut one, mut two, mut three) = (LineCodec::new(&long), LineCodec::new(&long), LineCodec::new(&long));
        let mut bytes = half();
        assert!(one.decode(&mut bytes).unwrap().is_none());
        assert!(two.decode(&mut half()).unwrap().is_none());
        assert!(three.decode(&mut half()).is_err());
        bytes.extend_from_slice(b"\n");
        assert_eq!(one.decode(&mut bytes).unwrap().map(|line| line.len()), Some(2 * MAX_REQUEST_BYTES));
        one.release_permit();
        assert!(LineCodec::new(&long).decode(&mut half()).unwrap().is_none());
        assert!(LineCodec::new(&LongLinePool::new(0)).decode(&mut BytesMut::from(&b"short\n"[..])).unwrap().is_some());
    }

    #[test]
    fn nothing_is_longer_than_the_longest() {
        let mut lines = LineCodec::new(&LongLinePool::new(0));
        let mut bytes = BytesMut::from(&vec![b'x'; MAX_REQUEST_BYTES + 1][..]);
        assert!(lines.decode(&mut bytes).is_err());
    }
}
