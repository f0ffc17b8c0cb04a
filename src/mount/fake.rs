//! A source for tests: chunks of known bytes, decodes counted, failures on request.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::source::Source;
use crate::archive::read::archive::ChunkInfo;
use crate::archive::read::chunk_cache::ChunkCache;
use crate::error::{Error, Result};
use crate::wire::chunk::Codec;
use crate::wire::entry::{ChunkId, Entry, Extent, Kind, Timestamp};

/// Chunks of equal length, whose bytes depend on their place in the raw stream.
pub struct Fake {
    entries: Vec<Entry>,
    raw: Vec<u8>,
    chunk_len: usize,
    slow: Duration,
    /// Chunks that a device wants at once; 0 if there is none.
    bulk: usize,
    decodes: Mutex<Vec<u32>>,
    batches: Mutex<Vec<usize>>,
    damaged: Mutex<HashSet<u32>>,
    panics: Mutex<HashSet<u32>>,
}

impl Fake {
    /// `count` chunks of `len` bytes and no entry.
    pub fn chunks(count: usize, len: usize) -> Self {
        Self::new(Vec::new(), count * len, len)
    }

    /// These entries over a raw stream of `raw_len` bytes.
    pub fn new(entries: Vec<Entry>, raw_len: usize, chunk_len: usize) -> Self {
        let raw: Vec<u8> =
            (0..raw_len as u64).map(|i| (i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8).collect();
        let count = raw_len.div_ceil(chunk_len);
        Self {
            entries,
            raw,
            chunk_len,
            slow: Duration::ZERO,
            bulk: 0,
            decodes: Mutex::new(vec![0; count]),
            batches: Mutex::default(),
            damaged: Mutex::default(),
            panics: Mutex::default(),
        }
    }

    /// Makes each decode take some milliseconds.
    pub fn slow(self, millis: u64) -> Self {
        Self { slow: Duration::from_millis(millis), ..self }
    }

    /// Adds a device that takes ten chunks and more, and wants so many at once.
    pub fn with_device(self, bulk: usize) -> Self {
        Self { bulk, ..self }
    }

    pub fn raw(&self) -> &[u8] {
        &self.raw
    }

    pub fn plain(&self, id: u32) -> &[u8] {
        let start = id as usize * self.chunk_len;
        &self.raw[start..self.raw.len().min(start + self.chunk_len)]
    }

    /// How often each chunk was decoded.
    pub fn decodes(&self) -> Vec<u32> {
        self.decodes.lock().unwrap().clone()
    }

    /// How many chunks each call decoded.
    pub fn batches(&self) -> Vec<usize> {
        self.batches.lock().unwrap().clone()
    }

    pub fn damage(&self, id: u32, damaged: bool) {
        let mut set = self.damaged.lock().unwrap();
        if damaged {
            set.insert(id)
        } else {
            set.remove(&id)
        };
    }

    pub fn panic_on(&self, id: u32) {
        self.panics.lock().unwrap().insert(id);
    }
}

impl Source for Fake {
    fn entries(&self) -> &[Entry] {
        &self.entries
    }

    fn chunk_count(&self) -> u32 {
        self.raw.len().div_ceil(self.chunk_len) as u32
    }

    fn chunk(&self, id: ChunkId) -> Result<ChunkInfo> {
        if id.0 >= self.chunk_count() {
            return Err(Error::Internal("no such chunk"));
        }
        let raw_offset = u64::from(id.0) * self.chunk_len as u64;
        Ok(ChunkInfo { raw_offset, raw_len: self.plain(id.0).len() as u32, offset: 0, frame_len: 100 })
    }

    fn codec(&self, id: ChunkId) -> Result<Codec> {
        Ok(if id.0.is_multiple_of(2) { Codec::Stored } else { Codec::Zstd })
    }

    fn chunks_of(&self, raw_offset: u64, len: u64) -> Range<u32> {
        let end = raw_offset.saturating_add(len).min(self.raw.len() as u64);
        if raw_offset >= end {
            return 0..0;
        }
        let unit = self.chunk_len as u64;
        (raw_offset / unit) as u32..end.div_ceil(unit) as u32
    }

    fn bulk(&self, chunks: usize, _threads: usize) -> usize {
        if chunks >= 10 { self.bulk } else { 0 }
    }

    fn decode(&self, ids: &[ChunkId], _known: &dyn ChunkCache) -> Vec<Result<Arc<[u8]>>> {
        std::thread::sleep(self.slow);
        self.batches.lock().unwrap().push(ids.len());
        ids.iter()
            .map(|id| {
                self.decodes.lock().unwrap()[id.0 as usize] += 1;
                assert!(!self.panics.lock().unwrap().contains(&id.0), "asked to panic");
                if self.damaged.lock().unwrap().contains(&id.0) {
                    return Err(Error::BadChunk { chunk: id.0, offset: 0, rule: "damaged for a test" });
                }
                Ok(self.plain(id.0).into())
            })
            .collect()
    }
}

/// An entry with plain metadata.
pub fn entry(path: &str, kind: Kind) -> Entry {
    let mode = if kind == Kind::Directory { 0o755 } else { 0o644 };
    let mtime = Timestamp { secs: 1_000_000_000, nanos: 5 };
    Entry { path: path.into(), kind, mode, uid: 7, gid: 8, mtime, xattrs: Vec::new() }
}

/// A file in one piece of the raw stream.
pub fn file(path: &str, raw_offset: u64, len: u64) -> Entry {
    sparse(path, len, &[(0, raw_offset, len)])
}

/// A file of several extents: file offset, raw offset, length.
pub fn sparse(path: &str, size: u64, extents: &[(u64, u64, u64)]) -> Entry {
    let extents = extents
        .iter()
        .filter(|extent| extent.2 > 0)
        .map(|&(file_offset, raw_offset, len)| Extent { file_offset, raw_offset, len })
        .collect();
    entry(path, Kind::File { size, extents, hash: [0; 16] })
}
