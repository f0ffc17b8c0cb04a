//! The encoder of c and the decoder's cross-attention to it, composed of candle's operations.
//!
//! c is a few symbols long, so the cost is that of two products per token and layer: the product of
//! queries and the one of the mixed values. An empty c adds nothing to what attends to it
//! (spec/numerics.md, sections 6 and 8.1).

use std::collections::BTreeMap;

use candle_core::{D, Device, Result, Tensor};

use super::ops::compose::{normalize, part};
use super::params::{Init, Packer, Param, Role, Segment};
use super::sizes::{NetConfig, Steering};

/// The score of a position that may not be attended to.
const NEVER: f32 = -1e9;

/// The encoder's output for the c of each sequence.
pub struct Memory {
    /// Normalized outputs, `[sequences * longest][width]`.
    pub states: Tensor,
    /// Symbols of the longest c.
    longest: usize,
    /// What is added to the scores of each symbol's position, `[sequences][1][1][longest]`.
    mask: Tensor,
    /// 1 for a sequence that has a c, 0 for the others, `[sequences][1]`.
    used: Tensor,
}

/// Largest magnitudes by name, for those that were asked for.
pub type Extents = BTreeMap<String, f64>;

/// Notes the largest magnitude of a tensor.
pub fn note(extents: &mut Option<&mut Extents>, name: &str, t: &Tensor) -> Result<()> {
    if let Some(extents) = extents {
        let top = f64::from(t.abs()?.flatten_all()?.max(0)?.to_scalar::<f32>()?);
        let known = extents.entry(name.to_owned()).or_insert(0.0);
        *known = known.max(top);
    }
    Ok(())
}

/// Columns of the bias of an encoder layer: one for each distance between two symbols.
pub fn bias_columns(max: usize) -> usize {
    2 * max - 1
}

/// Names, shapes and segments of the encoder's tensors and of the cross-attention of every set.
pub(crate) fn layout(c: &NetConfig, s: &Steering, out: &mut Vec<(String, Vec<usize>, Vec<Segment>)>) {
    let (d, inner) = (c.width, c.heads * c.head_size);
    let fan = |n: usize| Init::Normal(1.0 / (n as f32).sqrt());
    let zero = Init::Constant(0.0);
    let mut embed = Packer::default();
    embed.add("latent.embed", s.symbols, d, Role::Steer, Init::Normal(0.5));
    out.push(("latent.embed".to_owned(), vec![s.symbols, d], embed.segments));
    for l in 0..s.layers {
        let mut a = Packer::default();
        a.add(&format!("latent.{l}.qkv"), 3 * inner, d, Role::Matrix, fan(d));
        a.add(&format!("latent.{l}.out"), d, inner, Role::Matrix, zero);
        a.add(&format!("latent.{l}.bias"), c.heads, bias_columns(s.max), Role::Bias, zero);
        out.push((format!("latent.{l}.attention"), vec![a.len], a.segments));
        let mut f = Packer::default();
        f.add(&format!("latent.{l}.up"), s.ff, d, Role::Matrix, fan(d));
        f.add(&format!("latent.{l}.down"), d, s.ff, Role::Matrix, zero);
        out.push((format!("latent.{l}.feed_forward"), vec![f.len], f.segments));
    }
    for set in c.sets() {
        for l in 0..c.layers {
            let mut a = Packer::default();
            a.add(&format!("{set}decoder.{l}.cross_q"), inner, d, Role::Matrix, fan(d));
            a.add(&format!("{set}decoder.{l}.cross_kv"), 2 * inner, d, Role::Matrix, fan(d));
            a.add(&format!("{set}decoder.{l}.cross_out"), d, inner, Role::Matrix, zero);
            out.push((format!("{set}decoder.{l}.cross"), vec![a.len], a.segments));
        }
    }
}

/// Reads heads from rows `[sequences * len][heads * size]`, from column `at` on, as
/// `[sequences][heads][len][size]`.
fn heads(t: &Tensor, at: usize, c: &NetConfig, sequences: usize) -> Result<Tensor> {
    let len = t.dim(0)? / sequences.max(1);
    t.narrow(1, at, c.heads * c.head_size)?
        .reshape((sequences, len, c.heads, c.head_size))?
        .transpose(1, 2)?
        .contiguous()
}

/// Softmax of the scores times the values, as rows.
fn mix(scores: &Tensor, values: &Tensor) -> Result<Tensor> {
    let max = scores.max_keepdim(D::Minus1)?.detach();
    let weights = scores.broadcast_sub(&max)?.exp()?;
    let weights = weights.broadcast_div(&weights.sum_keepdim(D::Minus1)?)?;
    let (sequences, heads, len, size) = {
        let (s, h, len, _) = weights.dims4()?;
        (s, h, len, values.dim(3)?)
    };
    weights.matmul(values)?.transpose(1, 2)?.reshape((sequences * len, heads * size))
}

/// Runs the encoder over the c of each sequence; `None` if all are empty. `params` are those of
/// `layout`.
pub fn encode(
    c: &NetConfig,
    s: &Steering,
    params: &[Param],
    cs: &[Vec<u16>],
    device: &Device,
    mut extents: Option<&mut Extents>,
) -> Result<Option<Memory>> {
    let longest = cs.iter().map(Vec::len).max().unwrap_or(0);
    if s.layers == 0 || longest == 0 {
        return Ok(None);
    }
    let (mut ids, mut mask, mut used) = (Vec::new(), Vec::new(), Vec::new());
    for symbols in cs {
        ids.extend(symbols.iter().map(|&symbol| u32::from(symbol)));
        ids.resize(ids.len() + longest - symbols.len(), 0);
        // A sequence without c attends to positions that have no effect, because attending to
        // nothing is not defined.
        let there = if symbols.is_empty() { longest } else { symbols.len() };
        mask.extend((0..longest).map(|t| if t < there { 0.0 } else { NEVER }));
        used.push(if symbols.is_empty() { 0.0f32 } else { 1.0 });
    }
    let n = cs.len();
    let mask = Tensor::from_vec(mask, (n, 1, 1, longest), device)?;
    let distances = (0..longest).flat_map(|t| (0..longest).map(move |other| (other + s.max - 1 - t) as u32));
    let distances = Tensor::from_vec(distances.collect::<Vec<_>>(), longest * longest, device)?;
    let (d, inner) = (c.width, c.heads * c.head_size);
    let ids = Tensor::from_vec(ids, n * longest, device)?;
    let mut x = params[0].var.as_tensor().index_select(&ids, 0)?;
    note(&mut extents, "latent.residual", &x)?;
    for l in 0..s.layers {
        let (attention, feed_forward) =
            (params[1 + 2 * l].var.as_tensor(), params[2 + 2 * l].var.as_tensor());
        let qkv = normalize(&x)?.matmul(&part(attention, 0, 3 * inner, d)?.t()?)?;
        let [q, k, v] = [0, inner, 2 * inner].map(|at| heads(&qkv, at, c, n));
        let (q, k, v) = (q?, k?, v?);
        for (name, t) in [("q", &q), ("k", &k), ("v", &v)] {
            note(&mut extents, &format!("latent.{l}.{name}"), t)?;
        }
        let scores = (q.matmul(&k.t()?.contiguous()?)? / (c.head_size as f64).sqrt())?;
        let bias = part(attention, 4 * inner * d, c.heads, bias_columns(s.max))?
            .index_select(&distances, 1)?
            .reshape((1, c.heads, longest, longest))?;
        let mixed = mix(&scores.broadcast_add(&bias)?.broadcast_add(&mask)?, &v)?;
        x = (x + mixed.matmul(&part(attention, 3 * inner * d, d, inner)?.t()?)?)?;
        let hidden = normalize(&x)?.matmul(&part(feed_forward, 0, s.ff, d)?.t()?)?.relu()?;
        note(&mut extents, &format!("latent.{l}.up"), &hidden)?;
        x = (x + hidden.sqr()?.matmul(&part(feed_forward, s.ff * d, d, s.ff)?.t()?)?)?;
        note(&mut extents, "latent.residual", &x)?;
    }
    let states = normalize(&x)?;
    Ok(Some(Memory { states, longest, mask, used: Tensor::from_vec(used, (n, 1), device)? }))
}

/// `x + out(attention(norm(x), memory))` for the sequences that have a c. `packed` is the layer's
/// tensor `cross`, `name` the layer's name.
pub fn attend(
    x: &Tensor,
    memory: &Memory,
    packed: &Tensor,
    c: &NetConfig,
    name: &str,
    mut extents: Option<&mut Extents>,
) -> Result<Tensor> {
    let (d, inner) = (c.width, c.heads * c.head_size);
    let n = memory.states.dim(0)? / memory.longest;
    let q = normalize(x)?.matmul(&part(packed, 0, inner, d)?.t()?)?;
    let q = heads(&q, 0, c, n)?;
    let kv = memory.states.matmul(&part(packed, inner * d, 2 * inner, d)?.t()?)?;
    let (k, v) = (heads(&kv, 0, c, n)?, heads(&kv, inner, c, n)?);
    for (part, t) in [("q", &q), ("k", &k), ("v", &v)] {
        note(&mut extents, &format!("{name}.cross_{part}"), t)?;
    }
    let scores = (q.matmul(&k.t()?.contiguous()?)? / (c.head_size as f64).sqrt())?;
    let mixed = mix(&scores.broadcast_add(&memory.mask)?, &v)?;
    let added = mixed.matmul(&part(packed, 3 * inner * d, d, inner)?.t()?)?;
    let used = super::ops::compose::spread(&memory.used, x.dim(0)?)?;
    x + added.broadcast_mul(&used)?
}
