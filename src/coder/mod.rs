//! Range coder over integer slots (spec/numerics.md section 9).
//!
//! A symbol's share of the range is its slot over the exact sum of all slots. The coder knows no
//! model: slots come from outside, the same on both sides. Between symbols `range >= 2^56`, so with
//! totals below `2^39` the quotient `range / total` is never below `2^17`.
#![deny(clippy::float_arithmetic)]

mod decode;
mod encode;
#[cfg(test)]
mod tests;

pub use decode::{Damaged, Decoder};
pub use encode::Encoder;

/// Totals stay below this, so that the smallest slot keeps 17 bits of range.
pub const MAX_TOTAL: u64 = 1 << 39;

/// Range from which on nothing is shifted out.
const MIN_RANGE: u64 = 1 << 56;

/// Where a symbol lies among the slots: `cum` is the sum of the slots before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    pub cum: u64,
    pub slot: u64,
}
