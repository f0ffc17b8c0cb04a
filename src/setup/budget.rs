//! How long `pack --learn` learns.
#![cfg_attr(not(feature = "train"), allow(dead_code, reason = "only what trains asks for it"))]

/// Windows of a step and positions of a window: 4,096 tokens.
pub(crate) const SEQUENCES: usize = 8;
pub(crate) const LEN: usize = 512;
/// Bytes that stand for a token where none is counted yet.
pub(crate) const TOKEN_BYTES: u64 = 3;
/// Tokens that a nominal machine of two cores learns in a second: minutes are turned into tokens by it, so that
/// the same options give the same bytes everywhere.
const TOKENS_PER_SECOND: u64 = 80_000;
/// Raw bytes that the nominal machine packs in a second.
const PACKED_PER_SECOND: u64 = 500_000;
/// Least and most steps if nobody says otherwise.
const STEPS: std::ops::RangeInclusive<u64> = 48..=8000;
/// How often data are learned at most if nobody says otherwise.
const EPOCHS: u64 = 12;

/// How long to learn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Budget {
    /// About as long as packing takes, and half as long again.
    Default,
    Tokens(u64),
    Seconds(u64),
}

/// What is to be done for so many bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    pub steps: u64,
    /// Seconds on the nominal machine.
    pub seconds: u64,
}

impl Plan {
    pub(crate) fn tokens(self) -> u64 {
        self.steps * (SEQUENCES * LEN) as u64
    }
}

impl Budget {
    pub(crate) fn plan(self, bytes: u64) -> Plan {
        let per_step = (SEQUENCES * LEN) as u64;
        let tokens = match self {
            Self::Default => bytes.saturating_mul(TOKENS_PER_SECOND * 3 / 2) / PACKED_PER_SECOND,
            Self::Tokens(tokens) => tokens,
            Self::Seconds(seconds) => seconds.saturating_mul(TOKENS_PER_SECOND),
        };
        let steps = (tokens / per_step).max(1);
        let epochs = (EPOCHS.saturating_mul(bytes) / TOKEN_BYTES / per_step).max(1);
        let steps = match self {
            Self::Default => steps.clamp(*STEPS.start(), *STEPS.end()).min(epochs),
            _ => steps,
        };
        Plan { steps, seconds: (steps * per_step).div_ceil(TOKENS_PER_SECOND) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plans_follow_the_bytes_and_the_budget() {
        assert_eq!(Budget::Default.plan(14_000_000).steps, 820);
        assert_eq!(Budget::Default.plan(200_000).steps, 48);
        assert_eq!(Budget::Default.plan(u64::MAX).steps, 8000);
        assert_eq!(Budget::Tokens(4096 * 5).plan(1).steps, 5);
        assert_eq!(Budget::Seconds(60).plan(1), Plan { steps: 1171, seconds: 60 });
    }
}
