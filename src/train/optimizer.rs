//! The optimizer: Muon for hidden matrices, Adam for everything else.
//!
//! Muon (Jordan et al. 2024) orthogonalizes the momentum of a matrix by five Newton-Schulz steps.
//! Adam is the method of Kingma and Ba 2014. Both run on the device that the parameters are on.

use std::sync::Mutex;

use candle_core::backprop::GradStore;
use candle_core::{CpuStorage, DType, InplaceOp2, Layout, Result, Tensor, Var, bail};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::net::Net;
use super::params::{Param, Role, Segment};

/// Learning rates and decay constants.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct OptimizerConfig {
    /// Muon's rate for hidden matrices.
    pub matrix_rate: f64,
    /// Adam's rate for embedding rows.
    pub embedding_rate: f64,
    /// Adam's rate for the output head.
    pub head_rate: f64,
    /// Adam's rate for biases; gates have a twentieth of it.
    pub bias_rate: f64,
    /// Adam's rate for the rows that steer.
    #[serde(default)]
    pub steer_rate: f64,
    /// Muon's momentum.
    pub momentum: f64,
    /// Adam's decay of the first moment.
    pub beta1: f64,
    /// Adam's decay of the second moment.
    pub beta2: f64,
}

impl Default for OptimizerConfig {
    fn default() -> Self {
        Self {
            matrix_rate: 0.02,
            embedding_rate: 9e-3,
            head_rate: 3e-3,
            bias_rate: 3e-3,
            steer_rate: 3e-3,
            momentum: 0.95,
            beta1: 0.9,
            beta2: 0.95,
        }
    }
}

impl OptimizerConfig {
    /// All rates times `factor`, except that of steering, to which an earlier network contributes
    /// nothing.
    pub fn times(mut self, factor: f64) -> Self {
        let rates =
            [&mut self.matrix_rate, &mut self.embedding_rate, &mut self.head_rate, &mut self.bias_rate];
        rates.into_iter().for_each(|rate| *rate *= factor);
        self
    }
}

/// State of one parameter tensor: momentum, and Adam's second moment.
struct State {
    first: Var,
    second: Var,
}

/// The optimizer of one network.
pub struct Optimizer {
    config: OptimizerConfig,
    states: Vec<State>,
    /// Steps done so far, for Adam's bias correction.
    pub step: usize,
}

impl Optimizer {
    /// An optimizer with fresh state for all parameters of `net`.
    pub fn new(net: &Net, config: OptimizerConfig) -> Result<Self> {
        let zeros = |p: &Param| Var::zeros(p.var.shape(), DType::F32, &net.device);
        let states = net
            .params
            .iter()
            .map(|p| Ok(State { first: zeros(p)?, second: zeros(p)? }))
            .collect::<Result<_>>()?;
        Ok(Self { config, states, step: 0 })
    }

    /// The tensors that a checkpoint holds, by name.
    pub fn tensors(&self, net: &Net) -> Vec<(String, Var)> {
        let mut out = Vec::new();
        for (param, state) in net.params.iter().zip(&self.states) {
            out.push((format!("first.{}", param.name), state.first.clone()));
            out.push((format!("second.{}", param.name), state.second.clone()));
        }
        out
    }

    /// One step with the rates times `factor`.
    pub fn step(&mut self, net: &Net, grads: &GradStore, factor: f64) -> Result<()> {
        self.step += 1;
        for (param, state) in net.params.iter().zip(&self.states) {
            let Some(grad) = grads.get(param.var.as_tensor()) else { continue };
            if net.device.is_cpu() {
                self.adam_on_cpu(param, state, grad, factor)?;
            } else {
                self.adam_of_tensors(param, state, grad, factor)?;
            }
            self.muon(param, state, grad, factor)?;
        }
        Ok(())
    }

    /// Adam's rate for a segment; zero for segments that Muon optimizes.
    fn rate(&self, segment: &Segment) -> f64 {
        match segment.role {
            Role::Matrix => 0.0,
            Role::Embedding => self.config.embedding_rate,
            Role::Head => self.config.head_rate,
            Role::Bias if segment.name == "copy" => self.config.bias_rate / 20.0,
            Role::Bias => self.config.bias_rate,
            Role::Steer => self.config.steer_rate,
        }
    }

    fn corrections(&self) -> (f64, f64) {
        let t = self.step as i32;
        (1.0 - self.config.beta1.powi(t), 1.0 - self.config.beta2.powi(t))
    }

    fn adam_on_cpu(&self, param: &Param, state: &State, grad: &Tensor, factor: f64) -> Result<()> {
        let (c1, c2) = self.corrections();
        for segment in param.segments.iter().filter(|s| s.role != Role::Matrix) {
            let moments = AdamMoments {
                range: segment.offset..segment.offset + segment.rows * segment.cols,
                beta1: self.config.beta1 as f32,
                beta2: self.config.beta2 as f32,
                rate: (self.rate(segment) * factor / c1) as f32,
                correction: (1.0 / c2) as f32,
                moved: Mutex::default(),
            };
            state.first.inplace_op2(&grad.contiguous()?, &First(&moments))?;
            state.second.inplace_op2(&grad.contiguous()?, &Second(&moments))?;
            param.var.inplace_op2(state.first.as_tensor(), &Move(&moments))?;
        }
        Ok(())
    }

    fn adam_of_tensors(&self, param: &Param, state: &State, grad: &Tensor, factor: f64) -> Result<()> {
        let (c1, c2) = self.corrections();
        let shape = param.var.shape();
        let rates: Vec<f32> = param
            .segments
            .iter()
            .flat_map(|s| std::iter::repeat_n((self.rate(s) * factor / c1) as f32, s.rows * s.cols))
            .collect();
        if rates.iter().all(|&r| r == 0.0) {
            return Ok(());
        }
        let rates = Tensor::from_vec(rates, shape, param.var.device())?;
        let used = rates.gt(0.0)?.to_dtype(DType::F32)?;
        let (b1, b2) = (self.config.beta1, self.config.beta2);
        let first = ((state.first.as_tensor() * b1)? + (grad * (1.0 - b1))?)?;
        let second = ((state.second.as_tensor() * b2)? + (grad.sqr()? * (1.0 - b2))?)?;
        // Segments that Muon optimizes keep their momentum.
        let kept = (1.0 - &used)?;
        let first = ((first * &used)? + (state.first.as_tensor() * kept)?)?;
        state.first.set(&first)?;
        state.second.set(&second)?;
        let denominator = ((second / c2)?.sqrt()? + 1e-8)?;
        param.var.set(&(param.var.as_tensor() - ((first * rates)? / denominator)?)?)
    }

    fn muon(&self, param: &Param, state: &State, grad: &Tensor, factor: f64) -> Result<()> {
        let matrices: Vec<&Segment> = param.segments.iter().filter(|s| s.role == Role::Matrix).collect();
        if matrices.is_empty() {
            return Ok(());
        }
        let flat_grad = grad.flatten_all()?;
        let mu = self.config.momentum;
        for s in matrices {
            let n = s.rows * s.cols;
            let g = flat_grad.narrow(0, s.offset, n)?;
            let first = ((state.first.narrow(0, s.offset, n)? * mu)? + &g)?;
            let nesterov = (g + (&first * mu)?)?.reshape((s.rows, s.cols))?;
            let update = orthogonal(&nesterov)?;
            let scale = (s.rows as f64 / s.cols as f64).max(1.0).sqrt();
            let rate = self.config.matrix_rate * factor * scale;
            let old = param.var.narrow(0, s.offset, n)?;
            let new = (old - (update.flatten_all()? * rate)?)?;
            state.first.slice_set(&first, 0, s.offset)?;
            param.var.slice_set(&new, 0, s.offset)?;
        }
        Ok(())
    }
}

/// Approximately the nearest semi-orthogonal matrix: singular values end between 0.7 and 1.2.
fn orthogonal(g: &Tensor) -> Result<Tensor> {
    let (a, b, c) = (3.4445, -4.7750, 2.0315);
    let tall = g.dim(0)? > g.dim(1)?;
    let mut x = if tall { g.t()?.contiguous()? } else { g.clone() };
    let norm = x.sqr()?.sum_all()?.sqrt()?.to_scalar::<f32>()?;
    x = (x / f64::from(norm + 1e-7))?;
    for _ in 0..5 {
        let gram = x.matmul(&x.t()?)?;
        let mix = ((&gram * b)? + (gram.matmul(&gram)? * c)?)?;
        x = ((&x * a)? + mix.matmul(&x)?)?;
    }
    if tall { x.t()?.contiguous() } else { Ok(x) }
}

/// Constants of one Adam step over a range of elements, and the inverse roots of the second
/// moments, which `Second` passes to `Move`.
struct AdamMoments {
    range: std::ops::Range<usize>,
    beta1: f32,
    beta2: f32,
    rate: f32,
    correction: f32,
    moved: Mutex<Vec<f32>>,
}

struct First<'a>(&'a AdamMoments);
struct Second<'a>(&'a AdamMoments);
struct Move<'a>(&'a AdamMoments);

/// Elements that a thread takes at a time.
const SPAN: usize = 1 << 16;

fn pair<'a>(
    range: &std::ops::Range<usize>,
    to: &'a mut CpuStorage,
    from: &'a CpuStorage,
    layout: &Layout,
) -> Result<(&'a mut [f32], &'a [f32])> {
    let from = &super::ops::floats(from, layout)?[range.clone()];
    match to {
        CpuStorage::F32(to) => Ok((&mut to[range.clone()], from)),
        _ => bail!("parameters are f32"),
    }
}

impl InplaceOp2 for First<'_> {
    fn name(&self) -> &'static str {
        "adam-first"
    }

    fn cpu_fwd(&self, to: &mut CpuStorage, _: &Layout, from: &CpuStorage, l: &Layout) -> Result<()> {
        let (m, g) = pair(&self.0.range, to, from, l)?;
        let beta = self.0.beta1;
        m.par_chunks_mut(SPAN).zip(g.par_chunks(SPAN)).for_each(|(m, g)| {
            m.iter_mut().zip(g).for_each(|(m, g)| *m = beta * *m + (1.0 - beta) * g);
        });
        Ok(())
    }
}

impl InplaceOp2 for Second<'_> {
    fn name(&self) -> &'static str {
        "adam-second"
    }

    fn cpu_fwd(&self, to: &mut CpuStorage, _: &Layout, from: &CpuStorage, l: &Layout) -> Result<()> {
        let (v, g) = pair(&self.0.range, to, from, l)?;
        let beta = self.0.beta2;
        let correction = self.0.correction;
        let mut inverse = vec![0.0f32; v.len()];
        v.par_chunks_mut(SPAN).zip(g.par_chunks(SPAN)).zip(inverse.par_chunks_mut(SPAN)).for_each(
            |((v, g), inverse)| {
                for ((v, g), i) in v.iter_mut().zip(g).zip(inverse) {
                    *v = beta * *v + (1.0 - beta) * g * g;
                    *i = 1.0 / ((*v * correction).sqrt() + 1e-8);
                }
            },
        );
        if let Ok(mut moved) = self.0.moved.lock() {
            *moved = inverse;
        }
        Ok(())
    }
}

impl InplaceOp2 for Move<'_> {
    fn name(&self) -> &'static str {
        "adam-move"
    }

    fn cpu_fwd(&self, to: &mut CpuStorage, _: &Layout, from: &CpuStorage, l: &Layout) -> Result<()> {
        let (p, m) = pair(&self.0.range, to, from, l)?;
        let rate = self.0.rate;
        let Ok(inverse) = self.0.moved.lock() else { bail!("a thread of the optimizer failed") };
        p.par_chunks_mut(SPAN).zip(m.par_chunks(SPAN)).zip(inverse.par_chunks(SPAN)).for_each(
            |((p, m), inverse)| {
                for ((p, m), i) in p.iter_mut().zip(m).zip(inverse) {
                    *p -= rate * m * i;
                }
            },
        );
        Ok(())
    }
}
