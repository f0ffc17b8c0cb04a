//! zstd, for chunks that a model does not make shorter.
//!
//! History serves as a raw prefix: the referenced chunks one after another, the one named last
//! directly before the chunk. A chunk without history is coded with its group's dictionary, if
//! there is one.

use super::job::{DecodeJob, Decoded, EncodeJob, Encoded, damaged};
use crate::wire::chunk::Codec;
use crate::wire::zstd_raw;
use crate::wire::zstd_raw::{PackDictionary, Packer};

/// How zstd packs the chunks of a group.
#[derive(Clone, Copy)]
pub struct Zstd<'a> {
    /// A level of zstd.
    pub level: i32,
    /// The group's dictionary, prepared for that level.
    pub dictionary: Option<&'a PackDictionary>,
}

impl Default for Zstd<'_> {
    fn default() -> Self {
        Self { level: zstd_raw::LEVEL, dictionary: None }
    }
}

/// Encodings of each chunk: one without its history, and one with it where there is history.
pub fn encode(zstd: Zstd<'_>, jobs: &[EncodeJob<'_>]) -> Vec<Vec<Encoded>> {
    let mut packer = Packer::new(zstd.level, zstd.dictionary).ok();
    let one = |job: &EncodeJob<'_>| {
        let made = |payload, used_history| Encoded { codec: Codec::Zstd, model: 0, payload, used_history };
        let alone = packer.as_mut().and_then(|packer| packer.pack(job.raw).ok());
        let prefixed = if job.history.is_empty() {
            None
        } else {
            zstd_raw::compress_at(job.raw, &job.history.concat(), zstd.level).ok()
        };
        let alone = alone.map(|payload| made(payload, false)).into_iter();
        alone.chain(prefixed.map(|payload| made(payload, true))).collect()
    };
    jobs.iter().map(one).collect()
}

/// Decodes the jobs of this codec, and puts each result in its place among `results`.
pub fn decode(jobs: &[DecodeJob<'_>], results: &mut [Decoded]) {
    for (job, result) in jobs.iter().zip(results).filter(|(job, _)| job.codec == Codec::Zstd) {
        let plain = if job.history.is_empty() {
            zstd_raw::unpack(job.payload, job.dictionary.as_deref(), job.raw_len)
        } else {
            zstd_raw::decompress(job.payload, &job.history.concat(), job.raw_len)
        };
        *result = plain.ok_or(damaged("its zstd frame is damaged"));
    }
}
