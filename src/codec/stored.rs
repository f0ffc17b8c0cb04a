//! The codec that stores raw bytes as they are: every chunk can be coded with it.

use super::job::{DecodeJob, Decoded, EncodeJob, Encoded, damaged};
use crate::wire::chunk::Codec;

/// The chunk's raw bytes as payload.
pub fn encode(job: &EncodeJob<'_>) -> Encoded {
    Encoded { codec: Codec::Stored, model: 0, payload: job.raw.to_vec(), used_history: false }
}

/// The payload as raw bytes. Fails if it has another length.
pub fn decode(job: &DecodeJob<'_>) -> Decoded {
    if job.payload.len() != job.raw_len {
        return Err(damaged("it is stored with another length"));
    }
    Ok(job.payload.to_vec())
}
