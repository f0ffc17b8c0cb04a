//! The decoding side of the range coder. Every payload either decodes to some symbols or is found
//! damaged; nothing panics.

use super::share::{MAX_TOTAL, MIN_RANGE, Share};

/// The payload is not one that an encoder writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Damaged;

/// Reads symbols from a payload.
///
/// For each symbol, `target` gives a number, the caller finds the symbol whose interval holds that
/// number, and `consume` moves past the symbol.
#[derive(Clone, Debug)]
pub struct Decoder<'a> {
    rest: &'a [u8],
    /// Below `range` for every payload that an encoder wrote.
    code: u64,
    /// At least `MIN_RANGE` between symbols.
    range: u64,
    /// The quotient `range / total`, between `target` and `consume`.
    r: u64,
}

impl<'a> Decoder<'a> {
    /// A decoder at the start of `payload`.
    pub fn new(payload: &'a [u8]) -> Self {
        let mut decoder = Self { rest: payload, code: 0, range: u64::MAX, r: 0 };
        for _ in 0..8 {
            decoder.code = decoder.code << 8 | u64::from(decoder.next_byte());
        }
        decoder
    }

    /// The state between two symbols: `code`, `range`, and the bytes that were not read yet.
    pub fn state(&self) -> (u64, u64, &'a [u8]) {
        (self.code, self.range, self.rest)
    }

    /// A number below `total` that lies in the interval of the next symbol; `total` is the sum of
    /// all slots, below `MAX_TOTAL`. Fails where no encoder can have written the bytes so far.
    #[inline]
    pub fn target(&mut self, total: u64) -> Result<u64, Damaged> {
        debug_assert!(0 < total && total < MAX_TOTAL);
        if self.code >= self.range {
            return Err(Damaged);
        }
        self.r = self.range / total;
        Ok((self.code / self.r).min(total - 1))
    }

    /// Moves past the symbol with the interval `share`, which holds the target that was just asked
    /// for.
    #[inline]
    pub fn consume(&mut self, share: Share, total: u64) {
        let offset = share.cum * self.r;
        let last = share.cum + share.slot == total;
        self.code -= offset;
        self.range = if last { self.range - offset } else { share.slot * self.r };
        while self.range < MIN_RANGE {
            self.code = self.code << 8 | u64::from(self.next_byte());
            self.range <<= 8;
        }
    }

    /// The next byte of the payload; bytes beyond its end read as zero.
    #[inline]
    fn next_byte(&mut self) -> u8 {
        match self.rest.split_first() {
            Some((&byte, rest)) => {
                self.rest = rest;
                byte
            }
            None => 0,
        }
    }
}
