//! Queries, keys and values: clamped to 16 bits, and put where attention wants them.

use std::arch::x86_64::*;

use super::vector::Avx512;
use crate::kernels::cache::{KV_MAX, KeyValues, POSITIONS};

pub fn queries(_: Avx512, x: &[i32], out: &mut [i16]) {
    // SAFETY: the proof says that the CPU has the instructions.
    unsafe { queries_row(x, out) }
}

pub fn store(_: Avx512, kv: &mut KeyValues, position: usize, keys: &[i32], values: &[i32]) {
    // SAFETY: the proof says that the CPU has the instructions.
    unsafe { store_row(kv, position, keys, values) }
}

/// Eight values within their bounds, still of 32 bits. Head sizes are multiples of 8.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512vnni")]
fn clamped(x: &[i32; 8]) -> __m256i {
    // SAFETY: the array is 32 bytes, and the load needs no alignment.
    let x = unsafe { _mm256_loadu_si256(x.as_ptr().cast()) };
    _mm256_min_epi32(_mm256_max_epi32(x, _mm256_set1_epi32(-KV_MAX)), _mm256_set1_epi32(KV_MAX))
}

#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512vnni")]
fn queries_row(x: &[i32], out: &mut [i16]) {
    for (x, out) in x.as_chunks().0.iter().zip(out.as_chunks_mut::<8>().0) {
        // SAFETY: the array is 16 bytes, and the store needs no alignment.
        unsafe { _mm_storeu_si128(out.as_mut_ptr().cast(), _mm256_cvtepi32_epi16(clamped(x))) };
    }
}

#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512vnni")]
fn store_row(kv: &mut KeyValues, position: usize, keys: &[i32], values: &[i32]) {
    let (size, place) = (kv.size(), position % POSITIONS);
    for head in 0..kv.heads() {
        let (block, from) = (kv.block(head, position), head * size);
        let rows = kv.keys[block..block + POSITIONS * size].as_chunks_mut::<{ 2 * POSITIONS }>().0;
        for (rows, x) in rows.as_chunks_mut::<4>().0.iter_mut().zip(keys[from..from + size].as_chunks().0) {
            let mut pairs = [[0i16; 2]; 4];
            // SAFETY: the array is 16 bytes, and the store needs no alignment.
            unsafe { _mm_storeu_si128(pairs.as_mut_ptr().cast(), _mm256_cvtepi32_epi16(clamped(x))) };
            for (row, pair) in rows.iter_mut().zip(pairs) {
                row.as_chunks_mut().0[place] = pair;
            }
        }
        // Values of two positions alternate: those of the other one stay.
        let row = block + place / 2 * 2 * size;
        let row = kv.values[row..row + 2 * size].as_chunks_mut::<16>().0;
        let odd = place % 2 == 1;
        let mask = if odd { 0xaaaa } else { 0x5555 };
        let count = _mm_cvtsi32_si128(if odd { 16 } else { 0 });
        for (row, x) in row.iter_mut().zip(values[from..from + size].as_chunks().0) {
            let x = _mm256_sll_epi32(clamped(x), count);
            // SAFETY: the array is 32 bytes, and the store needs no alignment.
            unsafe { _mm256_mask_storeu_epi16(row.as_mut_ptr(), mask, x) };
        }
    }
}
