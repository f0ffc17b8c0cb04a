//! The proof that a CPU has AVX2, and what the kernels do with whole vectors.

#![deny(clippy::float_arithmetic)]

use std::arch::x86_64::*;

/// Proof that this CPU has AVX2. Holding one makes the kernels safe to call.
#[derive(Clone, Copy, Debug)]
pub struct Avx2(());

impl Avx2 {
    /// The proof, if this CPU has AVX2.
    pub fn detect() -> Option<Self> {
        (is_x86_feature_detected!("avx2") && is_x86_feature_detected!("popcnt")).then_some(Self(()))
    }
}

#[inline]
#[target_feature(enable = "avx2")]
pub(crate) fn load(from: &[i32; 8]) -> __m256i {
    // SAFETY: the array is 32 bytes, and the load needs no alignment.
    unsafe { _mm256_loadu_si256(from.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx2")]
pub(crate) fn put(to: &mut [i32; 8], x: __m256i) {
    // SAFETY: the array is 32 bytes, and the store needs no alignment.
    unsafe { _mm256_storeu_si256(to.as_mut_ptr().cast(), x) }
}

/// 16 bytes, sign-extended to 16 bits each.
#[inline]
#[target_feature(enable = "avx2")]
pub(crate) fn load_wide(from: &[i8; 16]) -> __m256i {
    // SAFETY: the array is 16 bytes, and the load needs no alignment.
    _mm256_cvtepi8_epi16(unsafe { _mm_loadu_si128(from.as_ptr().cast()) })
}

#[inline]
#[target_feature(enable = "avx2")]
pub(crate) fn store_i16(to: &mut [i16; 16], x: __m256i) {
    // SAFETY: the array is 32 bytes, and the store needs no alignment.
    unsafe { _mm256_storeu_si256(to.as_mut_ptr().cast(), x) }
}

/// Sixteen 32-bit values within the range of i16, as i16 in their order.
#[inline]
#[target_feature(enable = "avx2")]
pub(crate) fn pack_i16(low: __m256i, high: __m256i) -> __m256i {
    _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_packs_epi32(low, high))
}

#[inline]
#[target_feature(enable = "avx2")]
pub(crate) fn max_element(x: __m256i) -> i32 {
    let x = _mm_max_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256::<1>(x));
    let x = _mm_max_epi32(x, _mm_shuffle_epi32::<0b01_00_11_10>(x));
    _mm_cvtsi128_si32(_mm_max_epi32(x, _mm_shuffle_epi32::<0b10_11_00_01>(x)))
}

#[inline]
#[target_feature(enable = "avx2")]
pub(crate) fn sum_elements(x: __m256i) -> i32 {
    let x = _mm_add_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256::<1>(x));
    let x = _mm_add_epi32(x, _mm_shuffle_epi32::<0b01_00_11_10>(x));
    _mm_cvtsi128_si32(_mm_add_epi32(x, _mm_shuffle_epi32::<0b10_11_00_01>(x)))
}

/// `scalar::exp2neg` of eight values. A shift by 32 or more gives zero, as one by 31 does for
/// `M * 2^up` below 2^31, so the bound on `i` is not needed. `f`, `u` and 5628 fit 15 bits:
/// products of pairs whose other half is zero.
#[inline]
#[target_feature(enable = "avx2")]
pub(crate) fn exp2neg<const UP: i32>(d: __m256i) -> __m256i {
    let f = _mm256_slli_epi32::<5>(_mm256_and_si256(d, _mm256_set1_epi32(1023)));
    let slope = _mm256_srli_epi32::<15>(_mm256_madd_epi16(f, _mm256_set1_epi32(5628)));
    let u = _mm256_sub_epi32(_mm256_set1_epi32(22012), slope);
    let m = _mm256_sub_epi32(_mm256_set1_epi32(32768), _mm256_srli_epi32::<15>(_mm256_madd_epi16(f, u)));
    _mm256_srlv_epi32(_mm256_slli_epi32::<UP>(m), _mm256_srli_epi32::<10>(d))
}
