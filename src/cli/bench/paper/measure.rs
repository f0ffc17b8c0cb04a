//! This program's own part: chunks packed, and read back one by one and all at once.

use std::time::{Duration, Instant};

use rayon::prelude::*;

use super::sample::{Length, Piece, spread};
use crate::cli::bench::report::percentile;
use crate::codec::job::{DecodeJob, Decoded, EncodeJob};
use crate::codec::model::ChunkModel;
use crate::codec::neural::chunk_model::Neural;
use crate::error::{Error, Result};
use crate::wire::chunk::Codec;

/// Bytes that say how long a chunk's payload is.
const LENGTH_BYTES: u64 = 2;
/// Chunks that programs of other authors get of a length, each a process of its own.
pub(crate) const SAMPLED: usize = 100;
/// Chunks that are read alone.
const ALONE: usize = 25;
/// Most chunks that a worker takes at once: several times what it decodes in lockstep.
const SHARE: usize = 240;

/// How small the chunks become.
#[derive(Clone, Debug)]
pub(crate) struct Sizes {
    pub program: String,
    /// None where everything is one stream.
    pub length: Option<Length>,
    pub chunks: usize,
    /// Tokens of all chunks; 0 where there are none.
    pub tokens: usize,
    pub raw: u64,
    pub bytes: u64,
    /// Bits per byte of those chunks that the other programs get.
    pub sampled: f64,
    /// Bits of c per byte, within the whole.
    pub learned: f64,
    /// Tokens a second.
    pub pack: f64,
}

impl Sizes {
    pub fn bits_per_byte(&self) -> f64 {
        self.bytes as f64 * 8.0 / self.raw.max(1) as f64
    }

    /// Mean tokens of a chunk.
    pub fn mean_tokens(&self) -> f64 {
        self.tokens as f64 / self.chunks.max(1) as f64
    }
}

/// How long chunks take.
#[derive(Clone, Debug)]
pub(crate) struct Speed {
    pub model: String,
    pub length: Length,
    pub chunks: usize,
    /// Mean tokens of a chunk.
    pub tokens: f64,
    /// Median microseconds of a chunk that is read alone.
    pub latency: u64,
    /// Tokens a second, one chunk after another.
    pub alone: f64,
    /// Tokens a second of all chunks in lockstep, on all threads.
    pub batched: f64,
    /// Tokens a second of packing, on all threads.
    pub pack: f64,
}

/// Packs all chunks; nothing if the model takes none so long.
pub(crate) fn pack(
    program: String,
    coder: &Neural,
    length: Length,
    pieces: &[Piece<'_>],
) -> Option<(Sizes, Vec<Vec<u8>>)> {
    let start = Instant::now();
    let packed: Vec<Option<Vec<u8>>> = pieces
        .par_chunks(share(pieces.len()))
        .flat_map_iter(|pieces| {
            let jobs: Vec<EncodeJob<'_>> = pieces.iter().map(encode_job).collect();
            coder.encode(&jobs)
        })
        .collect();
    let took = start.elapsed();
    let payloads: Vec<Vec<u8>> = packed.into_iter().collect::<Option<_>>()?;
    let all_in = |payload: &Vec<u8>| payload.len() as u64 + LENGTH_BYTES;
    let raw: u64 = pieces.iter().map(|piece| piece.raw.len() as u64).sum();
    let tokens = pieces.iter().map(|piece| piece.tokens).sum();
    let (sampled, sampled_raw) = spread(pieces.len(), SAMPLED)
        .filter_map(|nth| pieces.get(nth).zip(payloads.get(nth)))
        .fold((0, 0), |(bytes, raw), (piece, payload)| (bytes + all_in(payload), raw + piece.raw.len()));
    let learned: u64 =
        payloads.iter().filter_map(|payload| coder.learned(payload)).map(|learned| learned.bits).sum();
    let row = Sizes {
        program,
        length: Some(length),
        chunks: pieces.len(),
        tokens,
        raw,
        bytes: payloads.iter().map(all_in).sum(),
        sampled: sampled as f64 * 8.0 / sampled_raw.max(1) as f64,
        learned: learned as f64 / raw.max(1) as f64,
        pack: rate(tokens, took),
    };
    Some((row, payloads))
}

/// Reads chunks back, some alone and then all, and checks that they are what they were.
pub(crate) fn unpack(
    model: &str,
    coder: &Neural,
    length: Length,
    pieces: &[Piece<'_>],
    payloads: &[Vec<u8>],
    pack: f64,
) -> Result<Speed> {
    let jobs: Vec<DecodeJob<'_>> =
        pieces.iter().zip(payloads).map(|(piece, payload)| job(piece, payload)).collect();
    let few: Vec<usize> = spread(jobs.len(), ALONE).collect();
    let mut micros = Vec::with_capacity(few.len());
    let (mut tokens, mut time) = (0, Duration::ZERO);
    // The first twice: it finds nothing in the CPU's caches.
    for (nth, &at) in few.first().into_iter().chain(&few).enumerate() {
        let Some((job, piece)) = jobs.get(at).zip(pieces.get(at)) else { continue };
        let start = Instant::now();
        let got = coder.decode(&[job]);
        let took = start.elapsed();
        same(&got, std::slice::from_ref(piece))?;
        if nth > 0 {
            micros.push(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
            tokens += piece.tokens;
            time += took;
        }
    }
    micros.sort_unstable();
    let start = Instant::now();
    let got: Vec<Decoded> = jobs
        .par_chunks(share(jobs.len()))
        .flat_map_iter(|jobs| coder.decode(&jobs.iter().collect::<Vec<_>>()))
        .collect();
    let all = start.elapsed();
    same(&got, pieces)?;
    let all_tokens: usize = pieces.iter().map(|piece| piece.tokens).sum();
    Ok(Speed {
        model: model.into(),
        length,
        chunks: pieces.len(),
        tokens: all_tokens as f64 / pieces.len().max(1) as f64,
        latency: percentile(&micros, 50),
        alone: rate(tokens, time),
        batched: rate(all_tokens, all),
        pack,
    })
}

fn encode_job<'a>(piece: &Piece<'a>) -> EncodeJob<'a> {
    EncodeJob { raw: piece.raw, history: Vec::new() }
}

fn job<'a>(piece: &Piece<'_>, payload: &'a [u8]) -> DecodeJob<'a> {
    let (codec, history, dictionary) = (Codec::Neural, Vec::new(), None);
    DecodeJob { codec, model: 0, payload, raw_len: piece.raw.len(), history, dictionary }
}

fn same(got: &[Decoded], pieces: &[Piece<'_>]) -> Result<()> {
    let equal = |(got, piece): (&Decoded, &Piece<'_>)| got.as_ref().is_ok_and(|got| got == piece.raw);
    if got.len() == pieces.len() && got.iter().zip(pieces).all(equal) {
        Ok(())
    } else {
        Err(Error::Internal("a chunk does not decode to what it was"))
    }
}

/// Chunks that a worker takes at once, so that all have some.
fn share(chunks: usize) -> usize {
    chunks.div_ceil(rayon::current_num_threads()).clamp(1, SHARE)
}

fn rate(tokens: usize, time: Duration) -> f64 {
    tokens as f64 / time.as_secs_f64().max(1e-9)
}
