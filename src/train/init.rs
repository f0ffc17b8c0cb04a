//! Initial values of a network from an earlier one: a checkpoint, or a model file turned back into
//! floats.
//!
//! A model file does not say in which units its export measured keys, values and hidden values
//! (`quantize`), and any choice computes the same function. Here they are chosen so that the
//! matrices of a layer have equal root-mean-square, which is what training tends to.

use std::collections::HashMap;
use std::path::Path;

use byteorder::{ByteOrder, LittleEndian};
use candle_core::Tensor;
use safetensors::SafeTensors;
use safetensors::tensor::Dtype;

use super::checkpoint;
use super::net::{Net, layout};
use super::params::Role;
use super::sizes::NetConfig;
use crate::error::{Error, Result};
use crate::model::config::Config;
use crate::model::file::{add, first_set, nibbles, numbers};
use crate::model::weights::Model;

/// Root-mean-square to which the token table of a model file is scaled.
const TOKEN_RMS: f64 = 0.4;

/// The sizes and values of another network.
pub struct Initial {
    /// Its sizes.
    pub config: NetConfig,
    /// The strings of its tokens.
    pub vocabulary: Vec<Vec<u8>>,
    /// Values by the name of the segment, row-major.
    pub values: HashMap<String, Vec<f32>>,
    /// If a model file was read, for each segment that a delta may change: what one unit of a
    /// weight times its scale, or of a bias, is worth in floats.
    pub units: HashMap<String, f64>,
    /// The record of its earlier training, which the new record includes.
    pub record: serde_json::Value,
}

/// Reads a checkpoint or a model file.
///
/// # Errors
/// `Io`, or `BadModel` if it is neither.
pub fn read(path: &Path) -> Result<Initial> {
    let bytes = std::fs::read(path).map_err(|e| Error::io(path, e))?;
    match from_bytes(&bytes) {
        Ok(initial) => Ok(initial),
        Err(not_a_model) => from_checkpoint(path).map_err(|e| match e {
            Error::BadModel { .. } => not_a_model,
            e => e,
        }),
    }
}

/// Reads the bytes of a model file.
///
/// # Errors
/// `BadModel` if it is no model file, or of a model that cannot be trained.
pub fn from_bytes(file: &[u8]) -> Result<Initial> {
    from_model(&Model::from_bytes(file)?, file)
}

/// The median scale of the rows of a table or product of a model file.
///
/// # Errors
/// `BadModel` if it is no model file, or has no such tensor.
pub fn typical_scale(file: &[u8], name: &str) -> Result<f64> {
    let bad = |rule: String| Error::BadModel { name: "that learns".into(), rule };
    let tensors = SafeTensors::deserialize(file).map_err(|e| bad(e.to_string()))?;
    let view = tensors.tensor(&format!("{name}.scale")).map_err(|e| bad(e.to_string()))?;
    let mut scales = numbers(view.data(), LittleEndian::read_u16_into);
    scales.sort_unstable();
    Ok(scales.get(scales.len() / 2).copied().unwrap_or(1).into())
}

fn from_checkpoint(path: &Path) -> Result<Initial> {
    let head = checkpoint::head(path)?;
    let tensors = checkpoint::tensors(path)?;
    let mut values = HashMap::new();
    for (name, _, segments) in layout(&head.net) {
        let Some(flat) = tensors.get(&format!("param.{name}")) else { continue };
        for s in segments {
            let end = s.offset + s.rows * s.cols;
            let Some(part) = flat.get(s.offset..end) else {
                return Err(Error::BadModel {
                    name: path.display().to_string(),
                    rule: format!("{name} is shorter than its network has it"),
                });
            };
            values.insert(s.name, part.to_vec());
        }
    }
    let record = head.record();
    Ok(Initial { config: head.net, vocabulary: head.vocabulary, values, units: HashMap::new(), record })
}

/// The matrices of a model file as floats: each weight times the scale of its row.
struct Parts<'a> {
    config: &'a Config,
    tensors: SafeTensors<'a>,
}

impl Parts<'_> {
    fn missing(&self, name: &str) -> Error {
        self.config.bad(format!("tensor `{name}` is missing"))
    }

    fn bytes(&self, name: &str) -> Result<&[u8]> {
        self.tensors.tensor(name).map(|view| view.data()).map_err(|_| self.missing(name))
    }

    fn scaled(&self, name: &str) -> Result<Vec<f64>> {
        let name_of_weight = format!("{name}.weight");
        let view = self.tensors.tensor(&name_of_weight).map_err(|_| self.missing(name))?;
        let weights: Vec<i8> = match view.dtype() {
            Dtype::U8 => match first_set(&name_of_weight) {
                Some(first) => {
                    let mut bytes = view.data().to_vec();
                    add(&mut bytes, self.bytes(first)?);
                    bytes.into_iter().map(|byte| byte as i8).collect()
                }
                None => nibbles(view.data()),
            },
            _ => view.data().iter().map(|&byte| byte as i8).collect(),
        };
        let scales = numbers(self.bytes(&format!("{name}.scale"))?, LittleEndian::read_u16_into);
        let cols = weights.len() / scales.len().max(1);
        let rows = weights.chunks_exact(cols.max(1)).zip(&scales);
        Ok(rows
            .flat_map(|(row, &scale)| {
                let scale = f64::from(scale);
                row.iter().map(move |&w| f64::from(w) * scale)
            })
            .collect())
    }

    /// What a product's weight times its scale is worth, if input and output have unit 1.
    fn factor(config: &Config, name: &str) -> Result<f64> {
        let (pre, shift) = config.product_shift(name)?;
        Ok((-f64::from(shift) - f64::from(pre) - 15.0).exp2())
    }

    /// A product whose input and output have unit 1 (`quantize::Quantizer::product`).
    fn product(&self, name: &str) -> Result<Vec<f64>> {
        let factor = Self::factor(self.config, name)?;
        Ok(self.scaled(name)?.into_iter().map(|w| w * factor).collect())
    }

    fn biases(&self, name: &str) -> Result<Vec<f32>> {
        let unit = super::quantize::LOGIT_UNIT;
        let values = numbers(self.bytes(name)?, LittleEndian::read_i32_into);
        Ok(values.iter().map(|&b| (f64::from(b) / unit) as f32).collect())
    }
}

fn rms(values: &[f64]) -> f64 {
    (values.iter().map(|v| v * v).sum::<f64>() / values.len().max(1) as f64).sqrt().max(1e-9)
}

fn divided(values: &[f64], by: f64) -> Vec<f32> {
    values.iter().map(|v| (v / by) as f32).collect()
}

fn from_model(model: &Model, bytes: &[u8]) -> Result<Initial> {
    let c = model.config();
    let tensors = SafeTensors::deserialize(bytes).map_err(|e| c.bad(e.to_string()))?;
    let parts = Parts { config: c, tensors };
    let config = NetConfig::of_model(c)?;
    let (mut values, mut units) = (HashMap::new(), HashMap::new());
    let normalized = f64::from(-16).exp2();
    let unit = super::quantize::LOGIT_UNIT;
    let residual = rms(&parts.scaled("embed.token")?) / TOKEN_RMS;
    for (name, _) in c.tables() {
        values.insert(name.clone(), divided(&parts.scaled(&name)?, residual));
        units.insert(name, 1.0 / residual);
    }
    // The tables have the residual stream's unit times 2^embed.
    let residual = residual / f64::from(c.plain_shift("embed")?).exp2();
    for (set, l) in c.sets().iter().flat_map(|set| (0..c.layers).map(move |l| (set, l))) {
        let name = |part: &str| format!("{set}decoder.{l}.{part}");
        let size = c.head_size;
        let (q, kv) = (c.heads * size * c.width, c.kv_heads * size * c.width);
        let qkv: Vec<f64> = parts.product(&name("qkv"))?.iter().map(|w| w / normalized).collect();
        let score = f64::from(c.plain_shift(&name("score"))?).exp2() * unit / (size as f64).sqrt();
        let key_unit = (rms(&qkv[q..q + kv]) * score / rms(&qkv[..q])).sqrt();
        let level = rms(&qkv[q..q + kv]) / key_unit;
        let value_unit = rms(&qkv[q + kv..]) / level;
        let mut all = divided(&qkv[..q], score / key_unit);
        all.extend(divided(&qkv[q..q + kv], key_unit));
        all.extend(divided(&qkv[q + kv..], value_unit));
        values.insert(name("qkv"), all);
        let mixed = 1.0 / (127.0 * value_unit * f64::from(1 << 14));
        values.insert(name("out"), divided(&parts.product(&name("out"))?, mixed * residual));
        values.insert(name("bias"), parts.biases(&name("bias"))?);
        let up: Vec<f64> = parts.product(&name("up"))?.iter().map(|w| w / normalized).collect();
        let hidden_unit = rms(&up) / level;
        values.insert(name("up"), divided(&up, hidden_unit));
        let squared = residual / (127.0 * hidden_unit * hidden_unit);
        values.insert(name("down"), divided(&parts.product(&name("down"))?, squared));
    }
    for set in c.sets() {
        let mut product = |name: String| -> Result<()> {
            let product = divided(&parts.product(&name)?, normalized * unit);
            units.insert(name.clone(), Parts::factor(c, &name)? / (normalized * unit));
            values.insert(name, product);
            Ok(())
        };
        product(format!("{set}head"))?;
        if c.copy {
            product(format!("{set}copy"))?;
            values.insert(format!("{set}copy.bias"), parts.biases(&format!("{set}copy.bias"))?);
            units.insert(format!("{set}copy.bias"), 1.0 / unit);
        }
    }
    for (name, _) in c.steer_tables() {
        let unit = match name.rsplit('.').next() {
            Some("input") => residual,
            Some("gain") => f64::from(crate::model::steer::GAIN_ONE),
            _ => unit,
        };
        let shift = f64::from(c.plain_shift(&name)?).exp2();
        values.insert(name.clone(), divided(&parts.scaled(&name)?, unit * shift));
    }
    let v = model.vocabulary();
    let vocabulary = (0..c.vocab as u16).map(|t| v.token(t).to_vec()).collect();
    Ok(Initial { config, vocabulary, values, units, record: c.training.clone() })
}

impl Initial {
    /// Leaves out the sets of weights for kinds of text: a new pair finds its own kinds, so all its
    /// sets start as the first one.
    pub fn forget_kinds(&mut self) {
        self.values.retain(|name, _| !name.starts_with("expert."));
    }

    /// Sets those segments of `net` that are known here, and returns the names of the others. If a
    /// segment has another size, the rows and columns that both have are set. Weights of inputs
    /// that are new to a known row are zero, so that the row computes the same as before.
    pub fn apply(&self, net: &Net) -> candle_core::Result<Vec<String>> {
        let sizes = layout(&self.config).into_iter().flat_map(|(_, _, segments)| segments);
        let cols: HashMap<String, usize> = sizes.map(|s| (s.name, s.cols)).collect();
        let mut fresh = Vec::new();
        for param in &net.params {
            let mut flat: Vec<f32> = param.var.flatten_all()?.to_vec1()?;
            for s in &param.segments {
                // A new expert starts as the first set of weights.
                let first = s.name.strip_prefix("expert.").and_then(|name| name.split_once('.'));
                let known = [Some(s.name.as_str()), first.map(|(_, name)| name)].into_iter().flatten();
                let known = known.filter_map(|name| Some((self.values.get(name)?, *cols.get(name)?))).next();
                let Some((values, cols)) = known else {
                    fresh.push(s.name.clone());
                    continue;
                };
                let rows = flat[s.offset..][..s.rows * s.cols].chunks_exact_mut(s.cols.max(1));
                for (to, from) in rows.zip(values.chunks_exact(cols.max(1))) {
                    if s.role != Role::Embedding {
                        to.fill(0.0);
                    }
                    to.iter_mut().zip(from).for_each(|(to, from)| *to = *from);
                }
            }
            param.var.set(&Tensor::from_vec(flat, param.var.shape(), &net.device)?)?;
        }
        Ok(fresh)
    }

    /// The sizes `wanted`, with those of this network where growing does not change them: tokens,
    /// match slots, n-gram tables and heads.
    ///
    /// # Errors
    /// `Usage` if other heads are wanted, since queries, keys and values would then change places.
    pub fn grown(&self, wanted: &NetConfig) -> Result<NetConfig> {
        let c = &self.config;
        if (c.heads, c.kv_heads, c.head_size) != (wanted.heads, wanted.kv_heads, wanted.head_size) {
            return Err(Error::Usage(format!(
                "a grown network keeps the attention heads: {} of queries, {} of keys and values",
                c.heads, c.kv_heads
            )));
        }
        let (width, layers, ff, window) = (wanted.width, wanted.layers, wanted.ff, wanted.window);
        Ok(NetConfig { width, layers, ff, window, ..c.clone() })
    }
}
