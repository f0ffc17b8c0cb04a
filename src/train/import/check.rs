//! How closely an imported model follows the T5 that it was made from: `s3a model import --check`.
//!
//! Three implementations are compared on a text: this crate's T5 in floats, the integer engine, and
//! the T5 of candle-transformers as far as that one computes the original.

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::t5 as oracle;

use super::folder::{Folder, failed};
use crate::error::{Error, Result};
use crate::kernels::backend::Backend;
use crate::model::decoder::{Decoder, Row};
use crate::model::matcher::Matcher;
use crate::model::weights::Model;
use crate::train::t5::network::T5;

/// Tokens that are compared.
const TOKENS: usize = 1024;
const C: usize = 32;
/// Positions at which candle-transformers' decoder agrees with the original; at larger distances it
/// has other buckets.
const NEAR: usize = 9;

/// A comparison of float and integer logits of the same tokens.
#[derive(Clone, Copy, Debug)]
pub struct Agreement {
    /// Tokens that were compared.
    pub tokens: usize,
    /// Correlation of all logits, each row less its mean.
    pub correlation: f64,
    /// Bits per token of the T5 in floats, over the engine's vocabulary.
    pub float_bits: f64,
    /// Bits per token of the integer engine.
    pub integer_bits: f64,
}

/// The result of `check`.
#[derive(Clone, Copy, Debug)]
pub struct Report {
    /// With an empty c.
    pub alone: Agreement,
    /// With a c.
    pub with_c: Agreement,
    /// Largest difference to the logits of candle-transformers, as a share of the largest logit.
    pub oracle: f64,
}

/// Compares the implementations on a text.
pub fn check(folder: &Folder, model: &Model, text: &[u8]) -> Result<Report> {
    let mut tokens = model.vocabulary().tokenize(&text[..text.len().min(32 * TOKENS)]);
    tokens.truncate(TOKENS);
    if tokens.is_empty() {
        return Err(Error::Usage("there is nothing to check on: the text is empty".into()));
    }
    // Ids are below 65,535, by the limits of the configuration.
    let c: Vec<u16> = tokens.iter().take(C).map(|&t| folder.pieces.ids[usize::from(t)] as u16).collect();
    Ok(Report {
        alone: agreement(folder, model, &tokens, &[])?,
        with_c: agreement(folder, model, &tokens, &c)?,
        oracle: distance(&folder.t5, &c).map_err(failed)?,
    })
}

/// Compares logits of the same tokens after the same c.
pub fn agreement(folder: &Folder, model: &Model, tokens: &[u16], c: &[u16]) -> Result<Agreement> {
    let float = float_logits(folder, tokens, c).map_err(failed)?;
    let (integer, integer_bits) = integer_logits(model, tokens, c)?;
    let mut float_bits = 0.0;
    for (row, &token) in float.iter().zip(tokens) {
        let top = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = row.iter().map(|z| (z - top).exp()).sum();
        float_bits += (sum.ln() + top - row[usize::from(token)]) / std::f64::consts::LN_2;
    }
    let count = tokens.len() as f64;
    Ok(Agreement {
        tokens: tokens.len(),
        correlation: correlation(&float, &integer),
        float_bits: float_bits / count,
        integer_bits: integer_bits / count,
    })
}

/// Logits in nats of the float T5, over the engine's vocabulary.
fn float_logits(folder: &Folder, tokens: &[u16], c: &[u16]) -> candle_core::Result<Vec<Vec<f64>>> {
    let (t5, ids) = (&folder.t5, &folder.pieces.ids);
    let before = tokens[..tokens.len() - 1].iter().map(|&token| ids[usize::from(token)]);
    let input: Vec<u32> = std::iter::once(t5.config.start()).chain(before).collect();
    let source: Vec<u32> = c.iter().map(|&symbol| symbol.into()).collect();
    let row = |ids: Vec<u32>| -> candle_core::Result<Tensor> {
        let len = ids.len();
        Tensor::from_vec(ids, (1, len), &Device::Cpu)
    };
    let logits = t5.logits(&t5.decode(&row(input)?, &t5.encode(&row(source)?)?)?)?;
    let rows = logits.squeeze(0)?.to_vec2::<f32>()?;
    Ok(rows.iter().map(|row| ids.iter().map(|&id| row[id as usize].into()).collect()).collect())
}

/// Logits of the engine in its units, and the bits of the tokens under its slots.
pub fn integer_logits(model: &Model, tokens: &[u16], c: &[u16]) -> Result<(Vec<Vec<f64>>, f64)> {
    let mut decoder = Decoder::new(model, Backend::best(), 1, 1);
    let mut matcher = Matcher::new(&[], &[], tokens.len(), model.vocabulary().separator())?;
    matcher.extend(&[]);
    decoder.begin(0, tokens.len(), c);
    let (mut rows, mut bits) = (vec![], 0.0);
    for (position, &token) in tokens.iter().enumerate() {
        decoder.input(0, &mut matcher);
        decoder.forward(&[Row { lane: 0, position }]);
        rows.push(decoder.logits(0).iter().map(|&z| z.into()).collect());
        let slots = decoder.slots(0, &[]);
        let (_, slot) = slots.share(token.into());
        bits += (slots.total() as f64 / slot as f64).log2();
        matcher.update(token);
    }
    Ok((rows, bits))
}

/// The correlation of all values, each row less its mean.
pub fn correlation(a: &[Vec<f64>], b: &[Vec<f64>]) -> f64 {
    let (mut ab, mut aa, mut bb) = (0.0, 0.0, 0.0);
    for (a, b) in a.iter().zip(b) {
        let mean = |row: &[f64]| row.iter().sum::<f64>() / row.len() as f64;
        let (mean_a, mean_b) = (mean(a), mean(b));
        for (a, b) in a.iter().zip(b) {
            let (a, b) = (a - mean_a, b - mean_b);
            (ab, aa, bb) = (ab + a * b, aa + a * a, bb + b * b);
        }
    }
    ab / (aa * bb).sqrt().max(f64::MIN_POSITIVE)
}

/// Largest difference of logits between `t5` and candle-transformers' T5 with the same weights, as
/// a share of the largest logit. `source` is decoded over itself.
fn distance(t5: &T5, source: &[u16]) -> candle_core::Result<f64> {
    let mut json = serde_json::to_value(&t5.config).map_err(candle_core::Error::wrap)?;
    let more = serde_json::json!({ "dropout_rate": 0.0, "is_encoder_decoder": true, "use_cache": false });
    if let (Some(json), serde_json::Value::Object(more)) = (json.as_object_mut(), more) {
        json.extend(more);
    }
    let config: oracle::Config = serde_json::from_value(json).map_err(candle_core::Error::wrap)?;
    let tensors = t5.vars().into_iter().map(|(name, var)| (name, var.as_tensor().clone())).collect();
    let builder = VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu);
    let mut oracle = oracle::T5ForConditionalGeneration::load(builder, &config)?;
    // candle-transformers multiplies the states before a tied head by the root that the original
    // divides by.
    let root = (t5.config.d_model as f64).sqrt();
    let factor = if t5.config.scaled() { 1.0 / root } else { 1.0 }
        / if t5.config.tie_word_embeddings { root } else { 1.0 };
    let ids: Vec<u32> = source.iter().map(|&symbol| symbol.into()).collect();
    let source = Tensor::from_vec(ids, (1, source.len()), &Device::Cpu)?;
    let near = source.narrow(1, 0, source.dim(1)?.min(NEAR))?;
    let ours = t5.logits(&t5.decode(&near, &t5.encode(&source)?)?)?;
    let memory = oracle.encode(&source)?;
    let mut worst = 0.0f64;
    for t in 1..=near.dim(1)? {
        let theirs = (oracle.decode(&near.narrow(1, 0, t)?, &memory)? * factor)?;
        let ours = ours.narrow(1, t - 1, 1)?.squeeze(1)?;
        let top = |t: &Tensor| t.abs()?.flatten_all()?.max(0)?.to_scalar::<f32>();
        worst = worst.max(f64::from(top(&(&theirs - ours)?)? / top(&theirs)?.max(f32::MIN_POSITIVE)));
    }
    Ok(worst)
}
