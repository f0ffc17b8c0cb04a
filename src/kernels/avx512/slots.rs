//! Slots of all symbols, and the bias that learns from them.

use std::arch::x86_64::*;

use super::vector::{Avx512, exp2neg_fraction, load};
use crate::kernels::scalar;
use crate::kernels::slots::{BIAS_MAX, RateShare, SUM_SPAN, Slots};

pub fn slots(_: Avx512, z: &[i32], slots: &mut Slots) {
    // SAFETY: the proof says that the CPU has the instructions.
    unsafe { all(z, slots) }
}

pub fn add_bias(_: Avx512, z: &mut [i32], bias: &[i32]) {
    // SAFETY: the proof says that the CPU has the instructions.
    unsafe { add(z, bias) }
}

pub fn learn(_: Avx512, slots: &Slots, rate: RateShare, bias: &mut [i32]) {
    // SAFETY: the proof says that the CPU has the instructions.
    unsafe { learn_from(slots.slots(), rate, bias) }
}

#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512vnni")]
fn add(z: &mut [i32], bias: &[i32]) {
    let (whole, rest) = z.as_chunks_mut::<16>();
    let (of_whole, of_rest) = bias.as_chunks::<16>();
    for (z, b) in whole.iter_mut().zip(of_whole) {
        let sum = _mm512_add_epi32(load(z), _mm512_srai_epi32::<8>(load(b)));
        // SAFETY: the array is 64 bytes, and the store needs no alignment.
        unsafe { _mm512_storeu_si512(z.as_mut_ptr().cast(), sum) };
    }
    scalar::add_bias(rest, of_rest);
}

#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512vnni")]
fn learn_from(slots: &[u32], rate: RateShare, bias: &mut [i32]) {
    let least = _mm512_set1_epi32(-BIAS_MAX);
    let (factor, shift) = (_mm512_set1_epi32(rate.factor as i32), _mm_cvtsi32_si128(rate.shift as i32));
    let (whole, rest) = bias.as_chunks_mut::<16>();
    let (of_whole, of_rest) = slots.as_chunks::<16>();
    for (b, slot) in whole.iter_mut().zip(of_whole) {
        // SAFETY: the arrays are 64 bytes; loads and stores need no alignment.
        unsafe {
            let slot = _mm512_srli_epi32::<7>(_mm512_loadu_si512(slot.as_ptr().cast()));
            let part = _mm512_srl_epi32(_mm512_mullo_epi32(slot, factor), shift);
            let left = _mm512_sub_epi32(load(b), part);
            _mm512_storeu_si512(b.as_mut_ptr().cast(), _mm512_max_epi32(left, least));
        }
    }
    for (b, &slot) in rest.iter_mut().zip(of_rest) {
        *b = (*b - (((slot >> 7) * rate.factor) >> rate.shift) as i32).max(-BIAS_MAX);
    }
}

#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512vnni")]
fn all(z: &[i32], out: &mut Slots) {
    let (whole, tail) = z.as_chunks::<16>();
    let (fours, rest) = whole.as_chunks::<4>();
    // Four at once: no instruction waits for the one before.
    let mut most = [_mm512_set1_epi32(i32::MIN); 4];
    for four in fours {
        for (most, z) in most.iter_mut().zip(four) {
            *most = _mm512_max_epi32(*most, load(z));
        }
    }
    let mut max = _mm512_max_epi32(_mm512_max_epi32(most[0], most[1]), _mm512_max_epi32(most[2], most[3]));
    for z in rest {
        max = _mm512_max_epi32(max, load(z));
    }
    let max = tail.iter().copied().fold(_mm512_reduce_max_epi32(max), i32::max);
    // A slot is `m << 7 >> i`: here `m` is shifted left by 16, and what is added to the difference
    // makes the shift to the right larger by 9. It does not touch the fraction.
    let top = _mm512_set1_epi32(max + (9 << 10));
    let (spans, tail) = z.as_chunks::<SUM_SPAN>();
    let (slots, last) = out.slots.split_at_mut(spans.as_flattened().len());
    let mut slots = slots.as_chunks_mut::<SUM_SPAN>().0.iter_mut();
    let (sums, last_sum) = out.sums.split_at_mut(spans.len());
    for (spans, sums) in spans.chunks(16).zip(sums.chunks_mut(16)) {
        let mut vectors = [_mm512_setzero_si512(); 16];
        for ((span, slots), vector) in spans.iter().zip(&mut slots).zip(&mut vectors) {
            *vector = whole_span(top, span, slots);
        }
        let all = sums_of_16(vectors);
        // SAFETY: the mask names the sums that there are; the store needs no alignment.
        unsafe { _mm512_mask_storeu_epi32(sums.as_mut_ptr().cast(), u16::MAX >> (16 - sums.len()), all) };
    }
    if let [sum] = last_sum {
        *sum = 0;
        for (slot, &z) in last.iter_mut().zip(tail) {
            *slot = scalar::exp2neg(max - z, 7) + 1;
            *sum += *slot;
        }
    }
    out.total = out.sums.iter().map(|&sum| u64::from(sum)).sum();
}

/// Slots of a span, and a vector of which all elements make its sum.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512vnni")]
fn whole_span(top: __m512i, z: &[i32; SUM_SPAN], slots: &mut [u32; SUM_SPAN]) -> __m512i {
    // SAFETY: the arrays are 128 bytes; loads and stores need no alignment.
    unsafe {
        let first = _mm512_sub_epi32(top, _mm512_loadu_si512(z.as_ptr().cast()));
        let second = _mm512_sub_epi32(top, _mm512_loadu_si512(z.as_ptr().add(16).cast()));
        let [first, second] = pair(first, second);
        _mm512_storeu_si512(slots.as_mut_ptr().cast(), first);
        _mm512_storeu_si512(slots.as_mut_ptr().add(16).cast(), second);
        _mm512_add_epi32(first, second)
    }
}

/// The sums of 16 vectors, in their order: halves of two vectors are added to one, four times.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512vnni")]
fn sums_of_16(vectors: [__m512i; 16]) -> __m512i {
    let mut quads = [_mm512_setzero_si512(); 4];
    for (quad, four) in quads.iter_mut().zip(vectors.as_chunks::<4>().0) {
        let [a, b, c, d] = *four;
        let ab = _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
        let cd = _mm512_add_epi32(_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
        // Each 16 bytes: the sums of these 16 bytes of a, b, c and d.
        *quad = _mm512_add_epi32(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd));
    }
    let halves = |x, y| {
        let (even, odd) =
            (_mm512_shuffle_i32x4::<0b10_00_10_00>(x, y), _mm512_shuffle_i32x4::<0b11_01_11_01>(x, y));
        _mm512_add_epi32(even, odd)
    };
    halves(halves(quads[0], quads[1]), halves(quads[2], quads[3]))
}

/// Slots for 32 differences. Differences that 16 bits cannot hold have a shift of 63 or more, which
/// leaves nothing, as the scalar shift by 31 does.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512vnni")]
fn pair(first: __m512i, second: __m512i) -> [__m512i; 2] {
    let zero = _mm512_setzero_si512();
    let m = exp2neg_fraction(_mm512_packus_epi32(first, second));
    let wide = [_mm512_unpacklo_epi16(zero, m), _mm512_unpackhi_epi16(zero, m)];
    let slot =
        |m, d| _mm512_add_epi32(_mm512_srlv_epi32(m, _mm512_srli_epi32::<10>(d)), _mm512_set1_epi32(1));
    [slot(wide[0], first), slot(wide[1], second)]
}
