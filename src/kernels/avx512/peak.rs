//! The instruction of the product on its own: the most that the CPU can do.

use std::arch::x86_64::*;
use std::hint::black_box;

use super::vector::Avx512;

/// Sums of one operand: with the next one's, enough to hide the latency of the instruction.
const SUMS: usize = 6;
/// Vectors of one pass: 12 KiB.
const VECTORS: usize = 192;

/// A vector's worth of operands, aligned as a `Buffer` is.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Operand([i8; 64]);

pub fn peak(_: Avx512, rounds: usize) -> u64 {
    let operands = black_box(vec![Operand([1; 64]); VECTORS]);
    // SAFETY: the proof says that the CPU has the instructions.
    unsafe { run(rounds, &operands) };
    (rounds * VECTORS * SUMS * 64) as u64
}

#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512vnni")]
fn run(rounds: usize, operands: &[Operand]) {
    let factor = _mm512_set1_epi8(black_box(3));
    let mut sums = [[_mm512_setzero_si512(); SUMS]; 2];
    for _ in 0..rounds {
        for pair in operands.as_chunks::<2>().0 {
            for (sums, operand) in sums.iter_mut().zip(pair) {
                // SAFETY: the array is 64 bytes and aligned.
                let operand = unsafe { _mm512_load_si512(operand.0.as_ptr().cast()) };
                for sum in sums {
                    *sum = _mm512_dpbusd_epi32(*sum, factor, operand);
                }
            }
        }
    }
    black_box(
        sums.as_flattened().iter().fold(0i32, |all, &sum| all.wrapping_add(_mm512_reduce_add_epi32(sum))),
    );
}
