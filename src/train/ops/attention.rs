//! `x + out(attention(norm(x)))`: causal self-attention with a sliding window, relative biases and
//! grouped keys and values, as one operation.
//!
//! Packed parameters: `qkv [(H + 2G) D][d]`, `out [d][H D]`, `bias [H][W]` (by distance, in nats).
//! Scores are computed for blocks of queries against the keys in their window; no array has the
//! size of the sequence squared. The backward pass computes the scores again, from the saved
//! normalizer.

use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor};
use pulp::Arch;
use rayon::prelude::*;

use super::{GROUPS, Kept, floats, keep, take, values, vector};
use crate::kernels::sgemm::mat::Mat;
use crate::kernels::sgemm::matmul;

/// Queries per block.
const BLOCK: usize = 64;

/// Sizes of the sublayer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dims {
    /// Positions of a sequence; the input is whole sequences, one after the other.
    pub len: usize,
    /// Width of the residual stream.
    pub d: usize,
    /// Heads with queries of their own (`H`).
    pub heads: usize,
    /// Heads with keys and values of their own (`G`).
    pub kv_heads: usize,
    /// Elements of a head (`D`).
    pub head_size: usize,
    /// Positions that a query attends to, its own included (`W`).
    pub window: usize,
}

impl Dims {
    fn qkv(&self) -> usize {
        (self.heads + 2 * self.kv_heads) * self.head_size
    }

    fn inner(&self) -> usize {
        self.heads * self.head_size
    }

    /// Elements of the packed parameters.
    pub fn packed(&self) -> usize {
        self.qkv() * self.d + self.d * self.inner() + self.heads * self.window
    }

    fn split<'a>(&self, packed: &'a [f32]) -> (&'a [f32], &'a [f32], &'a [f32]) {
        let (qkv, rest) = packed.split_at(self.qkv() * self.d);
        let (out, bias) = rest.split_at(self.d * self.inner());
        (qkv, out, bias)
    }

    fn split_mut<'a>(&self, packed: &'a mut [f32]) -> (&'a mut [f32], &'a mut [f32], &'a mut [f32]) {
        let (qkv, rest) = packed.split_at_mut(self.qkv() * self.d);
        let (out, bias) = rest.split_at_mut(self.d * self.inner());
        (qkv, out, bias)
    }

    fn scale(&self) -> f32 {
        1.0 / (self.head_size as f32).sqrt()
    }

    /// First columns of the query head, key head and value head of head `h` in a row of qkv.
    fn columns(&self, h: usize) -> (usize, usize, usize) {
        let g = h * self.kv_heads / self.heads;
        let (d, k0) = (self.head_size, self.inner());
        (h * d, k0 + g * d, k0 + (self.kv_heads + g) * d)
    }
}

struct Saved {
    qkv: Vec<f32>,
    /// Attention output before the projection, `[n][H D]`.
    mixed: Vec<f32>,
    /// Logarithm of the softmax normalizer, `[n][H]`.
    log_sum: Vec<f32>,
}

/// The operation; `x` is `[n][d]` with `n` a multiple of `dims.len`.
pub struct SelfAttention {
    /// The sizes.
    pub dims: Dims,
    /// Whether the parameters do not learn, so that no gradients of them are computed.
    frozen: bool,
    kept: Kept<Saved>,
}

impl SelfAttention {
    /// The operation with these sizes.
    pub fn new(dims: Dims) -> Self {
        Self { dims, frozen: false, kept: Kept::default() }
    }

    /// The operation with parameters that do not learn.
    pub fn frozen(self) -> Self {
        Self { frozen: true, ..self }
    }
}

/// For each block of queries its first query, the end, and the first key that it attends to.
fn blocks(dims: Dims) -> impl Iterator<Item = (usize, usize, usize)> {
    (0..dims.len)
        .step_by(BLOCK)
        .map(move |start| (start, (start + BLOCK).min(dims.len), start.saturating_sub(dims.window - 1)))
}

/// Scores of one head for a block of queries: masked, with biases. Rows are `keys` apart.
fn scores(dims: Dims, qkv: &[f32], h: usize, block: (usize, usize, usize), bias: &[f32], s: &mut [f32]) {
    let (start, end, first) = block;
    let (q, k, _) = dims.columns(h);
    let (stride, size, keys) = (dims.qkv(), dims.head_size, end - first);
    let queries = Mat::new(&qkv[start * stride + q..], end - start, size, stride);
    let keys_mat = Mat::new(&qkv[first * stride + k..], keys, size, stride);
    matmul(s, keys, 0.0, queries, keys_mat.t(), dims.scale());
    let bias = &bias[h * dims.window..][..dims.window];
    for t in start..end {
        let row = &mut s[(t - start) * keys..][..keys];
        let low = (t + 1).saturating_sub(dims.window).max(first) - first;
        let high = t - first;
        row[..low].fill(f32::NEG_INFINITY);
        row[high + 1..].fill(f32::NEG_INFINITY);
        let distance = high - low;
        for (v, b) in row[low..=high].iter_mut().zip(bias[..=distance].iter().rev()) {
            *v += b;
        }
    }
}

fn forward(
    dims: Dims,
    x: &[f32],
    packed: &[f32],
    y: &mut [f32],
    qkv: &mut [f32],
    mixed: &mut [f32],
    log_sum: &mut [f32],
) {
    let (d, n) = (dims.d, dims.len);
    let (w_qkv, w_out, bias) = dims.split(packed);
    let mut normed = vec![0.0; n * d];
    vector::normalize(x, d, &mut normed, &mut vec![0.0; n]);
    let stride = dims.qkv();
    matmul(qkv, stride, 0.0, Mat::new(&normed, n, d, d), Mat::new(w_qkv, stride, d, d).t(), 1.0);
    let mut s = vec![0.0; BLOCK * (BLOCK + dims.window)];
    for block in blocks(dims) {
        let (start, end, first) = block;
        let keys = end - first;
        for h in 0..dims.heads {
            scores(dims, qkv, h, block, bias, &mut s);
            vector::dispatch(
                Arch::new(),
                #[inline(always)]
                || {
                    for t in start..end {
                        let row = &mut s[(t - start) * keys..][..keys];
                        let max = vector::max(row);
                        let sum = vector::exp_sum(row, max);
                        log_sum[t * dims.heads + h] = max + sum.ln();
                        let inverse = 1.0 / sum;
                        row.iter_mut().for_each(|v| *v *= inverse);
                    }
                },
            );
            let (_, _, v) = dims.columns(h);
            let inner = dims.inner();
            let to = &mut mixed[start * inner + h * dims.head_size..];
            let values = Mat::new(&qkv[first * stride + v..], keys, dims.head_size, stride);
            matmul(to, inner, 0.0, Mat::new(&s, end - start, keys, keys), values, 1.0);
        }
    }
    let inner = dims.inner();
    matmul(y, d, 1.0, Mat::new(mixed, n, inner, inner), Mat::new(w_out, d, inner, inner).t(), 1.0);
}

/// What the backward pass of one sequence reads.
struct Sequence<'a> {
    x: &'a [f32],
    dy: &'a [f32],
    qkv: &'a [f32],
    mixed: &'a [f32],
    log_sum: &'a [f32],
}

/// Adds the gradient of `x` to `dx`, and those of the parameters to `sums` if that is given.
fn backward(dims: Dims, packed: &[f32], seq: &Sequence<'_>, dx: &mut [f32], sums: Option<&mut [f32]>) {
    let (d, n, inner, stride, size) = (dims.d, dims.len, dims.inner(), dims.qkv(), dims.head_size);
    let (w_qkv, w_out, bias) = dims.split(packed);
    let mut sums = sums.map(|sums| dims.split_mut(sums));
    let dy = Mat::new(seq.dy, n, d, d);
    let mut d_mixed = vec![0.0; n * inner];
    matmul(&mut d_mixed, inner, 0.0, dy, Mat::new(w_out, d, inner, inner), 1.0);
    if let Some((_, d_w_out, _)) = &mut sums {
        matmul(d_w_out, inner, 1.0, dy.t(), Mat::new(seq.mixed, n, inner, inner), 1.0);
    }

    let mut d_qkv = vec![0.0; n * stride];
    let mut p = vec![0.0; BLOCK * (BLOCK + dims.window)];
    let mut dp = p.clone();
    for block in blocks(dims) {
        let (start, end, first) = block;
        let (rows, keys) = (end - start, end - first);
        for h in 0..dims.heads {
            let (q, k, v) = dims.columns(h);
            scores(dims, seq.qkv, h, block, bias, &mut p);
            let d_out = Mat::new(&d_mixed[start * inner + h * size..], rows, size, inner);
            let values = Mat::new(&seq.qkv[first * stride + v..], keys, size, stride);
            matmul(&mut dp, keys, 0.0, d_out, values.t(), 1.0);
            vector::dispatch(
                Arch::new(),
                #[inline(always)]
                || {
                    for t in start..end {
                        let at = (t - start) * keys;
                        let (p, dp) = (&mut p[at..at + keys], &mut dp[at..at + keys]);
                        let log_sum = seq.log_sum[t * dims.heads + h];
                        let here = t * inner + h * size..t * inner + (h + 1) * size;
                        let delta = vector::dot(&d_mixed[here.clone()], &seq.mixed[here]);
                        for (p, dp) in p.iter_mut().zip(dp.iter_mut()) {
                            *p = vector::exp(*p - log_sum);
                            *dp = *p * (*dp - delta);
                        }
                        let low = (t + 1).saturating_sub(dims.window).max(first) - first;
                        let high = t - first;
                        p[..low].fill(0.0);
                        p[high + 1..].fill(0.0);
                        dp[..low].fill(0.0);
                        dp[high + 1..].fill(0.0);
                        if let Some((_, _, d_bias)) = &mut sums {
                            let d_bias = &mut d_bias[h * dims.window..][..=high - low];
                            for (b, g) in d_bias.iter_mut().rev().zip(&dp[low..=high]) {
                                *b += g;
                            }
                        }
                    }
                },
            );
            let ds = Mat::new(&dp, rows, keys, keys);
            let queries = Mat::new(&seq.qkv[start * stride + q..], rows, size, stride);
            let keys_mat = Mat::new(&seq.qkv[first * stride + k..], keys, size, stride);
            matmul(&mut d_qkv[start * stride + q..], stride, 0.0, ds, keys_mat, dims.scale());
            matmul(&mut d_qkv[first * stride + k..], stride, 1.0, ds.t(), queries, dims.scale());
            matmul(
                &mut d_qkv[first * stride + v..],
                stride,
                1.0,
                Mat::new(&p, rows, keys, keys).t(),
                d_out,
                1.0,
            );
        }
    }
    let mut normed = vec![0.0; n * d];
    let mut inverse = vec![0.0; n];
    vector::normalize(seq.x, d, &mut normed, &mut inverse);
    let d_qkv = Mat::new(&d_qkv, n, stride, stride);
    if let Some((d_w_qkv, ..)) = &mut sums {
        matmul(d_w_qkv, d, 1.0, d_qkv.t(), Mat::new(&normed, n, d, d), 1.0);
    }
    let mut d_normed = vec![0.0; n * d];
    matmul(&mut d_normed, d, 0.0, d_qkv, Mat::new(w_qkv, stride, d, d), 1.0);
    vector::normalize_backward(&d_normed, &normed, &inverse, d, dx);
}

impl CustomOp2 for SelfAttention {
    fn name(&self) -> &'static str {
        "self-attention"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (x, packed) = (floats(s1, l1)?, floats(s2, l2)?);
        let dims = self.dims;
        let (len, d, inner, stride) = (dims.len, dims.d, dims.inner(), dims.qkv());
        let n = x.len() / d;
        let mut y = x.to_vec();
        let mut saved = Saved {
            qkv: vec![0.0; n * stride],
            mixed: vec![0.0; n * inner],
            log_sum: vec![0.0; n * dims.heads],
        };
        y.par_chunks_mut(len * d)
            .zip(x.par_chunks(len * d))
            .zip(saved.qkv.par_chunks_mut(len * stride))
            .zip(saved.mixed.par_chunks_mut(len * inner))
            .zip(saved.log_sum.par_chunks_mut(len * dims.heads))
            .for_each(|((((y, x), qkv), mixed), log_sum)| forward(dims, x, packed, y, qkv, mixed, log_sum));
        keep(&self.kept, saved);
        Ok((CpuStorage::F32(y), Shape::from((n, d))))
    }

    fn bwd(
        &self,
        x: &Tensor,
        packed: &Tensor,
        _res: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let dims = self.dims;
        let (len, d, inner, stride) = (dims.len, dims.d, dims.inner(), dims.qkv());
        let saved = take(&self.kept)?;
        let (xs, weights, dy) = (values(x)?, values(packed)?, values(grad)?);
        let sequences = xs.len() / (len * d);
        let group = sequences.div_ceil(GROUPS).max(1);
        let mut dx = dy.clone();
        let partial: Vec<Vec<f32>> = dx
            .par_chunks_mut(group * len * d)
            .enumerate()
            .map(|(part, dx)| {
                let mut sums = (!self.frozen).then(|| vec![0.0; dims.packed()]);
                for (i, dx) in dx.chunks_mut(len * d).enumerate() {
                    let s = part * group + i;
                    let seq = Sequence {
                        x: &xs[s * len * d..][..len * d],
                        dy: &dy[s * len * d..][..len * d],
                        qkv: &saved.qkv[s * len * stride..][..len * stride],
                        mixed: &saved.mixed[s * len * inner..][..len * inner],
                        log_sum: &saved.log_sum[s * len * dims.heads..][..len * dims.heads],
                    };
                    backward(dims, &weights, &seq, dx, sums.as_deref_mut());
                }
                sums.unwrap_or_default()
            })
            .collect();
        let dx = Tensor::from_vec(dx, x.shape(), x.device())?;
        if self.frozen {
            return Ok((Some(dx), None));
        }
        let mut sums = vec![0.0; dims.packed()];
        for part in &partial {
            vector::add(&mut sums, part);
        }
        Ok((Some(dx), Some(Tensor::from_vec(sums, packed.shape(), packed.device())?)))
    }
}
