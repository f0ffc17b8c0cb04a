//! The interval of a symbol.

/// Sums of all slots stay below this, so that the smallest slot keeps 17 bits of the range.
pub const MAX_TOTAL: u64 = 1 << 39;

/// The least range between symbols; below it, the coder shifts out a byte.
pub(crate) const MIN_RANGE: u64 = 1 << 56;

/// The interval of a symbol among the slots of its alphabet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// Start of the interval: the sum of the slots before the symbol.
    pub cum: u64,
    /// Length of the interval: the symbol's slot.
    pub slot: u64,
}
