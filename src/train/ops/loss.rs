//! Final normalization, output head, copy gates, softmax and cross-entropy as one operation.
//!
//! Packed parameters: `head [V][d]`, `gates [K][d]`, `bias [K][17]`. The gate of a slot, with the
//! bias of its class, is added to the logit of the slot's candidate. A sequence may have biases of
//! its own, `[V]` for the logits and `[K][17]` for the gates. The gradients are computed in the
//! forward pass, while the logits exist, so that no tensor of the vocabulary's size outlives a
//! block of rows.
//!
//! With `adapt` above zero, every sequence has one more bias of the logits, which starts at zero
//! and learns from position to position: after a token with probabilities `p` it loses `adapt * p`
//! and gains `adapt` at the token. Gradients treat it as a constant.

use std::sync::{Arc, Mutex};

use candle_core::{CpuStorage, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor, bail};
use pulp::Arch;
use rayon::prelude::*;

use super::{GROUPS, Kept, floats, keep, take, vector};
use crate::kernels::sgemm::mat::Mat;
use crate::kernels::sgemm::matmul;

/// Classes of a match slot (spec/numerics.md, section 3).
pub const CLASSES: usize = 17;

const ROWS: usize = 128;

/// The tokens to predict, and the match candidates.
#[derive(Clone, Debug, Default)]
pub struct Targets {
    /// `n` token ids.
    pub tokens: Vec<u32>,
    /// `n * slots` candidates, `embed::NONE` where there is none.
    pub candidates: Vec<u32>,
    /// `n * slots` classes.
    pub classes: Vec<u8>,
}

/// Losses of the single sequences in nats, which a forward pass writes.
pub type SequenceNats = Arc<Mutex<Vec<f64>>>;

/// The operation; `x` is `[n][d]`, the result the mean loss in nats, `[1]`.
pub struct HeadLoss {
    /// Width of the residual stream.
    pub d: usize,
    /// Tokens of the vocabulary (`V`).
    pub vocab: usize,
    /// Match slots (`K`).
    pub slots: usize,
    /// Positions of a sequence.
    pub len: usize,
    /// Rate of the bias that learns within a sequence, in nats; 0 for none.
    pub adapt: f32,
    /// What is predicted.
    pub targets: Arc<Targets>,
    /// Whether a backward pass will follow.
    pub learns: bool,
    /// The loss of each sequence, after the forward pass.
    pub nats: SequenceNats,
    /// Gradients of `x`, of the parameters and of the sequences' biases, for the backward pass.
    kept: Kept<[Vec<f32>; 3]>,
}

/// The results of one group of rows.
struct Sums {
    packed: Vec<f32>,
    steering: Vec<f32>,
    /// By sequence.
    nats: Vec<f64>,
}

impl HeadLoss {
    /// The operation without an adapting bias.
    pub fn new(d: usize, vocab: usize, slots: usize, len: usize, targets: Arc<Targets>) -> Self {
        let nats = SequenceNats::default();
        Self { d, vocab, slots, len, adapt: 0.0, targets, learns: true, nats, kept: Kept::default() }
    }

    /// The operation whose logits have a bias that learns at this rate.
    pub fn adapting(mut self, rate: f32) -> Self {
        self.adapt = rate;
        self
    }

    /// The operation without gradients.
    pub fn without_gradients(mut self) -> Self {
        self.learns = false;
        self
    }

    /// How many biases a sequence has.
    fn steering_len(&self) -> usize {
        self.vocab + self.slots * CLASSES
    }

    /// Loss of one group of rows from `first` on; the gradients are added to `dx` and `sums`.
    fn group(
        &self,
        first: usize,
        x: &[f32],
        packed: &[f32],
        steering: Option<&[f32]>,
        weight: f32,
        dx: &mut [f32],
    ) -> Sums {
        let (d, v, k) = (self.d, self.vocab, self.slots);
        let cols = v + k;
        let (w, bias) = packed.split_at(cols * d);
        let mut sums = Sums {
            packed: vec![0.0; packed.len()],
            steering: vec![0.0; steering.map_or(0, <[f32]>::len)],
            nats: vec![0.0; self.targets.tokens.len().div_ceil(self.len)],
        };
        let (d_w, d_bias) = sums.packed.split_at_mut(cols * d);
        let mut z = vec![0.0; ROWS * cols];
        let mut normed = vec![0.0; ROWS * d];
        let mut d_normed = vec![0.0; ROWS * d];
        let mut inverse = vec![0.0; ROWS];
        let mut adapted = vec![0.0; if self.adapt > 0.0 { v } else { 0 }];
        for (block, (x, dx)) in x.chunks(ROWS * d).zip(dx.chunks_mut(ROWS * d)).enumerate() {
            let rows = x.len() / d;
            let (z, normed) = (&mut z[..rows * cols], &mut normed[..rows * d]);
            let d_normed = &mut d_normed[..rows * d];
            vector::normalize(x, d, normed, &mut inverse);
            matmul(z, cols, 0.0, Mat::new(normed, rows, d, d), Mat::new(w, cols, d, d).t(), 1.0);
            let base = first + block * ROWS;
            vector::dispatch(
                Arch::new(),
                #[inline(always)]
                || {
                    for r in 0..rows {
                        let row = &mut z[r * cols..][..cols];
                        let sequence = (base + r) / self.len;
                        if (base + r).is_multiple_of(self.len) {
                            adapted.fill(0.0);
                        }
                        let own = sequence * self.steering_len()..(sequence + 1) * self.steering_len();
                        let biases = Biases {
                            shared: bias,
                            d_shared: d_bias,
                            own: steering.map(|steering| &steering[own.clone()]),
                            d_own: sums.steering.get_mut(own),
                            adapted: &mut adapted,
                        };
                        sums.nats[sequence] += f64::from(self.row(row, base + r, biases, weight));
                    }
                },
            );
            if !self.learns {
                continue;
            }
            let dz = Mat::new(z, rows, cols, cols);
            matmul(d_w, d, 1.0, dz.t(), Mat::new(normed, rows, d, d), 1.0);
            matmul(d_normed, d, 0.0, dz, Mat::new(w, cols, d, d), 1.0);
            vector::normalize_backward(d_normed, normed, &inverse[..rows], d, dx);
        }
        sums
    }

    /// Turns a row of logits and gates into their gradients times `weight`; gives the loss.
    #[inline(always)]
    fn row(&self, row: &mut [f32], i: usize, biases: Biases<'_>, weight: f32) -> f32 {
        let Biases { shared: bias, d_shared: d_bias, own, d_own, adapted } = biases;
        let targets = &*self.targets;
        let at = i * self.slots..(i + 1) * self.slots;
        let (z, gates) = row.split_at_mut(self.vocab);
        let (own_z, own_gates) = own.map_or((&[][..], &[][..]), |own| own.split_at(self.vocab));
        z.iter_mut().zip(own_z).for_each(|(z, b)| *z += b);
        z.iter_mut().zip(&*adapted).for_each(|(z, b)| *z += b);
        let candidates = &targets.candidates[at.clone()];
        let classes = &targets.classes[at];
        for (slot, (&c, &class)) in candidates.iter().zip(classes).enumerate() {
            if let Some(logit) = z.get_mut(c as usize) {
                let place = slot * CLASSES + usize::from(class);
                *logit += gates[slot] + bias[place] + own_gates.get(place).unwrap_or(&0.0);
            }
        }
        let target = targets.tokens[i] as usize;
        let max = vector::max(z);
        let of_target = z[target] - max;
        let sum = vector::exp_sum(z, max);
        let scale = weight / sum;
        z.iter_mut().for_each(|v| *v *= scale);
        let rate = self.adapt / weight;
        adapted.iter_mut().zip(&*z).for_each(|(b, p)| *b -= rate * p);
        if let Some(b) = adapted.get_mut(target) {
            *b += self.adapt;
        }
        z[target] -= weight;
        let (d_z, d_gates) = d_own.map_or((&mut [][..], &mut [][..]), |own| own.split_at_mut(self.vocab));
        d_z.iter_mut().zip(&*z).for_each(|(d, z)| *d += z);
        for (slot, (&c, &class)) in candidates.iter().zip(classes).enumerate() {
            gates[slot] = 0.0;
            if let Some(&g) = z.get(c as usize) {
                gates[slot] = g;
                let place = slot * CLASSES + usize::from(class);
                d_bias[place] += g;
                if let Some(d) = d_gates.get_mut(place) {
                    *d += g;
                }
            }
        }
        sum.ln() - of_target
    }
}

/// Biases of a row: those of all sequences and those of its own sequence, with their gradients.
struct Biases<'a> {
    shared: &'a [f32],
    d_shared: &'a mut [f32],
    own: Option<&'a [f32]>,
    d_own: Option<&'a mut [f32]>,
    /// The bias that learns within the sequence.
    adapted: &'a mut [f32],
}

impl HeadLoss {
    fn forward(&self, x: &[f32], packed: &[f32], steering: Option<&[f32]>) -> Result<(CpuStorage, Shape)> {
        let d = self.d;
        let n = x.len() / d;
        let weight = 1.0 / n as f32;
        let mut per_group = n.div_ceil(GROUPS).max(1);
        if self.adapt > 0.0 {
            per_group = per_group.next_multiple_of(self.len);
        }
        let mut dx = vec![0.0; x.len()];
        let parts: Vec<Sums> = dx
            .par_chunks_mut(per_group * d)
            .zip(x.par_chunks(per_group * d))
            .enumerate()
            .map(|(g, (dx, x))| self.group(g * per_group, x, packed, steering, weight, dx))
            .collect();
        let mut parts = parts.into_iter();
        let Some(mut sums) = parts.next() else { bail!("a loss of no tokens") };
        for part in parts {
            vector::add(&mut sums.packed, &part.packed);
            vector::add(&mut sums.steering, &part.steering);
            sums.nats.iter_mut().zip(&part.nats).for_each(|(sum, nats)| *sum += nats);
        }
        let loss: f64 = sums.nats.iter().sum();
        if let Ok(mut nats) = self.nats.lock() {
            *nats = sums.nats;
        }
        if self.learns {
            keep(&self.kept, [dx, sums.packed, sums.steering]);
        }
        Ok((CpuStorage::F32(vec![(loss / n as f64) as f32]), Shape::from(1)))
    }

    /// Gradients of `x`, of the parameters and of the sequences' biases.
    fn backward(
        &self,
        x: &Tensor,
        packed: &Tensor,
        steering: Option<&Tensor>,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let [dx, sums, d_steering] = take(&self.kept)?;
        let factor = f64::from(grad.flatten_all()?.to_vec1::<f32>()?[0]);
        let scaled = |values: Vec<f32>, like: &Tensor| -> Result<Tensor> {
            let tensor = Tensor::from_vec(values, like.shape(), like.device())?;
            if factor == 1.0 { Ok(tensor) } else { tensor * factor }
        };
        let d_steering = steering.map(|like| scaled(d_steering, like)).transpose()?;
        Ok((Some(scaled(dx, x)?), Some(scaled(sums, packed)?), d_steering))
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
        self.forward(floats(s1, l1)?, floats(s2, l2)?, None)
    }

    fn bwd(
        &self,
        x: &Tensor,
        packed: &Tensor,
        _res: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (dx, sums, _) = self.backward(x, packed, None, grad)?;
        Ok((dx, sums))
    }
}

impl CustomOp3 for HeadLoss {
    fn name(&self) -> &'static str {
        "steered-head-loss"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
        s3: &CpuStorage,
        l3: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        self.forward(floats(s1, l1)?, floats(s2, l2)?, Some(floats(s3, l3)?))
    }

    fn bwd(
        &self,
        x: &Tensor,
        packed: &Tensor,
        steering: &Tensor,
        _res: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        self.backward(x, packed, Some(steering), grad)
    }
}
