//! A chunk that was read and waits to be decoded.

use std::sync::Arc;

use super::layout::GroupAt;
use crate::error::{Error, Result};
use crate::wire::chunk::{ChunkFrame, ChunkHead, Codec};
use crate::wire::entry::ChunkId;
use crate::wire::zstd_raw::Dictionary;

/// A chunk that was read and waits to be decoded.
pub(crate) struct Pending {
    pub head: ChunkHead,
    pub payload: Vec<u8>,
    pub check: [u8; 4],
    pub refs: Vec<ChunkId>,
    /// That of its group, if it needs one.
    pub dictionary: Option<Arc<Dictionary>>,
    /// Where its frame lies.
    pub offset: u64,
}

impl Pending {
    /// Reads chunk `id` of the group `at` from its frame `data`, which lies at `offset` of the file, and checks all
    /// that can be checked before it is decoded. `raw_len` is what the group's table says; references reach back
    /// `reach` chunks at most.
    pub fn read(
        id: ChunkId,
        data: &[u8],
        offset: u64,
        at: &GroupAt,
        raw_len: u32,
        reach: u32,
    ) -> Result<Self> {
        let place = at.place(id.0 - at.first_chunk);
        let frame = ChunkFrame::read(data, offset, at.group.chunk_size, place);
        let frame = frame.map_err(|e| e.in_chunk(id.0, offset))?;
        if frame.len != data.len() || frame.head.raw_len != raw_len {
            let rule = "its length differs from the table's";
            return Err(Error::BadChunk { chunk: id.0, offset, rule });
        }
        Self::new(id, frame, offset, &at.group.models, reach)
    }

    /// `group_models` are the group's models by their number in the archive; references reach back
    /// `reach` chunks at most.
    pub fn new(
        id: ChunkId,
        frame: ChunkFrame<'_>,
        offset: u64,
        group_models: &[u8],
        reach: u32,
    ) -> Result<Self> {
        let bad = |rule| Error::BadChunk { chunk: id.0, offset, rule };
        let mut head = frame.head;
        if head.codec == Codec::Neural {
            let model = group_models.get(usize::from(head.model));
            head.model = *model.ok_or_else(|| bad("it names a model that its group does not"))?;
        }
        let mut refs = Vec::new();
        for &distance in &head.refs {
            let target = id.0.checked_sub(distance).filter(|_| distance <= reach);
            refs.push(ChunkId(target.ok_or_else(|| bad("it refers to a chunk out of reach"))?));
        }
        let payload = frame.payload.to_vec();
        Ok(Self { head, payload, check: frame.check, refs, dictionary: None, offset })
    }

    /// Whether it is coded with its group's dictionary, if that has one.
    pub fn takes_dictionary(&self) -> bool {
        self.head.codec == Codec::Zstd && self.refs.is_empty()
    }
}
