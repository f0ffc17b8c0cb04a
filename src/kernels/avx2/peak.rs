//! The instructions of the product on their own: the most that the CPU can do.

use std::arch::x86_64::*;
use std::hint::black_box;

use super::vector::{Avx2, sum_elements};

/// Independent sums, enough to hide the latency of both instructions.
const SUMS: usize = 12;
/// Vectors of one pass: 12 KiB.
const VECTORS: usize = 384;

pub fn peak(_: Avx2, rounds: usize) -> u64 {
    let operands = black_box(vec![[257i16; 16]; VECTORS]);
    // SAFETY: the proof says that the CPU has AVX2.
    unsafe { run(rounds, &operands) };
    (rounds * VECTORS * 16) as u64
}

#[target_feature(enable = "avx2")]
fn run(rounds: usize, operands: &[[i16; 16]]) {
    let factor = _mm256_set1_epi16(black_box(3));
    let mut sums = [_mm256_setzero_si256(); SUMS];
    for _ in 0..rounds {
        for part in operands.as_chunks::<SUMS>().0 {
            for (sum, operand) in sums.iter_mut().zip(part) {
                // SAFETY: the array is 32 bytes, and the load needs no alignment.
                let operand = unsafe { _mm256_loadu_si256(operand.as_ptr().cast()) };
                *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(factor, operand));
            }
        }
    }
    black_box(sums.map(|sum| sum_elements(sum)));
}
