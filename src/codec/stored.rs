//! The codec that does nothing: every chunk can be coded with it.

use super::job::{DecodeJob, EncodeJob, Encoded, damaged};
use crate::error::Result;
use crate::wire::chunk::Codec;

pub fn encode(job: &EncodeJob<'_>) -> Encoded {
    Encoded { codec: Codec::Stored, model: 0, payload: job.raw.to_vec(), used_history: false }
}

pub fn decode(job: &DecodeJob<'_>) -> Result<Vec<u8>> {
    if job.payload.len() != job.raw_len {
        return Err(damaged("it is stored with another length"));
    }
    Ok(job.payload.to_vec())
}
