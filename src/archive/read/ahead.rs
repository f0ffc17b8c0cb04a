//! Contents in the order of the archive, whose chunks are decoded in batches before they are wanted.

use std::ops::Range;

use super::archive::Archive;
use super::chunk_cache::RecentChunks;
use crate::archive::observer::Observer;
use crate::error::{Error, Result};
use crate::wire::entry::ChunkId;

/// Chunks that a worker decodes together. Models decode many chunks in lockstep, but the user waits for a batch to see
/// progress or to interrupt.
pub(crate) const LOCKSTEP: usize = 64;

/// Raw bytes that are decoded ahead, and cached.
const AHEAD: u32 = 8 << 20;
const CACHED: usize = 48 << 20;

/// Bytes that are copied at a time.
const COPY: usize = 1 << 20;

/// Decodes the chunks that are wanted before they are, many together.
pub(crate) struct Ahead<'a> {
    archive: &'a Archive,
    ids: Vec<ChunkId>,
    /// Of `ids`, how many were decoded.
    done: usize,
    cache: RecentChunks,
}

impl<'a> Ahead<'a> {
    /// `ids` are the chunks that will be wanted, in order.
    pub fn new(archive: &'a Archive, ids: Vec<ChunkId>) -> Self {
        Self { archive, ids, done: 0, cache: RecentChunks::new(CACHED) }
    }

    /// About how many raw bytes the chunks have that are wanted.
    pub fn raw_len(&self) -> u64 {
        self.ids.len() as u64 * u64::from(self.archive.header().chunk_size)
    }

    /// Hands the raw bytes from `raw_offset` on to `put`.
    pub fn copy(
        &mut self,
        raw_offset: u64,
        len: u64,
        observer: &dyn Observer,
        put: &mut dyn FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        let mut buf = vec![0; usize::try_from(len).unwrap_or(COPY).min(COPY)];
        let (mut at, end) = (raw_offset, raw_offset + len);
        while at < end {
            if observer.interrupted() {
                return Err(Error::Interrupted);
            }
            let part = &mut buf[..usize::try_from(end - at).unwrap_or(COPY).min(COPY)];
            let last = self.archive.chunks_of(at, part.len() as u64).end;
            while self.ids.get(self.done).is_some_and(|id| id.0 < last) {
                let most = (AHEAD / self.archive.header().chunk_size).max(1) as usize;
                let batch = (LOCKSTEP * rayon::current_num_threads()).min(most);
                let batch = self.archive.together(self.ids.len() - self.done, batch);
                let ids = &self.ids[self.done..self.ids.len().min(self.done + batch)];
                let ids = self.archive.batches(ids, batch)[0];
                // What failed is asked for again, and fails where it is needed.
                drop(self.archive.read_chunks(ids, &self.cache));
                observer.advanced(ids.len() as u64 * u64::from(self.archive.header().chunk_size));
                self.done += ids.len();
            }
            self.archive.read_raw(at, part, &self.cache)?;
            put(part)?;
            at += part.len() as u64;
        }
        Ok(())
    }
}

/// The chunks of some ranges, each once and in order.
pub(crate) fn in_order(mut ranges: Vec<Range<u32>>) -> Vec<ChunkId> {
    ranges.sort_unstable_by_key(|range| range.start);
    let (mut ids, mut next) = (Vec::new(), 0);
    for range in ranges {
        ids.extend((range.start.max(next)..range.end).map(ChunkId));
        next = next.max(range.end);
    }
    ids
}
