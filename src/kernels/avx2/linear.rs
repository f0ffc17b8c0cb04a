//! Integer products. Many rows: weights of 16 outputs are widened to 16 bits once and multiplied with
//! tiles of six rows whose sums stay in registers. Few rows: weights are streamed as they lie, 32 in
//! one instruction.
//!
//! Both add exact 32-bit sums, so their order does not matter. In the streaming product a pair of
//! 8-bit products is at most 2 * 127 * 127 < 2^15: the instruction's saturation is never reached, since
//! the loader and `quantise` keep both sides within -127 to 127.

use std::arch::x86_64::*;

use super::{Avx2, load, store};
use crate::kernels::buffer::padded;
use crate::kernels::pack::{Activations, BLOCK, Product, QUAD};
use crate::kernels::prefetch;

/// Rows of one register tile: 2 x 6 sums, 2 weight vectors, 2 temporaries.
const TILE: usize = 6;
/// Rows up to this number are multiplied one by one.
const FEW: usize = 2;
/// Bytes of widened activations that the weights of 16 outputs are widened for.
const GROUP_BYTES: usize = 40 << 10;

pub fn linear(_: Avx2, product: &Product, act: &mut Activations, rows: usize, out: &mut [i32]) {
    let stride = padded(act.len());
    // The inner loops rely on these sizes.
    assert!(stride == padded(product.cols()) && rows * stride <= act.q.len().min(act.wide.len()));
    assert!(product.weights.len() == padded(product.rows()) * stride);
    assert!(act.panel.len() >= 2 * BLOCK * stride);
    // SAFETY: the proof says that the CPU has AVX2.
    unsafe {
        if rows <= FEW {
            for row in 0..rows {
                stream(product, act, row, out);
            }
        } else {
            let group = (GROUP_BYTES / (2 * stride) / TILE * TILE).max(TILE);
            for from in (0..rows).step_by(group) {
                blocked(product, act, from, rows.min(from + group), out);
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

/// Rows `from` to `to`, 16 outputs at a time.
#[target_feature(enable = "avx2")]
fn blocked(product: &Product, act: &mut Activations, from: usize, to: usize, out: &mut [i32]) {
    let stride = padded(act.len());
    let panels = product.weights.chunks_exact(2 * BLOCK * stride);
    for (number, panel) in panels.enumerate() {
        widen(panel, &product.weights[(number + 1) * panel.len()..], &mut act.panel);
        let place = number * 2 * BLOCK;
        let mut row = from;
        while row < to {
            match to - row {
                1 => tile::<1>(product, act, row, place, out),
                2 => tile::<2>(product, act, row, place, out),
                3 => tile::<3>(product, act, row, place, out),
                4 => tile::<4>(product, act, row, place, out),
                5 => tile::<5>(product, act, row, place, out),
                _ => tile::<TILE>(product, act, row, place, out),
            }
            row += TILE;
        }
    }
}

/// Two blocks of weights as 16-bit values: per pair of inputs, 8 outputs of each block. Those that come
/// `next` are asked for, to arrive while these are multiplied.
#[target_feature(enable = "avx2")]
fn widen(panel: &[i8], next: &[i8], wide: &mut [i16]) {
    let (first, second) = panel.split_at(panel.len() / 2);
    // Bytes 0 and 1 (or 2 and 3) of each 32-bit element, moved to the upper halves of its two words.
    let pick = |a: i8, b: i8| {
        _mm256_setr_epi8(
            -1, a, -1, b, -1, a + 4, -1, b + 4, -1, a + 8, -1, b + 8, -1, a + 12, -1, b + 12, //
            -1, a, -1, b, -1, a + 4, -1, b + 4, -1, a + 8, -1, b + 8, -1, a + 12, -1, b + 12,
        )
    };
    let (low, high) = (pick(0, 1), pick(2, 3));
    let quads = first.as_chunks::<32>().0.iter().zip(second.as_chunks::<32>().0);
    for (line, (wide, (first, second))) in wide.as_chunks_mut::<64>().0.iter_mut().zip(quads).enumerate() {
        prefetch(next, 64 * line);
        // SAFETY: both arrays are 32 bytes, and the loads need no alignment.
        let (first, second) = unsafe {
            (_mm256_loadu_si256(first.as_ptr().cast()), _mm256_loadu_si256(second.as_ptr().cast()))
        };
        let parts = [(first, low), (second, low), (first, high), (second, high)];
        for (to, (weights, pick)) in wide.as_chunks_mut::<16>().0.iter_mut().zip(parts) {
            super::store_i16(to, _mm256_srai_epi16::<8>(_mm256_shuffle_epi8(weights, pick)));
        }
    }
}

/// Outputs `place` to `place + 15` of rows `row` to `row + R - 1`.
#[inline]
#[target_feature(enable = "avx2")]
fn tile<const R: usize>(product: &Product, act: &Activations, row: usize, place: usize, out: &mut [i32]) {
    let stride = padded(act.len());
    let mut sums = [[first_sum(product); 2]; R];
    add_products(&act.wide[row * stride..(row + R) * stride], &act.panel[..2 * BLOCK * stride], &mut sums);
    let scale = product.scale[place..place + 16].as_chunks::<8>().0;
    let scale = [load(&scale[0]), load(&scale[1])];
    let outputs = padded(product.rows());
    for (r, sums) in sums.iter().enumerate() {
        let requantise = Requantise::new(product, act, row + r);
        let at = (row + r) * outputs + place;
        let out = out[at..at + 16].as_chunks_mut::<8>().0;
        store(&mut out[0], requantise.apply(sums[0], scale[0]));
        store(&mut out[1], requantise.apply(sums[1], scale[1]));
    }
}

/// The inner loop: adds the products of `R` rows with 16 outputs. A function of its own, so that the
/// compiler keeps all sums in registers.
#[inline(never)]
#[target_feature(enable = "avx2")]
fn add_products<const R: usize>(rows: &[i16], panel: &[i16], sums: &mut [[__m256i; 2]; R]) {
    let stride = rows.len() / R;
    assert!(panel.len() == 2 * BLOCK * stride);
    let (mut weights, mut inputs) = (panel.as_ptr(), rows.as_ptr());
    let mut local = *sums;
    for _ in 0..stride / 2 {
        // SAFETY: `weights` moves over the `stride / 2` groups of 32 values of `panel`, which is aligned
        // as a `Buffer` is, and `inputs` over the `stride / 2` pairs of a row, of which `R` lie `stride`
        // apart in `rows`.
        unsafe {
            let first = _mm256_load_si256(weights.cast());
            let second = _mm256_load_si256(weights.add(16).cast());
            for (r, sums) in local.iter_mut().enumerate() {
                let pair = _mm256_set1_epi32(inputs.add(r * stride).cast::<i32>().read_unaligned());
                sums[0] = _mm256_add_epi32(sums[0], _mm256_madd_epi16(pair, first));
                sums[1] = _mm256_add_epi32(sums[1], _mm256_madd_epi16(pair, second));
            }
            weights = weights.add(32);
            inputs = inputs.add(2);
        }
    }
    *sums = local;
}

/// All outputs of one row.
#[target_feature(enable = "avx2")]
fn stream(product: &Product, act: &Activations, row: usize, out: &mut [i32]) {
    let outputs = padded(product.rows());
    let out = &mut out[row * outputs..(row + 1) * outputs];
    let requantise = Requantise::new(product, act, row);
    let mut place = 0;
    while place < outputs {
        if outputs - place >= 4 * BLOCK {
            stream_blocks::<4>(product, act, row, place, &requantise, out);
            place += 4 * BLOCK;
        } else {
            stream_blocks::<2>(product, act, row, place, &requantise, out);
            place += 2 * BLOCK;
        }
    }
}

/// Outputs of `N` blocks from `place` on.
#[inline]
#[target_feature(enable = "avx2")]
fn stream_blocks<const N: usize>(
    product: &Product,
    act: &Activations,
    row: usize,
    place: usize,
    requantise: &Requantise,
    out: &mut [i32],
) {
    let stride = padded(act.len());
    let q = &act.q[row * stride..(row + 1) * stride];
    let block = BLOCK * stride;
    let weights = &product.weights[place * stride..place * stride + N * block];
    let ones = _mm256_set1_epi16(1);
    let mut sums = [first_sum(product); N];
    for (number, quad) in q.as_chunks::<QUAD>().0.iter().enumerate() {
        let q = _mm256_set1_epi32(i32::from_le_bytes(quad.map(|q| q as u8)));
        let magnitude = _mm256_abs_epi8(q);
        for (n, sum) in sums.iter_mut().enumerate() {
            // SAFETY: `weights` holds `N` blocks of `stride / 4` vectors of 32 bytes.
            let w = unsafe {
                let at = weights.as_ptr().add(n * block + number * BLOCK * QUAD);
                _mm256_load_si256(at.cast())
            };
            let pairs = _mm256_maddubs_epi16(magnitude, _mm256_sign_epi8(w, q));
            *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(pairs, ones));
        }
    }
    let scale = product.scale[place..place + N * BLOCK].as_chunks::<8>().0;
    let out = out[place..place + N * BLOCK].as_chunks_mut::<8>().0;
    for ((out, &sums), scale) in out.iter_mut().zip(&sums).zip(scale) {
        store(out, requantise.apply(sums, load(scale)));
    }
}
