//! Attention at one position: scores of blocks of 16 positions, with the heads of a shared key
//! together.

// Arrays of registers are indexed by number, several at once.
#![allow(clippy::needless_range_loop)]

use std::arch::x86_64::*;

use super::vector::{Avx512, exp2neg_fraction, load, put};
use crate::kernels::cache::{Bias, KeyValues, Next, POSITIONS, Reach, Scores};
use crate::kernels::scalar;

/// The score of a position out of reach, which leaves it no attention weight: it is at least 2^28
/// below every other score (whose magnitude is at most 2^29 + 2^20), and its difference to any
/// other fits an i32.
const NEVER: i32 = -(1 << 30);

/// Blocks of keys that are multiplied together, so that there are enough independent sums.
const TOGETHER: usize = 3;

/// The operands of the kernels below.
struct Work<'a> {
    kv: &'a KeyValues,
    reach: Reach,
    /// `reach.first` rounded down to a whole block, and the blocks from there on.
    from: usize,
    blocks: usize,
    /// Whether the last position lies in the same block of the ring as the first positions.
    wraps: bool,
    score_shift: u32,
    bias: Option<&'a Bias>,
}

#[expect(clippy::too_many_arguments, reason = "as the scalar kernel")]
pub fn attend(
    _: Avx512,
    kv: &KeyValues,
    query: &[i16],
    reach: Reach,
    bias: Option<&Bias>,
    score_shift: u32,
    _next: Option<Next<'_>>,
    scores: &mut Scores,
    out: &mut [i32],
) {
    let share = query.len() / kv.size() / kv.heads();
    let from = reach.first / POSITIONS * POSITIONS;
    let blocks = (reach.last + 1 - from).div_ceil(POSITIONS);
    let (wraps, blocks) = (blocks > kv.blocks(), blocks.min(kv.blocks()));
    let work = Work { kv, reach, from, blocks, wraps, score_shift, bias };
    let mut head = 0;
    while head < query.len() / kv.size() {
        // Of the heads that share keys, four, two or one at a time.
        let left = share - head % share;
        // SAFETY: the proof says that the CPU has the instructions.
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
///
/// # Safety
/// Two values can be read at `pair`.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn spread(pair: *const i16) -> __m512i {
    // SAFETY: the caller's promise; the read needs no alignment.
    _mm512_set1_epi32(unsafe { pair.cast::<i32>().read_unaligned() })
}

/// A walk over the blocks of keys.
struct Walk<'a, const H: usize> {
    /// Scores of each head, and what is added to them; nothing where there is no bias.
    z: [&'a mut [[i32; 16]]; H],
    bias: [&'a [[i32; 16]]; H],
    max: [__m512i; H],
    /// The next block.
    block: usize,
}

impl Work<'_> {
    /// `H` heads from `head` on; gives `H`.
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512vnni")]
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
        let max = self.scores::<H>(head, kv_head, &query[part.clone()], scores);
        self.softmax::<H>(max, scores);
        self.values::<H>(kv_head, scores, &mut out[part]);
        H
    }

    /// Scores of `H` heads, and the largest of each. An even number of blocks is written.
    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512vnni")]
    fn scores<const H: usize>(
        &self,
        head: usize,
        kv_head: usize,
        query: &[i16],
        scores: &mut Scores,
    ) -> [__m512i; H] {
        let mut walk = Walk {
            z: [(); H].map(|()| &mut [][..]),
            bias: [&[]; H],
            max: [_mm512_set1_epi32(NEVER); H],
            block: 0,
        };
        for (h, z) in scores.z.chunks_exact_mut(scores.stride).take(H).enumerate() {
            walk.z[h] = &mut z.as_chunks_mut().0[..self.blocks.next_multiple_of(2)];
            if let Some(bias) = self.bias {
                let blocks = self.blocks + usize::from(self.wraps);
                walk.bias[h] = &bias.from(head + h, self.reach.t, self.from).as_chunks().0[..blocks];
            }
            if let Some(last) = walk.z[h].last_mut() {
                put(last, _mm512_set1_epi32(NEVER));
            }
        }
        let mut ring = self.kv.ring(kv_head, self.from);
        while walk.block < self.blocks {
            let mut keys = [&[][..]; TOGETHER];
            let turned = self.wraps && walk.block == 0;
            let count = (self.blocks - walk.block).min(if turned { 2 } else { TOGETHER });
            for keys in keys.iter_mut().take(count) {
                *keys = ring.next_block(&self.kv.keys);
            }
            match keys {
                [a, b, c] if count == 3 => self.blocks::<H, 3, false>(query, [a, b, c], &mut walk),
                [a, b, _] if count == 2 && turned => self.blocks::<H, 2, true>(query, [a, b], &mut walk),
                [a, b, _] if count == 2 => self.blocks::<H, 2, false>(query, [a, b], &mut walk),
                [a, ..] if turned => self.blocks::<H, 1, true>(query, [a], &mut walk),
                [a, ..] => self.blocks::<H, 1, false>(query, [a], &mut walk),
            }
        }
        walk.max
    }

    /// Scores of the next `N` blocks. The first may be `TURNED`: the ring's newest positions are in
    /// it too.
    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512vnni")]
    fn blocks<const H: usize, const N: usize, const TURNED: bool>(
        &self,
        query: &[i16],
        keys: [&[i16]; N],
        walk: &mut Walk<'_, H>,
    ) {
        let sums = self.sums::<H, N>(query, keys);
        let shift = _mm_cvtsi32_si128(self.score_shift as i32);
        for n in 0..N {
            let block = walk.block + n;
            let within = self.within(self.from + block * POSITIONS);
            // The newest positions in the place of those before the first, a turn of the ring
            // later.
            let turned = TURNED && n == 0;
            let newest = if turned { self.within(self.from + self.blocks * POSITIONS) } else { 0 };
            for h in 0..H {
                let mut z = _mm512_sra_epi32(sums[h][n], shift);
                if let Some(bias) = walk.bias[h].get(block) {
                    z = _mm512_add_epi32(z, load(bias));
                }
                z = _mm512_mask_mov_epi32(_mm512_set1_epi32(NEVER), within, z);
                if turned {
                    let mut newer = _mm512_sra_epi32(sums[h][n], shift);
                    if let Some(bias) = walk.bias[h].get(self.blocks) {
                        newer = _mm512_add_epi32(newer, load(bias));
                    }
                    z = _mm512_mask_mov_epi32(z, newest, newer);
                }
                walk.max[h] = _mm512_max_epi32(walk.max[h], z);
                put(&mut walk.z[h][block], z);
            }
        }
        walk.block += N;
    }

    /// The positions of the block that starts at `first` which are within reach.
    #[inline]
    fn within(&self, first: usize) -> u16 {
        let before = self.reach.first.saturating_sub(first);
        let after = (first + POSITIONS - 1).saturating_sub(self.reach.last);
        (u16::MAX << before) & (u16::MAX >> after)
    }

    /// Products of `H` queries with `N` blocks of keys, and the rounding of their shift.
    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512vnni")]
    fn sums<const H: usize, const N: usize>(&self, query: &[i16], keys: [&[i16]; N]) -> [[__m512i; N]; H] {
        let size = self.kv.size();
        let round = if self.score_shift > 0 { 1 << (self.score_shift - 1) } else { 0 };
        let mut sums = [[_mm512_set1_epi32(round); N]; H];
        assert!(query.len() == H * size && keys.iter().all(|keys| keys.len() == POSITIONS * size));
        for pair in 0..size / 2 {
            // SAFETY: a block of keys holds 32 values for each of `size / 2` pairs, and `query` as
            // many pairs for each of `H` heads; the loads need no alignment.
            unsafe {
                let mut vectors = [_mm512_setzero_si512(); N];
                for (vector, keys) in vectors.iter_mut().zip(keys) {
                    *vector = _mm512_loadu_si512(keys.as_ptr().add(2 * POSITIONS * pair).cast());
                }
                for (h, sums) in sums.iter_mut().enumerate() {
                    let query = spread(query.as_ptr().add(h * size + 2 * pair));
                    for (sum, keys) in sums.iter_mut().zip(vectors) {
                        *sum = _mm512_dpwssd_epi32(*sum, query, keys);
                    }
                }
            }
        }
        sums
    }

    /// Attention weights of `H` heads' scores, 32 at a time. Differences that 16 bits cannot hold
    /// have a shift of 63, which leaves nothing, as the scalar shift by 31 does.
    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512vnni")]
    fn softmax<const H: usize>(&self, max: [__m512i; H], scores: &mut Scores) {
        let (pairs, stride) = (self.blocks.div_ceil(2), scores.stride);
        assert!(32 * pairs <= stride && scores.z.len() >= H * stride && scores.p.len() >= H * stride);
        let max = max.map(|max| _mm512_set1_epi32(_mm512_reduce_max_epi32(max)));
        let (sign, ones) = (_mm512_set1_epi16(i16::MIN), _mm512_set1_epi16(1));
        let order = _mm512_setr_epi64(0, 2, 4, 6, 1, 3, 5, 7);
        // Weights are up to 2^15: their sums are those of signed values, 2^15 less each.
        let mut sums = [_mm512_setzero_si512(); H];
        for pair in 0..pairs {
            for h in 0..H {
                // SAFETY: each of `H` heads has 32 scores and weights for each pair, `stride`
                // apart; loads and stores need no alignment.
                unsafe {
                    let z = scores.z.as_ptr().add(h * stride + 32 * pair);
                    let first = _mm512_sub_epi32(max[h], _mm512_loadu_si512(z.cast()));
                    let second = _mm512_sub_epi32(max[h], _mm512_loadu_si512(z.add(16).cast()));
                    let d = _mm512_permutexvar_epi64(order, _mm512_packus_epi32(first, second));
                    let w = _mm512_srlv_epi16(exp2neg_fraction(d), _mm512_srli_epi16::<10>(d));
                    sums[h] = _mm512_dpwssd_epi32(sums[h], _mm512_xor_si512(w, sign), ones);
                    _mm512_storeu_si512(scores.p.as_mut_ptr().add(h * stride + 32 * pair).cast(), w);
                }
            }
        }
        // The largest score's weight is 2^15, so `g` is at least 1; the factor is at most 2^15.
        let scales = sums.map(|sum| {
            let (g, r) = scalar::softmax_scale(_mm512_reduce_add_epi32(sum) + ((32 * pairs as i32) << 15));
            (_mm512_set1_epi16(r as i16), _mm_cvtsi32_si128(g as i32 - 1))
        });
        for pair in 0..pairs {
            for (h, (r, count)) in scales.iter().enumerate() {
                // SAFETY: as above. The factor is read anew each time: out of the loop, the
                // compiler would take the multiplication to pieces.
                unsafe {
                    let p = scores.p.as_mut_ptr().add(h * stride + 32 * pair);
                    let r = std::ptr::from_ref(r).read_volatile();
                    let w = _mm512_mulhi_epu16(_mm512_loadu_si512(p.cast()), r);
                    _mm512_storeu_si512(p.cast(), _mm512_srl_epi16(w, *count));
                }
            }
        }
    }

    /// The weighted sums of values, 32 elements at a time, or fewer at the end.
    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512vnni")]
    fn values<const H: usize>(&self, kv_head: usize, scores: &Scores, out: &mut [i32]) {
        let size = self.kv.size();
        let mut element = 0;
        while element + 32 <= size {
            self.value_columns::<H, 2>(kv_head, element, u16::MAX, scores, out);
            element += 32;
        }
        if element + 16 <= size {
            self.value_columns::<H, 1>(kv_head, element, u16::MAX, scores, out);
            element += 16;
        }
        if element < size {
            self.value_columns::<H, 1>(kv_head, element, 0xff, scores, out);
        }
    }

    /// Of the last vector's elements, those that `last` names.
    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512vnni")]
    fn value_columns<const H: usize, const N: usize>(
        &self,
        kv_head: usize,
        element: usize,
        last: u16,
        scores: &Scores,
        out: &mut [i32],
    ) {
        let (size, stride) = (self.kv.size(), scores.stride);
        let end = element + 16 * (N - 1) + last.count_ones() as usize;
        let parts = self.kv.parts(kv_head, self.from, self.blocks, &self.kv.values);
        let positions = (parts[0].len() + parts[1].len()) / size;
        assert!(end <= size && scores.p.len() >= (H - 1) * stride + positions);
        // Two sums for each result, for every other pair of positions: no instruction waits for the
        // one before.
        let mut sums = [[[_mm512_setzero_si512(); N]; H]; 2];
        let mut p = scores.p.as_ptr();
        for part in parts {
            for four in part.chunks_exact(4 * size) {
                for (pair, sums) in sums.iter_mut().enumerate() {
                    // SAFETY: `four` holds `2 * size` values for each of two pairs of positions, of
                    // which those from `2 * element` to `2 * end` are within; each of `H` heads has
                    // a weight for each position, `stride` apart, and `p` moves on by the four
                    // positions; the loads need no alignment.
                    unsafe {
                        let row = four.as_ptr().add(pair * 2 * size + 2 * element);
                        let mut vectors = [_mm512_setzero_si512(); N];
                        for (n, vector) in vectors.iter_mut().enumerate() {
                            let mask = if n + 1 == N { last } else { u16::MAX };
                            *vector = _mm512_maskz_loadu_epi32(mask, row.add(32 * n).cast());
                        }
                        for (h, sums) in sums.iter_mut().enumerate() {
                            let p = spread(p.add(h * stride + 2 * pair));
                            for (sum, values) in sums.iter_mut().zip(vectors) {
                                *sum = _mm512_dpwssd_epi32(*sum, p, values);
                            }
                        }
                    }
                }
                p = p.wrapping_add(4);
            }
        }
        for h in 0..H {
            let out = &mut out[h * size + element..h * size + end];
            for n in 0..N {
                let mask = if n + 1 == N { last } else { u16::MAX };
                let sum = _mm512_add_epi32(sums[0][h][n], sums[1][h][n]);
                // SAFETY: the mask names elements before `end`; the store needs no alignment.
                unsafe { _mm512_mask_storeu_epi32(out.as_mut_ptr().add(16 * n), mask, sum) };
            }
        }
    }
}
