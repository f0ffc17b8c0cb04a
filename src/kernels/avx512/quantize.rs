//! Quantization of many rows at once: the chain of operations of one row (two reductions, two
//! divisions and a root) runs beside the chains of the others.

use std::arch::x86_64::*;

use super::vector::{Avx512, load};
use crate::kernels::buffer::padded;
use crate::kernels::pack::Activations;
use crate::kernels::scalar;

/// Rows whose chains run side by side.
const ROWS: usize = 16;

/// The scale of a row: `m`, `e` and the multiplier; all zero for a row of zeros.
type Scale = (i32, i32, i32);

pub fn quantize(_: Avx512, x: &[i32], rows: usize, normalize: bool, act: &mut Activations) {
    // SAFETY: the proof says that the CPU has the instructions.
    unsafe {
        match normalize {
            true => all::<true>(x, rows, act),
            false => all::<false>(x, rows, act),
        }
    }
}

#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512vnni")]
fn all<const NORMALISE: bool>(x: &[i32], rows: usize, act: &mut Activations) {
    let (len, stride) = (act.len(), padded(act.len()));
    // Products treat all inputs alike.
    act.signed[..rows].fill(true);
    let x = &x[..rows * stride];
    let outs = act.q.chunks_mut(ROWS * stride).zip(act.raised.chunks_mut(ROWS * stride));
    let scales_out = act.m[..rows].chunks_mut(ROWS).zip(act.e[..rows].chunks_mut(ROWS));
    for ((x, (narrow, raised)), (m, e)) in x.chunks(ROWS * stride).zip(outs).zip(scales_out) {
        let mut scales: [Scale; ROWS] = [(0, 0, 0); ROWS];
        for (scale, x) in scales.iter_mut().zip(x.chunks_exact(stride)) {
            let amax = largest(x.as_chunks().0);
            *scale = if amax == 0 { (0, 0, 0) } else { scalar::quantize_scale(amax) };
        }
        let mut sums = [0; ROWS];
        let outs = narrow.chunks_exact_mut(stride).zip(raised.chunks_exact_mut(stride));
        for (((x, (narrow, raised)), &scale), sum) in
            x.chunks_exact(stride).zip(outs).zip(&scales).zip(&mut sums)
        {
            *sum = row::<NORMALISE>(x.as_chunks().0, scale, narrow, raised);
        }
        for (((m, e), &scale), &sum) in m.iter_mut().zip(e).zip(&scales).zip(&sums) {
            (*m, *e) = match NORMALISE {
                true if sum > 0 => scalar::normalize_scale(len, sum),
                _ => (scale.0, scale.1),
            };
        }
    }
}

/// The largest magnitude.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512vnni")]
fn largest(x: &[[i32; 16]]) -> i32 {
    let mut amax = _mm512_setzero_si512();
    for x in x {
        amax = _mm512_max_epi32(amax, _mm512_abs_epi32(load(x)));
    }
    _mm512_reduce_max_epi32(amax)
}

/// What turns a row's values into bytes.
#[derive(Clone, Copy)]
struct Quantizer {
    round: __m512i,
    right: __m128i,
    left: __m128i,
    inv: __m512i,
    /// All lanes, if the multiplier is negative as a 16-bit value.
    wraps: __mmask32,
}

impl Quantizer {
    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512vnni")]
    fn new((_, e, inv): Scale) -> Self {
        Self {
            // One of the two shifts is by zero, and the rounding is zero with it.
            round: _mm512_set1_epi32(if e > 0 { 1 << (e - 1) } else { 0 }),
            right: _mm_cvtsi32_si128(e.max(0)),
            left: _mm_cvtsi32_si128((-e).max(0)),
            inv: _mm512_set1_epi16(inv as i16),
            wraps: if inv < 1 << 15 { 0 } else { u32::MAX },
        }
    }

    /// 32 values, still of 16 bits, in the order of a pack. What is scaled has a magnitude of 2^15
    /// at most: the pack makes a positive 2^15 one less, which comes to 127 all the same. The
    /// rounding 2^22 is a multiple of 2^16, so that upper halves of the products are enough; a
    /// multiplier that wraps counts 2^16 less, once the value too little.
    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512vnni")]
    fn pair(self, first: &[i32; 16], second: &[i32; 16]) -> __m512i {
        let shifted = |x| _mm512_sra_epi32(_mm512_add_epi32(load(x), self.round), self.right);
        let scaled = _mm512_sll_epi16(_mm512_packs_epi32(shifted(first), shifted(second)), self.left);
        let upper = _mm512_mulhi_epi16(scaled, self.inv);
        let upper = _mm512_mask_add_epi16(upper, self.wraps, upper, scaled);
        _mm512_srai_epi16::<7>(_mm512_add_epi16(upper, _mm512_set1_epi16(64)))
    }
}

/// Quantizes a row, and gives the sum of squares if they count.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512vnni")]
fn row<const SQUARES: bool>(x: &[[i32; 16]], scale: Scale, narrow: &mut [i8], raised: &mut [i8]) -> u32 {
    let quantizer = Quantizer::new(scale);
    let mut squares = _mm512_setzero_si512();
    let (x_64, x) = x.as_chunks::<4>();
    let (narrow_64, narrow) = narrow.as_chunks_mut::<64>();
    let (raised_64, raised) = raised.as_chunks_mut::<64>();
    // Packing goes by 16 bytes of each operand: afterwards, elements are put into their order.
    let order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    for ((x, narrow), raised) in x_64.iter().zip(narrow_64).zip(raised_64) {
        let pairs = [quantizer.pair(&x[0], &x[1]), quantizer.pair(&x[2], &x[3])];
        if SQUARES {
            for pair in pairs {
                squares = _mm512_dpwssd_epi32(squares, pair, pair);
            }
        }
        let bytes = _mm512_permutexvar_epi32(order, _mm512_packs_epi16(pairs[0], pairs[1]));
        // SAFETY: the arrays are 64 bytes, and the stores need no alignment.
        unsafe {
            _mm512_storeu_si512(narrow.as_mut_ptr().cast(), bytes);
            let bytes = _mm512_xor_si512(bytes, _mm512_set1_epi8(i8::MIN));
            _mm512_storeu_si512(raised.as_mut_ptr().cast(), bytes);
        }
    }
    let pairs = narrow.as_chunks_mut::<16>().0.iter_mut().zip(raised.as_chunks_mut::<16>().0);
    let zero = [0; 16];
    // Each 8 values of a vector, then as many of the zeros.
    let order = _mm512_setr_epi64(0, 2, 4, 6, 1, 3, 5, 7);
    for (x, (narrow, raised)) in x.iter().zip(pairs) {
        let pair = quantizer.pair(x, &zero);
        if SQUARES {
            squares = _mm512_dpwssd_epi32(squares, pair, pair);
        }
        let pair = _mm512_castsi512_si256(_mm512_permutexvar_epi64(order, pair));
        let bytes = _mm256_cvtepi16_epi8(pair);
        // SAFETY: the arrays are 16 bytes, and the stores need no alignment.
        unsafe {
            _mm_storeu_si128(narrow.as_mut_ptr().cast(), bytes);
            let bytes = _mm_xor_si128(bytes, _mm_set1_epi8(i8::MIN));
            _mm_storeu_si128(raised.as_mut_ptr().cast(), bytes);
        }
    }
    if SQUARES { _mm512_reduce_add_epi32(squares) as u32 } else { 0 }
}
