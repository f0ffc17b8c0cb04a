//! Writes the records of an archive in their order, and the index of them (spec/format.md, section 6).

use std::io::Write;

use crate::error::{Error, Result};
use crate::wire::entries::Base;
use crate::wire::frame::{FrameKind, write_frame};
use crate::wire::group::Group;
use crate::wire::index::{GroupRecord, Index, TRAILER_LEN, Trailer};
use crate::wire::models::{write_model, write_models};

/// An archive that is being written, record by record.
pub(crate) struct RecordWriter<W> {
    out: W,
    /// Bytes of the archive so far.
    len: u64,
    /// What an index would say if it were written now.
    pub index: Index,
    /// Numbers of the first entry and of the first raw byte of the next group.
    pub base: Base,
}

impl<W: Write> RecordWriter<W> {
    /// An archive of which nothing is written; `index` names its models.
    pub fn new(out: W, index: Index) -> Self {
        Self::after(out, 0, index, Base::default())
    }

    /// Goes on after `len` bytes that hold what `index` names.
    pub fn after(out: W, len: u64, index: Index, base: Base) -> Self {
        Self { out, len, index, base }
    }

    /// Bytes of the archive so far.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Writes bytes as they are.
    pub fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.out.write_all(bytes).map_err(Error::Output)?;
        self.len += bytes.len() as u64;
        Ok(())
    }

    /// Writes the list of models; gives its frame.
    pub fn put_models(&mut self) -> Result<Vec<u8>> {
        let (mut plain, mut frame) = (Vec::new(), Vec::new());
        write_models(&self.index.models, &mut plain);
        write_frame(FrameKind::Models, &plain, &mut frame)?;
        self.put(&frame)?;
        Ok(frame)
    }

    /// Writes the file of a model that the archive carries; gives its frame.
    pub fn put_model(&mut self, number: u8, file: &[u8]) -> Result<Vec<u8>> {
        self.index.embedded.push(self.len);
        let mut frame = Vec::new();
        write_frame(FrameKind::Model, &write_model(number, file), &mut frame)?;
        self.put(&frame)?;
        Ok(frame)
    }

    /// Writes a group: its head (the frames GROUP, of CRC `crc`, and ENTRIES), its body and its table.
    pub fn put_group(&mut self, group: &Group, crc: u32, [head, body, table]: [&[u8]; 3]) -> Result<()> {
        self.index.groups.push(GroupRecord {
            offset: self.len,
            head_len: head.len() as u32,
            body_len: group.body_len,
            table_len: table.len() as u32,
            raw_len: group.raw_len,
            chunk_count: group.chunk_count,
            entry_count: group.entry_count,
            crc,
        });
        self.base.entry += group.entry_count;
        self.base.raw += u64::from(group.raw_len);
        for part in [head, body, table] {
            self.put(part)?;
        }
        Ok(())
    }

    /// Flushes what was written, so that a reader of a pipe gets it.
    pub fn flush(&mut self) -> Result<()> {
        self.out.flush().map_err(Error::Output)
    }

    /// Writes the index and the trailer, and flushes; gives `out` back for syncing, with the archive's length.
    pub fn finish(mut self) -> Result<(W, u64)> {
        let (mut plain, mut end) = (Vec::new(), Vec::new());
        self.index.write(&mut plain);
        write_frame(FrameKind::Index, &plain, &mut end)?;
        let index_len = end.len() as u64;
        let archive_len = self.len + index_len + TRAILER_LEN as u64;
        Trailer { generation: self.index.generation, index_len, archive_len }.write(&mut end);
        self.put(&end)?;
        self.flush()?;
        Ok((self.out, self.len))
    }
}
