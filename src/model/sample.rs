//! Random models that pass all checks, for tests and measurements: they know nothing and use all of
//! the arithmetic.

use super::config::{Config, Shift};
use super::matcher::CLASSES;
use super::tokens::Vocabulary;
use super::write::{Tensor, least_pre, write_model};
use crate::error::Result;

/// How the weights of a random model are drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Draw {
    /// Any value within the bounds, evenly distributed.
    Even,
    /// Only the weights -127 and 127, and the largest scales and biases.
    Extreme,
}

/// A small generator of random numbers (xorshift64*), the same on every machine.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// A generator; the same seed gives the same numbers.
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// A number below `n`.
    pub fn below(&mut self, n: u32) -> u32 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let high = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32;
        ((high * u64::from(n)) >> 32) as u32
    }

    /// A number from `low` to `high`, both included.
    pub fn between(&mut self, low: i32, high: i32) -> i32 {
        low.wrapping_add_unsigned(self.below(high.abs_diff(low) + 1))
    }
}

/// A vocabulary of `size` tokens: all bytes, then strings of lower-case letters and spaces.
pub fn vocabulary(size: usize, random: &mut Random) -> Result<Vocabulary> {
    let mut tokens: Vec<Vec<u8>> = (0..=255u8).map(|byte| vec![byte]).collect();
    let mut seen = std::collections::HashSet::new();
    while tokens.len() < size {
        let len = 2 + random.below(4) as usize;
        let token: Vec<u8> = (0..len).map(|_| b"etaoinshr dlu"[random.below(13) as usize]).collect();
        if seen.insert(token.clone()) {
            tokens.push(token);
        }
    }
    Vocabulary::new(tokens)
}

/// The file of a random model of this architecture. Shifts are chosen so that signals neither
/// vanish nor saturate.
pub fn model_file(config: Config, draw: Draw, seed: u64) -> Result<Vec<u8>> {
    let mut random = Random::new(seed);
    let vocabulary = vocabulary(config.vocab, &mut random)?;
    model_file_of(config, &vocabulary, draw, &mut random)
}

/// A model as of `model_file`, with this vocabulary, whose size is that of `config`.
pub fn model_file_of(
    mut config: Config,
    vocabulary: &Vocabulary,
    draw: Draw,
    random: &mut Random,
) -> Result<Vec<u8>> {
    let mut tensors = vec![];
    for (name, rows) in config.tables() {
        let (mut weights, scale) = matrix(rows, config.width, draw, random);
        let (weight, shape) = (format!("{name}.weight"), [rows, config.width]);
        // Both ways to store a table occur.
        tensors.push(if config.width.is_multiple_of(2) && name.starts_with("embed.ngram") {
            weights.iter_mut().for_each(|w| *w >>= 4);
            Tensor::nibbles(weight, &shape, &weights)
        } else {
            Tensor::i8(weight, &shape, weights)
        });
        tensors.push(Tensor::u16(format!("{name}.scale"), &[rows], scale));
    }
    for (name, cols) in config.steer_tables() {
        let rows = config.latent.as_ref().map_or(0, |latent| latent.symbols);
        let (weights, scale) = matrix(rows, cols, draw, random);
        tensors.push(Tensor::i8(format!("{name}.weight"), &[rows, cols], weights));
        tensors.push(Tensor::u16(format!("{name}.scale"), &[rows], scale));
    }
    for product in config.products() {
        let (weights, scale) = matrix(product.rows, product.cols, draw, random);
        let pre = least_pre(&weights, product.cols);
        config
            .shifts
            .insert(product.name.clone(), Shift::Linear { pre, shift: shift(&product.name, pre, draw) });
        tensors.push(Tensor::i8(format!("{}.weight", product.name), &[product.rows, product.cols], weights));
        tensors.push(Tensor::u16(format!("{}.scale", product.name), &[product.rows], scale));
    }
    for (name, _) in config.plain_shifts() {
        let value = if name.contains("embed") { 10 } else { 9 };
        config.shifts.insert(name, Shift::Plain(if draw == Draw::Extreme { 0 } else { value }));
    }
    let top = if draw == Draw::Extreme { 1 << 20 } else { 2000 };
    let mut bias = |name: String, rows: usize, cols: usize| {
        let mut value = || match draw {
            Draw::Even => random.between(-top, top),
            Draw::Extreme => top * random.between(0, 1) - top * random.between(0, 1),
        };
        let values = (0..rows * cols).map(|_| value()).collect();
        tensors.push(Tensor::i32(name, &[rows, cols], values));
    };
    for set in config.sets() {
        for layer in 0..config.layers {
            bias(format!("{set}decoder.{layer}.bias"), config.heads, 20);
        }
        if config.copy {
            bias(format!("{set}copy.bias"), config.slots(), CLASSES);
        }
    }
    if let Some(latent) = &config.latent {
        for layer in 0..latent.layers {
            bias(format!("latent.{layer}.bias"), config.heads, 7);
        }
        // Many symbols share one row, as in imported models.
        let side = latent.symbols + 1;
        let rows = if side > 64 { 1 } else { side };
        let prior = (0..rows * side).map(|_| 1 + random.below(1 << 16)).collect();
        tensors.push(Tensor::u32("latent.prior", &[rows, side], prior));
    }
    write_model(&config, vocabulary, &tensors)
}

/// A shift with which the results of a product have useful magnitudes: logits of some bits, queries
/// and keys of some hundreds, residuals comparable to what they are added to.
fn shift(name: &str, pre: u8, draw: Draw) -> u8 {
    if draw == Draw::Extreme {
        return 0;
    }
    let wanted = match name.rsplit('.').next() {
        Some("out" | "cross_out" | "down") => 25,
        Some("head") => 13,
        _ => 15,
    };
    // Tuned for 128 inputs, for which `pre` is 6 or 7.
    wanted - pre.min(wanted)
}

fn matrix(rows: usize, cols: usize, draw: Draw, random: &mut Random) -> (Vec<i8>, Vec<u16>) {
    let mut weight = || match draw {
        Draw::Even => random.between(-127, 127) as i8,
        // Rows of one sign among mixed ones.
        Draw::Extreme => (254 * random.between(0, 1) - 127) as i8,
    };
    let mut weights: Vec<i8> = (0..rows * cols).map(|_| weight()).collect();
    if draw == Draw::Extreme {
        for row in weights.chunks_exact_mut(cols).step_by(3) {
            row.fill(127);
        }
    }
    let scale = |_| match draw {
        Draw::Even => 16_384 + random.below(32_768) as u16,
        Draw::Extreme => u16::MAX,
    };
    (weights, (0..rows).map(scale).collect())
}
