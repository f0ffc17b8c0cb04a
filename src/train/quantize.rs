//! Quantizing: int8 rows with scales and shifts, as spec/numerics.md defines them.
//!
//! Every row of a matrix gets the scale that loses least. The caller decides the units of what
//! passes between products, from the largest magnitudes that it has seen; a product's scales
//! include the ratio of the units of its output and its input.

use crate::error::{Error, Result};
use crate::model::config::{Config, Shift};
use crate::model::write::{Tensor as Part, least_pre};

/// Units of a logit or score in one nat: logits and scores are in 1/1024 of a bit.
pub const LOGIT_UNIT: f64 = 1024.0 * std::f64::consts::LOG2_E;
/// The unit of the normalized residual stream at the input of a product.
pub const NORMALISED: f64 = 1.0 / (1 << 16) as f64;
/// Largest values of 8 and of 4 bits.
const BYTE: f64 = 127.0;
const NIBBLE: f64 = 7.0;
/// Largest magnitude of queries, keys and values, with room above what was seen.
const QKV_TOP: f64 = 2047.0 / 1.15;
/// The integer for the largest hidden value seen; the clamp is at 32,767.
const HIDDEN_TOP: f64 = 20_000.0;
/// The integer for the largest residual value seen; the clamp is at 2^29.
const RESIDUAL_TOP: f64 = (1 << 19) as f64;

/// The unit of the residual stream, a power of two, for the largest magnitude seen.
pub fn residual_unit(top: f64) -> f64 {
    (RESIDUAL_TOP / top.max(1e-6)).log2().floor().exp2()
}

/// The unit of hidden values for the largest magnitude seen.
pub fn hidden_unit(top: f64) -> f64 {
    HIDDEN_TOP / top.max(1e-3)
}

/// Units of one attention, and the shift of its scores.
#[derive(Clone, Copy, Debug)]
pub struct AttentionUnits {
    /// Unit of queries.
    pub query: f64,
    /// Unit of keys.
    pub key: f64,
    /// Unit of values.
    pub value: f64,
    /// Shift of the scores.
    pub score: u8,
}

impl AttentionUnits {
    /// The units for the largest magnitudes of queries, keys and values; `unit` is the unit of
    /// scores in nats, times the factor by which the model scales scores.
    pub fn new(q: f64, k: f64, v: f64, unit: f64) -> Self {
        let fit = |top: f64| QKV_TOP / top.max(1e-3);
        // Units of keys and queries multiply to the unit of scores times 2^score.
        let score = (fit(k) * fit(q) / unit).log2().floor().clamp(0.0, 30.0);
        Self { query: unit * score.exp2() / fit(k), key: fit(k), value: fit(v), score: score as u8 }
    }

    /// The unit of the mixed values at the input of the product that follows.
    pub fn mixed(&self) -> f64 {
        1.0 / (127.0 * self.value * f64::from(1 << 14))
    }
}

/// One row in integers up to `largest`, with the scale that loses least among a few below the
/// largest magnitude.
fn quantize_row(row: &[f32], largest: f64) -> (Vec<i8>, f64) {
    let top = row.iter().fold(0.0f64, |m, v| m.max(f64::from(v.abs())));
    if top == 0.0 {
        return (vec![0; row.len()], 0.0);
    }
    let at = |scale: f64| -> (f64, Vec<i8>) {
        let mut loss = 0.0;
        let q = row
            .iter()
            .map(|&v| {
                let q = (f64::from(v) / scale).round().clamp(-largest, largest);
                loss += (f64::from(v) - q * scale).powi(2);
                q as i8
            })
            .collect();
        (loss, q)
    };
    let mut best = (f64::INFINITY, Vec::new(), 0.0);
    for step in 0..10 {
        let scale = top * (1.0 - 0.04 * f64::from(step)) / largest;
        let (loss, q) = at(scale);
        if loss < best.0 {
            best = (loss, q, scale);
        }
    }
    (best.1, best.2)
}

/// All rows of a matrix in integers up to `largest`, and their scales.
fn quantize_rows(values: &[f32], cols: usize, largest: f64) -> (Vec<i8>, Vec<f64>) {
    let (mut q, mut scales) = (Vec::with_capacity(values.len()), Vec::new());
    for row in values.chunks_exact(cols) {
        let (row, scale) = quantize_row(row, largest);
        q.extend(row);
        scales.push(scale);
    }
    (q, scales)
}

/// What is collected for a model file.
pub struct Quantizer {
    /// The header, whose shifts are filled in.
    pub config: Config,
    /// The tensors.
    pub parts: Vec<Part>,
}

impl Quantizer {
    /// Starts with a header without shifts.
    pub fn new(config: Config) -> Self {
        Self { config, parts: vec![] }
    }

    /// Row scales as u16 for `factors` times the largest power of two that fits, and the exponent
    /// of that power.
    fn scales(&self, factors: &[f64], name: &str) -> Result<(Vec<u16>, i32)> {
        let top = factors.iter().fold(0.0f64, |m, &f| m.max(f));
        let power = if top > 0.0 { (65_535.0 / top).log2().floor() as i32 } else { 0 };
        if !top.is_finite() {
            return Err(Error::Usage(format!("{name} holds values that are no numbers")));
        }
        let scale = f64::from(power).exp2();
        Ok((factors.iter().map(|f| (f * scale).round().clamp(1.0, 65_535.0) as u16).collect(), power))
    }

    /// Adds a product of `values`, row-major, whose output row `j` has the unit `unit(j)` and whose
    /// input has the unit `input`.
    pub fn product(
        &mut self,
        name: &str,
        values: &[f32],
        cols: usize,
        input: f64,
        unit: impl Fn(usize) -> f64,
    ) -> Result<()> {
        let (q, scales) = quantize_rows(values, cols, BYTE);
        let pre = least_pre(&q, cols);
        let factors: Vec<f64> = scales
            .iter()
            .enumerate()
            .map(|(j, s)| s * unit(j) * input * f64::from(u32::from(pre) + 15).exp2())
            .collect();
        let (scale, shift) = self.scales(&factors, name)?;
        let Ok(shift) = u8::try_from(shift.clamp(-1, 32)) else {
            return Err(Error::Usage(format!("the values of {name} are too large to quantize")));
        };
        let rows = scale.len();
        self.config.shifts.insert(name.to_owned(), Shift::Linear { pre, shift: shift.min(31) });
        self.parts.push(Part::i8(format!("{name}.weight"), &[rows, cols], q));
        self.parts.push(Part::u16(format!("{name}.scale"), &[rows], scale));
        Ok(())
    }

    /// Sets a single shift.
    pub fn shift(&mut self, name: &str, shift: u8) {
        self.config.shifts.insert(name.to_owned(), Shift::Plain(shift));
    }

    /// Adds biases of scores or logits, given in nats.
    pub fn bias(&mut self, name: &str, values: &[f32], rows: usize) {
        let limit = f64::from(1 << 20);
        let data: Vec<i32> =
            values.iter().map(|&b| (f64::from(b) * LOGIT_UNIT).round().clamp(-limit, limit) as i32).collect();
        let cols = data.len() / rows.max(1);
        self.parts.push(Part::i32(name, &[rows, cols], data));
    }

    /// Adds tables whose rows are added up, in this unit, with one shift. Large tables are stored
    /// in 4 bits.
    pub fn tables(&mut self, shift: &str, tables: &[(String, Vec<f32>)], cols: usize, unit: f64) {
        let even = cols.is_multiple_of(2);
        let large = |name: &str| name.starts_with("embed.ngram") || name.starts_with("embed.match");
        let largest = |name: &str| if even && large(name) { NIBBLE } else { BYTE };
        let tables: Vec<_> =
            tables.iter().map(|(name, values)| (name, quantize_rows(values, cols, largest(name)))).collect();
        let top = tables.iter().flat_map(|(_, (_, s))| s).fold(0.0f64, |m, &s| m.max(s)) * unit;
        let power = (65_535.0 / top.max(1e-9)).log2().floor().clamp(0.0, 31.0);
        for (name, (q, scales)) in tables {
            let scale: Vec<u16> = scales
                .iter()
                .map(|s| (s * unit * power.exp2()).round().clamp(1.0, 65_535.0) as u16)
                .collect();
            let weight = format!("{name}.weight");
            self.parts.push(match largest(name) {
                NIBBLE => Part::nibbles(weight, &[scale.len(), cols], &q),
                _ => Part::i8(weight, &[scale.len(), cols], q),
            });
            self.parts.push(Part::u16(format!("{name}.scale"), &[scale.len()], scale));
        }
        self.shift(shift, power as u8);
    }
}
