//! Integer products. Each vector of weights, 4 inputs of 8 outputs, is multiplied as it lies with the
//! inputs of up to two rows; the weights of 32 outputs stay in the first-level cache for all rows.
//!
//! Sums are exact 32-bit integers, so their order does not matter. The instruction multiplies unsigned
//! by signed bytes: magnitudes of inputs by weights that take the inputs' signs. A pair of such products
//! is at most 2 * 127 * 127 < 2^15, so its saturation is never reached: the loader and `quantise` keep
//! both sides within -127 to 127. Two instructions of the multiplier per 32 products: as many as with
//! 16-bit operands, without widening anything.

use std::arch::x86_64::*;

use super::{Avx2, load, store};
use crate::kernels::buffer::padded;
use crate::kernels::pack::{Activations, BLOCK, Product, QUAD};
use crate::kernels::prefetch;

/// Blocks whose weights are used for all rows before the next ones: 32 outputs.
const BLOCKS: usize = 4;
/// Rows of one register tile: 2 x 4 sums.
const ROWS: usize = 2;

pub fn linear(_: Avx2, product: &Product, act: &Activations, rows: usize, out: &mut [i32]) {
    // SAFETY: the proof says that the CPU has AVX2.
    unsafe { panels(product, act, rows, out) }
}

#[target_feature(enable = "avx2")]
fn panels(product: &Product, act: &Activations, rows: usize, out: &mut [i32]) {
    let (stride, outputs) = (padded(act.len()), padded(product.rows()));
    let panel = BLOCKS * BLOCK * stride;
    // What comes next is asked for evenly while these weights are used.
    let ahead = panel.div_ceil(rows.div_ceil(ROWS)).next_multiple_of(64);
    for place in (0..outputs).step_by(BLOCKS * BLOCK) {
        let next = &product.weights[((place + BLOCKS * BLOCK) * stride).min(product.weights.len())..];
        for row in (0..rows).step_by(ROWS) {
            let from = row / ROWS * ahead;
            for line in (from..(from + ahead).min(panel)).step_by(64) {
                prefetch(next, line);
            }
            match (outputs - place >= BLOCKS * BLOCK, rows - row >= ROWS) {
                (true, true) => tile::<ROWS, BLOCKS>(product, act, row, place, out),
                (true, false) => tile::<1, BLOCKS>(product, act, row, place, out),
                // Outputs are padded to two blocks.
                (false, true) => tile::<ROWS, 2>(product, act, row, place, out),
                (false, false) => tile::<1, 2>(product, act, row, place, out),
            }
        }
    }
}

/// How the sums of one row become results.
struct Requantise {
    pre: __m128i,
    m: __m256i,
    round: __m256i,
    s: __m128i,
}

impl Requantise {
    #[inline]
    #[target_feature(enable = "avx2")]
    fn new(product: &Product, act: &Activations, row: usize) -> Self {
        let s = (product.shift as i32 - act.e[row]).clamp(1, 31);
        Self {
            pre: _mm_cvtsi32_si128(product.pre as i32),
            m: _mm256_set1_epi32(act.m[row]),
            round: _mm256_set1_epi32(1 << (s - 1)),
            s: _mm_cvtsi32_si128(s),
        }
    }

    /// Results of eight sums that began with `first_sum`.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn apply(&self, sums: __m256i, scale: __m256i) -> __m256i {
        let t = _mm256_sra_epi32(sums, self.pre);
        let c = _mm256_srli_epi32::<15>(_mm256_mullo_epi32(scale, self.m));
        _mm256_sra_epi32(_mm256_add_epi32(_mm256_mullo_epi32(t, c), self.round), self.s)
    }
}

/// The rounding of the shift by `pre`, with which the sums begin.
#[inline]
#[target_feature(enable = "avx2")]
fn first_sum(product: &Product) -> __m256i {
    _mm256_set1_epi32(if product.pre > 0 { 1 << (product.pre - 1) } else { 0 })
}

/// Outputs of `N` blocks from `place` on, of rows `row` to `row + R - 1`.
#[inline]
#[target_feature(enable = "avx2")]
fn tile<const R: usize, const N: usize>(
    product: &Product,
    act: &Activations,
    row: usize,
    place: usize,
    out: &mut [i32],
) {
    let stride = padded(act.len());
    let q = &act.q[row * stride..(row + R) * stride];
    let weights = &product.weights[place * stride..(place + N * BLOCK) * stride];
    let mut sums = [[first_sum(product); N]; R];
    if act.signed[row..row + R].contains(&true) {
        add_products::<R, N, true>(q, weights, &mut sums);
    } else {
        add_products::<R, N, false>(q, weights, &mut sums);
    }
    let scale = product.scale[place..place + N * BLOCK].as_chunks::<8>().0;
    let outputs = padded(product.rows());
    for (r, sums) in sums.iter().enumerate() {
        let requantise = Requantise::new(product, act, row + r);
        let at = (row + r) * outputs + place;
        let out = out[at..at + N * BLOCK].as_chunks_mut::<8>().0;
        for ((out, &sums), scale) in out.iter_mut().zip(sums).zip(scale) {
            store(out, requantise.apply(sums, load(scale)));
        }
    }
}

/// The inner loop: adds the products of `R` rows with `N` blocks; signs are of no account where no input
/// is below zero. A function of its own, so that the compiler keeps all sums in registers.
#[inline(never)]
#[target_feature(enable = "avx2")]
fn add_products<const R: usize, const N: usize, const SIGNED: bool>(
    q: &[i8],
    weights: &[i8],
    sums: &mut [[__m256i; N]; R],
) {
    let stride = q.len() / R;
    assert!(q.len() == R * stride && weights.len() == N * BLOCK * stride);
    let ones = _mm256_set1_epi16(1);
    let mut local = *sums;
    for quad in 0..stride / QUAD {
        for (r, sums) in local.iter_mut().enumerate() {
            // SAFETY: each of `R` rows has `stride` bytes; the read needs no alignment.
            let q = unsafe { q.as_ptr().add(r * stride + quad * QUAD).cast::<i32>().read_unaligned() };
            let q = _mm256_set1_epi32(q);
            let magnitude = if SIGNED { _mm256_abs_epi8(q) } else { q };
            for (n, sum) in sums.iter_mut().enumerate() {
                // SAFETY: each of `N` blocks has `stride / 4` vectors of 32 bytes, and the weights are
                // aligned as a `Buffer` is, in rows of a multiple of 16 inputs.
                let w = unsafe {
                    let at = weights.as_ptr().add((n * stride + quad * QUAD) * BLOCK);
                    _mm256_load_si256(at.cast())
                };
                let w = if SIGNED { _mm256_sign_epi8(w, q) } else { w };
                let pairs = _mm256_maddubs_epi16(magnitude, w);
                *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(pairs, ones));
            }
        }
    }
    *sums = local;
}
