//! Where the groups of an archive lie, and the chunks in them.
//!
//! Groups are sorted by their first chunk and first raw byte. Chunks are numbered without holes. So
//! are the raw bytes of an undamaged archive; salvage leaves a hole where a group may be lost, and
//! what lies there cannot be read.

use std::ops::Range;
use std::sync::OnceLock;

use super::file::{ArchiveFile, Unreadable};
use crate::error::{Error, Result};
use crate::wire::chunk::{ChunkFrame, ChunkHead, Place};
use crate::wire::cursor::Cursor;
use crate::wire::entry::ChunkId;
use crate::wire::frame::{Frame, FrameKind};
use crate::wire::group::{Group, Table};
use crate::wire::index::GroupRecord;

/// A group and its place in the archive.
pub(crate) struct GroupAt {
    pub record: GroupRecord,
    pub group: Group,
    pub first_chunk: u32,
    pub first_raw: u64,
    /// The first chunk that references may name: the archive's, or the first after a loss.
    pub reach: u32,
    /// Its last file goes on in the next group.
    pub leaves_open: bool,
    chunks: OnceLock<Chunks>,
}

/// Where the chunks of a group begin: in its body, and in its raw bytes. One more than there are
/// chunks: the last is where the group ends.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Chunks {
    pub frames: Vec<u32>,
    pub raw: Vec<u32>,
}

impl GroupAt {
    pub fn new(record: GroupRecord, group: Group, first_chunk: u32, first_raw: u64, reach: u32) -> Self {
        let chunks = OnceLock::new();
        Self { record, group, first_chunk, first_raw, reach, leaves_open: false, chunks }
    }

    pub fn raw(&self) -> Range<u64> {
        self.first_raw..self.first_raw + u64::from(self.group.raw_len)
    }

    /// Whether its table was read.
    pub fn is_known(&self) -> bool {
        self.chunks.get().is_some()
    }

    pub fn place(&self, index: u32) -> Place {
        Place { salt: self.group.salt, index }
    }

    /// Where the chunks lie, read from the table when first asked for. Where the table is damaged,
    /// the chunks themselves tell.
    pub fn chunks(&self, file: &ArchiveFile) -> Result<&Chunks> {
        if let Some(chunks) = self.chunks.get() {
            return Ok(chunks);
        }
        let chunks = match self.read_table(file) {
            Ok(table) => Chunks::new(self.group.dictionary_len, &table.frame_lens, &table.raw_lens),
            Err(error) if error.is_damage() => self.walk(file).map_err(|_| error)?,
            Err(error) => return Err(error),
        };
        Ok(self.chunks.get_or_init(|| chunks))
    }

    pub fn read_table(&self, file: &ArchiveFile) -> Result<Table> {
        let offset = self.record.table();
        let data = file.read(offset, u64::from(self.record.table_len))?;
        let frame = Frame::read(&data, offset)?;
        let mut input = frame.expect(FrameKind::Table, offset)?;
        let table = Table::read(&mut input)?;
        if table.group != self.group || frame.len != data.len() {
            return Err(Error::Corrupt { offset, rule: "a table belongs to another group" });
        }
        input.finish()?;
        Ok(table)
    }

    /// Goes from head to head through the body. A damaged chunk may be among them as long as its
    /// length is right, which shows at the end.
    fn walk(&self, file: &ArchiveFile) -> Result<Chunks> {
        let offset = self.record.body();
        let body = file.read_around(offset, self.record.body_len.into(), &mut Unreadable::default())?;
        let (mut frame_lens, mut raw_lens) = (Vec::new(), Vec::new());
        let mut at = self.group.dictionary_len as usize;
        for index in 0..self.group.chunk_count {
            let here = offset + at as u64;
            let data = body.get(at..).unwrap_or_default();
            let (head, len) = match ChunkFrame::read(data, here, self.group.chunk_size, self.place(index)) {
                Ok(frame) => (frame.head, frame.len),
                Err(_) => claimed(data, here, self.group.chunk_size)?,
            };
            frame_lens.push(len as u32);
            raw_lens.push(head.raw_len);
            at += len;
        }
        let raw: u64 = raw_lens.iter().map(|&len| u64::from(len)).sum();
        if at != body.len() || raw != u64::from(self.group.raw_len) {
            return Err(Error::Corrupt { offset, rule: "a group's chunks do not fill it" });
        }
        Ok(Chunks::new(self.group.dictionary_len, &frame_lens, &raw_lens))
    }
}

/// What the head of a damaged chunk claims.
fn claimed(data: &[u8], offset: u64, chunk_size: u32) -> Result<(ChunkHead, usize)> {
    let mut input = Cursor::at(data, offset);
    let head = ChunkHead::read(&mut input, chunk_size)?;
    let len = input.position() + head.coded_len as usize + crate::wire::chunk::CHECKS_LEN;
    Ok((head, len))
}

impl Chunks {
    fn new(first: u32, frame_lens: &[u32], raw_lens: &[u32]) -> Self {
        let starts = |first, lens: &[u32]| {
            let mut starts = vec![first];
            let mut at = first;
            for len in lens {
                at += len;
                starts.push(at);
            }
            starts
        };
        Self { frames: starts(first, frame_lens), raw: starts(0, raw_lens) }
    }

    /// The chunk that holds this raw byte of the group.
    pub fn at_raw(&self, raw: u32) -> u32 {
        (self.raw.partition_point(|&start| start <= raw) as u32).saturating_sub(1)
    }
}

/// All groups of an archive.
#[derive(Default)]
pub(crate) struct Layout {
    pub groups: Vec<GroupAt>,
}

impl Layout {
    /// The group that holds a chunk.
    pub fn group_of(&self, id: ChunkId) -> Option<&GroupAt> {
        let at = self.groups.partition_point(|group| group.first_chunk <= id.0).checked_sub(1)?;
        // Groups without chunks share their first chunk with the one that follows.
        self.groups.get(at).filter(|group| id.0 - group.first_chunk < group.group.chunk_count)
    }

    /// The first group that ends after this raw byte.
    pub fn group_at(&self, raw: u64) -> usize {
        self.groups.partition_point(|group| group.raw().end <= raw)
    }

    pub fn chunk_count(&self) -> u32 {
        self.groups.last().map_or(0, |last| last.first_chunk + last.group.chunk_count)
    }

    pub fn raw_len(&self) -> u64 {
        self.groups.last().map_or(0, |last| last.raw().end)
    }
}
