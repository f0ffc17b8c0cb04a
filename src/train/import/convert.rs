//! `s3a model import`: the directory of a Hugging Face T5 as a model file for the integer engine.
//!
//! The decoder becomes the engine's decoder, and the encoder becomes its encoder of c, whose
//! symbols are the T5's ids. Gains of norms are multiplied into the products that follow, relative
//! biases are laid out by distance, the row of the start token becomes the separator's, and the
//! scale of a tied head is multiplied into the head. `docs/research/import.md` says what is
//! preserved and what is not.

use std::collections::{BTreeMap, HashMap};

use candle_core::{Device, Tensor};

use super::folder::{Folder, failed};
use super::pieces::Pieces;
use crate::error::{Error, Result};
use crate::model::config::{Activation, Config, Latent, MAX_GELU, MAX_WINDOW};
use crate::model::tokens::Vocabulary;
use crate::model::write::{Tensor as Part, write_model};
use crate::train::quantize::{AttentionUnits, LOGIT_UNIT, NORMALISED, Quantizer, hidden_unit, residual_unit};
use crate::train::t5::config::{FeedForward, T5Config};

/// Longest c of an imported model.
const MAX_C: usize = 512;
/// Text whose magnitudes determine the units.
const SAMPLE: &str = include_str!("../../../LICENSE-APACHE");
/// Sequences of the sample, and the lengths of source and target.
const SAMPLE_SHAPE: (usize, usize, usize) = (4, 64, 256);

/// The bytes of the model file.
pub fn import(folder: &Folder, name: &str) -> Result<Vec<u8>> {
    let vocabulary = folder.vocabulary()?;
    let mut values = HashMap::new();
    for (name, var) in folder.t5.vars() {
        let data = var.flatten_all().and_then(|v| v.to_vec1::<f32>()).map_err(failed)?;
        if !data.iter().all(|value| value.is_finite()) {
            return Err(Error::BadModel {
                name: name.clone(),
                rule: "it holds values that are no numbers".into(),
            });
        }
        values.insert(name, data);
    }
    let mut import = Import {
        config: &folder.t5.config,
        values,
        extents: sample_extents(folder, &vocabulary).map_err(failed)?,
        out: Quantizer::new(header(folder, name)),
    };
    import.tables(&folder.pieces)?;
    for layer in 0..folder.t5.config.decoder_layers() {
        import.layer("decoder", layer)?;
    }
    for layer in 0..folder.t5.config.num_layers {
        import.layer("encoder", layer)?;
    }
    let mut out = import.out;
    // The end is likely and all symbols are equally so: an empty c costs about half a bit.
    let mut prior = vec![1; folder.t5.config.vocab_size];
    prior.push(1 << 16);
    out.parts.push(Part::u32("latent.prior", &[1, prior.len()], prior));
    write_model(&out.config, &vocabulary, &out.parts)
}

/// The header of the model file, without shifts.
fn header(folder: &Folder, name: &str) -> Config {
    let c = &folder.t5.config;
    let mut config = Config::new(name, c.d_model, c.decoder_layers(), folder.pieces.tokens.len());
    config.heads = c.num_heads;
    config.kv_heads = c.num_heads;
    config.head_size = c.d_kv;
    config.ff = c.d_ff;
    config.window = 0;
    config.activation = match c.feed_forward_proj {
        FeedForward::Relu => Activation::Relu,
        FeedForward::GatedGelu => Activation::GatedGelu,
    };
    let (symbols, layers, ff) = (c.vocab_size, c.num_layers, c.d_ff);
    config.latent = Some(Latent { symbols, max: MAX_C, layers, ff, steer: false, experts: 1 });
    // The T5's ids of the vocabulary as runs of consecutive ids, each with its first id and its
    // length.
    config.training = serde_json::json!({ "imported": "t5", "ids": folder.pieces.runs() });
    config
}

/// Largest magnitudes over a sample, with an input for the encoder and without.
fn sample_extents(folder: &Folder, vocabulary: &Vocabulary) -> candle_core::Result<BTreeMap<String, f64>> {
    let (sequences, source, target) = SAMPLE_SHAPE;
    let ids = folder.ids(vocabulary, SAMPLE.as_bytes());
    let mut ids = ids.into_iter().cycle();
    let mut take = |len: usize, first: Option<u32>| -> candle_core::Result<Tensor> {
        let row = |_| first.into_iter().chain(ids.by_ref()).take(len).collect::<Vec<_>>();
        let all: Vec<u32> = (0..sequences).flat_map(row).collect();
        Tensor::from_vec(all, (sequences, len), &Device::Cpu)
    };
    let target = take(target, Some(folder.t5.config.start()))?;
    let mut extents = BTreeMap::new();
    for source in [take(source, None)?, Tensor::zeros((sequences, 0), candle_core::DType::U32, &Device::Cpu)?]
    {
        for (name, top) in folder.t5.extents(&source, &target)? {
            let known = extents.entry(name).or_insert(0.0f64);
            *known = known.max(top);
        }
    }
    Ok(extents)
}

/// What is read, and what is collected for the file.
struct Import<'a> {
    config: &'a T5Config,
    values: HashMap<String, Vec<f32>>,
    extents: BTreeMap<String, f64>,
    out: Quantizer,
}

impl Import<'_> {
    fn weight(&self, name: &str) -> Result<&[f32]> {
        let weight = self.values.get(&format!("{name}.weight"));
        weight.map(Vec::as_slice).ok_or(Error::Internal("a tensor of a T5 is missing"))
    }

    /// A matrix that follows a norm: its columns times the norm's gains.
    fn folded(&self, name: &str, norm: &str) -> Result<Vec<f32>> {
        let (weight, gains) = (self.weight(name)?, self.weight(norm)?);
        Ok(weight
            .chunks_exact(gains.len())
            .flat_map(|row| row.iter().zip(gains).map(|(w, g)| w * g))
            .collect())
    }

    fn extent(&self, name: &str) -> f64 {
        self.extents.get(name).copied().unwrap_or(0.0)
    }

    fn units(&self, stack: &str, layer: usize, parts: [&str; 3]) -> AttentionUnits {
        let [q, k, v] = parts.map(|part| self.extent(&format!("{stack}.{layer}.{part}")));
        // T5 does not scale scores.
        AttentionUnits::new(q, k, v, LOGIT_UNIT)
    }

    fn residual(&self, stack: &str) -> f64 {
        let of_stack = |name: &str| name.starts_with(stack) && name.ends_with(".residual");
        let tops = self.extents.iter().filter(|(name, _)| of_stack(name));
        residual_unit(tops.fold(0.0, |top, (_, &this)| top.max(this)))
    }

    /// Adds the embeddings, the encoder's embeddings, and the head.
    fn tables(&mut self, pieces: &Pieces) -> Result<()> {
        let d = self.config.d_model;
        let rows = |all: &[f32], ids: &mut dyn Iterator<Item = u32>| -> Vec<f32> {
            ids.flat_map(|id| &all[id as usize * d..][..d]).copied().collect()
        };
        let shared = self.weight("shared")?;
        let ids = || pieces.ids.iter().copied();
        let tokens = rows(shared, &mut ids().chain([self.config.start()]));
        let head = if self.config.tie_word_embeddings { "shared" } else { "lm_head" };
        let mut head = rows(&self.folded(head, "decoder.final_layer_norm")?, &mut ids());
        if self.config.scaled() {
            let scale = (d as f32).powf(-0.5);
            head.iter_mut().for_each(|weight| *weight *= scale);
        }
        let symbols = vec![("latent.embed".to_owned(), shared.to_vec())];
        let (decoder, encoder) = (self.residual("decoder"), self.residual("encoder"));
        let width = self.out.config.width;
        self.out.tables("embed", &[("embed.token".to_owned(), tokens)], width, decoder);
        self.out.tables("latent_embed", &symbols, width, encoder);
        self.out.product("head", &head, d, NORMALISED, |_| LOGIT_UNIT)
    }

    /// Adds a layer of the decoder, or a layer of the encoder as one of the encoder of c.
    fn layer(&mut self, stack: &str, layer: usize) -> Result<()> {
        let (d, inner) = (self.config.d_model, self.config.inner());
        let (decoder, residual) = (stack == "decoder", self.residual(stack));
        let to = |part: &str| format!("{}.{layer}.{part}", if decoder { "decoder" } else { "latent" });
        let from = |n: usize, part: &str| format!("{stack}.block.{layer}.layer.{n}.{part}");
        let (attention, norm) =
            (|part: &str| from(0, &format!("SelfAttention.{part}")), from(0, "layer_norm"));
        let units = self.units(stack, layer, ["q", "k", "v"]);
        let mut qkv = self.folded(&attention("q"), &norm)?;
        qkv.extend(self.folded(&attention("k"), &norm)?);
        qkv.extend(self.folded(&attention("v"), &norm)?);
        let out = self.weight(&attention("o"))?.to_vec();
        let bias = self.bias(stack)?;
        self.out.product(&to("qkv"), &qkv, d, NORMALISED, |j| match j {
            j if j < inner => units.query,
            j if j < 2 * inner => units.key,
            _ => units.value,
        })?;
        self.out.product(&to("out"), &out, inner, units.mixed(), |_| residual)?;
        self.out.shift(&to("score"), units.score);
        self.out.bias(&to("bias"), &bias, self.config.num_heads);
        if decoder {
            self.cross(layer, residual)?;
        }
        self.feed_forward(stack, layer, residual, from(1 + usize::from(decoder), ""), to)
    }

    fn cross(&mut self, layer: usize, residual: f64) -> Result<()> {
        let (d, inner) = (self.config.d_model, self.config.inner());
        let (from, to) = (format!("decoder.block.{layer}.layer.1"), format!("decoder.{layer}"));
        let attention = |part: &str| format!("{from}.EncDecAttention.{part}");
        let units = self.units("decoder", layer, ["cross_q", "cross_k", "cross_v"]);
        let q = self.folded(&attention("q"), &format!("{from}.layer_norm"))?;
        let mut kv = self.folded(&attention("k"), "encoder.final_layer_norm")?;
        kv.extend(self.folded(&attention("v"), "encoder.final_layer_norm")?);
        let out = self.weight(&attention("o"))?.to_vec();
        self.out.product(&format!("{to}.cross_q"), &q, d, NORMALISED, |_| units.query)?;
        let unit = |j: usize| if j < inner { units.key } else { units.value };
        self.out.product(&format!("{to}.cross_kv"), &kv, d, NORMALISED, unit)?;
        self.out.product(&format!("{to}.cross_out"), &out, inner, units.mixed(), |_| residual)?;
        self.out.shift(&format!("{to}.cross_score"), units.score);
        Ok(())
    }

    /// Adds a feed-forward layer; `from` is the name of the T5's sublayer, with a dot at its end.
    fn feed_forward(
        &mut self,
        stack: &str,
        layer: usize,
        residual: f64,
        from: String,
        to: impl Fn(&str) -> String,
    ) -> Result<()> {
        let (d, ff) = (self.config.d_model, self.config.d_ff);
        let part = |part: &str| format!("{from}DenseReluDense.{part}");
        let norm = format!("{from}layer_norm");
        let top = |part: &str| self.extent(&format!("{stack}.{layer}.{part}"));
        let up = hidden_unit(top("up"));
        let (weights, unit, gate) = match self.config.feed_forward_proj {
            FeedForward::Relu => (self.folded(&part("wi"), &norm)?, up, 1.0),
            FeedForward::GatedGelu => {
                let mut weights = self.folded(&part("wi_0"), &norm)?;
                weights.extend(self.folded(&part("wi_1"), &norm)?);
                let gate = hidden_unit(top("gate"));
                let shift = up.log2().floor().clamp(0.0, MAX_GELU.into());
                self.out.shift(&to("gelu"), shift as u8);
                (weights, shift.exp2(), gate)
            }
        };
        let down = self.weight(&part("wo"))?.to_vec();
        self.out.product(&to("up"), &weights, d, NORMALISED, |j| if j < ff { unit } else { gate })?;
        self.out.product(&to("down"), &down, ff, 1.0 / (127.0 * unit * gate), |_| residual)
    }

    /// The relative bias of a stack by distance: `[H][B]` backward for the decoder, `[H][2B+1]` for
    /// the encoder. The last column is that of all larger distances.
    fn bias(&self, stack: &str) -> Result<Vec<f32>> {
        let (decoder, heads) = (stack == "decoder", self.config.num_heads);
        let table = self.weight(&format!("{stack}.block.0.layer.0.SelfAttention.relative_attention_bias"))?;
        let bucket = |distance: isize| self.config.bucket(distance, !decoder);
        let differs = |n: &isize| bucket(-n) != bucket(1 - n) || bucket(*n) != bucket(n - 1);
        let side = (1..MAX_WINDOW as isize).rev().find(differs).unwrap_or(0);
        let distances: Vec<isize> =
            if decoder { (0..=side).map(|n| -n).collect() } else { (-side..=side).collect() };
        let value = |head: usize, distance: isize| table[bucket(distance) as usize * heads + head];
        Ok((0..heads).flat_map(|head| distances.iter().map(move |&n| value(head, n))).collect())
    }
}
