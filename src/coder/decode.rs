//! The decoding side. Any bytes decode to something or are found damaged; nothing panics.

use super::share::{MAX_TOTAL, MIN_RANGE, Share};

/// The payload is not what an encoder writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Damaged;

/// Reads symbols from a payload.
#[derive(Clone, Debug)]
pub struct Decoder<'a> {
    rest: &'a [u8],
    /// Below `range` in what an encoder wrote.
    code: u64,
    /// At least `MIN_RANGE` between symbols.
    range: u64,
    /// `range / total` between `target` and `consume`.
    r: u64,
}

impl<'a> Decoder<'a> {
    pub fn new(payload: &'a [u8]) -> Self {
        let mut decoder = Self { rest: payload, code: 0, range: u64::MAX, r: 0 };
        for _ in 0..8 {
            decoder.code = decoder.code << 8 | u64::from(decoder.next_byte());
        }
        decoder
    }

    /// Where it is between two symbols: `code`, `range`, and the bytes that it has not taken.
    pub fn state(&self) -> (u64, u64, &'a [u8]) {
        (self.code, self.range, self.rest)
    }

    /// The place, below `total`, that lies within the next symbol's share.
    #[inline]
    pub fn target(&mut self, total: u64) -> Result<u64, Damaged> {
        debug_assert!(0 < total && total < MAX_TOTAL);
        if self.code >= self.range {
            return Err(Damaged);
        }
        self.r = self.range / total;
        Ok((self.code / self.r).min(total - 1))
    }

    /// Moves past the symbol whose share holds the target that was just asked for.
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

    /// The next byte; those beyond the payload read as zero.
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
