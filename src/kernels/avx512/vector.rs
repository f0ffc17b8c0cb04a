//! The proof that a CPU has AVX-512, and what the kernels do with whole vectors.

#![deny(clippy::float_arithmetic)]

use std::arch::x86_64::*;

/// Proof that this CPU has AVX-512 F, BW, DQ, VL and VNNI. Holding one makes the kernels safe to
/// call.
#[derive(Clone, Copy, Debug)]
pub struct Avx512(());

impl Avx512 {
    /// The proof, if this CPU has all of these.
    pub fn detect() -> Option<Self> {
        let all = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512vnni");
        all.then_some(Self(()))
    }
}

#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(crate) fn load(from: &[i32; 16]) -> __m512i {
    // SAFETY: the array is 64 bytes, and the load needs no alignment.
    unsafe { _mm512_loadu_si512(from.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(crate) fn put(to: &mut [i32; 16], x: __m512i) {
    // SAFETY: the array is 64 bytes, and the store needs no alignment.
    unsafe { _mm512_storeu_si512(to.as_mut_ptr().cast(), x) }
}

/// The fraction of `scalar::exp2neg`, `m` before its shifts, for 32 unsigned 16-bit values of `d`.
/// What is above the fraction's ten bits does not matter. `f` is doubled, so that the upper halves
/// of products are those shifted right by 15; all factors and results are below 2^16.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(crate) fn exp2neg_fraction(d: __m512i) -> __m512i {
    let f = _mm512_slli_epi16::<6>(d);
    let u = _mm512_sub_epi16(_mm512_set1_epi16(22012), _mm512_mulhi_epu16(f, _mm512_set1_epi16(5628)));
    _mm512_sub_epi16(_mm512_set1_epi16(i16::MIN), _mm512_mulhi_epu16(f, u))
}
