//! What an interrupted run wrote already, so that it need not be coded again.
//!
//! A resumed run does everything that the first one did, but for coding: it reads the sources,
//! fills groups and plans references. Where the partial archive holds the very group that is due,
//! its bytes are taken; from the first one that differs on, nothing is. So the bytes are those of
//! an uninterrupted run, whatever became of the sources meanwhile.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use super::chunk_encoder::Plan;
use crate::archive::read::dictionary::read_dictionary;
use crate::archive::read::file::ArchiveFile;
use crate::archive::read::records::read_group;
use crate::error::{Error, Result};
use crate::wire::chunk::{ChunkFrame, ChunkHead, Place, plain_check};
use crate::wire::frame::{Frame, FrameKind};
use crate::wire::group::{Group, Table};
use crate::wire::header::HEADER_LEN;

/// The partial archive of an interrupted run with the same options.
#[derive(Debug)]
pub struct Previous {
    file: ArchiveFile,
    /// Where the next piece that may be taken begins; `None` once something differed.
    at: Option<u64>,
}

/// A group of which nothing needs to be coded.
pub(crate) struct Kept {
    pub group: Group,
    pub group_crc: u32,
    /// Length of the GROUP frame.
    pub group_len: usize,
    /// Heads of the chunks, as they are stored.
    pub heads: Vec<ChunkHead>,
    pub frame_lens: Vec<u32>,
    pub head: Vec<u8>,
    pub body: Vec<u8>,
    pub table: Vec<u8>,
}

impl Previous {
    /// The file may be the one that is written to: what is taken is written in its own place.
    pub fn new(file: File, name: &Path) -> Result<Self> {
        Ok(Self { file: ArchiveFile::new(file, name)?, at: Some(0) })
    }

    /// Whether a file holds a whole group, so that it is worth being kept.
    pub fn has_groups(file: &File, name: &Path) -> bool {
        let found = || -> Result<bool> {
            let file = ArchiveFile::new(file.try_clone().map_err(|e| Error::io(name, e))?, name)?;
            let mut at = HEADER_LEN as u64;
            loop {
                let frame = file.frame_at(at)?;
                if frame.kind == FrameKind::Group {
                    let group = Group::read(&mut frame.expect(FrameKind::Group, at)?)?;
                    at += frame.len as u64;
                    at += file.frame_at(at)?.len as u64 + u64::from(group.body_len);
                    return Ok(file.frame_at(at)?.kind == FrameKind::Table);
                }
                at += frame.len as u64;
            }
        };
        found().unwrap_or(false)
    }

    /// Notes that these bytes are written next, which are no group.
    pub(crate) fn pass(&mut self, bytes: &[u8]) {
        let same = |at: u64| self.file.read(at, bytes.len() as u64).is_ok_and(|found| found == bytes);
        self.at = self.at.filter(|&at| same(at)).map(|at| at + bytes.len() as u64);
    }

    /// The group that is due, if it is there: with this salt and content of its ENTRIES frame, and
    /// these chunks, which may look back on what `plans` say.
    pub(crate) fn take(
        &mut self,
        salt: u32,
        entries: &[u8],
        chunk_size: u32,
        chunks: &[Arc<[u8]>],
        plans: &[Plan],
    ) -> Option<Kept> {
        let at = self.at.take()?;
        let kept = self.read(at, salt, entries, chunk_size, chunks, plans)?;
        self.at = Some(at + (kept.head.len() + kept.body.len() + kept.table.len()) as u64);
        Some(kept)
    }

    fn read(
        &self,
        at: u64,
        salt: u32,
        entries: &[u8],
        chunk_size: u32,
        chunks: &[Arc<[u8]>],
        plans: &[Plan],
    ) -> Option<Kept> {
        let first = self.file.frame_at(at).ok()?;
        let second = self.file.frame_at(at + first.len as u64).ok()?;
        let head = self.file.read(at, (first.len + second.len) as u64).ok()?;
        let (group, group_crc, group_len) = read_group(&head, at).ok()?;
        let raw_len: usize = chunks.iter().map(|chunk| chunk.len()).sum();
        let due = (salt, raw_len, chunk_size, chunks.len());
        let found = (group.salt, group.raw_len as usize, group.chunk_size, group.chunk_count as usize);
        if found != due || second.kind != FrameKind::Entries || second.plain != entries {
            return None;
        }
        let body = self.file.read(at + head.len() as u64, group.body_len.into()).ok()?;
        let (mut heads, mut frame_lens) = (Vec::new(), Vec::new());
        let mut from = group.dictionary_len as usize;
        if from > 0 {
            let frame = Frame::read(body.get(..from)?, at).ok().filter(|frame| frame.len == from)?;
            read_dictionary(&frame, at).ok()?;
        }
        for (index, (chunk, plan)) in (0..).zip(chunks.iter().zip(plans)) {
            let place = Place { salt, index };
            let frame = ChunkFrame::read(body.get(from..)?, at, chunk_size, place).ok()?;
            let refs = &frame.head.refs;
            if frame.head.raw_len as usize != chunk.len()
                || frame.check != plain_check(chunk)
                || !(refs.is_empty() || *refs == plan.distances)
            {
                return None;
            }
            from += frame.len;
            frame_lens.push(frame.len as u32);
            heads.push(frame.head);
        }
        let table_at = at + (head.len() + body.len()) as u64;
        let table_len = self.file.frame_at(table_at).ok()?.len;
        let table = self.file.read(table_at, table_len as u64).ok()?;
        let frame = Frame::read(&table, table_at).ok()?;
        let named = Table::read(&mut frame.expect(FrameKind::Table, table_at).ok()?).ok()?;
        let whole = from == body.len() && named.group == group && named.frame_lens == frame_lens;
        whole.then_some(Kept { group, group_crc, group_len, heads, frame_lens, head, body, table })
    }
}
