//! Reads an archive at random, with pread.

use std::fs::File;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use super::{ChunkCache, ChunkId, Entry, EntryId};
use crate::codec::Models;
use crate::error::Result;
use crate::wire::chunk::ChunkHead;
use crate::wire::header::Header;
use crate::wire::models::ModelRef;

/// Bounds on what an archive may make a reader hold.
#[derive(Clone, Debug)]
pub struct OpenOptions {
    /// Most entries; `None` derives a bound from the archive's length.
    pub max_entries: Option<u64>,
    /// Most bytes of unpacked metadata; `None` derives a bound from the archive's length.
    pub max_metadata: Option<u64>,
}

/// Where a chunk lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkInfo {
    /// First byte in the raw stream.
    pub raw_offset: u64,
    pub raw_len: u32,
    /// First byte of the frame in the file.
    pub offset: u64,
    pub frame_len: u32,
}

/// An open archive. `Send + Sync`; share it in an `Arc`.
pub struct Archive {
    entries: Vec<Entry>,
}

impl Archive {
    pub fn open(path: impl AsRef<Path>, options: &OpenOptions) -> Result<Self> { let _ = (path.as_ref(), options); todo!() }

    /// `name` is for messages.
    pub fn from_file(file: File, name: &Path, options: &OpenOptions) -> Result<Self> { let _ = (file, name, options); todo!() }

    /// The models that chunks name, by number. Load them and hand them over with `set_models`.
    pub fn models(&self) -> &[ModelRef] { todo!() }

    /// The file of model `index`, if the archive carries it.
    pub fn embedded_model(&self, index: u8) -> Result<Option<Vec<u8>>> { let _ = index; todo!() }

    pub fn set_models(&mut self, models: Models) { let _ = models; todo!() }

    pub fn header(&self) -> &Header { todo!() }

    /// All entries; `EntryId(i)` is `entries()[i]`. Hardlinks name their target here.
    pub fn entries(&self) -> &[Entry] { &self.entries }

    pub fn entry(&self, id: EntryId) -> Option<&Entry> { self.entries.get(id.0 as usize) }

    /// The entry of exactly this path.
    pub fn lookup(&self, path: &[u8]) -> Option<EntryId> { let _ = path; todo!() }

    /// Ids of all entries in byte order of their paths.
    pub fn by_path(&self) -> &[EntryId] { todo!() }

    pub fn chunk_count(&self) -> u32 { todo!() }

    /// Length of the raw stream.
    pub fn raw_len(&self) -> u64 { todo!() }

    /// Length of the archive file.
    pub fn archive_len(&self) -> u64 { todo!() }

    pub fn chunk(&self, id: ChunkId) -> Result<ChunkInfo> { let _ = id; todo!() }

    /// The chunks that hold `len` raw bytes from `raw_offset` on.
    pub fn chunks_of(&self, raw_offset: u64, len: u64) -> Range<u32> { let _ = (raw_offset, len); todo!() }

    /// The head of a chunk: codec, model, references. Its CRC is checked.
    pub fn chunk_head(&self, id: ChunkId) -> Result<ChunkHead> { let _ = id; todo!() }

    /// Plain bytes of the chunks, in the order asked for, each checked. Chunks they refer to are
    /// looked up in `cache`, decoded first where absent, and put there.
    pub fn read_chunks(&self, ids: &[ChunkId], cache: &dyn ChunkCache) -> Vec<Result<Arc<[u8]>>> { let _ = (ids, cache); todo!() }

    /// Fills `buf` with a file's bytes from `offset` on; fewer only at the end of the file. Follows
    /// hardlinks. Holes read as zeros.
    pub fn read_at(&self, id: EntryId, offset: u64, buf: &mut [u8], cache: &dyn ChunkCache) -> Result<usize> { let _ = (id, offset, buf, cache); todo!() }
}
