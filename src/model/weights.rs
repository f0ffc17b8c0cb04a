//! A loaded model: its weights, laid out for the kernels.

use super::config::Config;
use super::matcher::CLASSES;
use super::tokens::Vocabulary;
use crate::kernels::cache::Bias;
use crate::kernels::pack::{Product, Table};
use crate::kernels::scalar::rshift;

/// A model, ready to run. Threads share it by reference.
#[derive(Debug)]
pub struct Model {
    pub(super) config: Config,
    pub(super) vocabulary: Vocabulary,
    pub(super) fingerprint: [u8; 32],
    pub(crate) token: Table,
    /// For each match slot the table of candidates and the table of classes.
    pub(crate) matches: Vec<(Table, Table)>,
    pub(crate) ngrams: Vec<Table>,
    pub(crate) embed_shift: u32,
    /// One set of weights, or one for each expert.
    pub(crate) sets: Vec<Set>,
    pub(crate) latent: Option<LatentWeights>,
}

/// One set of the decoder's weights.
#[derive(Debug)]
pub(crate) struct Set {
    pub layers: Vec<Layer>,
    pub head: Product,
    pub copy: Option<Copy>,
    /// Rate of the bias that learns within a chunk; 0 for none.
    pub adapt: u32,
}

/// One layer of the decoder or of the encoder of c.
#[derive(Debug)]
pub(crate) struct Layer {
    pub qkv: Product,
    pub out: Product,
    pub up: Product,
    pub down: Product,
    pub kv_heads: usize,
    pub score_shift: u32,
    /// The unit of a gate is `2^-gelu`.
    pub gelu: u32,
    pub bias: Bias,
    pub cross: Option<Cross>,
}

/// Attention to c.
#[derive(Debug)]
pub(crate) struct Cross {
    pub q: Product,
    pub kv: Product,
    pub out: Product,
    pub score_shift: u32,
}

/// The copy gates.
#[derive(Debug)]
pub(crate) struct Copy {
    pub gates: Product,
    pub bias: Vec<[i32; CLASSES]>,
}

/// What reads c, and the prior over it.
#[derive(Debug)]
pub(crate) struct LatentWeights {
    pub encoder: Option<LatentEncoder>,
    pub steer: Option<SteerWeights>,
    /// For each symbol before, or once for all: the sums of the slots before each symbol, and the
    /// total.
    pub(super) prior: Vec<Vec<u32>>,
}

impl LatentWeights {
    /// Symbols of c.
    pub fn symbols(&self) -> usize {
        // A row has a sum for each symbol, one for the end, and the total.
        self.prior.first().map_or(0, |sums| sums.len() - 2)
    }

    /// The prior after symbol `row`.
    pub fn prior_of(&self, row: usize) -> &[u32] {
        &self.prior[row.min(self.prior.len() - 1)]
    }
}

/// The encoder of c.
#[derive(Debug)]
pub(crate) struct LatentEncoder {
    pub table: Table,
    pub shift: u32,
    pub layers: Vec<Layer>,
}

impl Model {
    /// The architecture.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The vocabulary.
    pub fn vocabulary(&self) -> &Vocabulary {
        &self.vocabulary
    }

    /// BLAKE3 of the model file.
    pub fn fingerprint(&self) -> [u8; 32] {
        self.fingerprint
    }

    /// Number of the set of weights that decodes chunks with this c: 0 if it is empty.
    pub fn expert(&self, c: &[u16]) -> usize {
        expert(self.sets.len(), c)
    }
}

/// The number of the set, among `sets`, that decodes chunks with this c (spec/numerics.md, section
/// 8.3).
pub fn expert(sets: usize, c: &[u16]) -> usize {
    match c.first() {
        Some(&symbol) if sets > 1 => 1 + usize::from(symbol) % (sets - 1),
        _ => 0,
    }
}

/// One table with a row for each symbol, and the shift of its sums.
#[derive(Debug)]
pub(crate) struct Part {
    pub table: Table,
    pub shift: u32,
}

/// The tables of a model that is steered.
#[derive(Debug)]
pub(crate) struct SteerWeights {
    pub input: Part,
    pub gains: Vec<Part>,
    pub head: Part,
    pub copy: Option<Part>,
}

impl Part {
    /// `rshift` of the sum of the symbols' rows. There are at most 64 symbols, so the sum stays
    /// below 2^29.
    pub fn sum(&self, c: &[u16], out: &mut [i32]) {
        out.fill(0);
        for &symbol in c {
            let (row, scale) = self.table.row(symbol.into());
            for (to, &weight) in out.iter_mut().zip(row) {
                *to += i32::from(weight) * i32::from(scale);
            }
        }
        out.iter_mut().for_each(|sum| *sum = rshift(*sum, self.shift));
    }
}
