//! How a short coding of a chunk is searched for: candidates for the learned sequence c.

/// Writes candidates for the learned sequence of a chunk. All candidates are tried and the best
/// coding is stored, so a candidate may be anything. The same tokens should give the same
/// candidates.
pub trait Compressor: Send + Sync {
    /// Up to `count` sequences for a chunk of these tokens, the most promising first.
    fn candidates(&self, tokens: &[u16], count: usize) -> Vec<Vec<u16>>;
}

/// How much work goes into the search for a short coding of a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Search {
    /// Candidates for c that are tried besides the empty one.
    pub effort: usize,
    /// Most symbols of a candidate; longer ones are cut.
    pub longest: usize,
}

impl From<usize> for Search {
    /// This many candidates, of any length.
    fn from(effort: usize) -> Self {
        Self { effort, longest: usize::MAX }
    }
}
