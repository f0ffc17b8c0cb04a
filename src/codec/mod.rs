//! One chunk: raw bytes to coded bytes and back.
//!
//! A chunk may name earlier chunks whose plain bytes serve as match history. This layer gets those
//! bytes; which chunks they are is the archive's business.

use std::sync::Arc;

/// How a chunk's payload is coded (spec/format.md, section "Chunks").
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Codec {
    /// The payload is the raw bytes.
    Stored = 0,
    /// The payload is one zstd frame without magic, checksum and content size.
    Zstd = 1,
    /// The payload is c and the residual under a model (spec/numerics.md).
    Neural = 2,
}

/// One chunk to decode.
pub struct DecodeJob<'a> {
    pub codec: Codec,
    /// Which of the loaded models, for `Codec::Neural`.
    pub model: u8,
    pub payload: &'a [u8],
    /// Length of the chunk's plain bytes; a claim of the archive, already limited.
    pub raw_len: usize,
    /// Plain bytes of the referenced chunks, in the order in which the chunk names them.
    pub history: Vec<Arc<[u8]>>,
}

/// One chunk to encode.
pub struct EncodeJob<'a> {
    pub raw: &'a [u8],
    pub history: Vec<Arc<[u8]>>,
}

/// What `encode` chose for one chunk.
pub struct Encoded {
    pub codec: Codec,
    pub model: u8,
    pub payload: Vec<u8>,
    /// Whether the payload was coded with the job's history.
    pub used_history: bool,
}
