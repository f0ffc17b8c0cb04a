//! T5 (Raffel et al. 2020) as a network that can be trained: an encoder-decoder in candle's
//! differentiable operations, on any device.
//!
//! Parameters have the names of Hugging Face's T5, so that checkpoints can be exchanged. Where
//! candle's own T5 differs from the original (buckets of the decoder's relative bias, scale of tied
//! logits), this one follows the original. All sequences of a batch have the same length; there is
//! no padding.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, PoisonError};

use candle_core::{D, DType, Device, Result, Tensor, Var, bail};

pub use super::config::{FeedForward, T5Config};
use crate::train::random::Random;

/// Stands for minus infinity in a mask: far below any score, and harmless in differences.
const MASKED: f32 = -1e30;

/// The network.
pub struct T5 {
    /// Its sizes.
    pub config: T5Config,
    /// The device that its tensors are on.
    pub device: Device,
    names: Vec<(String, Var)>,
    shared: Var,
    encoder: Stack,
    decoder: Stack,
    /// The output head, unless it is tied to `shared`.
    head: Option<Var>,
    tables: Mutex<HashMap<(usize, usize, bool), Table>>,
}

/// One stack: its layers, the relative bias that they share, and the last norm.
struct Stack {
    layers: Vec<Layer>,
    bias: Option<Var>,
    norm: Var,
}

struct Layer {
    attention: Attention,
    cross: Option<Attention>,
    norm: Var,
    /// `wi`, or `wi_0` and `wi_1`.
    up: Var,
    gate: Option<Var>,
    down: Var,
}

struct Attention {
    norm: Var,
    q: Var,
    k: Var,
    v: Var,
    o: Var,
}

/// Is called with values as they are computed, under the names that `T5::extents` uses.
type Tap<'a> = &'a mut dyn FnMut(&str, &Tensor) -> Result<()>;

/// What the relative bias of given lengths needs: the bucket of every pair, and the causal mask.
#[derive(Clone)]
struct Table {
    buckets: Tensor,
    mask: Option<Tensor>,
}

/// Initial values of a parameter.
enum Init {
    Normal(f64),
    One,
}

/// Gives a parameter's first values from its name and shape.
type Find<'a> = &'a mut dyn FnMut(&str, &[usize], Init) -> Result<Tensor>;

/// Makes or finds parameters by name, and collects them in order.
struct Source<'a> {
    find: Find<'a>,
    names: Vec<(String, Var)>,
}

impl Source<'_> {
    fn var(&mut self, name: &str, shape: &[usize], init: Init) -> Result<Var> {
        let tensor = (self.find)(name, shape, init)?;
        let var = Var::from_tensor(&tensor)?;
        self.names.push((name.to_owned(), var.clone()));
        Ok(var)
    }

    fn norm(&mut self, prefix: &str, width: usize) -> Result<Var> {
        self.var(&format!("{prefix}.weight"), &[width], Init::One)
    }

    fn matrix(&mut self, prefix: &str, out: usize, input: usize, deviation: f64) -> Result<Var> {
        self.var(&format!("{prefix}.weight"), &[out, input], Init::Normal(deviation))
    }

    /// Attention under `prefix` with its norm, and with the relative bias if it has one.
    fn attention(
        &mut self,
        layer: &str,
        name: &str,
        c: &T5Config,
        bias: &mut Option<Var>,
        own: bool,
    ) -> Result<Attention> {
        let (d, inner) = (c.d_model, c.inner());
        let part = |part: &str| format!("{layer}.{name}.{part}");
        let fan = |n: usize| c.initializer_factor * (n as f64).powf(-0.5);
        let q = self.matrix(&part("q"), inner, d, fan(d * c.d_kv))?;
        let k = self.matrix(&part("k"), inner, d, fan(d))?;
        let v = self.matrix(&part("v"), inner, d, fan(d))?;
        let o = self.matrix(&part("o"), d, inner, fan(inner))?;
        if own {
            let (buckets, heads) = (c.relative_attention_num_buckets, c.num_heads);
            *bias = Some(self.matrix(&part("relative_attention_bias"), buckets, heads, fan(d))?);
        }
        let norm = self.norm(&format!("{layer}.layer_norm"), d)?;
        Ok(Attention { norm, q, k, v, o })
    }

    fn stack(&mut self, stack: &str, layers: usize, c: &T5Config) -> Result<Stack> {
        let (d, decoder) = (c.d_model, stack == "decoder");
        let mut bias = None;
        let fan = |n: usize| c.initializer_factor * (n as f64).powf(-0.5);
        let layers = (0..layers).map(|l| {
            let layer = |n: usize| format!("{stack}.block.{l}.layer.{n}");
            let attention = self.attention(&layer(0), "SelfAttention", c, &mut bias, l == 0)?;
            let cross = if decoder {
                Some(self.attention(&layer(1), "EncDecAttention", c, &mut bias, false)?)
            } else {
                None
            };
            let last = layer(1 + usize::from(decoder));
            let part = |part: &str| format!("{last}.DenseReluDense.{part}");
            let (up, gate) = match c.feed_forward_proj {
                FeedForward::Relu => (self.matrix(&part("wi"), c.d_ff, d, fan(d))?, None),
                FeedForward::GatedGelu => {
                    let up = self.matrix(&part("wi_0"), c.d_ff, d, fan(d))?;
                    (up, Some(self.matrix(&part("wi_1"), c.d_ff, d, fan(d))?))
                }
            };
            let down = self.matrix(&part("wo"), d, c.d_ff, fan(c.d_ff))?;
            let norm = self.norm(&format!("{last}.layer_norm"), d)?;
            Ok(Layer { attention, cross, norm, up, gate, down })
        });
        let layers = layers.collect::<Result<_>>()?;
        Ok(Stack { layers, bias, norm: self.norm(&format!("{stack}.final_layer_norm"), d)? })
    }
}

impl T5 {
    /// A network with T5's initial values, drawn from `seed`: the same on every machine.
    pub fn new(config: T5Config, seed: u64, device: &Device) -> Result<Self> {
        let mut random = Random::new(seed);
        Self::build(config, device, &mut |_, shape, init| {
            let count = shape.iter().product();
            let values: Vec<f32> = match init {
                Init::One => vec![1.0; count],
                Init::Normal(deviation) => (0..count).map(|_| random.normal() * deviation as f32).collect(),
            };
            Tensor::from_vec(values, shape, device)
        })
    }

    /// A network with the values of `tensors`, on their device. Tensors that it does not need are
    /// ignored.
    ///
    /// If there is a separate head it is used, whatever `tie_word_embeddings` says: newer programs
    /// always write that the head is tied.
    pub fn load(mut config: T5Config, tensors: &HashMap<String, Tensor>) -> Result<Self> {
        let Some(any) = tensors.values().next() else { bail!("there are no tensors") };
        let device = any.device().clone();
        config.scale_decoder_outputs = Some(config.scaled());
        config.tie_word_embeddings &= !tensors.contains_key("lm_head.weight");
        Self::build(config, &device, &mut |name, shape, _| {
            let found = tensors.get(name).or_else(|| {
                // Some programs store the tied embedding under the name of one of its users only.
                let users = ["encoder.embed_tokens.weight", "decoder.embed_tokens.weight"];
                users.iter().filter(|_| name == "shared.weight").find_map(|user| tensors.get(*user))
            });
            let Some(tensor) = found else { bail!("tensor {name} is missing") };
            if tensor.dims() != shape {
                bail!("tensor {name} has the shape {:?}, not {shape:?}", tensor.dims());
            }
            tensor.to_dtype(DType::F32)?.contiguous()
        })
    }

    fn build(config: T5Config, device: &Device, find: Find<'_>) -> Result<Self> {
        if let Err(rule) = config.check() {
            bail!("{rule}");
        }
        let (v, d) = (config.vocab_size, config.d_model);
        let mut source = Source { find, names: vec![] };
        let shared = source.matrix("shared", v, d, config.initializer_factor)?;
        let encoder = source.stack("encoder", config.num_layers, &config)?;
        let decoder = source.stack("decoder", config.decoder_layers(), &config)?;
        let head = if config.tie_word_embeddings {
            None
        } else {
            Some(source.matrix("lm_head", v, d, config.initializer_factor)?)
        };
        let (names, device) = (source.names, device.clone());
        let tables = Mutex::default();
        Ok(Self { config, device, names, shared, encoder, decoder, head, tables })
    }

    /// All parameters under Hugging Face's names, always in the same order.
    pub fn vars(&self) -> Vec<(String, Var)> {
        self.names.clone()
    }

    /// The encoder's output `[B, S, d]` for ids `[B, S]`.
    pub fn encode(&self, ids: &Tensor) -> Result<Tensor> {
        self.stack(&self.encoder, ids, None, &mut |_, _| Ok(()))
    }

    /// The decoder's hidden states `[B, T, d]` for input ids `[B, T]`, the start token first, given
    /// the encoder's output `[B, S, d]`. With `S = 0` there is no cross-attention.
    pub fn decode(&self, ids: &Tensor, memory: &Tensor) -> Result<Tensor> {
        self.stack(&self.decoder, ids, Some(memory), &mut |_, _| Ok(()))
    }

    /// Largest magnitudes while `target` is decoded over `source`: of the residual streams,
    /// `encoder.residual`, `encoder.0.residual` and so on; of `encoder.0.q`, `.k`, `.v`, `.up`
    /// (before the nonlinearity) and `.gate`; the same of the decoder; and of `decoder.0.cross_q`
    /// and so on.
    pub fn extents(&self, source: &Tensor, target: &Tensor) -> Result<BTreeMap<String, f64>> {
        let mut extents = BTreeMap::new();
        let mut tap = |name: &str, t: &Tensor| -> Result<()> {
            let top = f64::from(t.abs()?.flatten_all()?.max(0)?.to_scalar::<f32>()?);
            let known = extents.entry(name.to_owned()).or_insert(top);
            *known = known.max(top);
            Ok(())
        };
        let prefixed = |stack: &'static str| move |name: &str| format!("{stack}.{name}");
        let (encoder, decoder) = (prefixed("encoder"), prefixed("decoder"));
        let memory = self.stack(&self.encoder, source, None, &mut |name, t| tap(&encoder(name), t))?;
        self.stack(&self.decoder, target, Some(&memory), &mut |name, t| tap(&decoder(name), t))?;
        Ok(extents)
    }

    /// Logits `[B, T, V]` of hidden states `[B, T, d]`.
    pub fn logits(&self, hidden: &Tensor) -> Result<Tensor> {
        let head = self.head.as_ref().unwrap_or(&self.shared);
        if self.config.scaled() {
            linear(&(hidden * (self.config.d_model as f64).powf(-0.5))?, head)
        } else {
            linear(hidden, head)
        }
    }

    fn stack(&self, stack: &Stack, ids: &Tensor, memory: Option<&Tensor>, tap: Tap<'_>) -> Result<Tensor> {
        let (batch, len) = ids.dims2()?;
        let d = self.config.d_model;
        if batch == 0 || len == 0 {
            return Tensor::zeros((batch, len, d), DType::F32, &self.device);
        }
        let mut x = self.shared.index_select(&ids.flatten_all()?, 0)?.reshape((batch, len, d))?;
        let bias = match &stack.bias {
            Some(bias) => Some(self.relative_bias(bias, len, memory.is_none())?),
            None => None,
        };
        let memory = memory.filter(|memory| memory.elem_count() > 0);
        tap("residual", &x)?;
        for (l, layer) in stack.layers.iter().enumerate() {
            let mut tap = |part: &str, t: &Tensor| tap(&format!("{l}.{part}"), t);
            let normed = self.norm(&x, &layer.attention.norm)?;
            x = (x + self.attend(&layer.attention, &normed, &normed, bias.as_ref(), &mut tap)?)?;
            tap("residual", &x)?;
            if let (Some(cross), Some(memory)) = (&layer.cross, memory) {
                let normed = self.norm(&x, &cross.norm)?;
                let mut tap = |part: &str, t: &Tensor| tap(&format!("cross_{part}"), t);
                x = (x + self.attend(cross, &normed, memory, None, &mut tap)?)?;
            }
            let normed = self.norm(&x, &layer.norm)?;
            x = (x + self.feed_forward(layer, &normed, &mut tap)?)?;
            tap("residual", &x)?;
        }
        self.norm(&x, &stack.norm)
    }

    fn feed_forward(&self, layer: &Layer, x: &Tensor, tap: Tap<'_>) -> Result<Tensor> {
        let up = linear(x, &layer.up)?;
        tap("up", &up)?;
        let hidden = match &layer.gate {
            Some(gate) => {
                let gate = linear(x, gate)?;
                tap("gate", &gate)?;
                (up.gelu()? * gate)?
            }
            None => up.relu()?,
        };
        linear(&hidden, &layer.down)
    }

    /// Root-mean-square normalization with a gain.
    fn norm(&self, x: &Tensor, gain: &Tensor) -> Result<Tensor> {
        let mean = (x.sqr()?.mean_keepdim(D::Minus1)? + self.config.layer_norm_epsilon)?;
        x.broadcast_mul(&mean.sqrt()?.recip()?)?.broadcast_mul(gain)
    }

    /// Attention of `x` to `over`; T5 does not scale scores.
    fn attend(
        &self,
        a: &Attention,
        x: &Tensor,
        over: &Tensor,
        bias: Option<&Tensor>,
        tap: Tap<'_>,
    ) -> Result<Tensor> {
        let (batch, len, _) = x.dims3()?;
        let mut heads = |part: &str, t: &Tensor, w: &Tensor| -> Result<Tensor> {
            let t = linear(t, w)?;
            tap(part, &t)?;
            let len = t.dim(1)?;
            t.reshape((batch, len, self.config.num_heads, self.config.d_kv))?.transpose(1, 2)?.contiguous()
        };
        let scores = heads("q", x, &a.q)?.matmul(&heads("k", over, &a.k)?.t()?)?;
        let scores = match bias {
            Some(bias) => scores.broadcast_add(bias)?,
            None => scores,
        };
        let mixed = softmax(&scores)?.matmul(&heads("v", over, &a.v)?)?;
        let mixed = mixed.transpose(1, 2)?.reshape((batch, len, self.config.inner()))?;
        linear(&mixed, &a.o)
    }

    /// The relative bias `[1, H, T, T]`, with the causal mask for the decoder.
    fn relative_bias(&self, bias: &Tensor, len: usize, bidirectional: bool) -> Result<Tensor> {
        let table = self.table(len, bidirectional)?;
        let shape = (1, len, len, self.config.num_heads);
        let bias = bias.index_select(&table.buckets, 0)?.reshape(shape)?.permute((0, 3, 1, 2))?;
        match &table.mask {
            Some(mask) => bias.broadcast_add(mask),
            None => bias.contiguous(),
        }
    }

    fn table(&self, len: usize, bidirectional: bool) -> Result<Table> {
        let key = (len, len, bidirectional);
        let mut tables = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(table) = tables.get(&key) {
            return Ok(table.clone());
        }
        let side = len as isize;
        let by_distance: Vec<u32> =
            (1 - side..side).map(|distance| self.config.bucket(distance, bidirectional)).collect();
        let rows = (0..len).flat_map(|t| &by_distance[len - 1 - t..2 * len - 1 - t]);
        let buckets = Tensor::from_vec(rows.copied().collect::<Vec<_>>(), len * len, &self.device)?;
        let mask = if bidirectional {
            None
        } else {
            let mask = (0..len * len).map(|at| if at % len > at / len { MASKED } else { 0.0 });
            Some(Tensor::from_vec(mask.collect::<Vec<_>>(), (1, 1, len, len), &self.device)?)
        };
        let table = Table { buckets, mask };
        // Training uses few lengths, and sampling many.
        if tables.len() >= 16 {
            tables.clear();
        }
        tables.insert(key, table.clone());
        Ok(table)
    }
}

/// `x` times the transpose of `w`.
fn linear(x: &Tensor, w: &Tensor) -> Result<Tensor> {
    let (batch, len, width) = x.dims3()?;
    x.reshape((batch * len, width))?.matmul(&w.t()?)?.reshape((batch, len, w.dim(0)?))
}

/// Softmax over the last dimension, composed of operations with a derivative. The maximum is
/// treated as a constant, because it cancels.
fn softmax(x: &Tensor) -> Result<Tensor> {
    let e = x.broadcast_sub(&x.detach().max_keepdim(D::Minus1)?)?.exp()?;
    e.broadcast_mul(&e.sum_keepdim(D::Minus1)?.recip()?)
}
