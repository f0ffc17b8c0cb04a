//! Attention at one position, head by head: scores of 16 positions at a time, values 8 elements at
//! a time.

use std::arch::aarch64::*;

use super::proof::Neon;
use crate::kernels::cache::{Bias, KeyValues, Next, POSITIONS, Reach, Scores};
use crate::kernels::scalar::{exp2neg, rshift, softmax_scale};

#[expect(clippy::too_many_arguments, reason = "as the scalar kernel")]
pub fn attend(
    _: Neon,
    kv: &KeyValues,
    query: &[i16],
    reach: Reach,
    bias: Option<&Bias>,
    score_shift: u32,
    _next: Option<Next<'_>>,
    scores: &mut Scores,
    out: &mut [i32],
) {
    let size = kv.size();
    let share = query.len() / size / kv.heads();
    let from = reach.first / POSITIONS * POSITIONS;
    let blocks = (reach.last + 1 - from).div_ceil(POSITIONS);
    let within = reach.first - from..reach.last + 1 - from;
    for (head, (query, out)) in query.chunks_exact(size).zip(out.chunks_exact_mut(size)).enumerate() {
        let (z, p) = (&mut scores.z[..blocks * POSITIONS], &mut scores.p[..blocks * POSITIONS]);
        let mut ring = kv.ring(head / share, from);
        for z in z.as_chunks_mut().0 {
            // SAFETY: the proof says that the CPU has NEON.
            unsafe { products(query, ring.next_block(&kv.keys), z) };
        }
        let reached = &mut z[within.clone()];
        for (place, z) in reached.iter_mut().enumerate() {
            *z = rshift(*z, score_shift);
            *z += bias.map_or(0, |bias| bias.from(head, reach.t, reach.first)[place]);
        }
        let max = reached.iter().copied().max().unwrap_or(0);
        let mut sum = 0;
        for z in reached.iter_mut() {
            *z = exp2neg(max - *z, 0) as i32;
            sum += *z;
        }
        let (g, r) = softmax_scale(sum);
        // Positions out of reach have no weight.
        p.fill(0);
        for (p, &w) in p[within.clone()].iter_mut().zip(&*reached) {
            *p = ((w * r) >> (15 + g)) as i16;
        }
        let parts = kv.parts(head / share, from, blocks, &kv.values);
        for (element, out) in (0..size).step_by(8).zip(out.as_chunks_mut().0) {
            // SAFETY: the proof says that the CPU has NEON.
            unsafe { sums(p, parts, element, size, out) };
        }
    }
}

/// Products of a query with a block of keys.
#[target_feature(enable = "neon")]
fn products(query: &[i16], keys: &[i16], z: &mut [i32; POSITIONS]) {
    let mut sums = [vdupq_n_s32(0); 4];
    for (row, pair) in keys.as_chunks::<{ 2 * POSITIONS }>().0.iter().zip(query.as_chunks::<2>().0) {
        for (half, sums) in row.as_chunks::<16>().0.iter().zip(sums.as_chunks_mut::<2>().0) {
            // SAFETY: the array is 32 bytes, and the load needs no alignment.
            let int16x8x2_t(even, odd) = unsafe { vld2q_s16(half.as_ptr()) };
            for (keys, &query) in [even, odd].into_iter().zip(pair) {
                sums[0] = vmlal_n_s16(sums[0], vget_low_s16(keys), query);
                sums[1] = vmlal_high_n_s16(sums[1], keys, query);
            }
        }
    }
    for (z, sum) in z.as_chunks_mut::<4>().0.iter_mut().zip(sums) {
        // SAFETY: the array is 16 bytes, and the store needs no alignment.
        unsafe { vst1q_s32(z.as_mut_ptr(), sum) };
    }
}

/// The weighted sums of eight elements of values.
#[target_feature(enable = "neon")]
fn sums(p: &[i16], parts: [&[i16]; 2], element: usize, size: usize, out: &mut [i32; 8]) {
    let mut sums = [vdupq_n_s32(0); 2];
    let rows = parts.into_iter().flat_map(|part| part.chunks_exact(2 * size));
    for (row, pair) in rows.zip(p.as_chunks::<2>().0) {
        let Some(values) = row[2 * element..].first_chunk::<16>() else { return };
        // SAFETY: the array is 32 bytes, and the load needs no alignment.
        let int16x8x2_t(even, odd) = unsafe { vld2q_s16(values.as_ptr()) };
        for (values, &p) in [even, odd].into_iter().zip(pair) {
            sums[0] = vmlal_n_s16(sums[0], vget_low_s16(values), p);
            sums[1] = vmlal_high_n_s16(sums[1], values, p);
        }
    }
    for (out, sum) in out.as_chunks_mut::<4>().0.iter_mut().zip(sums) {
        // SAFETY: the array is 16 bytes, and the store needs no alignment.
        unsafe { vst1q_s32(out.as_mut_ptr(), sum) };
    }
}
