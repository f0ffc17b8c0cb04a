//! The encoding side of the range coder: `low` with a carry that runs back into bytes already
//! written.

use super::share::{MAX_TOTAL, MIN_RANGE, Share};

/// Writes symbols as a payload.
#[derive(Clone, Debug)]
pub struct Encoder {
    out: Vec<u8>,
    low: u64,
    /// At least `MIN_RANGE` between symbols.
    range: u64,
}

impl Default for Encoder {
    fn default() -> Self {
        Self { out: Vec::new(), low: 0, range: u64::MAX }
    }
}

impl Encoder {
    /// An encoder that has written nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Writes the symbol with the interval `share` of `total`, the sum of all slots. A symbol whose
    /// interval ends at `total` is the last of its alphabet and takes the rest of the range.
    pub fn encode(&mut self, share: Share, total: u64) {
        debug_assert!(share.slot > 0 && share.cum + share.slot <= total && total < MAX_TOTAL);
        let r = self.range / total;
        let offset = share.cum * r;
        let (low, carry) = self.low.overflowing_add(offset);
        self.low = low;
        if carry {
            self.carry();
        }
        let last = share.cum + share.slot == total;
        self.range = if last { self.range - offset } else { share.slot * r };
        while self.range < MIN_RANGE {
            self.out.push((self.low >> 56) as u8);
            self.low <<= 8;
            self.range <<= 8;
        }
    }

    /// Adds one to the number that the bytes already written make. `low + range` never passes the
    /// end of the first byte's interval, so one of the bytes is below 255 and takes the carry.
    fn carry(&mut self) {
        for byte in self.out.iter_mut().rev() {
            *byte = byte.wrapping_add(1);
            if *byte != 0 {
                break;
            }
        }
    }

    /// Length of the payload so far, in bits. It is an estimate, good for comparing costs.
    pub fn bits(&self) -> u64 {
        8 * self.out.len() as u64 + u64::from(self.range.leading_zeros())
    }

    /// The payload: of the values in `[low, low + range)` with the most trailing zero bytes the
    /// least one, without the zero bytes at its end.
    pub fn finish(mut self) -> Vec<u8> {
        let end = u128::from(self.low) + u128::from(self.range);
        for kept in 0..=8 {
            let unit = 1u128 << (64 - 8 * kept);
            let value = u128::from(self.low).next_multiple_of(unit);
            if value < end {
                if value >> 64 != 0 {
                    self.carry();
                }
                self.out.extend_from_slice(&(value as u64).to_be_bytes()[..kept]);
                break;
            }
        }
        while self.out.last() == Some(&0) {
            self.out.pop();
        }
        self.out
    }
}
