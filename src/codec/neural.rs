//! Neural chunks: tokens under a model's slots (spec/numerics.md sections 3, 8 and 10).
//!
//! Decoding runs many chunks in lockstep, one token of each per step, so that weights are used for all
//! of them while they are in the cache; chunks that end make room for others. Encoding knows all
//! tokens, so it runs many positions of one chunk at once. Both give the same slots.
#![deny(clippy::float_arithmetic)]

use std::collections::VecDeque;
use std::sync::Arc;

use super::damaged;
use super::models::ChunkModel;
use super::{DecodeJob, EncodeJob};
use crate::coder::{Damaged, Decoder as Reader, Encoder, Share};
use crate::error::{Error, Result};
use crate::kernels::Backend;
use crate::model::decoder::{Decoder, Row};
use crate::model::matcher::{MAX_SLOTS, Matcher, Slot};
use crate::model::{Model, latent};

/// Chunks decoded in lockstep: two register tiles of six rows, and caches of keys that share the second
/// level with the default model's weights. More are no faster (docs/kernels.md).
pub const LANES: usize = 12;
/// Positions encoded at once.
pub const ROWS: usize = 48;
/// Bytes of match tables that the chunks of one lockstep may have together, beyond the first chunk's.
const TABLE_BYTES: usize = 64 << 20;

/// A coded chunk, and what its parts cost.
#[derive(Clone, Debug)]
pub struct Coded {
    pub payload: Vec<u8>,
    /// Bits of the learned sequence.
    pub latent_bits: u64,
    /// Bits of the tokens.
    pub residual_bits: u64,
}

/// A model with the kernels it runs on.
#[derive(Clone, Debug)]
pub struct Neural {
    model: Arc<Model>,
    backend: Backend,
}

impl Neural {
    /// On the fastest kernels of this machine.
    pub fn new(model: Arc<Model>) -> Self {
        Self::with_backend(model, Backend::best())
    }

    pub fn with_backend(model: Arc<Model>, backend: Backend) -> Self {
        Self { model, backend }
    }

    pub fn model(&self) -> &Arc<Model> {
        &self.model
    }

    /// Codes one chunk with the learned sequence `c`, often empty.
    ///
    /// # Errors
    /// `Limit` if the chunk has more tokens than a model without window can take or too much history,
    /// `Usage` if the model does not know `c`.
    pub fn encode_with(&self, raw: &[u8], history: &[Arc<[u8]>], c: &[u16]) -> Result<Coded> {
        let mut decoder = Decoder::new(&self.model, self.backend, 1, ROWS);
        self.encode_one(&mut decoder, raw, history, c)
    }

    fn encode_one(
        &self,
        decoder: &mut Decoder<'_>,
        raw: &[u8],
        history: &[Arc<[u8]>],
        c: &[u16],
    ) -> Result<Coded> {
        let tokens = self.model.vocabulary().tokenise(raw);
        if tokens.len() > decoder.max_tokens() {
            let (got, max) = (tokens.len() as u64, decoder.max_tokens() as u64);
            return Err(Error::Limit { what: "tokens of a chunk", got, max });
        }
        let mut matcher = lay_history(&self.model, raw.len(), history)?;
        let mut encoder = Encoder::new();
        latent::encode(&self.model, c, &mut encoder)?;
        let latent_bits = encoder.bits();
        decoder.begin(0, tokens.len(), c);
        let mut found = [[Slot::default(); MAX_SLOTS]; ROWS];
        let mut rows = Vec::with_capacity(ROWS);
        for (block, tokens) in tokens.chunks(ROWS).enumerate() {
            rows.clear();
            for (row, &token) in tokens.iter().enumerate() {
                decoder.input(row, &mut matcher);
                rows.push(Row { lane: 0, position: block * ROWS + row });
                let slots = matcher.look_up();
                found[row][..slots.len()].copy_from_slice(slots);
                matcher.update(token);
            }
            decoder.forward(&rows);
            for ((row, &token), found) in tokens.iter().enumerate().zip(&found) {
                let slots = decoder.slots(row, found);
                let (cum, slot) = slots.share(token.into());
                encoder.encode(Share { cum, slot }, slots.total());
            }
        }
        let residual_bits = encoder.bits().saturating_sub(latent_bits);
        Ok(Coded { payload: encoder.finish(), latent_bits, residual_bits })
    }
}

impl ChunkModel for Neural {
    fn fingerprint(&self) -> [u8; 32] {
        self.model.fingerprint()
    }

    fn name(&self) -> &str {
        &self.model.config().name
    }

    fn encode(&self, jobs: &[EncodeJob<'_>]) -> Vec<Option<Vec<u8>>> {
        let mut decoder = Decoder::new(&self.model, self.backend, 1, ROWS);
        let mut encode = |job: &EncodeJob<'_>| self.encode_one(&mut decoder, job.raw, &job.history, &[]);
        jobs.iter().map(|job| encode(job).ok().map(|coded| coded.payload)).collect()
    }

    fn decode(&self, jobs: &[&DecodeJob<'_>]) -> Vec<Result<Vec<u8>>> {
        let lanes = LANES.min(jobs.len()).max(1);
        let mut lockstep = Lockstep {
            model: &self.model,
            decoder: Decoder::new(&self.model, self.backend, lanes, lanes),
            free: (0..lanes).rev().collect(),
            waiting: jobs.iter().copied().enumerate().collect(),
            active: Vec::with_capacity(lanes),
            table_bytes: 0,
            results: jobs.iter().map(|_| None).collect(),
        };
        lockstep.run();
        let results = lockstep.results.into_iter();
        results.map(|result| result.unwrap_or(Err(Error::Internal("a chunk was left undecoded")))).collect()
    }
}

/// The history of a chunk: its references, then the separator before its own tokens.
fn lay_history(model: &Model, raw_len: usize, history: &[Arc<[u8]>]) -> Result<Matcher> {
    let (config, vocabulary) = (model.config(), model.vocabulary());
    let capacity = history.iter().map(|bytes| bytes.len()).fold(raw_len, usize::saturating_add);
    let mut matcher = Matcher::new(&config.orders, &config.seconds, capacity, vocabulary.separator())?;
    for bytes in history {
        matcher.extend(&vocabulary.tokenise(bytes));
    }
    matcher.extend(&[]);
    Ok(matcher)
}

/// A chunk that is being decoded.
struct Lane<'a> {
    /// Place among the results.
    job: usize,
    /// Place in the decoder's caches.
    slot: usize,
    matcher: Matcher,
    reader: Reader<'a>,
    position: usize,
    raw_len: usize,
    raw: Vec<u8>,
    damaged: bool,
}

struct Lockstep<'a> {
    model: &'a Model,
    decoder: Decoder<'a>,
    free: Vec<usize>,
    waiting: VecDeque<(usize, &'a DecodeJob<'a>)>,
    active: Vec<Lane<'a>>,
    table_bytes: usize,
    results: Vec<Option<Result<Vec<u8>>>>,
}

impl<'a> Lockstep<'a> {
    fn run(&mut self) {
        let mut rows = Vec::with_capacity(self.decoder.rows());
        loop {
            self.fill();
            if self.active.is_empty() {
                return;
            }
            rows.clear();
            for (row, lane) in self.active.iter_mut().enumerate() {
                self.decoder.input(row, &mut lane.matcher);
                rows.push(Row { lane: lane.slot, position: lane.position });
            }
            self.decoder.forward(&rows);
            for (row, lane) in self.active.iter_mut().enumerate() {
                lane.damaged = step(self.model, &mut self.decoder, row, lane).is_err();
            }
            self.retire();
        }
    }

    /// Starts waiting chunks while there is room.
    fn fill(&mut self) {
        while let (Some(&slot), Some(&(index, job))) = (self.free.last(), self.waiting.front()) {
            if !self.active.is_empty() && self.table_bytes > TABLE_BYTES {
                return;
            }
            self.waiting.pop_front();
            match self.start(index, slot, job) {
                Ok(lane) if lane.raw_len > 0 => {
                    self.free.pop();
                    self.table_bytes += lane.matcher.table_bytes();
                    self.active.push(lane);
                }
                Ok(lane) => self.results[index] = Some(Ok(lane.raw)),
                Err(error) => self.results[index] = Some(Err(error)),
            }
        }
    }

    fn start(&mut self, index: usize, slot: usize, job: &'a DecodeJob<'a>) -> Result<Lane<'a>> {
        if job.payload.last() == Some(&0) {
            return Err(damaged("its payload ends in a zero byte"));
        }
        let mut reader = Reader::new(job.payload);
        let c = latent::decode(self.model, &mut reader)
            .map_err(|Damaged| damaged("its learned sequence is damaged"))?;
        let matcher = lay_history(self.model, job.raw_len, &job.history)?;
        // A token has at least one byte.
        self.decoder.begin(slot, job.raw_len, &c);
        let raw = Vec::with_capacity(job.raw_len.min(1 << 16));
        Ok(Lane { job: index, slot, matcher, reader, position: 0, raw_len: job.raw_len, raw, damaged: false })
    }

    /// Takes out the chunks that are complete or damaged.
    fn retire(&mut self) {
        let mut place = 0;
        while let Some(lane) = self.active.get(place) {
            let most = lane.position >= self.decoder.max_tokens() && lane.raw.len() < lane.raw_len;
            let result = if lane.damaged || most || lane.raw.len() > lane.raw_len {
                Err(damaged("its payload does not decode to its length"))
            } else if lane.raw.len() == lane.raw_len {
                Ok(())
            } else {
                place += 1;
                continue;
            };
            let lane = self.active.swap_remove(place);
            self.free.push(lane.slot);
            self.table_bytes -= lane.matcher.table_bytes();
            self.results[lane.job] = Some(result.map(|()| lane.raw));
        }
    }
}

/// Decodes the next token of a lane under the slots of its row.
fn step(model: &Model, decoder: &mut Decoder<'_>, row: usize, lane: &mut Lane<'_>) -> Result<(), Damaged> {
    let slots = decoder.slots(row, lane.matcher.look_up());
    let target = lane.reader.target(slots.total())?;
    let (symbol, cum, slot) = slots.find(target);
    lane.reader.consume(Share { cum, slot }, slots.total());
    // Symbols are tokens: at most 65,535 of them.
    let token = symbol as u16;
    lane.raw.extend_from_slice(model.vocabulary().token(token));
    lane.matcher.update(token);
    lane.position += 1;
    Ok(())
}
