//! The plan of a read: a range of a file as pieces of chunks and holes.
//!
//! Invariant: the pieces of a range are in its order, none is empty, and their lengths sum up to
//! that of the range as far as the file goes; what the index does not cover ends in an error.

use std::ops::Range;

use super::archive::ChunkInfo;
use crate::error::{Error, Result};
use crate::wire::entry::{ChunkId, Extent};

/// Where chunks lie in the raw stream.
pub trait ChunkMap {
    /// Where a chunk lies in the raw stream and in the file.
    fn chunk(&self, id: ChunkId) -> Result<ChunkInfo>;

    /// The chunks that hold `len` bytes of the raw stream from `raw_offset` on; fewer where it ends.
    fn chunks_of(&self, raw_offset: u64, len: u64) -> Range<u32>;
}

/// Some consecutive bytes of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// These bytes of a chunk's plain bytes.
    Chunk { id: ChunkId, range: Range<usize> },
    /// So many zeros.
    Hole(usize),
}

impl Piece {
    /// The chunk that it lies in.
    pub fn chunk(&self) -> Option<ChunkId> {
        match self {
            Self::Chunk { id, .. } => Some(*id),
            Self::Hole(_) => None,
        }
    }
}

/// The pieces of `len` bytes from `offset` on of a file of `size` bytes; fewer only where the file ends.
pub fn plan(
    map: &impl ChunkMap,
    size: u64,
    extents: &[Extent],
    offset: u64,
    len: usize,
) -> Result<Vec<Piece>> {
    let end = offset.saturating_add(len as u64).min(size);
    let mut pieces = Vec::new();
    let mut at = offset;
    for extent in extents_from(extents, offset) {
        if extent.file_offset >= end || at >= end {
            break;
        }
        if extent.file_offset > at {
            pieces.push(hole(extent.file_offset - at)?);
            at = extent.file_offset;
        }
        let skip = at - extent.file_offset;
        let take = (extent.len - skip).min(end - at);
        let raw = extent.raw_offset.checked_add(skip).ok_or(BEYOND)?;
        raw_pieces(map, raw, take, &mut pieces)?;
        at += take;
    }
    if at < end {
        pieces.push(hole(end - at)?);
    }
    Ok(pieces)
}

/// The extents that end after `offset`.
pub fn extents_from(extents: &[Extent], offset: u64) -> &[Extent] {
    let first = extents.partition_point(|extent| extent.file_offset.saturating_add(extent.len) <= offset);
    &extents[first..]
}

fn hole(len: u64) -> Result<Piece> {
    usize::try_from(len).map(Piece::Hole).map_err(|_| BEYOND)
}

const BEYOND: Error =
    Error::Inconsistent { rule: "a file's extents reach beyond the chunks, or a group is lost" };

/// Adds the pieces of `len` bytes of the raw stream from `raw` on.
pub fn raw_pieces(map: &impl ChunkMap, raw: u64, len: u64, pieces: &mut Vec<Piece>) -> Result<()> {
    let mut at = raw;
    let mut left = len;
    for id in map.chunks_of(raw, len).map(ChunkId) {
        let chunk = map.chunk(id)?;
        let start = at.checked_sub(chunk.raw_offset).ok_or(BEYOND)?;
        let take =
            u64::from(chunk.raw_len).checked_sub(start).filter(|&take| take > 0).ok_or(BEYOND)?.min(left);
        pieces.push(Piece::Chunk { id, range: start as usize..(start + take) as usize });
        at += take;
        left -= take;
    }
    if left == 0 { Ok(()) } else { Err(BEYOND) }
}
