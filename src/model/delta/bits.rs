//! Adaptive bits under the range coder, with which the differences of a delta are written.
//!
//! A bit has a probability of 16 bits: the mean of a fast and a slow average of the bits that came
//! before under the same context, as in lpaq and similar compressors. Both sides compute it in
//! integers.

use crate::coder::{Damaged, Decoder, Encoder, Share};

const TOTAL: u64 = 1 << 16;
const FAST: u32 = 4;
const SLOW: u32 = 7;
/// Magnitudes up to this are written bit by bit; the excess of larger ones is an Elias gamma code.
pub(super) const UNARY: usize = 14;

/// The two averages of one context, each a probability of a one in 65,536ths.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bit {
    fast: u16,
    slow: u16,
}

impl Bit {
    /// A context whose bit is at first a one with this probability, in 65,536ths.
    pub const fn new(probability: u16) -> Self {
        Self { fast: probability, slow: probability }
    }

    /// The part of `TOTAL` that a one takes: never 0 and never `TOTAL`.
    fn one(self) -> u64 {
        ((u64::from(self.fast) + u64::from(self.slow)) / 2).clamp(16, TOTAL - 16)
    }

    fn learn(&mut self, bit: bool) {
        for (average, rate) in [(&mut self.fast, FAST), (&mut self.slow, SLOW)] {
            if bit {
                *average += (u16::MAX - *average) >> rate;
            } else {
                *average -= *average >> rate;
            }
        }
    }

    fn share(self, bit: bool) -> Share {
        let one = self.one();
        if bit { Share { cum: TOTAL - one, slot: one } } else { Share { cum: 0, slot: TOTAL - one } }
    }
}

/// Writes or reads bits. The same walk over the contexts serves both sides.
pub(super) trait Coder {
    /// Codes a bit under `context`: an encoder writes `bit`; a decoder ignores `bit` and returns
    /// the one that it read.
    fn bit(&mut self, context: &mut Bit, bit: bool) -> Result<bool, Damaged>;

    /// Codes a number below `2^bits` without a context.
    fn raw(&mut self, bits: u32, value: u32) -> Result<u32, Damaged> {
        let mut got = 0;
        for place in (0..bits).rev() {
            let bit = self.bit(&mut Bit::new(1 << 15), value >> place & 1 != 0)?;
            got |= u32::from(bit) << place;
        }
        Ok(got)
    }

    /// Codes a number of at least 1: unary under its contexts, then Elias gamma.
    fn magnitude(&mut self, contexts: &mut [Bit; UNARY], value: u32) -> Result<u32, Damaged> {
        for (below, context) in (1..).zip(contexts.iter_mut()) {
            if !self.bit(context, value > below)? {
                return Ok(below);
            }
        }
        let rest = value.saturating_sub(UNARY as u32);
        let width = self.raw(5, 31 - rest.max(1).leading_zeros())?;
        let top = 1u32 << width;
        let low = self.raw(width, rest & (top - 1))?;
        (UNARY as u32).checked_add(top | low).ok_or(Damaged)
    }
}

impl Coder for Encoder {
    fn bit(&mut self, context: &mut Bit, bit: bool) -> Result<bool, Damaged> {
        self.encode(context.share(bit), TOTAL);
        context.learn(bit);
        Ok(bit)
    }
}

impl Coder for Decoder<'_> {
    fn bit(&mut self, context: &mut Bit, _: bool) -> Result<bool, Damaged> {
        let bit = self.target(TOTAL)? >= TOTAL - context.one();
        self.consume(context.share(bit), TOTAL);
        context.learn(bit);
        Ok(bit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_and_magnitudes_survive() {
        let values: Vec<u32> = (1..200).chain([1000, 65_535, 1 << 20, u32::MAX >> 1]).collect();
        let mut encoder = Encoder::new();
        let (mut context, mut contexts) = (Bit::new(100), [Bit::new(1 << 15); UNARY]);
        for &value in &values {
            encoder.bit(&mut context, value % 3 == 0).unwrap();
            encoder.magnitude(&mut contexts, value).unwrap();
        }
        let payload = encoder.finish();
        let mut decoder = Decoder::new(&payload);
        let (mut context, mut contexts) = (Bit::new(100), [Bit::new(1 << 15); UNARY]);
        for &value in &values {
            assert_eq!(decoder.bit(&mut context, false), Ok(value % 3 == 0));
            assert_eq!(decoder.magnitude(&mut contexts, 0), Ok(value));
        }
    }

    #[test]
    fn what_never_comes_costs_next_to_nothing() {
        let mut encoder = Encoder::new();
        let mut context = Bit::new(1 << 15);
        (0..50_000).for_each(|_| _ = encoder.bit(&mut context, false));
        assert!(encoder.finish().len() < 60);
    }
}
