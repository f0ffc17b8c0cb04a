//! The sublayers composed of candle's differentiable operations, for devices without fused ones.
//!
//! They are slower on a CPU; the fused operations are tested against them.

use candle_core::{D, DType, Result, Tensor};

use super::attention::Dims;
use super::embed::NONE;
use super::loss::{CLASSES, Targets};

/// Root-mean-square normalization of rows, without a gain.
pub fn normalize(x: &Tensor) -> Result<Tensor> {
    x.broadcast_div(&(x.sqr()?.mean_keepdim(D::Minus1)? + 1e-6)?.sqrt()?)
}

/// A matrix within a packed parameter tensor.
pub fn part(packed: &Tensor, offset: usize, rows: usize, cols: usize) -> Result<Tensor> {
    packed.narrow(0, offset, rows * cols)?.reshape((rows, cols))
}

/// Sums of rows of `table` (see `embed::EmbedSum`).
pub fn embed(table: &Tensor, rows: &[u32], per: usize) -> Result<Tensor> {
    let n = rows.len() / per;
    let index: Vec<u32> = rows.iter().map(|&r| if r == NONE { 0 } else { r }).collect();
    let used: Vec<f32> = rows.iter().map(|&r| f32::from(u8::from(r != NONE))).collect();
    let device = table.device();
    let picked = table.index_select(&Tensor::from_vec(index, n * per, device)?, 0)?;
    let picked = picked.broadcast_mul(&Tensor::from_vec(used, (n * per, 1), device)?)?;
    picked.reshape((n, per, table.dim(1)?))?.sum(1)
}

/// `x + out(attention(norm(x)))` (see `attention::SelfAttention`).
pub fn attention(x: &Tensor, packed: &Tensor, dims: Dims) -> Result<Tensor> {
    let Dims { len, d, heads, kv_heads, head_size, window } = dims;
    let sequences = x.dim(0)? / len;
    let (q_rows, kv_rows) = (heads * head_size, kv_heads * head_size);
    let w_qkv = part(packed, 0, q_rows + 2 * kv_rows, d)?;
    let w_out = part(packed, (q_rows + 2 * kv_rows) * d, d, q_rows)?;
    let bias = part(packed, (q_rows + 2 * kv_rows + q_rows) * d, heads, window)?;
    let qkv = normalize(x)?.matmul(&w_qkv.t()?)?;
    let split = |at: usize, n: usize| -> Result<Tensor> {
        qkv.narrow(1, at, n * head_size)?
            .reshape((sequences, len, n, head_size))?
            .transpose(1, 2)?
            .contiguous()
    };
    let repeat = |t: Tensor| -> Result<Tensor> {
        let groups = heads / kv_heads;
        t.unsqueeze(2)?
            .expand((sequences, kv_heads, groups, len, head_size))?
            .reshape((sequences, heads, len, head_size))
    };
    let q = split(0, heads)?;
    let k = repeat(split(q_rows, kv_heads)?)?;
    let v = repeat(split(q_rows + kv_rows, kv_heads)?)?;
    let scores = (q.matmul(&k.t()?.contiguous()?)? / (head_size as f64).sqrt())?;
    let mut distance = Vec::with_capacity(len * len);
    let mut mask = Vec::with_capacity(len * len);
    for t in 0..len {
        for s in 0..len {
            let seen = s <= t && t - s < window;
            distance.push(if seen { (t - s) as u32 } else { 0 });
            mask.push(if seen { 0.0f32 } else { -1e9 });
        }
    }
    let device = x.device();
    let bias = bias
        .index_select(&Tensor::from_vec(distance, len * len, device)?, 1)?
        .reshape((1, heads, len, len))?;
    let mask = Tensor::from_vec(mask, (1, 1, len, len), device)?;
    let scores = scores.broadcast_add(&bias)?.broadcast_add(&mask)?;
    let max = scores.max_keepdim(D::Minus1)?.detach();
    let weights = scores.broadcast_sub(&max)?.exp()?;
    let weights = weights.broadcast_div(&weights.sum_keepdim(D::Minus1)?)?;
    let mixed = weights.matmul(&v)?.transpose(1, 2)?.reshape((sequences * len, q_rows))?;
    x + mixed.matmul(&w_out.t()?)?
}

/// The value of each sequence `[s][w]` at each of its positions, `[n][w]`.
pub fn spread(of_sequence: &Tensor, n: usize) -> Result<Tensor> {
    let (sequences, width) = of_sequence.dims2()?;
    of_sequence.unsqueeze(1)?.expand((sequences, n / sequences.max(1), width))?.reshape((n, width))
}

/// `x + down((gain * relu(up(norm(x))))^2)` (see `feed_forward::FeedForward`).
pub fn feed_forward(
    x: &Tensor,
    packed: &Tensor,
    d: usize,
    ff: usize,
    gains: Option<&Tensor>,
) -> Result<Tensor> {
    let up = part(packed, 0, ff, d)?;
    let down = part(packed, ff * d, d, ff)?;
    let mut hidden = normalize(x)?.matmul(&up.t()?)?.relu()?;
    if let Some(gains) = gains {
        hidden = (hidden * spread(gains, x.dim(0)?)?)?;
    }
    x + hidden.sqr()?.matmul(&down.t()?)?
}

/// Logits of each position with the copy gates added, `[n][V]`, in nats. `steering` holds the
/// biases of each sequence.
pub fn logits(
    x: &Tensor,
    packed: &Tensor,
    vocab: usize,
    slots: usize,
    targets: &Targets,
    steering: Option<&Tensor>,
) -> Result<Tensor> {
    let (n, d) = x.dims2()?;
    let device = x.device();
    let z = normalize(x)?.matmul(&part(packed, 0, vocab + slots, d)?.t()?)?;
    let mut logits = z.narrow(1, 0, vocab)?.contiguous()?;
    if let Some(steering) = steering {
        logits = (logits + spread(&steering.narrow(1, 0, vocab)?.contiguous()?, n)?)?;
    }
    if slots == 0 {
        return Ok(logits);
    }
    let bias = packed.narrow(0, (vocab + slots) * d, slots * CLASSES)?;
    let class_rows: Vec<u32> = targets
        .classes
        .iter()
        .enumerate()
        .map(|(i, &c)| (i % slots * CLASSES) as u32 + u32::from(c))
        .collect();
    let mut bias = bias
        .index_select(&Tensor::from_vec(class_rows.clone(), n * slots, device)?, 0)?
        .reshape((n, slots))?;
    if let Some(steering) = steering {
        let own = spread(&steering.narrow(1, vocab, slots * CLASSES)?.contiguous()?, n)?;
        bias = (bias + own.gather(&Tensor::from_vec(class_rows, (n, slots), device)?, 1)?)?;
    }
    let used: Vec<f32> = targets.candidates.iter().map(|&c| f32::from(u8::from(c != NONE))).collect();
    let index: Vec<u32> = targets.candidates.iter().map(|&c| if c == NONE { 0 } else { c }).collect();
    let index = Tensor::from_vec(index, (n, slots), device)?;
    let used = Tensor::from_vec(used, (n, slots), device)?;
    let bonus = (z.narrow(1, vocab, slots)? + bias)?;
    // One slot at a time, since candidates may coincide.
    (0..slots).try_fold(logits, |logits, slot| {
        let place = Tensor::zeros((n, vocab), DType::F32, device)?.scatter_add(
            &index.narrow(1, slot, 1)?.contiguous()?,
            &used.narrow(1, slot, 1)?.contiguous()?,
            1,
        )?;
        logits + place.broadcast_mul(&bonus.narrow(1, slot, 1)?)?
    })
}

/// Cross-entropy of each position in nats, `[n][1]` (see `loss::HeadLoss`).
pub fn nats(
    x: &Tensor,
    packed: &Tensor,
    vocab: usize,
    slots: usize,
    targets: &Targets,
    steering: Option<&Tensor>,
) -> Result<Tensor> {
    let z = logits(x, packed, vocab, slots, targets, steering)?;
    let n = z.dim(0)?;
    let max = z.max_keepdim(1)?.detach();
    let z = z.broadcast_sub(&max)?;
    let index = Tensor::from_vec(targets.tokens.clone(), (n, 1), x.device())?;
    let picked = z.gather(&index, 1)?;
    z.exp()?.sum_keepdim(1)?.log()? - picked
}
