//! Compressor and decompressor trained together: the actor-critic method of the paper (Algorithm
//! 1), with rewards in bits. C is the compressor, which writes c; D is the decompressor.
//!
//! Training has three stages. In the first, C learns to reproduce what it reads, while kinds of
//! text (`clusters`) take the place of its actions, so that the symbols of c come to mean something
//! to D. In the second, the actor learns to name those kinds. In the third, actor and critic learn
//! from the reward. D learns from its cross-entropy in every stage, in a share of the steps with an
//! empty c.
//!
//! The reward of a whole c is `(bits of the sequence with c empty) - (bits with c) - cost of c`.
//! The first term does not depend on what the actor does, so the expected gradient is that of the
//! paper's `-(cost + L_D)`, with far less variance.

use std::collections::HashMap;
use std::f64::consts::LN_2;
use std::sync::Arc;

use candle_core::{Result, Tensor};

use super::clusters::Clusters;
use super::compressor::{Adam, Compressor, padded};
use super::net::{Batch, Net};
use super::pair_config::PairConfig;
use super::prior::Prior;
use super::random::Random;

/// The figures of one step; a figure that does not exist in a stage is NaN.
#[derive(Clone, Copy, Debug)]
pub struct Told {
    /// Mean bits of c under the prior, over the sequences that had a c.
    pub c_bits: f64,
    /// Mean symbols of c, over the same sequences.
    pub c_len: f64,
    /// Mean bits of a sequence with its c.
    pub residual_bits: f64,
    /// Mean bits of a sequence with c empty.
    pub empty_bits: f64,
    /// Mean reward, in bits.
    pub reward: f64,
    /// Root of the critic's mean squared error, in scaled rewards.
    pub value_error: f64,
    /// Entropy of the actor in nats a symbol; in the second stage its cross-entropy, in the first
    /// the cross-entropy of reproducing.
    pub entropy: f64,
}

impl Told {
    const NOTHING: Self = Self {
        c_bits: f64::NAN,
        c_len: f64::NAN,
        residual_bits: f64::NAN,
        empty_bits: f64::NAN,
        reward: f64::NAN,
        value_error: f64::NAN,
        entropy: f64::NAN,
    };

    /// All values in the order of their fields.
    pub fn values(&self) -> [f64; 7] {
        [
            self.c_bits,
            self.c_len,
            self.residual_bits,
            self.empty_bits,
            self.reward,
            self.value_error,
            self.entropy,
        ]
    }
}

/// Where a run stands, and what a step is given besides its batch.
#[derive(Clone, Copy, Debug)]
pub struct At<'a> {
    /// Number of the step, from 0.
    pub step: usize,
    /// Steps of the whole run.
    pub steps: usize,
    /// Chunks and kinds of other sequences, for the stages in which C is told what to write.
    pub mixed: &'a [(Arc<Vec<u32>>, u16)],
    /// Whether D learns with c empty.
    pub empty: bool,
}

/// What a step draws from the actor.
struct Drawn {
    /// The sequences of all draws, draw by draw.
    cs: Vec<Vec<u16>>,
    /// Nats of the chunk under each of them; empty if there is only one draw.
    nats: Vec<f64>,
    /// The best sequence of each chunk.
    best: Vec<Vec<u16>>,
}

/// The compressor, the prior, and what trains them.
pub struct Pair {
    /// How they are trained.
    pub config: PairConfig,
    /// The network that writes c.
    pub compressor: Compressor,
    /// The prior over the symbols of c.
    pub prior: Prior,
    /// The kinds of text that c stands for at first.
    pub clusters: Clusters,
    /// The optimizer of the compressor.
    pub adam: Adam,
    /// Running mean square of rewards in bits; rewards are divided by its root.
    pub scale: f64,
    random: Random,
}

impl Pair {
    /// A pair with untrained networks; `seed` decides their values.
    pub fn new(
        config: PairConfig,
        clusters: Clusters,
        seed: u64,
        device: &candle_core::Device,
    ) -> Result<Self> {
        let compressor = Compressor::new(config.compressor.clone(), seed, device)?;
        let adam = Adam::new(compressor.vars(), config.rate)?;
        let prior = Prior::new(config.compressor.symbols, config.compressor.max);
        Ok(Self { compressor, prior, clusters, adam, scale: 1.0, random: Random::new(seed ^ 0xc0de), config })
    }

    /// The tensors that a checkpoint holds, by name.
    pub fn tensors(&self) -> Result<Vec<(String, Tensor)>> {
        let device = &candle_core::Device::Cpu;
        let row = |values: Vec<f32>| {
            let len = values.len();
            Tensor::from_vec(values, len, device)
        };
        let named =
            |(name, var): (String, candle_core::Var)| (format!("pair.{name}"), var.as_tensor().clone());
        let mut all: Vec<_> =
            self.compressor.vars().into_iter().chain(self.adam.tensors()).map(named).collect();
        all.push(("pair.prior".into(), row(self.prior.counts().to_vec())?));
        all.push(("pair.centers".into(), row(self.clusters.centers().to_vec())?));
        all.push(("pair.scale".into(), row(vec![self.scale as f32])?));
        Ok(all)
    }

    /// The pair that a checkpoint holds, after `step` steps.
    pub fn restore(
        config: PairConfig,
        tensors: &HashMap<String, Vec<f32>>,
        (seed, step): (u64, usize),
        device: &candle_core::Device,
    ) -> Result<Self> {
        let get = |name: &str| match tensors.get(&format!("pair.{name}")) {
            Some(values) => Ok(values.clone()),
            None => candle_core::bail!("the checkpoint lacks {name}"),
        };
        let (vocab, symbols, max) =
            (config.compressor.vocab, config.compressor.symbols, config.compressor.max);
        let (Some(clusters), Some(prior)) = (
            Clusters::from_centers(vocab, config.kinds().0, get("centers")?),
            Prior::from_counts(symbols, max, get("prior")?),
        ) else {
            candle_core::bail!("the checkpoint is of another pair");
        };
        let mut pair = Self::new(config, clusters, seed ^ (step as u64) << 32, device)?;
        pair.prior = prior;
        pair.scale = f64::from(get("scale")?.first().copied().unwrap_or(1.0));
        pair.adam.step = step;
        for (name, var) in pair.compressor.vars().into_iter().chain(pair.adam.tensors()) {
            var.set(&Tensor::from_vec(get(&name)?, var.shape(), device)?)?;
        }
        Ok(pair)
    }

    fn excerpts(&self, batch: &Batch) -> Vec<Vec<u32>> {
        batch.chunks.iter().map(|tokens| self.compressor.excerpt(tokens.iter().copied())).collect()
    }

    /// The actor's most likely c for each sequence.
    pub fn greedy(&self, batch: &Batch) -> Result<Vec<Vec<u16>>> {
        self.compressor.write(&self.compressor.read(&self.excerpts(batch))?, None)
    }

    /// One step of C and D on a batch. `learn` is given the loss of D and updates D; `factor`
    /// scales the learning rate.
    pub fn step(
        &mut self,
        net: &Net,
        batch: &Batch,
        at: At<'_>,
        factor: f64,
        learn: impl FnOnce(&Tensor) -> Result<()>,
    ) -> Result<Told> {
        let At { step, steps, mixed, empty } = at;
        let before = self.config.reproduce + self.config.imitate;
        if self.config.is_told(step) {
            let excerpts: Vec<_> =
                mixed.iter().map(|(tokens, _)| self.compressor.excerpt(tokens.iter().copied())).collect();
            let memory = self.compressor.read(&excerpts)?;
            let loss = if step < self.config.reproduce {
                self.compressor.reproduce(&memory, &excerpts)?
            } else {
                let max = self.config.compressor.max;
                let told = mixed.iter().map(|(tokens, kind)| self.clusters.describe(tokens, *kind, max));
                self.imitate(&memory, &told.collect::<Vec<_>>())?
            };
            let late = 2 * (before - step) <= self.config.imitate;
            let cs = if empty { vec![] } else { self.told(batch, late)? };
            return self.supervised(net, batch, cs, loss, factor, learn);
        }
        if empty {
            learn(&net.loss(batch)?)?;
            return Ok(Told::NOTHING);
        }
        let memory = self.compressor.read(&self.excerpts(batch))?;
        let done = (step - before) as f64 / steps.saturating_sub(before).max(1) as f64;
        self.reinforce(net, batch, &memory, done, factor, learn)
    }

    /// Whether D learns the next step with c empty, so that it stays good without c.
    pub fn draw_empty(&mut self) -> bool {
        f64::from(self.random.uniform()) < self.config.empty
    }

    /// The c that the tokens of each sequence determine, cut to a random length so that every
    /// length is useful.
    ///
    /// If `late` in the second stage, half of the steps have what C draws after the kind: an
    /// excerpt says little about the finer symbols, and D must not rely on them more than they can
    /// be relied on.
    fn told(&mut self, batch: &Batch, late: bool) -> Result<Vec<Vec<u16>>> {
        let max = self.config.compressor.max;
        let drawn = if late && max > 1 && self.random.below(2) == 0 {
            let memory = self.compressor.read(&self.excerpts(batch))?;
            self.compressor.write(&memory, Some(&mut self.random))?
        } else {
            vec![]
        };
        let mut c = |(place, (tokens, &kind)): (usize, (&Arc<Vec<u32>>, &u16))| {
            let len = if max > 1 { 1 + self.random.below(max) } else { 1 };
            match drawn.get(place).filter(|drawn| !drawn.is_empty()) {
                Some(drawn) => [&[kind], &drawn[1..drawn.len().min(len).max(1)]].concat(),
                None => self.clusters.describe(tokens, kind, len),
            }
        };
        Ok(batch.chunks.iter().zip(&batch.kinds).enumerate().map(&mut c).collect())
    }

    fn supervised(
        &mut self,
        net: &Net,
        batch: &Batch,
        cs: Vec<Vec<u16>>,
        loss: Tensor,
        factor: f64,
        learn: impl FnOnce(&Tensor) -> Result<()>,
    ) -> Result<Told> {
        let entropy = scalar(&loss)?;
        self.adam.minimize(&loss, factor)?;
        let (loss, nats) = net.loss_with(batch, &cs)?;
        learn(&loss)?;
        let residual = mean(nats.iter().copied()) / LN_2;
        if cs.is_empty() {
            return Ok(Told { entropy, empty_bits: residual, ..Told::NOTHING });
        }
        self.prior.count(&cs);
        let bits = self.prior.bits();
        let c_bits = mean(cs.iter().map(|c| bits(c).iter().sum::<f64>()));
        let c_len = mean(cs.iter().map(|c| c.len() as f64));
        Ok(Told { c_bits, c_len, residual_bits: residual, entropy, ..Told::NOTHING })
    }

    /// Cross-entropy of the actor against given sequences.
    fn imitate(&self, memory: &Tensor, cs: &[Vec<u16>]) -> Result<Tensor> {
        let (log, _) = self.compressor.act(memory, cs)?;
        let (picked, mask, count) = self.picked(&log, cs)?;
        (picked * mask)?.sum_all()?.neg()? / count
    }

    /// The logarithms of the probabilities of what was written, a mask of those that count, and
    /// their number: every symbol counts, and the end where there was room for one.
    fn picked(&self, log: &Tensor, cs: &[Vec<u16>]) -> Result<(Tensor, Tensor, f64)> {
        let (rows, steps, _) = log.dims3()?;
        let (max, end) = (self.config.compressor.max, self.config.compressor.symbols as u32);
        let (mut actions, mut mask) = (vec![end; rows * steps], vec![0.0f32; rows * steps]);
        for (row, c) in cs.iter().enumerate() {
            let used = (c.len() + 1).min(max).min(steps);
            mask[row * steps..][..used].fill(1.0);
            for (action, &symbol) in actions[row * steps..].iter_mut().zip(c) {
                *action = symbol.into();
            }
        }
        let count = f64::from(mask.iter().sum::<f32>()).max(1.0);
        let device = log.device();
        let actions = Tensor::from_vec(actions, (rows, steps, 1), device)?;
        let picked = log.gather(&actions, 2)?.squeeze(2)?;
        Ok((picked, Tensor::from_vec(mask, (rows, steps), device)?, count))
    }

    /// Draws the sequences of a step from the actor, and finds the best one for each chunk.
    fn draw(&mut self, net: &Net, batch: &Batch, memory: &Tensor, share: f64) -> Result<Drawn> {
        let mut best = self.compressor.write(memory, Some(&mut self.random))?;
        if self.config.draws < 2 {
            return Ok(Drawn { cs: best.clone(), nats: vec![], best });
        }
        let bits = self.prior.bits();
        let total = |nats: f64, c: &[u16]| nats / LN_2 + share * bits(c).iter().sum::<f64>();
        let (mut cs, mut nats) = (best.clone(), net.nats(batch, &best)?);
        let mut least: Vec<f64> = best.iter().zip(&nats).map(|(c, &nats)| total(nats, c)).collect();
        for _ in 1..self.config.draws {
            let others = self.compressor.write(memory, Some(&mut self.random))?;
            let of_others = net.nats(batch, &others)?;
            for (row, (c, &nats)) in others.iter().zip(&of_others).enumerate() {
                let total = total(nats, c);
                if total < least[row] {
                    (least[row], best[row]) = (total, c.clone());
                }
            }
            cs.extend(others);
            nats.extend(of_others);
        }
        Ok(Drawn { cs, nats, best })
    }

    /// How much better each action was than the critic predicted, row by row: the mean over all
    /// numbers of steps looked ahead, weighted by powers of lambda (generalized advantage
    /// estimation, Schulman et al. 2016). The value after the last action is zero.
    fn advantages(&self, rewards: &[f32], values: &[Vec<f32>], mask: &[Vec<f32>]) -> Vec<f32> {
        let (gamma, lambda) = (self.config.gamma as f32, self.config.lambda as f32);
        let mut all = vec![0.0; rewards.len()];
        for (row, (values, mask)) in values.iter().zip(mask).enumerate() {
            let at = row * values.len();
            let (mut next, mut after) = (0.0, 0.0);
            for t in (0..values.len()).rev().filter(|&t| mask[t] > 0.0) {
                after = rewards[at + t] + gamma * next - values[t] + gamma * lambda * after;
                (all[at + t], next) = (after, values[t]);
            }
        }
        all
    }

    /// One step of Algorithm 1.
    fn reinforce(
        &mut self,
        net: &Net,
        batch: &Batch,
        memory: &Tensor,
        done: f64,
        factor: f64,
        learn: impl FnOnce(&Tensor) -> Result<()>,
    ) -> Result<Told> {
        let share = self.config.cost * (2.0 * done).min(1.0);
        let empty_nats = net.nats(batch, &[])?;
        let drawn = self.draw(net, batch, memory, share)?;
        let (loss, best_nats) = net.loss_with(batch, &drawn.best)?;
        learn(&loss)?;
        self.prior.count(&drawn.best);
        // With one draw, its bits are those that D was just trained on.
        let nats = if drawn.nats.is_empty() { best_nats } else { drawn.nats };
        let (cs, rows) = (drawn.cs, empty_nats.len());
        let memory = &Tensor::cat(&vec![memory; cs.len() / rows.max(1)], 0)?;

        // Rewards: the cost of each symbol when it is written, and what all of c saves at the end.
        let bits = self.prior.bits();
        let steps = self.config.compressor.max;
        let mut rewards = vec![0.0f32; cs.len() * steps];
        let (mut costs, mut totals) = (0.0, Vec::new());
        for (row, c) in cs.iter().enumerate() {
            let saved = (empty_nats[row % rows] - nats[row]) / LN_2;
            let cost = bits(c);
            let total = saved - share * cost.iter().sum::<f64>();
            let rewards = &mut rewards[row * steps..][..cost.len()];
            rewards
                .iter_mut()
                .zip(&cost)
                .for_each(|(r, cost)| *r = (-share * cost / self.scale.sqrt()) as f32);
            if let Some(last) = rewards.last_mut() {
                *last += (saved / self.scale.sqrt()) as f32;
            }
            costs += cost.iter().sum::<f64>();
            totals.push(total);
        }
        let square = mean(totals.iter().map(|r| r * r));
        self.scale = if self.scale == 1.0 { square } else { 0.99 * self.scale + 0.01 * square }.max(1e-3);

        let (log, values) = self.compressor.act(memory, &padded(&cs, steps - 1))?;
        let (picked, mask, count) = self.picked(&log, &cs)?;
        let advantages = self.advantages(&rewards, &values.to_vec2()?, &mask.to_vec2()?);
        let advantages = Tensor::from_vec(advantages, (cs.len(), steps), log.device())?;
        let target = (values.detach() + &advantages)?;
        let error = ((&target - &values)? * &mask)?;
        let critic = (error.sqr()?.sum_all()? / count)?;
        let actor = ((picked * (advantages * &mask)?)?.sum_all()?.neg()? / count)?;
        let entropy = (log.exp()? * &log)?.sum(2)?.neg()?;
        let entropy = ((entropy * &mask)?.sum_all()? / count)?;
        let beta = self.config.entropy * (1.0 - 0.9 * done);
        let total = ((actor + (&critic * 0.5)?)? - (&entropy * beta)?)?;
        self.adam.minimize(&total, factor)?;
        let given = totals.len().max(1) as f64;
        Ok(Told {
            c_bits: costs / given,
            c_len: mean(cs.iter().map(|c| c.len() as f64)),
            residual_bits: mean(nats.iter().copied()) / LN_2,
            empty_bits: mean(empty_nats.iter().copied()) / LN_2,
            reward: mean(totals.iter().copied()),
            value_error: scalar(&critic)?.sqrt(),
            entropy: scalar(&entropy)?,
        })
    }
}

fn scalar(t: &Tensor) -> Result<f64> {
    Ok(f64::from(t.to_scalar::<f32>()?))
}

fn mean(values: impl ExactSizeIterator<Item = f64>) -> f64 {
    let n = values.len().max(1) as f64;
    values.sum::<f64>() / n
}
