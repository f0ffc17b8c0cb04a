//! Kernels over one row at a time: residuals, activations, input.

use std::arch::x86_64::*;

use super::vector::{Avx512, load, put};
use crate::kernels::scalar::H_MAX;

/// The vectors of a row; a row is padded, so it consists of whole vectors.
fn vectors(x: &[i32]) -> &[[i32; 16]] {
    let (vectors, rest) = x.as_chunks();
    assert!(rest.is_empty());
    vectors
}

fn vectors_mut(x: &mut [i32]) -> &mut [[i32; 16]] {
    let (vectors, rest) = x.as_chunks_mut();
    assert!(rest.is_empty());
    vectors
}

/// Defines a kernel of this module: a safe function that takes the proof.
macro_rules! kernel {
    ($(#[$doc:meta])* $name:ident = $inner:ident($($argument:ident: $type:ty),*)) => {
        $(#[$doc])*
        pub fn $name(_: Avx512, $($argument: $type),*) {
            // SAFETY: the proof says that the CPU has the instructions.
            unsafe { $inner($($argument),*) }
        }
    };
}

kernel!(relu2 = relu2_row(x: &mut [i32]));
kernel!(relu = relu_row(x: &mut [i32]));
kernel!(add_residual = add_residual_row(h: &mut [i32], y: &[i32]));
kernel!(embed = embed_row(rows: &[(&[i8], u16)], shift: u32, h: &mut [i32]));
kernel!(gain = gain_row(x: &mut [i32], gains: &[i32]));

#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512vnni")]
fn gain_row(x: &mut [i32], gains: &[i32]) {
    let (zero, top) = (_mm512_setzero_si512(), _mm512_set1_epi32(32767));
    let round = _mm512_set1_epi32(1 << 11);
    for (x, gain) in vectors_mut(x).iter_mut().zip(vectors(gains)) {
        let u = _mm512_min_epi32(_mm512_max_epi32(load(x), zero), top);
        let product = _mm512_add_epi32(_mm512_mullo_epi32(u, load(gain)), round);
        put(x, _mm512_min_epi32(_mm512_srai_epi32::<12>(product), top));
    }
}

#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512vnni")]
fn relu2_row(x: &mut [i32]) {
    let (zero, top) = (_mm512_setzero_si512(), _mm512_set1_epi32(32767));
    for x in vectors_mut(x) {
        let r = _mm512_min_epi32(_mm512_max_epi32(load(x), zero), top);
        // Both halves of a pair: the low one holds the value, the high one is zero.
        put(x, _mm512_madd_epi16(r, r));
    }
}

#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512vnni")]
fn relu_row(x: &mut [i32]) {
    let (zero, top) = (_mm512_setzero_si512(), _mm512_set1_epi32(1 << 30));
    for x in vectors_mut(x) {
        put(x, _mm512_min_epi32(_mm512_max_epi32(load(x), zero), top));
    }
}

#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512vnni")]
fn add_residual_row(h: &mut [i32], y: &[i32]) {
    let (low, high) = (_mm512_set1_epi32(-H_MAX), _mm512_set1_epi32(H_MAX));
    for (h, y) in vectors_mut(h).iter_mut().zip(vectors(y)) {
        let sum = _mm512_add_epi32(load(h), load(y));
        put(h, _mm512_min_epi32(_mm512_max_epi32(sum, low), high));
    }
}

/// Four rows at a time: a quad of their bytes, times the bytes of their scales. The scales' upper
/// bytes make sums of their own, which count 256 times.
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512vnni")]
fn embed_row(rows: &[(&[i8], u16)], shift: u32, h: &mut [i32]) {
    let round = _mm512_set1_epi32(if shift > 0 { 1 << (shift - 1) } else { 0 });
    let count = _mm_cvtsi32_si128(shift as i32);
    for (chunk, h) in h.chunks_mut(64).enumerate() {
        let mask = u64::MAX >> (64 - h.len());
        let (mut low, mut high) = ([round; 4], [_mm512_setzero_si512(); 4]);
        for rows in rows.chunks(4) {
            let (mut bytes, mut scales) = ([_mm512_setzero_si512(); 4], [0; 2]);
            for (n, (row, scale)) in rows.iter().enumerate() {
                let row = &row[64 * chunk..64 * chunk + h.len()];
                // SAFETY: the mask names as many bytes as there are, and the load needs no
                // alignment.
                bytes[n] = unsafe { _mm512_maskz_loadu_epi8(mask, row.as_ptr()) };
                scales[0] |= i32::from(scale & 255) << (8 * n);
                scales[1] |= i32::from(scale >> 8) << (8 * n);
            }
            let scales = scales.map(|scales| _mm512_set1_epi32(scales));
            for (n, quad) in quads(bytes).into_iter().enumerate() {
                low[n] = _mm512_dpbusd_epi32(low[n], scales[0], quad);
                high[n] = _mm512_dpbusd_epi32(high[n], scales[1], quad);
            }
        }
        let mut sums = [round; 4];
        for n in 0..4 {
            let sum = _mm512_add_epi32(low[n], _mm512_slli_epi32::<8>(high[n]));
            sums[n] = _mm512_sra_epi32(sum, count);
        }
        for (h, sum) in h.as_chunks_mut().0.iter_mut().zip(in_order(sums)) {
            put(h, sum);
        }
    }
}

/// Quads of the bytes of four rows: of each 16 bytes the first four come first, and so on.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512vnni")]
fn quads([a, b, c, d]: [__m512i; 4]) -> [__m512i; 4] {
    let (first, second) = (_mm512_unpacklo_epi8(a, b), _mm512_unpacklo_epi8(c, d));
    let (third, fourth) = (_mm512_unpackhi_epi8(a, b), _mm512_unpackhi_epi8(c, d));
    [
        _mm512_unpacklo_epi16(first, second),
        _mm512_unpackhi_epi16(first, second),
        _mm512_unpacklo_epi16(third, fourth),
        _mm512_unpackhi_epi16(third, fourth),
    ]
}

/// The elements of `quads` in their order: the 4 x 4 parts of 16 bytes, transposed.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512vnni")]
fn in_order([a, b, c, d]: [__m512i; 4]) -> [__m512i; 4] {
    const EVEN: i32 = 0b10_00_10_00;
    const ODD: i32 = 0b11_01_11_01;
    let (ab, cd) = (_mm512_shuffle_i32x4::<0b01_00_01_00>(a, b), _mm512_shuffle_i32x4::<0b01_00_01_00>(c, d));
    let (ab_top, cd_top) =
        (_mm512_shuffle_i32x4::<0b11_10_11_10>(a, b), _mm512_shuffle_i32x4::<0b11_10_11_10>(c, d));
    [
        _mm512_shuffle_i32x4::<EVEN>(ab, cd),
        _mm512_shuffle_i32x4::<ODD>(ab, cd),
        _mm512_shuffle_i32x4::<EVEN>(ab_top, cd_top),
        _mm512_shuffle_i32x4::<ODD>(ab_top, cd_top),
    ]
}
