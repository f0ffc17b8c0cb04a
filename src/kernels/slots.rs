//! Slots of one prediction with sums over spans, and the search for the symbol at a target.

use super::buffer::{Buffer, padded};

/// Symbols whose slots are summed together; such a sum is below 2^29.
pub const SUM_SPAN: usize = 32;

/// Largest magnitude of a bias that learns within a chunk, in 256ths of the unit of scores.
pub const BIAS_MAX: i32 = 1 << 28;
/// Rates of such a bias are below this, in the same unit.
pub const RATE_END: u32 = 1 << 18;

/// A rate divided by the sum of all slots: a symbol's part of the rate is `slot >> 7` times
/// `factor`, shifted right by `shift`.
#[derive(Clone, Copy, Debug)]
pub struct RateShare {
    pub(crate) factor: u32,
    pub(crate) shift: u32,
}

/// Slots of all symbols, by which the coder codes one symbol.
#[derive(Clone, Debug, Default)]
pub struct Slots {
    symbols: usize,
    pub(crate) slots: Buffer<u32>,
    pub(crate) sums: Vec<u32>,
    pub(crate) total: u64,
}

impl Slots {
    /// Room for an alphabet of `symbols` symbols.
    pub fn new(symbols: usize) -> Self {
        let sums = vec![0; symbols.div_ceil(SUM_SPAN)];
        Self { symbols, slots: Buffer::zeroed(padded(symbols)), sums, total: 0 }
    }

    /// All slots, in the order of symbols.
    pub fn slots(&self) -> &[u32] {
        &self.slots[..self.symbols]
    }

    /// The sum of all slots.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// The factor and shift by which a bias learns from these slots with this rate
    /// (spec/numerics.md, section 7.1).
    pub fn share_of_rate(&self, rate: u32) -> RateShare {
        let (digits, of_rate) = (64 - self.total.leading_zeros(), 32 - rate.leading_zeros());
        let shift = (digits + 7 - of_rate).min(31);
        // The factor is below 2^15, as the total has `digits` binary digits and the rate `of_rate`.
        let factor = ((u64::from(rate) << (7 + shift)) / self.total.max(1)) as u32;
        RateShare { factor, shift }
    }

    /// The interval of `symbol`: the sum of the slots before it, and its slot.
    #[inline]
    pub fn share(&self, symbol: usize) -> (u64, u64) {
        let span = symbol / SUM_SPAN;
        let before: u64 = self.sums[..span].iter().map(|&sum| u64::from(sum)).sum();
        // This is a part of one span's sum, so it fits.
        let within: u32 = self.slots[span * SUM_SPAN..symbol].iter().sum();
        (before + u64::from(within), self.slots[symbol].into())
    }

    /// The symbol whose interval holds `target`, which is below the total; the sum of the slots
    /// before that symbol, and its slot.
    #[inline]
    pub fn find(&self, target: u64) -> (usize, u64, u64) {
        let (mut span, mut cum) = (0, 0);
        while span + 1 < self.sums.len() && cum + u64::from(self.sums[span]) <= target {
            cum += u64::from(self.sums[span]);
            span += 1;
        }
        let from = span * SUM_SPAN;
        let slots = &self.slots[from..self.symbols.min(from + SUM_SPAN)];
        // The target lies in this span, so the difference is below its sum.
        let target = (target - cum) as u32;
        let (mut before, mut place) = (0, 0);
        while place + 1 < slots.len() && before + slots[place] <= target {
            before += slots[place];
            place += 1;
        }
        (from + place, cum + u64::from(before), slots[place].into())
    }
}
