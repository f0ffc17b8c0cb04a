//! Kernels over one row at a time: quantization, residuals, input, slots.

use std::arch::x86_64::*;

use super::vector::{Avx2, exp2neg, load, load_wide, max_element, pack_i16, put, sum_elements};
use crate::kernels::buffer::padded;
use crate::kernels::cache::{KV_MAX, KeyValues};
use crate::kernels::pack::Activations;
use crate::kernels::scalar;
use crate::kernels::scalar::H_MAX;
use crate::kernels::slots::{BIAS_MAX, RateShare, SUM_SPAN, Slots};

/// The vectors of a row; a row is padded, so it consists of whole vectors.
fn vectors(x: &[i32]) -> &[[i32; 8]] {
    let (vectors, rest) = x.as_chunks();
    assert!(rest.is_empty());
    vectors
}

fn vectors_mut(x: &mut [i32]) -> &mut [[i32; 8]] {
    let (vectors, rest) = x.as_chunks_mut();
    assert!(rest.is_empty());
    vectors
}

/// Defines a kernel of this module: a safe function that takes the proof.
macro_rules! kernel {
    ($(#[$doc:meta])* $name:ident = $inner:ident($($argument:ident: $type:ty),*)) => {
        $(#[$doc])*
        pub fn $name(_: Avx2, $($argument: $type),*) {
            // SAFETY: the proof says that the CPU has AVX2.
            unsafe { $inner($($argument),*) }
        }
    };
}

kernel!(quantize = quantize_rows(x: &[i32], rows: usize, normalize: bool, act: &mut Activations));
kernel!(gain = gain_row(x: &mut [i32], gains: &[i32]));
kernel!(relu2 = relu2_row(x: &mut [i32]));
kernel!(relu = relu_row(x: &mut [i32]));
kernel!(add_residual = add_residual_row(h: &mut [i32], y: &[i32]));
kernel!(embed = embed_row(rows: &[(&[i8], u16)], shift: u32, h: &mut [i32]));
kernel!(queries = queries_row(x: &[i32], out: &mut [i16]));
kernel!(store = store_row(kv: &mut KeyValues, position: usize, keys: &[i32], values: &[i32]));
kernel!(slots = slots_row(z: &[i32], out: &mut Slots));
kernel!(add_bias = add_bias_row(z: &mut [i32], bias: &[i32]));
kernel!(learn = learn_row(slots: &Slots, rate: RateShare, bias: &mut [i32]));

#[target_feature(enable = "avx2")]
fn quantize_rows(x: &[i32], rows: usize, normalize: bool, act: &mut Activations) {
    for (row, x) in x.chunks_exact(padded(act.len())).take(rows).enumerate() {
        quantize_row(x, normalize, act, row);
    }
}

#[target_feature(enable = "avx2")]
fn quantize_row(x: &[i32], normalize: bool, act: &mut Activations, row: usize) {
    let (len, stride) = (act.len(), padded(act.len()));
    let x = vectors(x);
    let (mut amax, mut signs) = (_mm256_setzero_si256(), _mm256_setzero_si256());
    for x in x {
        let x = load(x);
        amax = _mm256_max_epi32(amax, _mm256_abs_epi32(x));
        signs = _mm256_or_si256(signs, x);
    }
    let amax = max_element(amax);
    act.signed[row] = _mm256_movemask_ps(_mm256_castsi256_ps(signs)) != 0;
    let range = row * stride..(row + 1) * stride;
    if amax == 0 {
        act.q[range].fill(0);
        (act.m[row], act.e[row]) = (0, 0);
        return;
    }
    let (m, e, inv) = scalar::quantize_scale(amax);
    (act.m[row], act.e[row]) = (m, e);
    // One of the two shifts is by zero, and the rounding is zero with it.
    let round = _mm256_set1_epi32(if e > 0 { 1 << (e - 1) } else { 0 });
    let (right, left) = (_mm_cvtsi32_si128(e.max(0)), _mm_cvtsi32_si128((-e).max(0)));
    let (inv, half) = (_mm256_set1_epi32(inv), _mm256_set1_epi32(1 << 22));
    let quantized = |x: &[i32; 8]| {
        let scaled = _mm256_sra_epi32(_mm256_sll_epi32(_mm256_add_epi32(load(x), round), left), right);
        _mm256_srai_epi32::<23>(_mm256_add_epi32(_mm256_mullo_epi32(scaled, inv), half))
    };
    let mut squares = _mm256_setzero_si256();
    let narrow = act.q[range].as_chunks_mut::<16>().0;
    for (x, narrow) in x.as_chunks::<2>().0.iter().zip(narrow) {
        let q = pack_i16(quantized(&x[0]), quantized(&x[1]));
        squares = _mm256_add_epi32(squares, _mm256_madd_epi16(q, q));
        let bytes = _mm_packs_epi16(_mm256_castsi256_si128(q), _mm256_extracti128_si256::<1>(q));
        // SAFETY: the array is 16 bytes, and the store needs no alignment.
        unsafe { _mm_storeu_si128(narrow.as_mut_ptr().cast(), bytes) };
    }
    if normalize {
        (act.m[row], act.e[row]) = scalar::normalize_scale(len, sum_elements(squares) as u32);
    }
}

#[target_feature(enable = "avx2")]
fn gain_row(x: &mut [i32], gains: &[i32]) {
    crate::kernels::scalar::gain(x, gains);
}

#[target_feature(enable = "avx2")]
fn relu2_row(x: &mut [i32]) {
    let (zero, top) = (_mm256_setzero_si256(), _mm256_set1_epi32(32767));
    for x in vectors_mut(x) {
        let r = _mm256_min_epi32(_mm256_max_epi32(load(x), zero), top);
        // Both halves of a pair: the low one holds the value, the high one is zero.
        put(x, _mm256_madd_epi16(r, r));
    }
}

#[target_feature(enable = "avx2")]
fn relu_row(x: &mut [i32]) {
    let (zero, top) = (_mm256_setzero_si256(), _mm256_set1_epi32(1 << 30));
    for x in vectors_mut(x) {
        put(x, _mm256_min_epi32(_mm256_max_epi32(load(x), zero), top));
    }
}

#[target_feature(enable = "avx2")]
fn add_residual_row(h: &mut [i32], y: &[i32]) {
    let (low, high) = (_mm256_set1_epi32(-H_MAX), _mm256_set1_epi32(H_MAX));
    for (h, y) in vectors_mut(h).iter_mut().zip(vectors(y)) {
        let sum = _mm256_add_epi32(load(h), load(y));
        put(h, _mm256_min_epi32(_mm256_max_epi32(sum, low), high));
    }
}

#[target_feature(enable = "avx2")]
fn embed_row(rows: &[(&[i8], u16)], shift: u32, h: &mut [i32]) {
    let round = _mm256_set1_epi32(if shift > 0 { 1 << (shift - 1) } else { 0 });
    let count = _mm_cvtsi32_si128(shift as i32);
    for (chunk, h) in vectors_mut(h).as_chunks_mut::<2>().0.iter_mut().enumerate() {
        let (mut low, mut high) = (round, round);
        for (row, scale) in rows {
            let row = load_wide(&row.as_chunks().0[chunk]);
            let scale = _mm256_set1_epi32(i32::from(*scale));
            let first = _mm256_cvtepi16_epi32(_mm256_castsi256_si128(row));
            let second = _mm256_cvtepi16_epi32(_mm256_extracti128_si256::<1>(row));
            low = _mm256_add_epi32(low, _mm256_mullo_epi32(first, scale));
            high = _mm256_add_epi32(high, _mm256_mullo_epi32(second, scale));
        }
        put(&mut h[0], _mm256_sra_epi32(low, count));
        put(&mut h[1], _mm256_sra_epi32(high, count));
    }
}

/// Head sizes are multiples of 8, so the last vector may be half a store.
#[target_feature(enable = "avx2")]
fn queries_row(x: &[i32], out: &mut [i16]) {
    let (low, high) = (_mm256_set1_epi32(-KV_MAX), _mm256_set1_epi32(KV_MAX));
    for (x, out) in vectors(x).iter().zip(out.as_chunks_mut::<8>().0) {
        let x = _mm256_min_epi32(_mm256_max_epi32(load(x), low), high);
        let x = _mm256_castsi256_si128(pack_i16(x, x));
        // SAFETY: the array is 16 bytes, and the store needs no alignment.
        unsafe { _mm_storeu_si128(out.as_mut_ptr().cast(), x) };
    }
}

#[target_feature(enable = "avx2")]
fn store_row(kv: &mut KeyValues, position: usize, keys: &[i32], values: &[i32]) {
    kv.store(position, keys, values);
}

#[target_feature(enable = "avx2")]
fn slots_row(z: &[i32], out: &mut Slots) {
    let (whole, tail) = z.as_chunks::<8>();
    let mut max = _mm256_set1_epi32(i32::MIN);
    for z in whole {
        max = _mm256_max_epi32(max, load(z));
    }
    let max = tail.iter().copied().fold(max_element(max), i32::max);
    let (top, one) = (_mm256_set1_epi32(max), _mm256_set1_epi32(1));
    out.total = 0;
    let spans = out.slots.chunks_mut(SUM_SPAN).zip(z.chunks(SUM_SPAN)).zip(out.sums.iter_mut());
    for ((slots, z), sum) in spans {
        let (whole, tail) = z.as_chunks::<8>();
        let (slots, rest) = slots.split_at_mut(8 * whole.len());
        let mut sums = _mm256_setzero_si256();
        for (slots, z) in slots.as_chunks_mut::<8>().0.iter_mut().zip(whole) {
            let slot = _mm256_add_epi32(exp2neg::<7>(_mm256_sub_epi32(top, load(z))), one);
            sums = _mm256_add_epi32(sums, slot);
            // SAFETY: the array is 32 bytes, and the store needs no alignment.
            unsafe { _mm256_storeu_si256(slots.as_mut_ptr().cast(), slot) };
        }
        *sum = sum_elements(sums) as u32;
        for (slot, &z) in rest.iter_mut().zip(tail) {
            *slot = scalar::exp2neg(max - z, 7) + 1;
            *sum += *slot;
        }
        out.total += u64::from(*sum);
    }
}

#[target_feature(enable = "avx2")]
fn add_bias_row(z: &mut [i32], bias: &[i32]) {
    scalar::add_bias(z, bias);
}

#[target_feature(enable = "avx2")]
fn learn_row(slots: &Slots, rate: RateShare, bias: &mut [i32]) {
    let slots = slots.slots();
    let least = _mm256_set1_epi32(-BIAS_MAX);
    let (factor, shift) = (_mm256_set1_epi32(rate.factor as i32), _mm_cvtsi32_si128(rate.shift as i32));
    let (whole, rest) = bias.as_chunks_mut::<8>();
    let (slots, of_rest) = slots.as_chunks::<8>();
    for (b, slot) in whole.iter_mut().zip(slots) {
        // SAFETY: the arrays are 32 bytes; loads and stores need no alignment.
        unsafe {
            let slot = _mm256_loadu_si256(slot.as_ptr().cast());
            let part = _mm256_srl_epi32(_mm256_mullo_epi32(_mm256_srli_epi32::<7>(slot), factor), shift);
            let left = _mm256_sub_epi32(_mm256_loadu_si256(b.as_ptr().cast()), part);
            _mm256_storeu_si256(b.as_mut_ptr().cast(), _mm256_max_epi32(left, least));
        }
    }
    for (b, &slot) in rest.iter_mut().zip(of_rest) {
        *b = (*b - (((slot >> 7) * rate.factor) >> rate.shift) as i32).max(-BIAS_MAX);
    }
}
