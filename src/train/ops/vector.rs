//! Loops over rows of floats that the fused operations share, compiled for the CPU that runs them.
//!
//! `pulp` chooses the instruction set at run time. The loops have sixteen partial results, so that
//! the compiler can turn them into vector code.

use pulp::Arch;

const LANES: usize = 16;

/// `exp(x)` for `x <= 88`, with a relative error below 2e-6; close to zero below -87.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    const MAGIC: f32 = 12_582_912.0; // 1.5 * 2^23: adding it rounds to an integer
    let y = (x * std::f32::consts::LOG2_E).max(-125.0);
    let rounded = y + MAGIC;
    let f = y - (rounded - MAGIC);
    let p = 1.333_55e-3_f32;
    let p = p * f + 9.618_129e-3;
    let p = p * f + 5.550_411e-2;
    let p = p * f + 2.402_265e-1;
    let p = p * f + 6.931_472e-1;
    let p = p * f + 1.0;
    let n = rounded.to_bits().wrapping_sub(MAGIC.to_bits());
    f32::from_bits(p.to_bits().wrapping_add(n << 23))
}

/// Runs `body` compiled for the best instruction set of this CPU. The body must be an
/// `#[inline(always)]` closure; otherwise it is compiled separately, for the oldest CPU.
#[inline(always)]
pub fn dispatch<R>(arch: Arch, body: impl FnOnce() -> R) -> R {
    struct Body<F>(F);
    impl<R, F: FnOnce() -> R> pulp::NullaryFnOnce for Body<F> {
        type Output = R;
        #[inline(always)]
        fn call(self) -> R {
            (self.0)()
        }
    }
    arch.dispatch(Body(body))
}

/// Largest element; minus infinity for an empty row.
#[inline(always)]
pub fn max(row: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let chunks = row.chunks_exact(LANES);
    let rest = chunks.remainder();
    for chunk in chunks {
        for (lane, &v) in lanes.iter_mut().zip(chunk) {
            *lane = if v > *lane { v } else { *lane };
        }
    }
    let mut best = f32::NEG_INFINITY;
    for &v in lanes.iter().chain(rest) {
        best = if v > best { v } else { best };
    }
    best
}

/// Replaces each element by `exp(v - shift)` and returns their sum.
#[inline(always)]
pub fn exp_sum(row: &mut [f32], shift: f32) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let mut chunks = row.chunks_exact_mut(LANES);
    for chunk in &mut chunks {
        for (lane, v) in lanes.iter_mut().zip(chunk) {
            *v = exp(*v - shift);
            *lane += *v;
        }
    }
    let mut sum: f32 = lanes.iter().sum();
    for v in chunks.into_remainder() {
        *v = exp(*v - shift);
        sum += *v;
    }
    sum
}

/// `sum a_i * b_i`.
#[inline(always)]
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let (ca, cb) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let rest: f32 = ca.remainder().iter().zip(cb.remainder()).map(|(x, y)| x * y).sum();
    for (x, y) in ca.zip(cb) {
        for i in 0..LANES {
            lanes[i] += x[i] * y[i];
        }
    }
    rest + lanes.iter().sum::<f32>()
}

/// Reciprocal of the root mean square of a row, as every normalization here uses it.
#[inline(always)]
pub fn inverse_rms(row: &[f32]) -> f32 {
    1.0 / (dot(row, row) / row.len() as f32 + 1e-6).sqrt()
}

/// Normalizes each row of `x` (rows of `d`) into `out` and notes the factors in `inverse`.
pub fn normalize(x: &[f32], d: usize, out: &mut [f32], inverse: &mut [f32]) {
    dispatch(
        Arch::new(),
        #[inline(always)]
        || {
            for ((row, to), inv) in x.chunks_exact(d).zip(out.chunks_exact_mut(d)).zip(inverse) {
                *inv = inverse_rms(row);
                for (t, v) in to.iter_mut().zip(row) {
                    *t = v * *inv;
                }
            }
        },
    );
}

/// Adds to `dx` the gradient through `normalize`: `inv * (dn - n * mean(dn * n))`.
pub fn normalize_backward(dn: &[f32], n: &[f32], inverse: &[f32], d: usize, dx: &mut [f32]) {
    dispatch(
        Arch::new(),
        #[inline(always)]
        || {
            for (((g, n), to), inv) in
                dn.chunks_exact(d).zip(n.chunks_exact(d)).zip(dx.chunks_exact_mut(d)).zip(inverse)
            {
                let mean = dot(g, n) / d as f32;
                for ((t, g), n) in to.iter_mut().zip(g).zip(n) {
                    *t += inv * (g - n * mean);
                }
            }
        },
    );
}

/// `to += from`, element by element.
pub fn add(to: &mut [f32], from: &[f32]) {
    dispatch(
        Arch::new(),
        #[inline(always)]
        || {
            for (t, f) in to.iter_mut().zip(from) {
                *t += f;
            }
        },
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_close_to_the_exact_one() {
        for i in -870..=100 {
            let x = i as f32 / 10.0;
            let exact = f64::from(x).exp();
            let got = f64::from(exp(x));
            assert!((got - exact).abs() <= exact * 1e-5 + 1e-37, "exp({x}) = {got}, not {exact}");
        }
    }
}
