//! Integer products. A vector of weights, 4 inputs of 8 outputs, is multiplied in the order in
//! which it is stored by the inputs of up to two rows; the weights of a panel stay in the
//! first-level cache for all rows.
//!
//! Sums are exact 32-bit integers, so their order does not matter. The instruction multiplies
//! unsigned by signed bytes: magnitudes of inputs by weights that take the inputs' signs. A pair of
//! such products is at most 2 * 127 * 127 < 2^15, so it never saturates: the loader and `quantize`
//! keep both sides within -127 to 127. For 32 products the multiplier runs two instructions, as
//! many as with 16-bit operands, and nothing has to be widened.

use std::arch::x86_64::*;

use super::vector::{Avx2, load, put};
use crate::kernels::buffer::padded;
use crate::kernels::pack::{Activations, PANEL, Product, QUAD};
use crate::kernels::prefetch::prefetch;

/// Outputs of one vector.
const BLOCK: usize = 8;
/// Rows of one register tile, which has 2 x 4 sums.
const ROWS: usize = 2;

pub fn linear(_: Avx2, product: &Product, act: &Activations, rows: usize, out: &mut [i32]) {
    // SAFETY: the proof says that the CPU has AVX2.
    unsafe { panels(product, act, rows, out) }
}

#[target_feature(enable = "avx2")]
fn panels(product: &Product, act: &Activations, rows: usize, out: &mut [i32]) {
    let stride = padded(act.len());
    for (first, outputs, weights) in product.panels() {
        let next = &product.weights[(first + outputs) * stride..];
        // The weights of the next panel are fetched evenly while these are used.
        let ahead = (PANEL * stride).div_ceil(rows.div_ceil(ROWS)).next_multiple_of(64);
        for row in (0..rows).step_by(ROWS) {
            let from = row / ROWS * ahead;
            for line in (from..(from + ahead).min(next.len())).step_by(64) {
                prefetch(next, line);
            }
            let mut part = Part { product, act, row, first, outputs, weights, place: 0 };
            while part.place < outputs {
                match (outputs - part.place >= 4 * BLOCK, rows - row >= ROWS) {
                    (true, true) => part.tile::<ROWS, 4>(out),
                    (true, false) => part.tile::<1, 4>(out),
                    // Outputs are padded to two blocks.
                    (false, true) => part.tile::<ROWS, 2>(out),
                    (false, false) => part.tile::<1, 2>(out),
                }
            }
        }
    }
}

/// What turns the sums of one row into results.
struct Requantize {
    pre: __m128i,
    m: __m256i,
    round: __m256i,
    s: __m128i,
}

impl Requantize {
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

    /// Results of eight sums that started with `first_sum`.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn apply(&self, sums: __m256i, scale: __m256i) -> __m256i {
        let t = _mm256_sra_epi32(sums, self.pre);
        let c = _mm256_srli_epi32::<15>(_mm256_mullo_epi32(scale, self.m));
        _mm256_sra_epi32(_mm256_add_epi32(_mm256_mullo_epi32(t, c), self.round), self.s)
    }
}

/// The rounding of the shift by `pre`, with which the sums start.
#[inline]
#[target_feature(enable = "avx2")]
fn first_sum(product: &Product) -> __m256i {
    _mm256_set1_epi32(if product.pre > 0 { 1 << (product.pre - 1) } else { 0 })
}

/// The rows and outputs of a panel that are computed next.
struct Part<'a> {
    product: &'a Product,
    act: &'a Activations,
    row: usize,
    /// The first output of the panel.
    first: usize,
    outputs: usize,
    weights: &'a [i8],
    /// The next output within the panel.
    place: usize,
}

impl Part<'_> {
    /// Computes the outputs of `N` blocks from `place` on, of rows `row` to `row + R - 1`.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn tile<const R: usize, const N: usize>(&mut self, out: &mut [i32]) {
        let (product, act, row) = (self.product, self.act, self.row);
        let stride = padded(act.len());
        let q = &act.q[row * stride..(row + R) * stride];
        let mut sums = [[first_sum(product); N]; R];
        if act.signed[row..row + R].contains(&true) {
            self.add_products::<R, N, true>(q, &mut sums);
        } else {
            self.add_products::<R, N, false>(q, &mut sums);
        }
        let first = self.first + self.place;
        let scale = product.scale[first..first + N * BLOCK].as_chunks::<8>().0;
        for (r, sums) in sums.iter().enumerate() {
            let requantize = Requantize::new(product, act, row + r);
            let at = (row + r) * padded(product.rows()) + first;
            let out = out[at..at + N * BLOCK].as_chunks_mut::<8>().0;
            for ((out, &sums), scale) in out.iter_mut().zip(sums).zip(scale) {
                put(out, requantize.apply(sums, load(scale)));
            }
        }
        self.place += N * BLOCK;
    }

    /// The inner loop: adds the products of `R` rows with `N` blocks. Signs are left out where no
    /// input is below zero. This is a function of its own so that the compiler keeps all sums in
    /// registers.
    #[inline(never)]
    #[target_feature(enable = "avx2")]
    fn add_products<const R: usize, const N: usize, const SIGNED: bool>(
        &self,
        q: &[i8],
        sums: &mut [[__m256i; N]; R],
    ) {
        let (stride, outputs, place) = (q.len() / R, self.outputs, self.place);
        assert!(q.len() == R * stride && self.weights.len() == outputs * stride);
        assert!(
            place + N * BLOCK <= outputs && outputs.is_multiple_of(2 * BLOCK) && place.is_multiple_of(BLOCK)
        );
        let ones = _mm256_set1_epi16(1);
        let mut local = *sums;
        for quad in 0..stride / QUAD {
            // SAFETY: a panel has `outputs` times 4 bytes for each quad of inputs.
            let weights = unsafe { self.weights.as_ptr().add((quad * outputs + place) * QUAD) };
            for (r, sums) in local.iter_mut().enumerate() {
                // SAFETY: each of `R` rows has `stride` bytes; the read needs no alignment.
                let q = unsafe { q.as_ptr().add(r * stride + quad * QUAD).cast::<i32>().read_unaligned() };
                let q = _mm256_set1_epi32(q);
                let magnitude = if SIGNED { _mm256_abs_epi8(q) } else { q };
                for (n, sum) in sums.iter_mut().enumerate() {
                    // SAFETY: `N` vectors of 32 bytes are left of the quad's outputs, and a
                    // `Buffer` and a multiple of 16 outputs make them aligned.
                    let w = unsafe { _mm256_load_si256(weights.add(n * BLOCK * QUAD).cast()) };
                    let w = if SIGNED { _mm256_sign_epi8(w, q) } else { w };
                    let pairs = _mm256_maddubs_epi16(magnitude, w);
                    *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(pairs, ones));
                }
            }
        }
        *sums = local;
    }
}
