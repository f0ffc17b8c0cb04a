//! How a short coding of a chunk is looked for: candidates for the learned sequence c.

/// Writes candidates for the learned sequence of a chunk. What it writes is tried and what is best
/// is stored, so it may be anything; it should give the same for the same tokens.
pub trait Compressor: Send + Sync {
    /// Up to `count` sequences for a chunk of these tokens, the most promising first.
    fn candidates(&self, tokens: &[u16], count: usize) -> Vec<Vec<u16>>;
}

/// How hard a short coding of a chunk is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Search {
    /// Candidates for c that are tried, beside the empty one.
    pub effort: usize,
    /// Most symbols of a candidate; longer ones are cut.
    pub longest: usize,
}

impl From<usize> for Search {
    /// So many candidates of any length.
    fn from(effort: usize) -> Self {
        Self { effort, longest: usize::MAX }
    }
}
