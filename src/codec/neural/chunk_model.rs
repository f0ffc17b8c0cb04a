//! Neural chunks: tokens under a model's slots (spec/numerics.md, sections 3, 8 and 10).
//!
//! Decoding runs many chunks in lockstep, one token of each per step, so that weights are used for
//! all of them while they are in the cache; a chunk that ends makes room for another. Encoding
//! knows all tokens, so it computes many positions of one chunk at once. Both give the same slots.
#![deny(clippy::float_arithmetic)]

use std::sync::Arc;
use std::time::Instant;

use rayon::prelude::*;

use super::lockstep;
use super::lockstep::lay_history;
use super::search::{Compressor, Search};
use crate::codec::job::{DecodeJob, Decoded, EncodeJob};
use crate::codec::model::{ChunkModel, Learned};
use crate::codec::offload::costs::BATCH;
use crate::codec::offload::dispatch::Offload;
use crate::codec::work::{LANES, Work};
use crate::coder::decode::Decoder as Reader;
use crate::coder::encode::Encoder;
use crate::coder::share::Share;
use crate::error::{Error, Result};
use crate::kernels::backend::Backend;
use crate::model::decoder::{Decoder, Row};
use crate::model::device::shape::supports;
use crate::model::latent;
use crate::model::matcher::{MAX_SLOTS, Slot};
use crate::model::weights::Model;

/// Positions that are encoded at once.
pub const ROWS: usize = 48;

/// A coded chunk, and how many bits its parts take.
#[derive(Clone, Debug)]
pub struct Coded {
    /// The coded bytes.
    pub payload: Vec<u8>,
    /// Bits of the learned sequence.
    pub latent_bits: u64,
    /// Bits of the tokens.
    pub residual_bits: u64,
}

/// Fewest chunks per thread where chunks that a device has left undone are decoded.
const LEFT_UNDONE: usize = 4 * LANES;

/// A model with the kernels on which it runs.
#[derive(Clone)]
pub struct Neural {
    pub(crate) model: Arc<Model>,
    backend: Backend,
    /// The device that gets large amounts of work first.
    offload: Option<Arc<Offload>>,
    compressor: Option<Arc<dyn Compressor>>,
    search: Search,
}

impl Neural {
    /// The model on the fastest kernels of this machine.
    pub fn new(model: Arc<Model>) -> Self {
        Self::with_backend(model, Backend::best())
    }

    /// The model on these kernels.
    pub fn with_backend(model: Arc<Model>, backend: Backend) -> Self {
        Self { model, backend, offload: None, compressor: None, search: 0.into() }
    }

    /// Gives to a device the work that it does sooner, if it can run the model.
    pub fn offloading(mut self, offload: Option<Arc<Offload>>) -> Self {
        self.offload = offload.filter(|_| supports(self.model.config()).is_ok());
        self
    }

    /// Tries candidates for c when a chunk is encoded, besides the empty one: first those of a
    /// compressor, if there is one, then the symbols that are most likely under the prior.
    pub fn searching(mut self, compressor: Option<Arc<dyn Compressor>>, search: impl Into<Search>) -> Self {
        (self.compressor, self.search) = (compressor, search.into());
        self
    }

    /// The candidates for c that are tried for a chunk, the empty one first.
    pub(crate) fn candidates(&self, raw: &[u8]) -> Vec<Vec<u16>> {
        let mut all = vec![vec![]];
        let Search { effort, longest } = self.search;
        if effort == 0 || longest == 0 || self.model.config().latent.is_none() {
            return all;
        }
        let written = self
            .compressor
            .as_ref()
            .map(|compressor| compressor.candidates(&self.model.vocabulary().tokenize(raw), effort));
        // A compressor may write fewer candidates than it is asked for.
        for mut c in written.into_iter().flatten().chain(latent::likely(&self.model, effort)) {
            c.truncate(longest);
            if all.len() <= effort && !all.contains(&c) {
                all.push(c);
            }
        }
        all
    }

    /// The shortest coding of a chunk. Of several with the same length, the first candidate is
    /// taken.
    fn encode_best(&self, decoder: &mut Decoder<'_>, job: &EncodeJob<'_>) -> Option<Coded> {
        let mut best: Option<Coded> = None;
        for c in self.candidates(job.raw) {
            // A compressor may write symbols that the model does not have.
            let Ok(coded) = self.encode_one(decoder, job.raw, &job.history, &c) else { continue };
            if best.as_ref().is_none_or(|best| coded.payload.len() < best.payload.len()) {
                best = Some(coded);
            }
        }
        best
    }

    /// The model.
    pub fn model(&self) -> &Arc<Model> {
        &self.model
    }

    /// Codes one chunk with the learned sequence `c`, which may be empty.
    ///
    /// # Errors
    /// `Limit` if the chunk has too many tokens for a model without window, or too much history;
    /// `Usage` if the model cannot have this `c`.
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
        let tokens = self.model.vocabulary().tokenize(raw);
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

    fn decode(&self, jobs: &[&DecodeJob<'_>]) -> Vec<Decoded> {
        match &self.offload {
            Some(offload) if offload.takes_all() => self.decode_bulk(jobs),
            _ => self.decode_here(jobs),
        }
    }

    fn decode_bulk(&self, jobs: &[&DecodeJob<'_>]) -> Vec<Decoded> {
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
    fn decode_here(&self, jobs: &[&DecodeJob<'_>]) -> Vec<Decoded> {
        let start = Instant::now();
        let results = self.decode_lockstep(jobs);
        if let Some(offload) = &self.offload {
            let bytes = results.iter().flatten().map(|raw| raw.len() as u64).sum();
            offload.cpu_took(&self.model, jobs.len(), bytes, start);
        }
        results
    }

    pub(crate) fn decode_lockstep(&self, jobs: &[&DecodeJob<'_>]) -> Vec<Decoded> {
        lockstep::decode(&self.model, self.backend, jobs)
    }
}
