//! Keys and values of the positions that attention reaches, laid out for 16 positions at a time.
//!
//! Positions lie in blocks of 16, and the blocks form a ring. For each head and block, keys are
//! `[pair of elements][position][2]` and values `[pair of positions][element][2]`, so that both
//! products of attention are sums of pairs without shuffles. Places that no position within reach
//! occupies hold older values, within the bounds; the attention weight of such a place is zero.

use super::buffer::Buffer;

/// Positions of one block.
pub const POSITIONS: usize = 16;
/// Largest magnitude of an element of a query, key or value.
pub const KV_MAX: i32 = 2047;

/// Keys and values of one layer and one chunk.
#[derive(Clone, Debug, Default)]
pub struct KeyValues {
    heads: usize,
    size: usize,
    blocks: usize,
    pub(crate) keys: Buffer<i16>,
    pub(crate) values: Buffer<i16>,
}

impl KeyValues {
    /// A ring that holds any `reach` consecutive positions at once, for `heads` heads of `size`
    /// elements (a multiple of 8).
    pub fn new(heads: usize, size: usize, reach: usize) -> Self {
        assert!(size.is_multiple_of(8));
        let blocks = reach.div_ceil(POSITIONS);
        let room = heads * blocks * POSITIONS * size;
        Self { heads, size, blocks, keys: Buffer::zeroed(room), values: Buffer::zeroed(room) }
    }

    /// Makes room for `reach` positions, if there is not enough.
    pub fn reserve(&mut self, heads: usize, size: usize, reach: usize) {
        if (self.heads, self.size) != (heads, size) || self.blocks < reach.div_ceil(POSITIONS) {
            *self = Self::new(heads, size, reach);
        }
    }

    /// Heads with keys and values of their own.
    pub fn heads(&self) -> usize {
        self.heads
    }

    /// Elements of a head.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Blocks of the ring.
    #[cfg_attr(not(target_arch = "x86_64"), expect(dead_code, reason = "AVX-512 alone asks"))]
    pub(crate) fn blocks(&self) -> usize {
        self.blocks
    }

    /// Where the block of a position starts, both in the keys and in the values.
    #[inline]
    pub(crate) fn block(&self, head: usize, position: usize) -> usize {
        let block = position / POSITIONS % self.blocks;
        (head * self.blocks + block) * (POSITIONS * self.size)
    }

    /// Walks over the blocks of a head, from the block of `position` on and around the ring.
    #[inline]
    pub(crate) fn ring(&self, head: usize, position: usize) -> Ring {
        let block = position / POSITIONS % self.blocks;
        Ring { from: head * self.blocks, block, blocks: self.blocks, len: POSITIONS * self.size }
    }

    /// `blocks` blocks of a head's keys or values, from the block of `position` on: those up to the
    /// end of the ring, and those from its start. `blocks` may be one more than the ring has; the
    /// last block is then the first again.
    #[inline]
    pub(crate) fn parts<'a>(
        &self,
        head: usize,
        position: usize,
        blocks: usize,
        values: &'a [i16],
    ) -> [&'a [i16]; 2] {
        let (len, start) = (POSITIONS * self.size, head * self.blocks);
        let block = position / POSITIONS % self.blocks;
        let first = blocks.min(self.blocks - block);
        let rest = (blocks - first).min(self.blocks);
        let part = |from: usize, blocks: usize| &values[(start + from) * len..(start + from + blocks) * len];
        [part(block, first), part(0, rest)]
    }

    /// Stores a position's keys and values, `heads * size` elements each, clamped to `KV_MAX`.
    #[inline]
    pub fn store(&mut self, position: usize, keys: &[i32], values: &[i32]) {
        let place = position % POSITIONS;
        let clamp = |x: i32| x.clamp(-KV_MAX, KV_MAX) as i16;
        for head in 0..self.heads {
            let at = self.block(head, position);
            let from = head * self.size..(head + 1) * self.size;
            let block = &mut self.keys[at..at + POSITIONS * self.size];
            let pairs = keys[from.clone()].as_chunks::<2>().0;
            for (row, pair) in block.as_chunks_mut::<{ 2 * POSITIONS }>().0.iter_mut().zip(pairs) {
                row[2 * place] = clamp(pair[0]);
                row[2 * place + 1] = clamp(pair[1]);
            }
            let row = at + place / 2 * 2 * self.size;
            let row = &mut self.values[row..row + 2 * self.size];
            for (pair, &value) in row.as_chunks_mut::<2>().0.iter_mut().zip(&values[from]) {
                pair[place % 2] = clamp(value);
            }
        }
    }

    /// Element `element` of the key of a position.
    #[inline]
    pub fn key(&self, head: usize, position: usize, element: usize) -> i32 {
        let at =
            self.block(head, position) + element / 2 * 2 * POSITIONS + position % POSITIONS * 2 + element % 2;
        self.keys[at].into()
    }

    /// Element `element` of the value of a position.
    #[inline]
    pub fn value(&self, head: usize, position: usize, element: usize) -> i32 {
        let pair = position % POSITIONS / 2;
        let at = self.block(head, position) + pair * 2 * self.size + element * 2 + position % 2;
        self.values[at].into()
    }
}

/// A walk over the blocks of one head.
pub(crate) struct Ring {
    /// The first block of the head.
    from: usize,
    block: usize,
    blocks: usize,
    /// Values of a block.
    len: usize,
}

impl Ring {
    /// The next block of `values`, which are the keys or the values of all heads.
    #[inline]
    pub fn next_block<'a>(&mut self, values: &'a [i16]) -> &'a [i16] {
        let at = (self.from + self.block) * self.len;
        self.block = if self.block + 1 == self.blocks { 0 } else { self.block + 1 };
        &values[at..at + self.len]
    }
}

/// What attention adds to scores by distance: entry `center + t' - t` is added to the score of
/// position `t'` seen from position `t`.
#[derive(Clone, Debug)]
pub struct Bias {
    stride: usize,
    center: usize,
    table: Buffer<i32>,
}

impl Bias {
    /// The table of `heads` heads for distances `t' - t` from `-before` to `after`, filled by
    /// `bias(head, distance)`. Entries up to a block beyond both ends may be read, but have no
    /// effect.
    pub fn new(heads: usize, before: usize, after: usize, bias: impl Fn(usize, isize) -> i32) -> Self {
        let center = before + POSITIONS;
        let stride = center + after + 1 + 2 * POSITIONS;
        let mut table = Buffer::zeroed(heads * stride);
        for head in 0..heads {
            for distance in -(before as isize)..=after as isize {
                let at = head * stride + center.wrapping_add_signed(distance);
                table[at] = bias(head, distance);
            }
        }
        Self { stride, center, table }
    }

    /// What a head adds to the score of a position that lies `distance` before the one that
    /// attends.
    pub fn before(&self, head: usize, distance: usize) -> i32 {
        self.table[head * self.stride + self.center - distance]
    }

    /// A head's entries for the positions from `from` on, seen from `t`.
    #[inline]
    pub(crate) fn from(&self, head: usize, t: usize, from: usize) -> &[i32] {
        let at = head * self.stride + self.center + from - t;
        &self.table[at..(head + 1) * self.stride]
    }
}

/// The positions that one position attends to.
#[derive(Clone, Copy, Debug)]
pub struct Reach {
    /// The position that attends.
    pub t: usize,
    /// The first position attended to.
    pub first: usize,
    /// The last position attended to.
    pub last: usize,
}

/// What the next call of attention will read, so that it can be fetched into the cache.
#[derive(Clone, Copy, Debug)]
pub struct Next<'a> {
    /// The keys and values.
    pub kv: &'a KeyValues,
    /// The first position that will be attended to.
    pub first: usize,
}

/// Room for the scores and attention weights of a few heads, for the longest reach.
#[derive(Clone, Debug, Default)]
pub struct Scores {
    #[cfg_attr(not(target_arch = "x86_64"), expect(dead_code, reason = "other kernels take head by head"))]
    pub(crate) stride: usize,
    pub(crate) z: Buffer<i32>,
    pub(crate) p: Buffer<i16>,
}

impl Scores {
    /// Room for `heads` heads and any `reach` consecutive positions.
    pub fn new(heads: usize, reach: usize) -> Self {
        let stride = reach.next_multiple_of(POSITIONS) + 2 * POSITIONS;
        Self { stride, z: Buffer::zeroed(heads * stride), p: Buffer::zeroed(heads * stride) }
    }
}
