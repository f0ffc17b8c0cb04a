//! A chunk to encode or to decode, as the codecs take it.

use std::sync::Arc;

use crate::error::Error;
use crate::wire::chunk::Codec;
use crate::wire::zstd_raw::Dictionary;

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
    /// That of the chunk's group, for zstd without history.
    pub dictionary: Option<Arc<Dictionary>>,
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

impl Encoded {
    pub(crate) fn keep_shorter(&mut self, other: Self) {
        if other.payload.len() < self.payload.len() {
            *self = other;
        }
    }
}

/// Why a chunk could not be decoded.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// Its payload breaks this rule; the caller knows where it lies.
    #[error("{0}")]
    Damaged(&'static str),
    /// Anything else: a limit, a device, a state that is held to be impossible.
    #[error(transparent)]
    Other(#[from] Error),
}

/// What decoding one chunk gives: its raw bytes.
pub type Decoded = Result<Vec<u8>, DecodeError>;

/// The error of a payload that breaks a rule.
pub(crate) fn damaged(rule: &'static str) -> DecodeError {
    DecodeError::Damaged(rule)
}
