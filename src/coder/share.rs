//! A symbol's share of the range.

/// Totals stay below this, so that the smallest slot keeps 17 bits of range.
pub const MAX_TOTAL: u64 = 1 << 39;

/// Range from which on nothing is shifted out.
pub(crate) const MIN_RANGE: u64 = 1 << 56;

/// Where a symbol lies among the slots: `cum` is the sum of the slots before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    pub cum: u64,
    pub slot: u64,
}
