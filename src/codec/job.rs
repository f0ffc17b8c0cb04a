//! A chunk to encode or to decode, in the form that all codecs take.

use std::sync::Arc;

use crate::error::Error;
use crate::wire::chunk::Codec;
use crate::wire::zstd_raw::Dictionary;

/// One chunk to decode.
pub struct DecodeJob<'a> {
    /// How the chunk is coded.
    pub codec: Codec,
    /// Number of the model in `Models`, for `Codec::Neural`.
    pub model: u8,
    /// The coded bytes.
    pub payload: &'a [u8],
    /// Raw bytes of the chunk. The archive claims this length, and the caller has checked its
    /// limit.
    pub raw_len: usize,
    /// Raw bytes of the referenced chunks, in the order in which the chunk names them.
    pub history: Vec<Arc<[u8]>>,
    /// The zstd dictionary of the chunk's group, for zstd chunks without history.
    pub dictionary: Option<Arc<Dictionary>>,
}

/// One chunk to encode.
pub struct EncodeJob<'a> {
    /// The chunk's raw bytes.
    pub raw: &'a [u8],
    /// Raw bytes of the chunks that it may refer to, in the order in which it would name them.
    pub history: Vec<Arc<[u8]>>,
}

/// What `encode` chose for one chunk.
pub struct Encoded {
    /// The codec with the fewest bytes.
    pub codec: Codec,
    /// Number of the model in `Models`, for `Codec::Neural`; otherwise 0.
    pub model: u8,
    /// The coded bytes.
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
    /// The payload breaks this rule; the caller knows where the chunk stands.
    #[error("{0}")]
    Damaged(&'static str),
    /// Anything else: a limit, a device, a state that the code holds to be impossible.
    #[error(transparent)]
    Other(#[from] Error),
}

/// The raw bytes of one decoded chunk, or why there are none.
pub type Decoded = Result<Vec<u8>, DecodeError>;

/// The error of a payload that breaks a rule.
pub(crate) fn damaged(rule: &'static str) -> DecodeError {
    DecodeError::Damaged(rule)
}
