//! Bytes of files and of the raw stream, read at random, and their hashes.

use super::archive::{Archive, ChunkInfo};
use super::chunk_cache::ChunkCache;
use super::pieces::{ChunkMap, Piece, plan, raw_pieces};
use crate::error::{Error, Result};
use crate::wire::entry::{ChunkId, ContentHash, EntryId, Extent, Kind, content_hash};

/// Bytes that are read at once to be hashed.
const PIECE: u64 = 1 << 20;

impl ChunkMap for Archive {
    fn chunk(&self, id: ChunkId) -> Result<ChunkInfo> {
        Archive::chunk(self, id)
    }

    fn chunks_of(&self, raw_offset: u64, len: u64) -> std::ops::Range<u32> {
        Archive::chunks_of(self, raw_offset, len)
    }
}

impl Archive {
    /// Length of a file in bytes, holes included; follows hardlinks. `None` if the entry is no file.
    pub fn file_size(&self, id: EntryId) -> Option<u64> {
        let mut kind = &self.entry(id)?.kind;
        if let Kind::Hardlink { target } = kind {
            kind = &self.entry(*target)?.kind;
        }
        if let Kind::File { size, .. } = kind { Some(*size) } else { None }
    }

    /// Fills `buf` with a file's bytes from `offset` on and gives their number: fewer than asked for
    /// only at the end of the file. Follows hardlinks. Holes read as zeros.
    ///
    /// # Errors
    /// `Usage` if the entry is no file, `BadChunk`, `Corrupt` or `Inconsistent` where the archive is damaged,
    /// `ModelMissing` if a chunk needs a model that is not loaded.
    pub fn read_at(&self, id: EntryId, offset: u64, buf: &mut [u8], cache: &dyn ChunkCache) -> Result<usize> {
        let entry = match self.entry(id).map(|entry| &entry.kind) {
            Some(Kind::Hardlink { target }) => self.entry(*target),
            _ => self.entry(id),
        };
        let Some(Kind::File { size, extents, .. }) = entry.map(|entry| &entry.kind) else {
            return Err(Error::Usage("only files have content".to_owned()));
        };
        let len = size.saturating_sub(offset).min(buf.len() as u64) as usize;
        self.fill(&plan(self, *size, extents, offset, len)?, &mut buf[..len], cache)?;
        Ok(len)
    }

    /// Fills `buf` with the raw stream from `raw_offset` on.
    pub(crate) fn read_raw(&self, raw_offset: u64, buf: &mut [u8], cache: &dyn ChunkCache) -> Result<()> {
        let mut pieces = Vec::new();
        raw_pieces(self, raw_offset, buf.len() as u64, &mut pieces)?;
        self.fill(&pieces, buf, cache)
    }

    /// Fills `buf`, which is as long as the pieces are together.
    fn fill(&self, pieces: &[Piece], buf: &mut [u8], cache: &dyn ChunkCache) -> Result<()> {
        let ids: Vec<ChunkId> = pieces.iter().filter_map(Piece::chunk).collect();
        let mut chunks = self.read_chunks(&ids, cache).into_iter();
        let mut rest = buf;
        for piece in pieces {
            let len = match piece {
                Piece::Hole(len) => *len,
                Piece::Chunk { range, .. } => range.len(),
            };
            let (part, after) =
                rest.split_at_mut_checked(len).ok_or(Error::Internal("a plan is too long"))?;
            rest = after;
            match piece {
                Piece::Hole(_) => part.fill(0),
                Piece::Chunk { range, .. } => {
                    let chunk = chunks.next().ok_or(Error::Internal("a chunk was lost"))??;
                    let short = Error::Internal("a chunk is shorter than the index says");
                    part.copy_from_slice(chunk.get(range.clone()).ok_or(short)?);
                }
            }
        }
        Ok(())
    }

    /// The content hash of the bytes of extents, one after another.
    pub(crate) fn hash_extents(&self, extents: &[Extent], cache: &dyn ChunkCache) -> Result<ContentHash> {
        self.hash_extents_while(extents, cache, &|| true)
    }

    /// The same, as long as `goes_on` says so; `Interrupted` when it does not.
    pub(crate) fn hash_extents_while(
        &self,
        extents: &[Extent],
        cache: &dyn ChunkCache,
        goes_on: &dyn Fn() -> bool,
    ) -> Result<ContentHash> {
        let mut hasher = blake3::Hasher::new();
        let mut buf = Vec::new();
        for extent in extents {
            let (mut at, end) = (extent.raw_offset, extent.raw_offset.saturating_add(extent.len));
            while at < end {
                if !goes_on() {
                    return Err(Error::Interrupted);
                }
                buf.resize((end - at).min(PIECE) as usize, 0);
                self.read_raw(at, &mut buf, cache)?;
                hasher.update(&buf);
                at += buf.len() as u64;
            }
        }
        Ok(content_hash(hasher.finalize().as_bytes(), hasher.count()))
    }
}
