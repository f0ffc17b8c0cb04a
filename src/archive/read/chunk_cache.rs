//! Where decoded chunks are kept between reads.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use crate::wire::entry::ChunkId;

/// A store of decoded chunks, bounded by its owner.
pub trait ChunkCache: Sync {
    fn get(&self, id: ChunkId) -> Option<Arc<[u8]>>;
    fn put(&self, id: ChunkId, bytes: &Arc<[u8]>);
}

/// Keeps nothing.
pub struct NoCache;

impl ChunkCache for NoCache {
    fn get(&self, _: ChunkId) -> Option<Arc<[u8]>> {
        None
    }

    fn put(&self, _: ChunkId, _: &Arc<[u8]>) {}
}

/// Keeps the chunks put last, up to a number of bytes: what work in archive order needs.
pub struct RecentChunks {
    max_bytes: usize,
    state: Mutex<Recent>,
}

#[derive(Default)]
struct Recent {
    chunks: HashMap<ChunkId, Arc<[u8]>>,
    /// Ids in `chunks`, oldest first.
    order: VecDeque<ChunkId>,
    bytes: usize,
}

impl RecentChunks {
    pub fn new(max_bytes: usize) -> Self {
        Self { max_bytes, state: Mutex::default() }
    }
}

impl ChunkCache for RecentChunks {
    fn get(&self, id: ChunkId) -> Option<Arc<[u8]>> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.chunks.get(&id).cloned()
    }

    fn put(&self, id: ChunkId, bytes: &Arc<[u8]>) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.chunks.insert(id, Arc::clone(bytes)).is_some() {
            return;
        }
        state.bytes += bytes.len();
        state.order.push_back(id);
        while state.bytes > self.max_bytes {
            let Some(oldest) = state.order.pop_front() else { break };
            if let Some(gone) = state.chunks.remove(&oldest) {
                state.bytes -= gone.len();
            }
        }
    }
}
