//! An archive as the mount sees it, so that everything above runs in tests without one.
//!
//! All contents form one raw stream, cut into chunks that follow each other without gaps; chunk
//! ids count them from zero in the order of the stream.

use std::ops::Range;
use std::sync::Arc;

use crate::archive::read::archive::{Archive, ChunkInfo};
use crate::archive::read::chunk_cache::ChunkCache;
use crate::error::Result;
use crate::wire::chunk::Codec;
use crate::wire::entry::{ChunkId, Entry};

/// Entries, and chunks that can be decoded at random.
pub trait Source: Send + Sync + 'static {
    /// All entries; `EntryId(i)` is the one at `i`.
    fn entries(&self) -> &[Entry];

    /// Number of chunks.
    fn chunk_count(&self) -> u32;

    /// Where a chunk lies in the raw stream and in the file.
    fn chunk(&self, id: ChunkId) -> Result<ChunkInfo>;

    /// How a chunk is coded. May read the archive.
    fn codec(&self, id: ChunkId) -> Result<Codec>;

    /// The chunks that hold `len` bytes of the raw stream from `raw_offset` on; fewer where it ends.
    fn chunks_of(&self, raw_offset: u64, len: u64) -> Range<u32>;

    /// How many of so many chunks are best decoded together, where a device does so sooner than `threads`; else 0.
    fn bulk(&self, chunks: usize, threads: usize) -> usize {
        let _ = (chunks, threads);
        0
    }

    /// Decodes chunks on the calling thread, in lockstep where that is faster. One result for each id, in their order;
    /// one that fails leaves the others whole. Chunks that others refer to are looked for in
    /// `known` and put there.
    fn decode(&self, ids: &[ChunkId], known: &dyn ChunkCache) -> Vec<Result<Arc<[u8]>>>;
}

impl Source for Archive {
    fn entries(&self) -> &[Entry] {
        Archive::entries(self)
    }

    fn chunk_count(&self) -> u32 {
        Archive::chunk_count(self)
    }

    fn chunk(&self, id: ChunkId) -> Result<ChunkInfo> {
        Archive::chunk(self, id)
    }

    fn codec(&self, id: ChunkId) -> Result<Codec> {
        Ok(self.chunk_head(id)?.codec)
    }

    fn chunks_of(&self, raw_offset: u64, len: u64) -> Range<u32> {
        Archive::chunks_of(self, raw_offset, len)
    }

    fn bulk(&self, chunks: usize, threads: usize) -> usize {
        self.together_on(threads, chunks, 0)
    }

    fn decode(&self, ids: &[ChunkId], known: &dyn ChunkCache) -> Vec<Result<Arc<[u8]>>> {
        // The pool shares batches out among its own workers.
        self.read_chunks_on(1, ids, known)
    }
}
