//! The network of the decoder: from history to slots, for many rows at once (spec/numerics.md,
//! sections 6 and 7).
//!
//! A row is one position of one lane; a lane is one chunk. Decoding computes one row of each lane,
//! encoding many rows of one lane. All keys of the rows are in the cache before any row attends,
//! and an integer sum does not depend on what is computed beside it, so every mixture of rows gives
//! the same slots. Nothing is allocated per row.

use super::config::MAX_WINDOW;
use super::matcher::{Matcher, Slot};
use super::stack::{RowAt, Scratch};
use super::steer::Steering;
use super::weights::{Model, Set};
use crate::kernels::backend::Backend;
use crate::kernels::buffer::{Buffer, padded};
use crate::kernels::cache::{KeyValues, Reach};
use crate::kernels::prefetch::prefetch;
use crate::kernels::scalar::H_MAX;
use crate::kernels::slots::Slots;

/// One row to compute: a position of a lane.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// Number of the lane, from 0.
    pub lane: usize,
    /// Number of the token that is predicted, from 0.
    pub position: usize,
}

/// The table rows that are added up at the input of one row, with their scales.
#[derive(Clone, Debug, Default)]
struct Inputs<'m> {
    rows: [(&'m [i8], u16); 32],
    count: usize,
}

impl<'m> Inputs<'m> {
    #[inline]
    fn add(&mut self, row: (&'m [i8], u16)) {
        for line in (0..row.0.len()).step_by(64) {
            prefetch(row.0, line);
        }
        self.rows[self.count] = row;
        self.count += 1;
    }
}

/// Caches of some lanes, and work space for as many rows as are computed at once.
#[derive(Debug)]
pub struct Decoder<'m> {
    model: &'m Model,
    /// The weights in use, which are the same for all rows that are computed together.
    set: &'m Set,
    scratch: Scratch,
    rows: usize,
    /// Rows of one lane that are computed at once.
    depth: usize,
    /// Keys and values of self-attention, by layer, then lane.
    caches: Vec<Vec<KeyValues>>,
    /// Keys and values of c, by layer, then lane.
    cross: Vec<Vec<KeyValues>>,
    latent_len: Vec<usize>,
    /// What each lane's bias has learned, if the model has one: a number for each token of the
    /// vocabulary, padded.
    learned: Vec<Buffer<i32>>,
    /// What c changes in each lane, if the model is steered.
    steering: Vec<Steering>,
    /// The table rows that make up each row's input.
    inputs: Vec<Inputs<'m>>,
    at: Vec<RowAt>,
    cross_at: Vec<Option<RowAt>>,
    logits: Buffer<i32>,
    gates: Buffer<i32>,
    slots: Slots,
}

impl<'m> Decoder<'m> {
    /// A decoder of `lanes` chunks that computes up to `rows` rows at once, the same number for
    /// each lane.
    pub fn new(model: &'m Model, backend: Backend, lanes: usize, rows: usize) -> Self {
        let config = model.config();
        let caches = || vec![vec![KeyValues::default(); lanes]; config.layers];
        let gates = padded(config.slots().max(1));
        let steered = config.latent.as_ref().is_some_and(|latent| latent.steer);
        Self {
            model,
            set: &model.sets[0],
            scratch: Scratch::new(model, backend, rows, config.ff),
            rows,
            depth: rows.div_ceil(lanes),
            caches: caches(),
            cross: if config.crosses() { caches() } else { vec![] },
            latent_len: vec![0; lanes],
            learned: vec![Buffer::zeroed(config.vocab); if config.adapt.is_empty() { 0 } else { lanes }],
            steering: if steered { vec![Steering::new(config); lanes] } else { vec![] },
            inputs: vec![Inputs::default(); rows],
            at: Vec::with_capacity(rows),
            cross_at: Vec::with_capacity(rows),
            logits: Buffer::zeroed(rows * padded(config.vocab)),
            gates: Buffer::zeroed(rows * gates),
            slots: Slots::new(config.vocab),
        }
    }

    /// The model.
    pub fn model(&self) -> &'m Model {
        self.model
    }

    /// Rows that can be computed at once.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Most tokens of a chunk, where the model limits them; otherwise `usize::MAX`.
    pub fn max_tokens(&self) -> usize {
        if self.model.config().window == 0 { MAX_WINDOW } else { usize::MAX }
    }

    /// Changes to the weights of another expert. All lanes must be done: chunks that are decoded
    /// together have the same expert (`Model::expert`).
    pub fn select(&mut self, expert: usize) {
        self.set = &self.model.sets[expert];
    }

    /// Prepares a lane for another chunk of at most `tokens` tokens, with its learned sequence.
    pub fn begin(&mut self, lane: usize, tokens: usize, latent: &[u16]) {
        let config = self.model.config();
        let window = if config.window == 0 { MAX_WINDOW } else { config.window };
        let reach = window.min(tokens) + self.depth - 1;
        for layer in &mut self.caches {
            layer[lane].reserve(config.kv_heads, config.head_size, reach);
        }
        self.latent_len[lane] = if self.cross.is_empty() { 0 } else { latent.len() };
        if let Some(learned) = self.learned.get_mut(lane) {
            learned.fill(0);
        }
        if let Some(steering) = self.steering.get_mut(lane) {
            steering.set(self.model, latent);
        }
        if !latent.is_empty() {
            super::latent::fill(self.model, self.scratch.backend, latent, lane, &mut self.cross);
        }
    }

    /// Sets the input of row `row` from the history so far. The table rows are scattered over
    /// memory: this call asks the CPU to fetch them, and `forward` adds them up.
    pub fn input(&mut self, row: usize, matcher: &mut Matcher) {
        let model = self.model;
        let inputs = &mut self.inputs[row];
        inputs.count = 0;
        let last = matcher.elements().last().copied().unwrap_or(model.vocabulary().separator());
        inputs.add(model.token.row(last.into()));
        for (ngram, &(order, bits)) in model.ngrams.iter().zip(&model.config().ngrams) {
            inputs.add(ngram.row((matcher.hash(order.into()) >> (32 - bits)) as usize));
        }
        for (slot, (candidates, classes)) in matcher.look_up().iter().zip(&model.matches) {
            if slot.class > 0 {
                inputs.add(candidates.row(slot.candidate.into()));
            }
            inputs.add(classes.row(slot.class.into()));
        }
    }

    /// Computes `rows`, whose inputs were set in this order. The rows of one lane have increasing
    /// positions without gaps, and follow the rows computed before.
    pub fn forward(&mut self, rows: &[Row]) {
        let (model, window) = (self.model, self.model.config().window);
        self.at.clear();
        self.cross_at.clear();
        for ((number, row), inputs) in rows.iter().enumerate().zip(&self.inputs) {
            self.scratch.embed(number, &inputs.rows[..inputs.count], model.embed_shift);
            if let Some(steering) = self.steering.get(row.lane).filter(|steering| steering.active) {
                self.scratch.add_to(number, &steering.input);
            }
            let t = row.position;
            let first = if window == 0 { 0 } else { (t + 1).saturating_sub(window) };
            debug_assert!(t < self.max_tokens());
            self.at.push(RowAt { cache: row.lane, reach: Reach { t, first, last: t } });
            let last = self.latent_len[row.lane].checked_sub(1);
            let reach = last.map(|last| RowAt { cache: row.lane, reach: Reach { t: 0, first: 0, last } });
            self.cross_at.push(reach);
        }
        let any_cross = self.cross_at.iter().any(Option::is_some);
        let activation = model.config().activation;
        for (number, layer) in self.set.layers.iter().enumerate() {
            self.scratch.self_attention(layer, &mut self.caches[number], &self.at);
            if let (Some(cross), true) = (&layer.cross, any_cross) {
                self.scratch.cross_attention(cross, &self.cross[number], &self.cross_at);
            }
            let (at, steering) = (&self.at, &self.steering);
            self.scratch.feed_forward(layer, rows.len(), activation, |row| {
                let steering = steering.get(at.get(row)?.cache)?;
                steering.active.then_some(&steering.gains[number][..])
            });
        }
        self.scratch.product(&self.set.head, rows.len(), &mut self.logits);
        if let Some(copy) = &self.set.copy {
            self.scratch.product_again(&copy.gates, rows.len(), &mut self.gates);
        }
    }

    /// Scores of row `row` after `forward`, without copy gates.
    pub fn logits(&self, row: usize) -> &[i32] {
        let vocab = self.model.config().vocab;
        &self.logits[row * padded(vocab)..][..vocab]
    }

    /// Slots of row `row` after `forward`; `found` is what the match input found for the row. Rows
    /// of a lane are asked for in order, each after `learn` was told the symbol of the row before.
    pub fn slots(&mut self, row: usize, found: &[Slot]) -> &Slots {
        let vocab = self.model.config().vocab;
        let stride = padded(vocab);
        let steering = self.at.get(row).and_then(|at| self.steering.get(at.cache)).filter(|s| s.active);
        if let Some(steering) = steering {
            let z = &mut self.logits[row * stride..(row + 1) * stride];
            self.scratch.backend.add_residual(z, &steering.head);
        }
        let z = &mut self.logits[row * stride..row * stride + vocab];
        if let Some(copy) = &self.set.copy {
            let gates = &self.gates[row * padded(copy.gates.rows())..];
            let biases = steering.map_or(&copy.bias, |steering| &steering.copy);
            for ((slot, gate), bias) in found.iter().zip(gates).zip(biases) {
                if slot.class > 0 {
                    let z = &mut z[usize::from(slot.candidate)];
                    *z = (*z + gate + bias[usize::from(slot.class)]).clamp(-H_MAX, H_MAX);
                }
            }
        }
        if let (Some(learned), true) = (self.learned.get(self.at[row].cache), self.set.adapt > 0) {
            self.scratch.backend.add_bias(z, learned);
        }
        self.scratch.backend.slots(z, &mut self.slots);
        &self.slots
    }

    /// Tells the lane of row `row`, for which `slots` was asked last, which symbol came.
    pub fn learn(&mut self, row: usize, symbol: u16) {
        let rate = self.set.adapt;
        if let (Some(learned), true) = (self.learned.get_mut(self.at[row].cache), rate > 0) {
            self.scratch.backend.learn(&self.slots, symbol.into(), rate, learned);
        }
    }
}
