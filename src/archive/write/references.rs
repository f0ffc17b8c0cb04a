//! The choice of the chunks that a chunk refers to, as the writer asks for it.

use std::sync::Arc;

/// Chooses history for chunks.
pub trait References: Send + Sync {
    /// How deep references may chain, at most 8.
    fn depth(&self) -> u8 {
        2
    }

    /// For each chunk of `new`, backward distances in chunks, the most useful first. `earlier` are
    /// the chunks right before them, oldest first; distances reach into both.
    fn plan(&self, earlier: &[Earlier], new: &[Arc<[u8]>]) -> Vec<Vec<u32>>;
}

/// A chunk that was coded before.
#[derive(Clone)]
pub struct Earlier {
    pub bytes: Arc<[u8]>,
    /// 0 if it names no other, else one more than that of the deepest it names.
    pub depth: u8,
}
