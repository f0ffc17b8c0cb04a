//! Attention at one position: scores of a block of positions at a time, with the heads of a shared
//! key together.

use std::arch::x86_64::*;

use super::vector::{Avx2, exp2neg, load, max_element, pack_i16, put, store_i16, sum_elements};
use crate::kernels::cache::{Bias, KeyValues, Next, POSITIONS, Reach, Scores};
use crate::kernels::prefetch::prefetch;
use crate::kernels::scalar;

/// The score of a position out of reach, which leaves it no attention weight: it is at least 2^28
/// below every other score (whose magnitude is at most 2^29 + 2^20), and its difference to any
/// other fits an i32.
const NEVER: i32 = -(1 << 30);

/// The operands of the kernels below.
struct Work<'a> {
    kv: &'a KeyValues,
    reach: Reach,
    /// `reach.first` rounded down and `reach.last + 1` rounded up to whole blocks.
    from: usize,
    to: usize,
    score_shift: u32,
    bias: Option<&'a Bias>,
    next: Option<Next<'a>>,
}

#[expect(clippy::too_many_arguments, reason = "as the scalar kernel")]
pub fn attend(
    _: Avx2,
    kv: &KeyValues,
    query: &[i16],
    reach: Reach,
    bias: Option<&Bias>,
    score_shift: u32,
    next: Option<Next<'_>>,
    scores: &mut Scores,
    out: &mut [i32],
) {
    let share = query.len() / kv.size() / kv.heads();
    let from = reach.first / POSITIONS * POSITIONS;
    let to = (reach.last + 1).next_multiple_of(POSITIONS);
    let work = Work { kv, reach, from, to, score_shift, bias, next };
    let mut head = 0;
    while head < query.len() / kv.size() {
        // Of the heads that share keys, four, two or one at a time.
        let left = share - head % share;
        // SAFETY: the proof says that the CPU has AVX2.
        let done = unsafe {
            match left {
                4.. => work.heads::<4>(head, head / share, query, scores, out),
                2..4 => work.heads::<2>(head, head / share, query, scores, out),
                _ => work.heads::<1>(head, head / share, query, scores, out),
            }
        };
        head += done;
    }
}

/// Asks for the cache lines of a block.
#[inline]
fn ask_for(block: &[i16]) {
    for place in (0..block.len()).step_by(32) {
        prefetch(block, place);
    }
}

/// Broadcasts a pair of values to all elements.
///
/// # Safety
/// Two values can be read at `pair`.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn spread(pair: *const i16) -> __m256i {
    // SAFETY: the caller's promise; the read needs no alignment.
    _mm256_set1_epi32(unsafe { pair.cast::<i32>().read_unaligned() })
}

impl Work<'_> {
    /// Attention of `H` heads from `head` on; returns `H`.
    #[target_feature(enable = "avx2")]
    fn heads<const H: usize>(
        &self,
        head: usize,
        kv_head: usize,
        query: &[i16],
        scores: &mut Scores,
        out: &mut [i32],
    ) -> usize {
        let size = self.kv.size();
        let part = head * size..(head + H) * size;
        self.scores::<H>(head, kv_head, &query[part.clone()], scores);
        for h in 0..H {
            let row = h * scores.stride..h * scores.stride + self.to - self.from;
            self.softmax(&mut scores.z[row.clone()], &mut scores.p[row]);
        }
        self.values::<H>(kv_head, scores, &mut out[part]);
        H
    }

    /// Scores of `H` heads, a block of positions at a time.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn scores<const H: usize>(&self, head: usize, kv_head: usize, query: &[i16], scores: &mut Scores) {
        let mut ring = self.kv.ring(kv_head, self.from);
        let mut next = self.next.map(|next| next.kv.ring(kv_head, next.first));
        for place in (0..self.to - self.from).step_by(POSITIONS) {
            if let (Some(ring), Some(next)) = (&mut next, self.next) {
                ask_for(ring.next_block(&next.kv.keys));
            }
            let sums = self.sums::<H>(query, ring.next_block(&self.kv.keys));
            for (h, sums) in sums.iter().enumerate() {
                let z = scores.z[h * scores.stride + place..][..POSITIONS].as_chunks_mut::<8>().0;
                let bias = self.bias.map(|bias| &bias.from(head + h, self.reach.t, self.from)[place..]);
                let bias = bias.map_or(&[][..], |bias| bias.as_chunks::<8>().0);
                for (n, (z, &sum)) in z.iter_mut().zip(sums).enumerate() {
                    let sum = _mm256_sra_epi32(sum, _mm_cvtsi32_si128(self.score_shift as i32));
                    put(z, bias.get(n).map_or(sum, |bias| _mm256_add_epi32(sum, load(bias))));
                }
            }
        }
    }

    /// Products of `H` queries with a block of keys, started with the rounding of the shift.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn sums<const H: usize>(&self, query: &[i16], keys: &[i16]) -> [[__m256i; 2]; H] {
        let size = self.kv.size();
        let round = if self.score_shift > 0 { 1 << (self.score_shift - 1) } else { 0 };
        let mut sums = [[_mm256_set1_epi32(round); 2]; H];
        assert!(query.len() == H * size && keys.len() == POSITIONS * size);
        for pair in 0..size / 2 {
            // SAFETY: a block of keys holds 32 values for each of `size / 2` pairs, and `query` as
            // many pairs for each of `H` heads; the loads need no alignment.
            unsafe {
                let row = keys.as_ptr().add(2 * POSITIONS * pair);
                let vectors = [0, 1].map(|half| _mm256_loadu_si256(row.add(16 * half).cast()));
                for (h, sums) in sums.iter_mut().enumerate() {
                    let query = spread(query.as_ptr().add(h * size + 2 * pair));
                    for (sum, keys) in sums.iter_mut().zip(vectors) {
                        *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(query, keys));
                    }
                }
            }
        }
        sums
    }

    /// Attention weights of one head's scores; zero outside the reach.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn softmax(&self, z: &mut [i32], p: &mut [i16]) {
        z[..self.reach.first - self.from].fill(NEVER);
        z[self.reach.last + 1 - self.from..].fill(NEVER);
        let z = z.as_chunks_mut::<8>().0;
        let mut max = _mm256_set1_epi32(NEVER);
        for z in z.iter() {
            max = _mm256_max_epi32(max, load(z));
        }
        let max = _mm256_set1_epi32(max_element(max));
        let mut sum = _mm256_setzero_si256();
        for z in z.iter_mut() {
            let w = exp2neg::<0>(_mm256_sub_epi32(max, load(z)));
            sum = _mm256_add_epi32(sum, w);
            put(z, w);
        }
        let (g, r) = scalar::softmax_scale(sum_elements(sum));
        let (r, count) = (_mm256_set1_epi32(r), _mm_cvtsi32_si128(15 + g as i32));
        let weigh = |z| _mm256_sra_epi32(_mm256_mullo_epi32(load(z), r), count);
        // Blocks of positions are whole pairs of vectors.
        for (p, pair) in p.as_chunks_mut::<16>().0.iter_mut().zip(z.as_chunks::<2>().0) {
            store_i16(p, pack_i16(weigh(&pair[0]), weigh(&pair[1])));
        }
    }

    /// The weighted sums of values, 16 elements at a time, or 8 at the end.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn values<const H: usize>(&self, kv_head: usize, scores: &Scores, out: &mut [i32]) {
        let size = self.kv.size();
        let mut element = 0;
        while element + 16 <= size {
            self.value_columns::<H, 2>(kv_head, element, scores, out);
            element += 16;
        }
        if element < size {
            self.value_columns::<H, 1>(kv_head, element, scores, out);
        }
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn value_columns<const H: usize, const N: usize>(
        &self,
        kv_head: usize,
        element: usize,
        scores: &Scores,
        out: &mut [i32],
    ) {
        let (size, stride, span) = (self.kv.size(), scores.stride, self.to - self.from);
        let mut sums = [[_mm256_setzero_si256(); N]; H];
        let mut ring = self.kv.ring(kv_head, self.from);
        assert!(element + 8 * N <= size && scores.p.len() >= (H - 1) * stride + span);
        // The first columns ask for all values of the next position.
        let mut next = self.next.filter(|_| element == 0).map(|next| next.kv.ring(kv_head, next.first));
        for block in 0..span / POSITIONS {
            if let (Some(ring), Some(next)) = (&mut next, self.next) {
                ask_for(ring.next_block(&next.kv.values));
            }
            let values = ring.next_block(&self.kv.values);
            assert!(values.len() == POSITIONS * size);
            for pair in 0..POSITIONS / 2 {
                // SAFETY: a block of values holds `2 * size` values for each of 8 pairs of
                // positions, of which `16 * N` from `2 * element` on are within; each of `H` heads
                // has `span` attention weights, `stride` apart; the loads need no alignment.
                unsafe {
                    let row = values.as_ptr().add(pair * 2 * size + 2 * element);
                    let mut vectors = [_mm256_setzero_si256(); N];
                    for (n, vector) in vectors.iter_mut().enumerate() {
                        *vector = _mm256_loadu_si256(row.add(16 * n).cast());
                    }
                    for (h, sums) in sums.iter_mut().enumerate() {
                        let p = spread(scores.p.as_ptr().add(h * stride + block * POSITIONS + 2 * pair));
                        for (sum, values) in sums.iter_mut().zip(vectors) {
                            *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(p, values));
                        }
                    }
                }
            }
        }
        for (h, sums) in sums.iter().enumerate() {
            let out = out[h * size + element..].as_chunks_mut::<8>().0;
            for (out, &sum) in out.iter_mut().zip(sums) {
                put(out, sum);
            }
        }
    }
}
