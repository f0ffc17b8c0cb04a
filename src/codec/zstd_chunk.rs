//! zstd, for what a model codes no shorter. History serves as a raw prefix: the referenced chunks
//! one after another, the one named last standing right before the chunk.

use super::{Codec, DecodeJob, EncodeJob, Encoded, damaged};
use crate::error::Result;
use crate::wire::zstd_raw;

/// The chunk without its history, and with it where there is one.
pub fn encode(job: &EncodeJob<'_>) -> Vec<Encoded> {
    let pack = |prefix: &[u8]| {
        let payload = zstd_raw::compress(job.raw, prefix).ok()?;
        Some(Encoded { codec: Codec::Zstd, model: 0, payload, used_history: !prefix.is_empty() })
    };
    let alone = pack(&[]);
    let with_history = if job.history.is_empty() { None } else { pack(&job.history.concat()) };
    alone.into_iter().chain(with_history).collect()
}

pub fn decode(job: &DecodeJob<'_>) -> Result<Vec<u8>> {
    zstd_raw::decompress(job.payload, &job.history.concat(), job.raw_len)
        .ok_or(damaged("its zstd frame is damaged"))
}
