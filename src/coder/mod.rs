//! Range coder over integer slots (spec/numerics.md, section 9).
//!
//! A symbol's frequency is its slot, an integer; its interval is the part of the range that is
//! proportional to the slot over the exact sum of all slots. The coder knows no model: slots come
//! from outside and are the same on both sides. Between symbols `range >= 2^56`, so with totals
//! below `2^39` the quotient `range / total` is never below `2^17`.
#![deny(clippy::float_arithmetic)]

pub(crate) mod decode;
pub(crate) mod encode;
pub mod share;
#[cfg(test)]
mod tests;

pub use decode::{Damaged, Decoder};
pub use encode::Encoder;
pub use share::{MAX_TOTAL, Share};
