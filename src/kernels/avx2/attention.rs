//! Attention at one position: scores of eight positions at a time, heads of a shared key together.

use std::arch::x86_64::*;

use super::{Avx2, exp2neg, load, max_element, pack_i16, store, store_i16, sum_elements};
use crate::kernels::cache::{Bias, KeyValues, POSITIONS, Reach, Scores};
use crate::kernels::scalar;

/// A score that leaves no attention weight: it is at least 2^28 below any other, whose magnitude is at
/// most 2^29 + 2^20, and the difference to any other fits an i32.
const NEVER: i32 = -(1 << 30);

/// Everything that the kernels below work on.
struct Work<'a> {
    kv: &'a KeyValues,
    reach: Reach,
    /// `reach.first` rounded down and `reach.last + 1` rounded up to whole blocks.
    from: usize,
    to: usize,
    score_shift: u32,
    bias: Option<&'a Bias>,
}

#[expect(clippy::too_many_arguments, reason = "as the scalar kernel")]
pub fn attend(
    _: Avx2,
    kv: &KeyValues,
    query: &[i16],
    reach: Reach,
    bias: Option<&Bias>,
    score_shift: u32,
    scores: &mut Scores,
    out: &mut [i32],
) {
    let share = query.len() / kv.size() / kv.heads();
    let from = reach.first / POSITIONS * POSITIONS;
    let to = (reach.last + 1).next_multiple_of(POSITIONS);
    let work = Work { kv, reach, from, to, score_shift, bias };
    let mut head = 0;
    while head < query.len() / kv.size() {
        // Heads that share keys, four, two or one at a time.
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

/// A pair of values in every element.
#[inline]
#[target_feature(enable = "avx2")]
fn spread(pair: &[i16; 2]) -> __m256i {
    // SAFETY: the array is 4 bytes, and the read needs no alignment.
    _mm256_set1_epi32(unsafe { pair.as_ptr().cast::<i32>().read_unaligned() })
}

impl Work<'_> {
    /// `H` heads from `head` on; gives `H`.
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

    #[inline]
    #[target_feature(enable = "avx2")]
    fn scores<const H: usize>(&self, head: usize, kv_head: usize, query: &[i16], scores: &mut Scores) {
        let size = self.kv.size();
        let (stride, span) = (scores.stride, self.to - self.from);
        let round = if self.score_shift > 0 { 1 << (self.score_shift - 1) } else { 0 };
        let (round, count) = (_mm256_set1_epi32(round), _mm_cvtsi32_si128(self.score_shift as i32));
        let query: [&[[i16; 2]]; H] = std::array::from_fn(|h| query[h * size..(h + 1) * size].as_chunks().0);
        let bias = self.bias.map(|bias| {
            std::array::from_fn::<_, H, _>(|h| bias.from(head + h, self.reach.t, self.from)[..span].as_chunks().0)
        });
        for block in 0..span / POSITIONS {
            let at = self.kv.block(kv_head, self.from + block * POSITIONS);
            let keys = self.kv.keys[at..at + POSITIONS * size].as_chunks::<16>().0;
            let mut sums = [round; H];
            for (pair, keys) in keys.iter().enumerate() {
                // SAFETY: the array is 32 bytes, and the load needs no alignment.
                let keys = unsafe { _mm256_loadu_si256(keys.as_ptr().cast()) };
                for (sum, query) in sums.iter_mut().zip(query) {
                    *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(spread(&query[pair]), keys));
                }
            }
            for (h, sum) in sums.into_iter().enumerate() {
                let mut z = _mm256_sra_epi32(sum, count);
                if let Some(bias) = &bias {
                    z = _mm256_add_epi32(z, load(&bias[h][block]));
                }
                store(&mut scores.z[h * stride..h * stride + span].as_chunks_mut().0[block], z);
            }
        }
    }

    /// Attention weights of one head's scores, zero outside the reach.
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
            store(z, w);
        }
        let (g, r) = scalar::softmax_scale(sum_elements(sum));
        let (r, count) = (_mm256_set1_epi32(r), _mm_cvtsi32_si128(15 + g as i32));
        let weigh = |z| _mm256_sra_epi32(_mm256_mullo_epi32(load(z), r), count);
        let (pairs, rest) = z.as_chunks::<2>();
        let (p, p_rest) = p.as_chunks_mut::<16>();
        for (p, pair) in p.iter_mut().zip(pairs) {
            store_i16(p, pack_i16(weigh(&pair[0]), weigh(&pair[1])));
        }
        if let ([z], Some(p)) = (rest, p_rest.first_chunk_mut::<8>()) {
            let last = weigh(z);
            // SAFETY: the array is 16 bytes, and the store needs no alignment.
            unsafe { _mm_storeu_si128(p.as_mut_ptr().cast(), _mm256_castsi256_si128(pack_i16(last, last))) };
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
        let (size, span) = (self.kv.size(), self.to - self.from);
        let p: [&[[i16; 2]]; H] =
            std::array::from_fn(|h| scores.p[h * scores.stride..h * scores.stride + span].as_chunks().0);
        let mut sums = [[_mm256_setzero_si256(); N]; H];
        for block in 0..span / POSITIONS {
            let at = self.kv.block(kv_head, self.from + block * POSITIONS);
            let values = &self.kv.values[at..at + POSITIONS * size];
            let p = p.map(|p| &p[block * POSITIONS / 2..(block + 1) * POSITIONS / 2]);
            for pair in 0..POSITIONS / 2 {
                let row = &values[pair * 2 * size + 2 * element..][..16 * N];
                let rows = row.as_chunks::<16>().0;
                // SAFETY: each array is 32 bytes, and the load needs no alignment.
                let values: [__m256i; N] =
                    std::array::from_fn(|n| unsafe { _mm256_loadu_si256(rows[n].as_ptr().cast()) });
                for (sums, p) in sums.iter_mut().zip(&p) {
                    let p = spread(&p[pair]);
                    for (sum, value) in sums.iter_mut().zip(values) {
                        *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(p, value));
                    }
                }
            }
        }
        for (h, sums) in sums.iter().enumerate() {
            let out = out[h * size + element..].as_chunks_mut::<8>().0;
            for (out, &sum) in out.iter_mut().zip(sums) {
                store(out, sum);
            }
        }
    }
}
