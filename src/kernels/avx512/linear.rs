//! Integer products. A vector of weights, 4 inputs of 16 outputs, is multiplied in the order in
//! which it is stored by the inputs of up to six rows; the weights of a panel stay in the
//! first-level cache for all rows.
//!
//! `vpdpbusd` multiplies unsigned by signed bytes and adds four products to a 32-bit sum without
//! saturation: products of bytes fit 16 bits, and their sum is exact. `quantize` gives the inputs
//! raised by 128. The sums start at the product's `offset`, -128 times the sum of an output's
//! weights, which takes the 128 away again. With at most 2,048 inputs, sums stay below 2^27.

use std::arch::x86_64::*;

use super::vector::{Avx512, load, put};
use crate::kernels::buffer::padded;
use crate::kernels::pack::{Activations, Product, QUAD};

/// Outputs of one vector.
const BLOCK: usize = 16;
/// Most rows of one register tile: 6 x 4 sums, 4 weights and an input of the 32 registers.
const ROWS: usize = 6;

pub fn linear(_: Avx512, product: &Product, act: &Activations, rows: usize, out: &mut [i32]) {
    // SAFETY: the proof says that the CPU has the instructions.
    unsafe { panels(product, act, rows, out) }
}

#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512vnni")]
fn panels(product: &Product, act: &Activations, rows: usize, out: &mut [i32]) {
    for (first, outputs, weights) in product.panels() {
        let mut part = Part { product, act, first, outputs, weights, row: 0, place: 0 };
        while part.row < rows {
            // The rows left are split evenly: a tile of one or two rows is no faster than one of
            // more.
            let left = rows - part.row;
            match left.div_ceil(left.div_ceil(ROWS)) {
                1 => part.rows::<1>(out),
                2 => part.rows::<2>(out),
                3 => part.rows::<3>(out),
                4 => part.rows::<4>(out),
                5 => part.rows::<5>(out),
                _ => part.rows::<ROWS>(out),
            }
        }
    }
}

/// Rows and outputs of a panel that are computed next.
struct Part<'a> {
    product: &'a Product,
    act: &'a Activations,
    /// The panel's first output, their number and their weights.
    first: usize,
    outputs: usize,
    weights: &'a [i8],
    row: usize,
    /// The next output within the panel.
    place: usize,
}

impl Part<'_> {
    /// All outputs of the next `R` rows.
    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512vnni")]
    fn rows<const R: usize>(&mut self, out: &mut [i32]) {
        self.place = 0;
        while self.place < self.outputs {
            match (self.outputs - self.place) / BLOCK {
                1 => self.tile::<R, 1>(out),
                2..4 => self.tile::<R, 2>(out),
                _ => self.tile::<R, 4>(out),
            }
        }
        self.row += R;
    }

    /// The next `N` vectors of outputs of `R` rows.
    #[inline(never)]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512vnni")]
    fn tile<const R: usize, const N: usize>(&mut self, out: &mut [i32]) {
        let (product, act, row) = (self.product, self.act, self.row);
        let first = self.first + self.place;
        let round = _mm512_set1_epi32(if product.pre > 0 { 1 << (product.pre - 1) } else { 0 });
        let mut start = [round; N];
        let offsets = product.offset[first..first + N * BLOCK].as_chunks::<BLOCK>().0;
        for (start, offset) in start.iter_mut().zip(offsets) {
            *start = _mm512_add_epi32(round, load(offset));
        }
        let sums = if R == 1 { self.products_of_one(start) } else { self.products::<R, N>(start) };
        let scale = product.scale[first..first + N * BLOCK].as_chunks::<BLOCK>().0;
        let pre = _mm_cvtsi32_si128(product.pre as i32);
        let (m, e) = (&act.m[row..row + R], &act.e[row..row + R]);
        let outputs = padded(product.rows());
        let out = &mut out[row * outputs..(row + R) * outputs];
        for (((sums, &m), e), out) in sums.iter().zip(m).zip(e).zip(out.chunks_exact_mut(outputs)) {
            let s = (product.shift as i32 - e).clamp(1, 31);
            let (m, round) = (_mm512_set1_epi32(m), _mm512_set1_epi32(1 << (s - 1)));
            let s = _mm_cvtsi32_si128(s);
            let out = out[first..first + N * BLOCK].as_chunks_mut::<BLOCK>().0;
            for ((out, &sum), scale) in out.iter_mut().zip(sums).zip(scale) {
                let t = _mm512_sra_epi32(sum, pre);
                let c = _mm512_srli_epi32::<15>(_mm512_mullo_epi32(load(scale), m));
                put(out, _mm512_sra_epi32(_mm512_add_epi32(_mm512_mullo_epi32(t, c), round), s));
            }
        }
        self.place += N * BLOCK;
    }

    /// Sums that begin with `start`, of the next `N` vectors of outputs of `R` rows.
    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512vnni")]
    fn products<const R: usize, const N: usize>(&self, start: [__m512i; N]) -> [[__m512i; N]; R] {
        let (stride, outputs, place) = (padded(self.act.len()), self.outputs, self.place);
        let q = &self.act.raised[self.row * stride..(self.row + R) * stride];
        assert!(self.weights.len() == outputs * stride && place + N * BLOCK <= outputs);
        let mut sums = [start; R];
        for quad in 0..stride / QUAD {
            // SAFETY: a panel has `outputs` times 4 bytes for each quad of inputs, of which `N`
            // vectors of 64 are left; each of `R` rows has `stride` inputs.
            unsafe {
                let row = self.weights.as_ptr().add((quad * outputs + place) * QUAD);
                let mut weights = [_mm512_setzero_si512(); N];
                for (n, weights) in weights.iter_mut().enumerate() {
                    *weights = _mm512_loadu_si512(row.add(n * BLOCK * QUAD).cast());
                }
                for (r, sums) in sums.iter_mut().enumerate() {
                    let q = inputs(q.as_ptr().add(r * stride + quad * QUAD));
                    for (sum, &weights) in sums.iter_mut().zip(&weights) {
                        *sum = _mm512_dpbusd_epi32(*sum, q, weights);
                    }
                }
            }
        }
        sums
    }

    /// `products` of one row, with twice as many sums, one half of them for every other quad:
    /// enough that no instruction waits for the one before.
    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512vnni")]
    fn products_of_one<const R: usize, const N: usize>(&self, start: [__m512i; N]) -> [[__m512i; N]; R] {
        let (stride, outputs, place) = (padded(self.act.len()), self.outputs, self.place);
        let q = &self.act.raised[self.row * stride..(self.row + 1) * stride];
        assert!(self.weights.len() == outputs * stride && place + N * BLOCK <= outputs);
        assert!(stride.is_multiple_of(2 * QUAD));
        let mut sums = [start, [_mm512_setzero_si512(); N]];
        for quad in (0..stride / QUAD).step_by(2) {
            for (half, sums) in sums.iter_mut().enumerate() {
                // SAFETY: as in `products`; the quads are even in number.
                unsafe {
                    let q = inputs(q.as_ptr().add((quad + half) * QUAD));
                    let row = self.weights.as_ptr().add(((quad + half) * outputs + place) * QUAD);
                    for (n, sum) in sums.iter_mut().enumerate() {
                        let weights = _mm512_loadu_si512(row.add(n * BLOCK * QUAD).cast());
                        *sum = _mm512_dpbusd_epi32(*sum, q, weights);
                    }
                }
            }
        }
        let [mut sums, others] = sums;
        for (sum, other) in sums.iter_mut().zip(others) {
            *sum = _mm512_add_epi32(*sum, other);
        }
        [sums; R]
    }
}

/// Four inputs in every element.
///
/// # Safety
/// Four bytes can be read at `q`.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn inputs(q: *const i8) -> __m512i {
    // SAFETY: the caller's promise; the read needs no alignment.
    _mm512_set1_epi32(unsafe { q.cast::<i32>().read_unaligned() })
}
