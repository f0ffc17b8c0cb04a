//! How deep the references of chunks go, where chunks come in order.

use std::collections::VecDeque;

use crate::wire::entry::ChunkId;

/// Depths of the last chunks: 0 without references, else one more than the deepest that it names has.
#[derive(Debug)]
pub(crate) struct Depths {
    /// Those before `next`, as many as references reach back.
    last: VecDeque<u8>,
    next: ChunkId,
    window: usize,
}

impl Depths {
    /// For references that reach back so many chunks.
    pub fn new(window: u32) -> Self {
        Self { last: VecDeque::new(), next: ChunkId(0), window: window as usize }
    }

    /// Notes the next chunk; gives its depth. Chunks that were passed over count as without references.
    pub fn note(&mut self, id: ChunkId, refs: &[ChunkId]) -> u8 {
        let passed = id.0.saturating_sub(self.next.0) as usize;
        self.last.extend(std::iter::repeat_n(0, passed.min(self.window)));
        let of = |target: &ChunkId| {
            let back = id.0.saturating_sub(target.0) as usize;
            self.last.len().checked_sub(back).and_then(|at| self.last.get(at)).copied().unwrap_or(0)
        };
        let depth = refs.iter().map(|target| of(target).saturating_add(1)).max().unwrap_or(0);
        self.last.push_back(depth);
        while self.last.len() > self.window {
            self.last.pop_front();
        }
        self.next = ChunkId(id.0.saturating_add(1));
        depth
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn depths_grow_along_references_and_fall_out_of_reach() {
        let mut depths = Depths::new(3);
        let mut note = |id, refs: &[u32]| {
            depths.note(ChunkId(id), &refs.iter().map(|&id| ChunkId(id)).collect::<Vec<_>>())
        };
        assert_eq!(
            [note(0, &[]), note(1, &[0]), note(2, &[0]), note(3, &[1, 2]), note(4, &[3])],
            [0, 1, 1, 2, 3]
        );
        assert_eq!(note(5, &[1]), 1, "what is out of reach is unknown");
        assert_eq!([note(9, &[8]), note(10, &[9, 8])], [1, 2], "what was passed over has none");
    }
}
