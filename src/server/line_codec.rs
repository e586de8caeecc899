//! Codec for lines of clients, with a pool that limits long lines.

use std::sync::Arc;

use bytes::BytesMut;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::codec::{Decoder, LinesCodec, LinesCodecError};

use crate::jsonrpc::MAX_REQUEST_BYTES;

/// Memory of all long lines of one ingress, in bytes.
const POOL_BYTES: usize = 64 * 1024 * 1024;

/// Pool of permits for long lines, shared by the clients of an ingress.
///
/// A pool of both ingresses would show the load of one on the other. Requests for the backend may contain whole transactions. Requests for Waypost are short.
#[derive(Debug, Clone)]
pub struct LongLinePool {
    max_line_bytes: usize,
    permits: Arc<Semaphore>,
}

impl LongLinePool {
    /// Creates the pool for lines of up to this length. A shorter one than `MAX_REQUEST_BYTES` is
    /// raised to it.
    pub fn new(max_line_bytes: usize) -> LongLinePool {
        let max_line_bytes = max_line_bytes.max(MAX_REQUEST_BYTES);
        // A line is in memory twice for a moment: as bytes and as a string.
        LongLinePool { max_line_bytes, permits: Arc::new(Semaphore::new((POOL_BYTES / (2 * max_line_bytes)).max(1))) }
    }
}

/// Codec for lines, where those beyond [`MAX_REQUEST_BYTES`] need a permit.
#[derive(Debug)]
pub(super) struct LineCodec {
    codec: LinesCodec,
    pool: LongLinePool,
    permit: Option<OwnedSemaphorePermit>,
}

impl LineCodec {
    /// Creates a codec without a permit.
    pub(super) fn new(pool: &LongLinePool) -> LineCodec {
        LineCodec { codec: LinesCodec::new_with_max_length(pool.max_line_bytes), pool: pool.clone(), permit: None }
    }

    /// Returns the length of the longest line with a permit.
    pub(super) fn max_line_bytes(&self) -> usize {
        self.pool.max_line_bytes
    }

    /// Returns the permit to the pool after a long line.
    pub(super) fn release_permit(&mut self) {
        self.permit = None;
    }
}

impl Decoder for LineCodec {
    type Item = String;
    type Error = LinesCodecError;

    fn decode(&mut self, bytes: &mut BytesMut) -> Result<Option<String>, LinesCodecError> {
        let line = self.codec.decode(bytes)?;
        if line.is_none() && bytes.len() > MAX_REQUEST_BYTES && self.permit.is_none() {
            let permit = Arc::clone(&self.pool.permits).try_acquire_owned();
            self.permit = Some(permit.map_err(|_| LinesCodecError::MaxLineLengthExceeded)?);
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
    fn long_lines_are_limited_by_permits() {
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
    fn overlong_line_is_refused() {
        let mut lines = LineCodec::new(&LongLinePool::new(0));
        let mut bytes = BytesMut::from(&vec![b'x'; MAX_REQUEST_BYTES + 1][..]);
        assert!(lines.decode(&mut bytes).is_err());
    }
}
