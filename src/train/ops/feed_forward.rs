//! `x + down(relu(up(norm(x)))^2)` as one operation.
//!
//! Packed parameters: `up [ff][d]`, `down [d][ff]`.

use super::{GROUPS, Kept, floats, keep, take, values, vector};
use crate::kernels::sgemm::{Mat, matmul};
use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor};
use pulp::Arch;
use rayon::prelude::*;

/// Rows that a thread works on at once: their hidden values stay in the cache.
const ROWS: usize = 256;

/// The operation; `x` is `[n][d]`.
pub struct FeedForward {
    pub d: usize,
    pub ff: usize,
    kept: Kept<Vec<f32>>,
}

impl FeedForward {
    pub fn new(d: usize, ff: usize) -> Self {
        Self { d, ff, kept: Kept::default() }
    }
}

fn square_relu(u: &[f32], f: &mut [f32]) {
    vector::dispatch(
        Arch::new(),
        #[inline(always)]
        || {
            for (f, u) in f.iter_mut().zip(u) {
                let r = if *u > 0.0 { *u } else { 0.0 };
                *f = r * r;
            }
        },
    );
}

/// `df` becomes the gradient of `u`.
fn square_relu_backward(u: &[f32], df: &mut [f32]) {
    vector::dispatch(
        Arch::new(),
        #[inline(always)]
        || {
            for (g, u) in df.iter_mut().zip(u) {
                let r = if *u > 0.0 { *u } else { 0.0 };
                *g *= 2.0 * r;
            }
        },
    );
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
        let (x, packed) = (floats(s1, l1)?, floats(s2, l2)?);
        let (d, ff) = (self.d, self.ff);
        let (up, down) = packed.split_at(ff * d);
        let n = x.len() / d;
        let mut y = x.to_vec();
        let mut hidden = vec![0.0; n * ff];
        y.par_chunks_mut(ROWS * d)
            .zip(hidden.par_chunks_mut(ROWS * ff))
            .zip(x.par_chunks(ROWS * d))
            .for_each(|((y, u), x)| {
                let rows = x.len() / d;
                let mut normed = vec![0.0; rows * d];
                let mut f = vec![0.0; rows * ff];
                vector::normalise(x, d, &mut normed, &mut vec![0.0; rows]);
                matmul(u, ff, 0.0, Mat::new(&normed, rows, d, d), Mat::new(up, ff, d, d).t(), 1.0);
                square_relu(u, &mut f);
                matmul(y, d, 1.0, Mat::new(&f, rows, ff, ff), Mat::new(down, d, ff, ff).t(), 1.0);
            });
        keep(&self.kept, hidden);
        Ok((CpuStorage::F32(y), Shape::from((n, d))))
    }

    fn bwd(
        &self,
        x: &Tensor,
        packed: &Tensor,
        _res: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
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
            .map(|(((dx, x), dy), u)| {
                let mut sums = vec![0.0; 2 * ff * d];
                let (dup, ddown) = sums.split_at_mut(ff * d);
                let mut normed = vec![0.0; ROWS * d];
                let mut dnormed = vec![0.0; ROWS * d];
                let mut inverse = vec![0.0; ROWS];
                let (mut f, mut df) = (vec![0.0; ROWS * ff], vec![0.0; ROWS * ff]);
                let blocks = dx.chunks_mut(ROWS * d).zip(x.chunks(ROWS * d)).zip(dy.chunks(ROWS * d));
                for (((dx, x), dy), u) in blocks.zip(u.chunks(ROWS * ff)) {
                    let rows = x.len() / d;
                    let normed = &mut normed[..rows * d];
                    let dnormed = &mut dnormed[..rows * d];
                    let (f, df) = (&mut f[..rows * ff], &mut df[..rows * ff]);
                    vector::normalise(x, d, normed, &mut inverse);
                    square_relu(u, f);
                    let dy = Mat::new(dy, rows, d, d);
                    matmul(ddown, ff, 1.0, dy.t(), Mat::new(f, rows, ff, ff), 1.0);
                    matmul(df, ff, 0.0, dy, Mat::new(down, d, ff, ff), 1.0);
                    square_relu_backward(u, df);
                    let df = Mat::new(df, rows, ff, ff);
                    matmul(dup, d, 1.0, df.t(), Mat::new(normed, rows, d, d), 1.0);
                    matmul(dnormed, d, 0.0, df, Mat::new(up, ff, d, d), 1.0);
                    vector::normalise_backward(dnormed, normed, &inverse[..rows], d, dx);
                }
                sums
            })
            .collect();
        let mut sums = vec![0.0; 2 * ff * d];
        for part in &partial {
            vector::add(&mut sums, part);
        }
        Ok((
            Some(Tensor::from_vec(dx, x.shape(), x.device())?),
            Some(Tensor::from_vec(sums, packed.shape(), packed.device())?),
        ))
    }
}
