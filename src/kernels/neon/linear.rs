//! Integer products: four inputs of four outputs are one vector, which is multiplied in the order
//! in which it is stored by the inputs of up to four rows.
//!
//! `sdot` adds four products of bytes to a 32-bit sum. On CPUs without it, `smull` makes 16-bit
//! products, of which `sadalp` adds pairs to 32-bit sums, two for each output. Nothing saturates.

use std::arch::aarch64::*;
use std::arch::asm;

use super::proof::Neon;
use crate::kernels::buffer::padded;
use crate::kernels::pack::{Activations, Product, QUAD};
use crate::kernels::scalar::rshift;

/// Outputs of one part: four vectors.
const PART: usize = 16;
/// Rows of one register tile.
const ROWS: usize = 4;

pub fn linear(proof: Neon, product: &Product, act: &Activations, rows: usize, out: &mut [i32]) {
    for (first, outputs, weights) in product.panels() {
        for row in (0..rows).step_by(ROWS) {
            for place in (0..outputs).step_by(PART) {
                let part = Part { product, act, row, first, outputs, weights, place };
                // SAFETY: the proof says that the CPU has NEON, and dot products where it says so.
                unsafe {
                    match (proof.dot, rows - row >= ROWS) {
                        (true, true) => part.rows::<ROWS, true>(out),
                        (false, true) => part.rows::<ROWS, false>(out),
                        (true, false) => part.rest::<true>(rows - row, out),
                        (false, false) => part.rest::<false>(rows - row, out),
                    }
                }
            }
        }
    }
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
    /// The part's first output within the panel.
    place: usize,
}

impl Part<'_> {
    /// Computes the remaining rows, one at a time.
    ///
    /// # Safety
    /// If `DOT`, the CPU has dot products.
    #[target_feature(enable = "neon")]
    unsafe fn rest<const DOT: bool>(&self, rows: usize, out: &mut [i32]) {
        for row in self.row..self.row + rows {
            // SAFETY: the caller's promise.
            unsafe { Part { row, ..*self }.rows::<1, DOT>(out) };
        }
    }

    /// Computes the outputs of the part for `R` rows.
    ///
    /// # Safety
    /// If `DOT`, the CPU has dot products.
    #[target_feature(enable = "neon")]
    unsafe fn rows<const R: usize, const DOT: bool>(&self, out: &mut [i32]) {
        let (product, act) = (self.product, self.act);
        let all = padded(product.rows());
        // SAFETY: the caller's promise.
        let sums = unsafe { self.sums::<R, DOT>() };
        let first = self.first + self.place;
        let scale = &product.scale[first..first + PART];
        for (row, sums) in (self.row..).zip(sums) {
            let (_, m, e) = act.row(row);
            let s = (product.shift as i32 - e).clamp(1, 31) as u32;
            let out = &mut out[row * all + first..row * all + first + PART];
            for ((y, acc), &scale) in out.iter_mut().zip(sums).zip(scale) {
                let c = ((scale as u32 * m as u32) >> 15) as i32;
                *y = rshift(rshift(acc, product.pre) * c, s);
            }
        }
    }

    /// The sums of the part's outputs for `R` rows.
    ///
    /// # Safety
    /// If `DOT`, the CPU has dot products.
    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn sums<const R: usize, const DOT: bool>(&self) -> [[i32; PART]; R] {
        let stride = padded(self.act.len());
        let q = &self.act.q[self.row * stride..(self.row + R) * stride];
        assert!(self.weights.len() == self.outputs * stride && self.place + PART <= self.outputs);
        // Without dot products, two sums for each output.
        let mut sums = [[[vdupq_n_s32(0); 2]; PART / 4]; R];
        for quad in 0..stride / QUAD {
            for (r, sums) in sums.iter_mut().enumerate() {
                // SAFETY: each of `R` rows has `stride` bytes, and the panel 4 bytes of each output
                // for each quad of inputs; the reads need no alignment. The caller promises the
                // instruction.
                unsafe {
                    let q = q.as_ptr().add(r * stride + quad * QUAD).cast::<i32>().read_unaligned();
                    let q = vreinterpretq_s8_s32(vdupq_n_s32(q));
                    let weights = self.weights.as_ptr().add((quad * self.outputs + self.place) * QUAD);
                    for (n, sum) in sums.iter_mut().enumerate() {
                        let w = vld1q_s8(weights.add(16 * n));
                        if DOT {
                            sum[0] = dot(sum[0], w, q);
                        } else {
                            sum[0] = vpadalq_s16(sum[0], vmull_s8(vget_low_s8(w), vget_low_s8(q)));
                            sum[1] = vpadalq_s16(sum[1], vmull_high_s8(w, q));
                        }
                    }
                }
            }
        }
        let mut all = [[0; PART]; R];
        for (all, sums) in all.iter_mut().zip(sums) {
            for (all, [low, high]) in all.as_chunks_mut::<4>().0.iter_mut().zip(sums) {
                let sum = if DOT { low } else { vpaddq_s32(low, high) };
                // SAFETY: the array is 16 bytes, and the store needs no alignment.
                unsafe { vst1q_s32(all.as_mut_ptr(), sum) };
            }
        }
        all
    }
}

/// Adds four products of bytes to each sum.
///
/// # Safety
/// The CPU has dot products.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn dot(mut sum: int32x4_t, w: int8x16_t, q: int8x16_t) -> int32x4_t {
    // The intrinsic is not stable yet. SAFETY: registers alone; the caller promises the
    // instruction.
    unsafe {
        asm!(
            ".arch_extension dotprod",
            "sdot {0:v}.4s, {1:v}.16b, {2:v}.16b",
            inout(vreg) sum, in(vreg) w, in(vreg) q,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    sum
}
