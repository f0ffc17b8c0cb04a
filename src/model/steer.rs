//! Steering: what the symbols of c change in the decoder at no cost per token (spec/numerics.md,
//! section 8.2).
//!
//! Each symbol has a row in a few tables. When a chunk begins, the rows of its symbols are added up
//! once, which gives a vector for the input, gains of the hidden values, and biases of logits and
//! copy gates.

use super::config::Config;
use super::file::BIAS_MAX;
use super::matcher::CLASSES;
use super::weights::Model;
use crate::kernels::buffer::{Buffer, padded};

/// The gain that changes nothing.
pub const GAIN_ONE: i32 = 1 << 12;
/// Largest gain: nearly four.
pub const GAIN_MAX: i32 = (1 << 14) - 1;

/// What c changes in one lane. With `active` false, it changes nothing.
#[derive(Clone, Debug)]
pub(crate) struct Steering {
    pub active: bool,
    pub input: Buffer<i32>,
    pub gains: Vec<Buffer<i32>>,
    pub head: Buffer<i32>,
    pub copy: Vec<[i32; CLASSES]>,
}

impl Steering {
    /// Room for the sums of a model of these sizes.
    pub fn new(config: &Config) -> Self {
        Self {
            active: false,
            input: Buffer::zeroed(padded(config.width)),
            gains: vec![Buffer::zeroed(padded(config.ff)); config.layers],
            head: Buffer::zeroed(padded(config.vocab)),
            copy: vec![[0; CLASSES]; config.slots()],
        }
    }

    /// Sums the rows of the symbols of c.
    pub fn set(&mut self, model: &Model, c: &[u16]) {
        let Some(weights) = model.latent.as_ref().and_then(|latent| latent.steer.as_ref()) else { return };
        self.active = !c.is_empty();
        if !self.active {
            return;
        }
        weights.input.sum(c, &mut self.input);
        for (part, gains) in weights.gains.iter().zip(&mut self.gains) {
            part.sum(c, gains);
            gains.iter_mut().for_each(|gain| *gain = (GAIN_ONE + *gain).clamp(0, GAIN_MAX));
        }
        weights.head.sum(c, &mut self.head);
        self.head.iter_mut().for_each(|bias| *bias = (*bias).clamp(-BIAS_MAX, BIAS_MAX));
        if let (Some(part), Some(copy)) = (&weights.copy, &model.sets[model.expert(c)].copy) {
            let mut sums = vec![0; padded(CLASSES * copy.bias.len())];
            part.sum(c, &mut sums);
            let rows = self.copy.iter_mut().zip(&copy.bias).zip(sums.as_chunks::<CLASSES>().0);
            for ((to, bias), sums) in rows {
                for ((to, bias), sum) in to.iter_mut().zip(bias).zip(sums) {
                    *to = (bias + sum).clamp(-BIAS_MAX, BIAS_MAX);
                }
            }
        }
    }
}
