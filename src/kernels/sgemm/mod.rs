//! Matrix products of floats for training: a safe interface to the `gemm` crate and to tiles of
//! bfloat16.
//!
//! Decoding never uses this module. Matrices are slices with a row stride and a column stride,
//! checked against the slice before the product runs. Products run on the calling thread. Operands
//! are single precision unless `allow_bfloat16` was called and the CPU has tiles for bfloat16
//! (`amx`).

#[cfg(target_arch = "x86_64")]
pub mod amx;
pub mod mat;

use std::sync::atomic::{AtomicBool, Ordering};

use mat::{Mat, spans};

static BFLOAT16: AtomicBool = AtomicBool::new(false);

/// Allows products of this process to round their operands to bfloat16, or forbids it. Returns
/// whether they will.
pub fn allow_bfloat16(allow: bool) -> bool {
    #[cfg(target_arch = "x86_64")]
    let allow = allow && amx::Amx::detect().is_some();
    #[cfg(not(target_arch = "x86_64"))]
    let allow = false && allow;
    BFLOAT16.store(allow, Ordering::Relaxed);
    allow
}

/// Least size, in each direction, of a product that is worth packing into tiles.
#[cfg(target_arch = "x86_64")]
const LEAST: usize = 8;

/// `dst = keep * dst + scale * (lhs x rhs)`, where `dst` is row-major with rows `stride` elements
/// apart. With `keep == 0` the old values have no effect, even if they are NaN.
///
/// # Panics
/// If the sizes do not fit each other or `dst`.
pub fn matmul(dst: &mut [f32], stride: usize, keep: f32, lhs: Mat<'_>, rhs: Mat<'_>, scale: f32) {
    let (m, n, k) = (lhs.rows, rhs.cols, lhs.cols);
    assert_eq!(k, rhs.rows, "inner sizes differ");
    assert!(spans(dst.len(), m, n, stride), "result reaches outside its slice");
    #[cfg(target_arch = "x86_64")]
    if BFLOAT16.load(Ordering::Relaxed)
        && m.min(n).min(k) >= LEAST
        && let Some(amx) = amx::Amx::detect()
    {
        return amx::matmul(amx, dst, stride, keep, lhs, rhs, scale);
    }
    // SAFETY: `Mat::new` and the assertion above prove that every element named by sizes and
    // strides lies in its slice; `dst` is borrowed mutably, so it overlaps neither operand.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            dst.as_mut_ptr(),
            1,
            stride as isize,
            keep != 0.0,
            lhs.data.as_ptr(),
            lhs.col_stride as isize,
            lhs.row_stride as isize,
            rhs.data.as_ptr(),
            rhs.col_stride as isize,
            rhs.row_stride as isize,
            keep,
            scale,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_product_equals_its_definition_with_strides_and_transposes() {
        let a: Vec<f32> = (0..60).map(|v| (v % 7) as f32 - 3.0).collect();
        let b: Vec<f32> = (0..60).map(|v| (v % 5) as f32 - 2.0).collect();
        let (m, n, k) = (3, 4, 5);
        let lhs = Mat::new(&a, m, k, 9);
        let rhs = Mat::new(&b, n, k, 7).t();
        let mut dst = vec![1.0; m * 6];
        matmul(&mut dst, 6, 2.0, lhs, rhs, 0.5);
        for i in 0..m {
            for j in 0..n {
                let sum: f32 = (0..k).map(|x| a[i * 9 + x] * b[j * 7 + x]).sum();
                assert_eq!(dst[i * 6 + j], 2.0 + 0.5 * sum);
            }
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn tiles_give_the_product_of_rounded_operands() {
        let Some(amx) = amx::Amx::detect() else {
            eprintln!("skipped: no tiles of bfloat16 on this CPU");
            return;
        };
        // Small whole numbers are exact in bfloat16, and so are their sums in single precision.
        let numbers = |len: usize, m: usize| -> Vec<f32> {
            (0..len).map(|i| ((i * i + 3 * i) % m) as f32 - (m / 2) as f32).collect()
        };
        for (m, n, k) in [(1, 1, 1), (16, 16, 32), (17, 40, 33), (70, 9, 128), (33, 31, 65), (128, 100, 7)] {
            let (wide_k, wide_m, wide_n) = (k + 3, m + 2, n + 5);
            let (a, b) = (numbers(wide_k * wide_m, 13), numbers(wide_k * wide_n, 11));
            let lefts = [Mat::new(&a, m, k, wide_k), Mat::new(&a, k, m, wide_m).t()];
            let rights = [Mat::new(&b, k, n, wide_n), Mat::new(&b, n, k, wide_k).t()];
            for (lhs, rhs) in lefts.into_iter().flat_map(|lhs| rights.map(|rhs| (lhs, rhs))) {
                for keep in [0.0, 2.0] {
                    let mut tiles = numbers(m * wide_n, 7);
                    let mut single = tiles.clone();
                    amx::matmul(amx, &mut tiles, wide_n, keep, lhs, rhs, 0.5);
                    matmul(&mut single, wide_n, keep, lhs, rhs, 0.5);
                    assert_eq!(tiles, single, "{m} {n} {k} {keep}");
                }
            }
        }
    }

    #[test]
    #[should_panic(expected = "outside its slice")]
    fn a_matrix_that_reaches_outside_its_slice_is_refused() {
        let a = [0.0; 10];
        Mat::new(&a, 3, 4, 4);
    }
}
