//! Neural chunks: tokens under a model's slots (spec/numerics.md sections 3, 8 and 10).
//!
//! Decoding runs many chunks in lockstep, one token of each per step, so that weights are used for all
//! of them while they are in the cache; chunks that end make room for others. Encoding knows all
//! tokens, so it runs many positions of one chunk at once. Both give the same slots.
#![deny(clippy::float_arithmetic)]

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use rayon::prelude::*;

use super::costs::{BATCH, Work};
use super::damaged;
use super::device::Offload;
use super::models::{ChunkModel, Learned};
use super::{DecodeJob, EncodeJob};
use crate::coder::{Damaged, Decoder as Reader, Encoder, Share};
use crate::error::{Error, Result};
use crate::kernels::Backend;
use crate::model::decoder::{Decoder, Row};
use crate::model::device::supports;
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

/// Writes candidates for the learned sequence of a chunk. What it writes is tried and what is best is
/// stored, so it may be anything; it should give the same for the same tokens.
pub trait Compressor: Send + Sync {
    /// Up to `count` sequences for a chunk of these tokens, the most promising first.
    fn candidates(&self, tokens: &[u16], count: usize) -> Vec<Vec<u16>>;
}

/// What is wrong with a payload whose tokens miss the chunk's end, or whose code leaves the range.
pub(super) const WRONG_LENGTH: &str = "its payload does not decode to its length";

/// Fewest chunks that a thread decodes when a device has left them undone.
const LEFT_UNDONE: usize = 4 * LANES;

/// A model with the kernels it runs on.
#[derive(Clone)]
pub struct Neural {
    pub(super) model: Arc<Model>,
    backend: Backend,
    /// Where many chunks go first.
    offload: Option<Arc<Offload>>,
    compressor: Option<Arc<dyn Compressor>>,
    search: Search,
}

/// How hard a short coding of a chunk is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Search {
    /// Candidates for c that are tried, beside the empty one.
    pub effort: usize,
    /// Most symbols of a candidate; longer ones are cut.
    pub longest: usize,
}

impl From<usize> for Search {
    /// So many candidates of any length.
    fn from(effort: usize) -> Self {
        Self { effort, longest: usize::MAX }
    }
}

impl Neural {
    /// On the fastest kernels of this machine.
    pub fn new(model: Arc<Model>) -> Self {
        Self::with_backend(model, Backend::best())
    }

    pub fn with_backend(model: Arc<Model>, backend: Backend) -> Self {
        Self { model, backend, offload: None, compressor: None, search: 0.into() }
    }

    /// Lets a device have the work that it is faster at, if it can run the model.
    pub fn offloading(mut self, offload: Option<Arc<Offload>>) -> Self {
        self.offload = offload.filter(|_| supports(self.model.config()).is_ok());
        self
    }

    /// Tries candidates for c when a chunk is encoded, beside the empty one: those of a compressor if
    /// there is one, then the symbols that the prior holds likely.
    pub fn searching(mut self, compressor: Option<Arc<dyn Compressor>>, search: impl Into<Search>) -> Self {
        (self.compressor, self.search) = (compressor, search.into());
        self
    }

    /// What is tried for a chunk: first the empty c.
    pub(super) fn candidates(&self, raw: &[u8]) -> Vec<Vec<u16>> {
        let mut all = vec![vec![]];
        let Search { effort, longest } = self.search;
        if effort == 0 || longest == 0 || self.model.config().latent.is_none() {
            return all;
        }
        let written = self
            .compressor
            .as_ref()
            .map(|compressor| compressor.candidates(&self.model.vocabulary().tokenise(raw), effort));
        // A compressor that is sure of itself writes fewer than it is asked for.
        for mut c in written.into_iter().flatten().chain(latent::likely(&self.model, effort)) {
            c.truncate(longest);
            if all.len() <= effort && !all.contains(&c) {
                all.push(c);
            }
        }
        all
    }

    /// The shortest coding of a chunk, and its c. On equal length the earlier candidate wins.
    fn encode_best(&self, decoder: &mut Decoder<'_>, job: &EncodeJob<'_>) -> Option<Coded> {
        let mut best: Option<Coded> = None;
        for c in self.candidates(job.raw) {
            // A compressor may write what the model does not know.
            let Ok(coded) = self.encode_one(decoder, job.raw, &job.history, &c) else { continue };
            if best.as_ref().is_none_or(|best| coded.payload.len() < best.payload.len()) {
                best = Some(coded);
            }
        }
        best
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
        decoder.select(self.model.expert(c));
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
                decoder.learn(row, token);
            }
        }
        let residual_bits = encoder.bits().saturating_sub(latent_bits);
        Ok(Coded { payload: encoder.finish(), latent_bits, residual_bits })
    }
}

impl std::fmt::Debug for Neural {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { model, backend, search, .. } = self;
        let name = &model.config().name;
        f.debug_struct("Neural")
            .field("model", name)
            .field("backend", backend)
            .field("search", search)
            .finish()
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
        if let Some(offload) = self.offload.as_ref().filter(|offload| offload.takes_encoding()) {
            return self.encode_offloaded(offload, jobs).unwrap_or_else(|| {
                let shares = jobs.par_chunks(LEFT_UNDONE).map(|share| self.encode_here(share));
                shares.flatten_iter().collect()
            });
        }
        self.encode_here(jobs)
    }

    fn learned(&self, payload: &[u8]) -> Option<Learned> {
        self.model.config().latent.as_ref()?;
        let c = latent::decode(&self.model, &mut Reader::new(payload)).ok()?;
        let mut encoder = Encoder::new();
        latent::encode(&self.model, &c, &mut encoder).ok()?;
        Some(Learned { bits: encoder.bits(), c })
    }

    fn takes_bulk(&self, work: Work) -> bool {
        let measure = || self.measure();
        self.offload.as_ref().is_some_and(|offload| offload.takes(&self.model, work, &measure))
    }

    fn on_cpu(&self) -> Option<Arc<dyn ChunkModel>> {
        self.offload
            .is_some()
            .then(|| Arc::new(Self { offload: None, ..self.clone() }) as Arc<dyn ChunkModel>)
    }

    fn distrust(&self) {
        if let Some(offload) = &self.offload {
            offload.distrust();
        }
    }

    fn bulk(&self, work: Work) -> usize {
        let measure = || self.measure();
        self.offload.as_ref().map_or(0, |offload| offload.bulk(&self.model, work, &measure))
    }

    fn prepare_apart(&self, work: Work) {
        if let Some(offload) = &self.offload {
            let own = self.clone();
            offload.prepare_apart(self.model.clone(), work, move || own.measure());
        }
    }

    fn bulk_encoding(&self, _: usize) -> usize {
        let encodes = self.offload.as_ref().is_some_and(|offload| offload.takes_encoding());
        if encodes { BATCH } else { 0 }
    }

    fn decode(&self, jobs: &[&DecodeJob<'_>]) -> Vec<Result<Vec<u8>>> {
        match &self.offload {
            Some(offload) if offload.takes_all() => self.decode_bulk(jobs),
            _ => self.decode_here(jobs),
        }
    }

    fn decode_bulk(&self, jobs: &[&DecodeJob<'_>]) -> Vec<Result<Vec<u8>>> {
        let offloaded = self.offload.as_ref().and_then(|offload| self.decode_offloaded(offload, jobs));
        offloaded.unwrap_or_else(|| {
            let shares = jobs.par_chunks(LEFT_UNDONE).map(|share| self.decode_here(share));
            shares.flatten_iter().collect()
        })
    }
}

impl Neural {
    /// Encodes on the calling thread.
    fn encode_here(&self, jobs: &[EncodeJob<'_>]) -> Vec<Option<Vec<u8>>> {
        let mut decoder = Decoder::new(&self.model, self.backend, 1, ROWS);
        jobs.iter().map(|job| self.encode_best(&mut decoder, job).map(|coded| coded.payload)).collect()
    }

    /// Decodes on the calling thread.
    fn decode_here(&self, jobs: &[&DecodeJob<'_>]) -> Vec<Result<Vec<u8>>> {
        let start = Instant::now();
        let results = self.decode_lockstep(jobs);
        if let Some(offload) = &self.offload {
            let bytes = results.iter().flatten().map(|raw| raw.len() as u64).sum();
            offload.cpu_took(&self.model, jobs.len(), bytes, start);
        }
        results
    }

    pub(super) fn decode_lockstep(&self, jobs: &[&DecodeJob<'_>]) -> Vec<Result<Vec<u8>>> {
        let lanes = LANES.min(jobs.len()).max(1);
        let mut lockstep = Lockstep {
            model: &self.model,
            decoder: Decoder::new(&self.model, self.backend, lanes, lanes),
            free: (0..lanes).rev().collect(),
            waiting: VecDeque::new(),
            active: Vec::with_capacity(lanes),
            table_bytes: 0,
            results: jobs.iter().map(|_| None).collect(),
        };
        // Chunks of one expert share their weights.
        let mut experts: BTreeMap<usize, VecDeque<Opened<'_>>> = BTreeMap::new();
        for (index, job) in jobs.iter().enumerate() {
            match open(&self.model, index, job) {
                Ok(opened) => experts.entry(self.model.expert(&opened.c)).or_default().push_back(opened),
                Err(error) => lockstep.results[index] = Some(Err(error)),
            }
        }
        for (expert, waiting) in experts {
            lockstep.decoder.select(expert);
            lockstep.waiting = waiting;
            lockstep.run();
        }
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

/// A chunk whose c is known.
struct Opened<'a> {
    /// Place among the results.
    index: usize,
    job: &'a DecodeJob<'a>,
    reader: Reader<'a>,
    c: Vec<u16>,
}

fn open<'a>(model: &Model, index: usize, job: &'a DecodeJob<'a>) -> Result<Opened<'a>> {
    let (reader, c) = begin(model, job.payload)?;
    Ok(Opened { index, job, reader, c })
}

/// Reads the learned sequence of a payload.
pub(super) fn begin<'a>(model: &Model, payload: &'a [u8]) -> Result<(Reader<'a>, Vec<u16>)> {
    if payload.last() == Some(&0) {
        return Err(damaged("its payload ends in a zero byte"));
    }
    let mut reader = Reader::new(payload);
    let c =
        latent::decode(model, &mut reader).map_err(|Damaged| damaged("its learned sequence is damaged"))?;
    Ok((reader, c))
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
    waiting: VecDeque<Opened<'a>>,
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
            self.active.iter().for_each(|lane| lane.matcher.ask());
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
        while let Some(&slot) = self.free.last() {
            if !self.active.is_empty() && self.table_bytes > TABLE_BYTES {
                return;
            }
            let Some(opened) = self.waiting.pop_front() else { return };
            let index = opened.index;
            match self.start(opened, slot) {
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

    fn start(&mut self, opened: Opened<'a>, slot: usize) -> Result<Lane<'a>> {
        let Opened { index, job, reader, c } = opened;
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
                Err(damaged(WRONG_LENGTH))
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
    decoder.learn(row, token);
    lane.raw.extend_from_slice(model.vocabulary().token(token));
    lane.matcher.update(token);
    lane.position += 1;
    Ok(())
}
