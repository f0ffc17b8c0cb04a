//! From floats to a model file: int8 rows with scales, as spec/numerics.md wants them.
//!
//! Every row of a matrix gets the scale that loses least; the units of queries, keys, values and hidden
//! values are set from their largest magnitudes on held-out text. The residual stream is scaled as a
//! whole, which normalisation undoes.

use super::checkpoint::Head;
use super::failed;
use super::net::{Batch, Net, NetConfig};
use super::ops::compose;
use crate::error::{Error, Result};
use crate::model::GAIN_ONE;
use crate::model::config::{Activation, Config, Latent, Shift};
use crate::model::tokens::Vocabulary;
use crate::model::write::{Tensor as Part, least_pre, write_model};

/// Logits and scores are in 1/1024 of a bit.
pub(super) const LOGIT_UNIT: f64 = 1024.0 * std::f64::consts::LOG2_E;
/// Largest magnitude of queries, keys and values, with room above what was seen.
const QKV_TOP: f64 = 2047.0 / 1.15;
/// Where the largest hidden value lies; the clamp is at 32,767.
const HIDDEN_TOP: f64 = 20_000.0;
/// Where the largest residual value lies; the clamp is at 2^29.
const RESIDUAL_TOP: f64 = (1 << 19) as f64;

/// A batch and the c of each of its sequences, or of none.
pub type Sample = (Batch, Vec<Vec<u16>>);

/// Largest magnitudes of one layer.
#[derive(Clone, Copy, Debug, Default)]
struct Extent {
    q: f64,
    k: f64,
    v: f64,
    hidden: f64,
}

/// Largest magnitudes of the residual stream and of all layers over the batches.
fn extents(net: &Net, batches: &[Sample]) -> candle_core::Result<(f64, Vec<Extent>)> {
    let c = &net.config;
    let top = |t: candle_core::Tensor| -> candle_core::Result<f64> {
        Ok(f64::from(t.abs()?.flatten_all()?.max(0)?.to_scalar::<f32>()?))
    };
    let mut residual = 0.0f64;
    let mut layers = vec![Extent::default(); c.layers];
    for (batch, cs) in batches {
        let steered = net.steer(cs)?;
        let mut x = compose::embed(net.params[0].var.as_tensor(), &batch.rows, c.rows_per_position())?;
        if let Some(steered) = &steered {
            x = (&x + compose::spread(&steered.input, x.dim(0)?)?)?;
        }
        residual = residual.max(top(x.clone())?);
        for (l, extent) in layers.iter_mut().enumerate() {
            let (attention, feed_forward) = (&net.params[1 + 2 * l].var, &net.params[2 + 2 * l].var);
            let (q, kv) = (c.heads * c.head_size, c.kv_heads * c.head_size);
            let w = compose::part(attention, 0, q + 2 * kv, c.width)?;
            let qkv = compose::normalise(&x)?.matmul(&w.t()?)?;
            extent.q = extent.q.max(top(qkv.narrow(1, 0, q)?)?);
            extent.k = extent.k.max(top(qkv.narrow(1, q, kv)?)?);
            extent.v = extent.v.max(top(qkv.narrow(1, q + kv, kv)?)?);
            x = compose::attention(&x, attention, c.dims(batch.len))?;
            let up = compose::part(feed_forward, 0, c.ff, c.width)?;
            let mut hidden = compose::normalise(&x)?.matmul(&up.t()?)?.relu()?;
            extent.hidden = extent.hidden.max(top(hidden.clone())?);
            let gains = steered.as_ref().map(|steered| &steered.gains[l]);
            if let Some(gains) = gains {
                hidden = (&hidden * compose::spread(gains, hidden.dim(0)?)?)?;
                extent.hidden = extent.hidden.max(top(hidden)?);
            }
            x = compose::feed_forward(&x, feed_forward, c.width, c.ff, gains)?;
            residual = residual.max(top(x.clone())?);
        }
    }
    Ok((residual, layers))
}

/// One row in int8: the scale among a few below the largest magnitude that loses least.
fn quantise_row(row: &[f32]) -> (Vec<i8>, f64) {
    let top = row.iter().fold(0.0f64, |m, v| m.max(f64::from(v.abs())));
    if top == 0.0 {
        return (vec![0; row.len()], 0.0);
    }
    let at = |scale: f64| -> (f64, Vec<i8>) {
        let mut loss = 0.0;
        let q = row
            .iter()
            .map(|&v| {
                let q = (f64::from(v) / scale).round().clamp(-127.0, 127.0);
                loss += (f64::from(v) - q * scale).powi(2);
                q as i8
            })
            .collect();
        (loss, q)
    };
    let mut best = (f64::INFINITY, Vec::new(), 0.0);
    for step in 0..8 {
        let scale = top * (1.0 - 0.04 * f64::from(step)) / 127.0;
        let (loss, q) = at(scale);
        if loss < best.0 {
            best = (loss, q, scale);
        }
    }
    (best.1, best.2)
}

/// What is gathered for the file.
struct Export<'a> {
    net: &'a Net,
    config: Config,
    parts: Vec<Part>,
}

impl Export<'_> {
    fn rows(&self, name: &str, cols: usize) -> Result<(Vec<i8>, Vec<f64>)> {
        let values = self.net.segment(name).map_err(failed)?;
        let (mut q, mut scales) = (Vec::with_capacity(values.len()), Vec::new());
        for row in values.chunks_exact(cols) {
            let (row, scale) = quantise_row(row);
            q.extend(row);
            scales.push(scale);
        }
        Ok((q, scales))
    }

    /// Row scales as u16 for `factors`, times the largest power of two that fits; gives the power.
    fn scales(&self, factors: &[f64], name: &str) -> Result<(Vec<u16>, i32)> {
        let top = factors.iter().fold(0.0f64, |m, &f| m.max(f));
        let power = if top > 0.0 { (65_535.0 / top).log2().floor() as i32 } else { 0 };
        if !top.is_finite() {
            return Err(Error::Usage(format!("{name} holds values that are no numbers")));
        }
        let scale = f64::from(power).exp2();
        Ok((factors.iter().map(|f| (f * scale).round().clamp(1.0, 65_535.0) as u16).collect(), power))
    }

    /// A product whose output row `j` comes in units `unit(j)` times `input` (see the module's head).
    fn product(&mut self, name: &str, cols: usize, input: f64, unit: impl Fn(usize) -> f64) -> Result<()> {
        let (q, scales) = self.rows(name, cols)?;
        let pre = least_pre(&q, cols);
        let factors: Vec<f64> = scales
            .iter()
            .enumerate()
            .map(|(j, s)| s * unit(j) * input * f64::from(u32::from(pre) + 15).exp2())
            .collect();
        let (scale, shift) = self.scales(&factors, name)?;
        let Ok(shift) = u8::try_from(shift.clamp(-1, 32)) else {
            return Err(Error::Usage(format!("the values of {name} are too large to quantise")));
        };
        let rows = scale.len();
        self.config.shifts.insert(name.to_owned(), Shift::Linear { pre, shift: shift.min(31) });
        self.parts.push(Part::i8(format!("{name}.weight"), &[rows, cols], q));
        self.parts.push(Part::u16(format!("{name}.scale"), &[rows], scale));
        Ok(())
    }

    fn bias(&mut self, name: &str, rows: usize) -> Result<()> {
        let values = self.net.segment(name).map_err(failed)?;
        let limit = f64::from(1 << 20);
        let data: Vec<i32> =
            values.iter().map(|&b| (f64::from(b) * LOGIT_UNIT).round().clamp(-limit, limit) as i32).collect();
        let cols = data.len() / rows.max(1);
        self.parts.push(Part::i32(name, &[rows, cols], data));
        Ok(())
    }

    /// The rows of the symbols of c; `units` are those of the input, the gains and the biases.
    fn steering(&mut self, residual: f64) -> Result<()> {
        for (name, cols) in self.config.steer_tables() {
            let unit = match name.rsplit('.').next() {
                Some("input") => residual,
                Some("gain") => f64::from(GAIN_ONE),
                _ => LOGIT_UNIT,
            };
            let (q, scales) = self.rows(&name, cols)?;
            let top = scales.iter().fold(0.0f64, |m, &s| m.max(s)) * unit;
            let power = (65_535.0 / top.max(1e-9)).log2().floor().clamp(0.0, 31.0);
            let scale = scales.iter().map(|s| (s * unit * power.exp2()).round().clamp(1.0, 65_535.0) as u16);
            let scale: Vec<u16> = scale.collect();
            self.parts.push(Part::i8(format!("{name}.weight"), &[scale.len(), cols], q));
            self.parts.push(Part::u16(format!("{name}.scale"), &[scale.len()], scale));
            self.config.shifts.insert(name, Shift::Plain(power as u8));
        }
        Ok(())
    }

    /// All embedding tables, in residual units, with one shift.
    fn embeddings(&mut self, residual: f64) -> Result<()> {
        let width = self.config.width;
        let mut tables = Vec::new();
        for (name, _) in self.config.tables() {
            tables.push((name.clone(), self.rows(&name, width)?));
        }
        let top = tables.iter().flat_map(|(_, (_, s))| s).fold(0.0f64, |m, &s| m.max(s)) * residual;
        let power = (65_535.0 / top).log2().floor().clamp(0.0, 31.0);
        for (name, (q, scales)) in tables {
            let scale: Vec<u16> = scales
                .iter()
                .map(|s| (s * residual * power.exp2()).round().clamp(1.0, 65_535.0) as u16)
                .collect();
            self.parts.push(Part::i8(format!("{name}.weight"), &[scale.len(), width], q));
            self.parts.push(Part::u16(format!("{name}.scale"), &[scale.len()], scale));
        }
        self.config.shifts.insert("embed".to_owned(), Shift::Plain(power as u8));
        Ok(())
    }

    fn layer(&mut self, l: usize, net: &NetConfig, extent: Extent, residual: f64) -> Result<()> {
        let normalised = f64::from(-16).exp2();
        let (q, kv, size) = (net.heads * net.head_size, net.kv_heads * net.head_size, net.head_size as f64);
        // Units of keys and queries multiply to the unit of scores times 2^score.
        let score_unit = LOGIT_UNIT / size.sqrt();
        let fit = |top: f64| QKV_TOP / top.max(1e-3);
        let score = (fit(extent.k) * fit(extent.q) / score_unit).log2().floor().clamp(0.0, 30.0);
        let value_unit = fit(extent.v);
        let key_unit = fit(extent.k);
        let query_unit = score_unit * score.exp2() / key_unit;
        self.config.shifts.insert(format!("decoder.{l}.score"), Shift::Plain(score as u8));
        self.product(&format!("decoder.{l}.qkv"), net.width, normalised, |j| match j {
            j if j < q => query_unit,
            j if j < q + kv => key_unit,
            _ => value_unit,
        })?;
        self.bias(&format!("decoder.{l}.bias"), net.heads)?;
        let mixed = 1.0 / (127.0 * value_unit * f64::from(1 << 14));
        self.product(&format!("decoder.{l}.out"), q, mixed, |_| residual)?;
        let hidden_unit = HIDDEN_TOP / extent.hidden.max(1e-3);
        self.product(&format!("decoder.{l}.up"), net.width, normalised, |_| hidden_unit)?;
        let squared = 1.0 / (127.0 * hidden_unit * hidden_unit);
        self.product(&format!("decoder.{l}.down"), net.ff, squared, |_| residual)
    }
}

/// The header of the model file, shifts still missing.
fn header(name: &str, head: &Head) -> Config {
    let c = &head.net;
    let mut config = Config::new(name, c.width, c.layers, c.vocab);
    config.heads = c.heads;
    config.kv_heads = c.kv_heads;
    config.head_size = c.head_size;
    config.ff = c.ff;
    config.window = c.window;
    config.activation = Activation::Relu2;
    config.orders = c.orders.clone();
    config.seconds = c.seconds.clone();
    config.ngrams = c.ngrams.clone();
    config.copy = c.copy;
    config.latent =
        c.steering.map(|c| Latent { symbols: c.symbols, max: c.max, layers: 0, ff: 0, steer: true });
    config.training = head.record();
    config
}

/// Quantises a network into the bytes of a model file.
pub fn export(
    name: &str,
    head: &Head,
    net: &Net,
    vocabulary: &Vocabulary,
    held: &[Sample],
    prior: Option<Vec<u32>>,
) -> Result<Vec<u8>> {
    let (residual_top, layers) = extents(net, held).map_err(failed)?;
    let residual = (RESIDUAL_TOP / residual_top.max(1e-6)).log2().floor().exp2();
    let mut export = Export { net, config: header(name, head), parts: Vec::new() };
    export.embeddings(residual)?;
    for (l, &extent) in layers.iter().enumerate() {
        export.layer(l, &head.net, extent, residual)?;
    }
    let normalised = f64::from(-16).exp2();
    export.product("head", head.net.width, normalised, |_| LOGIT_UNIT)?;
    if head.net.copy {
        export.product("copy", head.net.width, normalised, |_| LOGIT_UNIT)?;
        export.bias("copy.bias", head.net.slots())?;
    }
    if let (Some(prior), Some(latent)) = (prior, &export.config.latent) {
        let side = latent.symbols + 1;
        export.parts.push(Part::u32("latent.prior", &[side, side], prior));
        export.steering(residual)?;
    }
    write_model(&export.config, vocabulary, &export.parts)
}
