//! Responses that contain block headers.

use std::borrow::Cow;

use serde::Deserialize;

use crate::block_header::{BlockHeader, HEADER_BYTES};
use crate::jsonrpc;
use crate::peer::LenientScalar;

/// Response to `blockchain.headers.subscribe`.
pub(super) struct TipResponse<'a> {
    /// Header of the tip in hexadecimal. `None`: it is missing.
    pub hex: Option<Cow<'a, str>>,
    /// Height of the tip. `None`: it is missing or no height.
    pub height: Option<u32>,
}

impl TipResponse<'_> {
    /// Parses a response; `None` if it is no object, or has another form.
    pub(super) fn parse(result: &str) -> Option<TipResponse<'_>> {
        /// The height is in `height` or, in the first protocol, in `block_height`.
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct Fields<'a> {
            #[serde(borrow)]
            hex: Option<Cow<'a, str>>,
            height: LenientScalar,
            block_height: LenientScalar,
        }
        let Fields { hex, height, block_height } = jsonrpc::from_object(result).ok()?;
        Some(TipResponse { hex, height: height.number().or_else(|| block_height.number()) })
    }
}

/// Parses consecutive block headers; empty unless all have 80 bytes.
pub(super) fn block_headers(result: &str) -> Vec<BlockHeader> {
    /// One text in `hex`, or since protocol 1.6 a list in `headers`.
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Chunk<'a> {
        #[serde(borrow)]
        hex: Cow<'a, str>,
        #[serde(borrow)]
        headers: Vec<Cow<'a, str>>,
    }
    let Ok(Chunk { hex, headers }) = jsonrpc::from_object(result) else { return Vec::new() };
    let (of_text, excess) = hex.as_bytes().as_chunks::<{ 2 * HEADER_BYTES }>();
    let of_text = of_text.iter().filter(|_| excess.is_empty()).map(|digits| std::str::from_utf8(digits).unwrap_or(""));
    let all = of_text.chain(headers.iter().map(|hex| &**hex)).map(BlockHeader::from_hex);
    all.collect::<Option<_>>().unwrap_or_default()
}
