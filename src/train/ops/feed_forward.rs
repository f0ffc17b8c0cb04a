//! `x + down((gain * relu(up(norm(x))))^2)` as one operation.
//!
//! Packed parameters: `up [ff][d]`, `down [d][ff]`. The gains are those of a sequence,
//! `[sequences][ff]`; without them all are 1.

use candle_core::{CpuStorage, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor};
use pulp::Arch;
use rayon::prelude::*;

use super::{GROUPS, Kept, floats, keep, take, values, vector};
use crate::kernels::sgemm::mat::Mat;
use crate::kernels::sgemm::matmul;

/// Rows that a thread computes at once: their hidden values stay in the cache.
const ROWS: usize = 256;

/// The operation; `x` is `[n][d]`, in sequences of `len` positions.
pub struct FeedForward {
    /// Width of the residual stream.
    pub d: usize,
    /// Width of the hidden values.
    pub ff: usize,
    /// Positions of a sequence.
    pub len: usize,
    /// Whether the parameters do not learn, so that no gradients of them are computed.
    frozen: bool,
    kept: Kept<Vec<f32>>,
}

/// The gains of the rows, if there are any.
#[derive(Clone, Copy)]
struct Gains<'a> {
    values: Option<&'a [f32]>,
    len: usize,
    ff: usize,
}

impl<'a> Gains<'a> {
    /// Where the gains of row `row` stand among all gains.
    fn at(&self, row: usize) -> std::ops::Range<usize> {
        let first = row / self.len * self.ff;
        first..first + self.ff
    }

    fn of(&self, row: usize) -> Option<&'a [f32]> {
        self.values.map(|values| &values[self.at(row)])
    }
}

/// `f = (gain * relu(u))^2` for rows from `first` on.
fn square_relu(u: &[f32], f: &mut [f32], gains: Gains<'_>, first: usize) {
    vector::dispatch(
        Arch::new(),
        #[inline(always)]
        || {
            for (row, (f, u)) in f.chunks_exact_mut(gains.ff).zip(u.chunks_exact(gains.ff)).enumerate() {
                for (f, u) in f.iter_mut().zip(u) {
                    let r = if *u > 0.0 { *u } else { 0.0 };
                    *f = r * r;
                }
                if let Some(gains) = gains.of(first + row) {
                    f.iter_mut().zip(gains).for_each(|(f, g)| *f *= g * g);
                }
            }
        },
    );
}

/// Turns `df` into the gradient of `u`, and adds the gradient of the gains to `dgains`.
fn square_relu_backward(u: &[f32], df: &mut [f32], gains: Gains<'_>, first: usize, dgains: &mut [f32]) {
    vector::dispatch(
        Arch::new(),
        #[inline(always)]
        || {
            for (row, (df, u)) in df.chunks_exact_mut(gains.ff).zip(u.chunks_exact(gains.ff)).enumerate() {
                if let Some(values) = gains.of(first + row) {
                    let sums = &mut dgains[gains.at(first + row)];
                    for (((d, u), g), sum) in df.iter_mut().zip(u).zip(values).zip(sums) {
                        let r = if *u > 0.0 { *u } else { 0.0 };
                        let slope = 2.0 * r * g * *d;
                        *sum += slope * r;
                        *d = slope * g;
                    }
                } else {
                    for (d, u) in df.iter_mut().zip(u) {
                        let r = if *u > 0.0 { *u } else { 0.0 };
                        *d *= 2.0 * r;
                    }
                }
            }
        },
    );
}

impl FeedForward {
    /// The operation with these sizes.
    pub fn new(d: usize, ff: usize, len: usize) -> Self {
        Self { d, ff, len, frozen: false, kept: Kept::default() }
    }

    /// The operation with parameters that do not learn.
    pub fn frozen(self) -> Self {
        Self { frozen: true, ..self }
    }

    fn gains<'a>(&self, values: Option<&'a [f32]>) -> Gains<'a> {
        Gains { values, len: self.len, ff: self.ff }
    }

    fn forward(&self, x: &[f32], packed: &[f32], gains: Option<&[f32]>) -> Result<(CpuStorage, Shape)> {
        let gains = self.gains(gains);
        let (d, ff) = (self.d, self.ff);
        let (up, down) = packed.split_at(ff * d);
        let n = x.len() / d;
        let mut y = x.to_vec();
        let mut hidden = vec![0.0; n * ff];
        y.par_chunks_mut(ROWS * d)
            .zip(hidden.par_chunks_mut(ROWS * ff))
            .zip(x.par_chunks(ROWS * d))
            .enumerate()
            .for_each(|(block, ((y, u), x))| {
                let rows = x.len() / d;
                let mut normed = vec![0.0; rows * d];
                let mut f = vec![0.0; rows * ff];
                vector::normalize(x, d, &mut normed, &mut vec![0.0; rows]);
                matmul(u, ff, 0.0, Mat::new(&normed, rows, d, d), Mat::new(up, ff, d, d).t(), 1.0);
                square_relu(u, &mut f, gains, block * ROWS);
                matmul(y, d, 1.0, Mat::new(&f, rows, ff, ff), Mat::new(down, d, ff, ff).t(), 1.0);
            });
        keep(&self.kept, hidden);
        Ok((CpuStorage::F32(y), Shape::from((n, d))))
    }

    /// Gradients of `x`, of the parameters and of the gains.
    fn backward(
        &self,
        x: &Tensor,
        packed: &Tensor,
        gains: Option<&Tensor>,
        grad: &Tensor,
    ) -> Result<[Tensor; 3]> {
        let gain_values = gains.map(values).transpose()?;
        let gain_count = gain_values.as_ref().map_or(0, Vec::len);
        let gain_rows = self.gains(gain_values.as_deref());
        let (d, ff) = (self.d, self.ff);
        let hidden = take(&self.kept)?;
        let (xs, weights, dy) = (values(x)?, values(packed)?, values(grad)?);
        let (up, down) = weights.split_at(ff * d);
        let n = xs.len() / d;
        let mut dx = dy.clone();
        let per_group = n.div_ceil(GROUPS).next_multiple_of(ROWS);
        let partial: Vec<Vec<f32>> = dx
            .par_chunks_mut(per_group * d)
            .zip(xs.par_chunks(per_group * d))
            .zip(dy.par_chunks(per_group * d))
            .zip(hidden.par_chunks(per_group * ff))
            .enumerate()
            .map(|(group, (((dx, x), dy), u))| {
                let mut sums = vec![0.0; 2 * ff * d + gain_count];
                let (dup, rest) = sums.split_at_mut(ff * d);
                let (ddown, dgains) = rest.split_at_mut(ff * d);
                let mut normed = vec![0.0; ROWS * d];
                let mut dnormed = vec![0.0; ROWS * d];
                let mut inverse = vec![0.0; ROWS];
                let (mut f, mut df) = (vec![0.0; ROWS * ff], vec![0.0; ROWS * ff]);
                let blocks = dx.chunks_mut(ROWS * d).zip(x.chunks(ROWS * d)).zip(dy.chunks(ROWS * d));
                for (block, (((dx, x), dy), u)) in blocks.zip(u.chunks(ROWS * ff)).enumerate() {
                    let first = group * per_group + block * ROWS;
                    let rows = x.len() / d;
                    let normed = &mut normed[..rows * d];
                    let dnormed = &mut dnormed[..rows * d];
                    let (f, df) = (&mut f[..rows * ff], &mut df[..rows * ff]);
                    vector::normalize(x, d, normed, &mut inverse);
                    let dy = Mat::new(dy, rows, d, d);
                    if !self.frozen {
                        square_relu(u, f, gain_rows, first);
                        matmul(ddown, ff, 1.0, dy.t(), Mat::new(f, rows, ff, ff), 1.0);
                    }
                    matmul(df, ff, 0.0, dy, Mat::new(down, d, ff, ff), 1.0);
                    square_relu_backward(u, df, gain_rows, first, dgains);
                    let df = Mat::new(df, rows, ff, ff);
                    if !self.frozen {
                        matmul(dup, d, 1.0, df.t(), Mat::new(normed, rows, d, d), 1.0);
                    }
                    matmul(dnormed, d, 0.0, df, Mat::new(up, ff, d, d), 1.0);
                    vector::normalize_backward(dnormed, normed, &inverse[..rows], d, dx);
                }
                sums
            })
            .collect();
        let mut sums = vec![0.0; 2 * ff * d + gain_count];
        for part in &partial {
            vector::add(&mut sums, part);
        }
        let dgains = sums.split_off(2 * ff * d);
        let shape = (gain_count / ff, ff);
        Ok([
            Tensor::from_vec(dx, x.shape(), x.device())?,
            Tensor::from_vec(sums, packed.shape(), packed.device())?,
            Tensor::from_vec(dgains, shape, x.device())?,
        ])
    }
}

impl CustomOp2 for FeedForward {
    fn name(&self) -> &'static str {
        "feed-forward"
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
        let [dx, dpacked, _] = self.backward(x, packed, None, grad)?;
        Ok((Some(dx), (!self.frozen).then_some(dpacked)))
    }
}

impl CustomOp3 for FeedForward {
    fn name(&self) -> &'static str {
        "feed-forward-with-gains"
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
        gains: &Tensor,
        _res: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let [dx, dpacked, dgains] = self.backward(x, packed, Some(gains), grad)?;
        Ok((Some(dx), Some(dpacked), Some(dgains)))
    }
}
