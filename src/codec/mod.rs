//! One chunk: raw bytes to coded bytes and back.
//!
//! A chunk may name earlier chunks whose plain bytes serve as match history. This layer gets those
//! bytes; which chunks they are is the archive's business.

mod models;
mod stored;
mod zstd_chunk;

use std::sync::Arc;

use crate::error::Result;

pub use crate::wire::chunk::Codec;
pub use models::{ChunkModel, Models};

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

/// Decodes each job; results stand in the order of `jobs`.
///
/// Neural jobs of one model go to it together, so that it can decode them in lockstep. A result has
/// exactly the job's `raw_len` bytes; whether they are the right ones is for the caller's check.
pub fn decode(models: &Models, jobs: &[DecodeJob<'_>]) -> Vec<Result<Vec<u8>>> {
    let _ = (models, jobs);
    todo!()
}

/// Encodes each job with the codec that gives the fewest bytes; results stand in the order of `jobs`.
pub fn encode(models: &Models, jobs: &[EncodeJob<'_>]) -> Vec<Encoded> {
    let _ = (models, jobs);
    todo!()
}
