//! Final normalisation, output head, copy gates, softmax and cross-entropy as one operation.
//!
//! Packed parameters: `head [V][d]`, `gates [K][d]`, `bias [K][17]`. The gate of a slot, with the bias
//! of its class, is added to the logit of the slot's candidate. The gradients are formed while the
//! logits are at hand, so no tensor of the vocabulary's size outlives a block of rows.

use super::{GROUPS, Kept, floats, keep, take, vector};
use crate::kernels::sgemm::{Mat, matmul};
use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor};
use pulp::Arch;
use rayon::prelude::*;
use std::sync::Arc;

/// Classes of a match slot (spec/numerics.md, section 3).
pub const CLASSES: usize = 17;

const ROWS: usize = 128;

/// What is to be predicted, and the candidates at hand.
#[derive(Clone, Debug, Default)]
pub struct Targets {
    /// `n` token ids.
    pub tokens: Vec<u32>,
    /// `n * slots` candidates, `embed::NONE` where there is none.
    pub candidates: Vec<u32>,
    /// `n * slots` classes.
    pub classes: Vec<u8>,
}

/// The operation; `x` is `[n][d]`, the result the mean loss in nats, `[1]`.
pub struct HeadLoss {
    pub d: usize,
    pub vocab: usize,
    pub slots: usize,
    pub targets: Arc<Targets>,
    /// Gradients of `x` and of the parameters.
    kept: Kept<(Vec<f32>, Vec<f32>)>,
}

impl HeadLoss {
    pub fn new(d: usize, vocab: usize, slots: usize, targets: Arc<Targets>) -> Self {
        Self { d, vocab, slots, targets, kept: Kept::default() }
    }

    /// Loss of one group of rows from `first` on; `dx` and `sums` get the gradients.
    fn group(
        &self,
        first: usize,
        x: &[f32],
        packed: &[f32],
        weight: f32,
        dx: &mut [f32],
        sums: &mut [f32],
    ) -> f64 {
        let (d, v, k) = (self.d, self.vocab, self.slots);
        let cols = v + k;
        let (w, bias) = packed.split_at(cols * d);
        let (d_w, d_bias) = sums.split_at_mut(cols * d);
        let mut z = vec![0.0; ROWS * cols];
        let mut normed = vec![0.0; ROWS * d];
        let mut d_normed = vec![0.0; ROWS * d];
        let mut inverse = vec![0.0; ROWS];
        let mut loss = 0.0;
        for (block, (x, dx)) in x.chunks(ROWS * d).zip(dx.chunks_mut(ROWS * d)).enumerate() {
            let rows = x.len() / d;
            let (z, normed) = (&mut z[..rows * cols], &mut normed[..rows * d]);
            let d_normed = &mut d_normed[..rows * d];
            vector::normalise(x, d, normed, &mut inverse);
            matmul(z, cols, 0.0, Mat::new(normed, rows, d, d), Mat::new(w, cols, d, d).t(), 1.0);
            let base = first + block * ROWS;
            loss += vector::dispatch(
                Arch::new(),
                #[inline(always)]
                || {
                    let mut loss = 0.0f64;
                    for r in 0..rows {
                        let row = &mut z[r * cols..][..cols];
                        let at = (base + r) * k..(base + r + 1) * k;
                        loss += f64::from(self.row(row, base + r, at, bias, weight, d_bias));
                    }
                    loss
                },
            );
            let dz = Mat::new(z, rows, cols, cols);
            matmul(d_w, d, 1.0, dz.t(), Mat::new(normed, rows, d, d), 1.0);
            matmul(d_normed, d, 0.0, dz, Mat::new(w, cols, d, d), 1.0);
            vector::normalise_backward(d_normed, normed, &inverse[..rows], d, dx);
        }
        loss
    }

    /// Turns a row of logits and gates into their gradients times `weight`; gives the loss.
    #[inline(always)]
    fn row(
        &self,
        row: &mut [f32],
        i: usize,
        at: std::ops::Range<usize>,
        bias: &[f32],
        weight: f32,
        d_bias: &mut [f32],
    ) -> f32 {
        let targets = &*self.targets;
        let (z, gates) = row.split_at_mut(self.vocab);
        let candidates = &targets.candidates[at.clone()];
        let classes = &targets.classes[at];
        for (slot, (&c, &class)) in candidates.iter().zip(classes).enumerate() {
            if let Some(logit) = z.get_mut(c as usize) {
                *logit += gates[slot] + bias[slot * CLASSES + usize::from(class)];
            }
        }
        let target = targets.tokens[i] as usize;
        let max = vector::max(z);
        let of_target = z[target] - max;
        let sum = vector::exp_sum(z, max);
        let scale = weight / sum;
        z.iter_mut().for_each(|v| *v *= scale);
        z[target] -= weight;
        for (slot, (&c, &class)) in candidates.iter().zip(classes).enumerate() {
            gates[slot] = 0.0;
            if let Some(&g) = z.get(c as usize) {
                gates[slot] = g;
                d_bias[slot * CLASSES + usize::from(class)] += g;
            }
        }
        sum.ln() - of_target
    }
}

impl CustomOp2 for HeadLoss {
    fn name(&self) -> &'static str {
        "head-loss"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (x, packed) = (floats(s1, l1)?, floats(s2, l2)?);
        let d = self.d;
        let n = x.len() / d;
        let weight = 1.0 / n as f32;
        let per_group = n.div_ceil(GROUPS).max(1);
        let mut dx = vec![0.0; x.len()];
        let parts: Vec<(f64, Vec<f32>)> = dx
            .par_chunks_mut(per_group * d)
            .zip(x.par_chunks(per_group * d))
            .enumerate()
            .map(|(g, (dx, x))| {
                let mut sums = vec![0.0; packed.len()];
                let loss = self.group(g * per_group, x, packed, weight, dx, &mut sums);
                (loss, sums)
            })
            .collect();
        let mut sums = vec![0.0; packed.len()];
        let mut loss = 0.0;
        for (part, partial) in &parts {
            loss += part;
            vector::add(&mut sums, partial);
        }
        keep(&self.kept, (dx, sums));
        Ok((CpuStorage::F32(vec![(loss / n as f64) as f32]), Shape::from(1)))
    }

    fn bwd(
        &self,
        x: &Tensor,
        packed: &Tensor,
        _res: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (dx, sums) = take(&self.kept)?;
        let factor = f64::from(grad.flatten_all()?.to_vec1::<f32>()?[0]);
        let scaled = |values: Vec<f32>, like: &Tensor| -> Result<Tensor> {
            let tensor = Tensor::from_vec(values, like.shape(), like.device())?;
            if factor == 1.0 { Ok(tensor) } else { tensor * factor }
        };
        Ok((Some(scaled(dx, x)?), Some(scaled(sums, packed)?)))
    }
}
