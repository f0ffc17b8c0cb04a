//! Reads an archive in order, from a pipe.
//!
//! Held are the chunks that references may reach, one batch, and where in the raw stream each file
//! began. What the index says at the end is compared with what came.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::io::Read;
use std::sync::Arc;

use super::budget::Budget;
use super::decode::{Done, TOO_DEEP, decode_all, together};
use super::dictionary::read_dictionary;
use super::options::OpenOptions;
use super::peek::Source;
use super::pending::Pending;
use super::record_order::{OpenFile, RecordOrder};
use super::records::{check_entries, check_group};
use super::reference_depth::Depths;
use crate::archive::path;
use crate::archive::path_set::key;
use crate::codec::model::Models;
use crate::error::{Error, Result};
use crate::wire::chunk::{CHECKS_LEN, ChunkFrame, ChunkHead, HEAD_MAX, Place};
use crate::wire::cursor::Cursor;
use crate::wire::entries::{Base, Entries};
use crate::wire::entry::{ChunkId, ContentHash, Entry, EntryId, Kind};
use crate::wire::frame::{Frame, FrameKind};
use crate::wire::group::{Group, Table};
use crate::wire::header::{HEADER_LEN, Header};
use crate::wire::index::{GroupRecord, Index, TRAILER_LEN, TRAILER_MARKER, Trailer};
use crate::wire::models::{ModelRef, read_model, read_models};
use crate::wire::zstd_raw::Dictionary;

/// Raw bytes that are decoded together.
const BATCH: usize = 4 << 20;

/// What comes next in the stream.
#[derive(Debug)]
pub enum Event {
    /// A new entry. An extent may lie before the data of this group: it is then the content of an
    /// earlier file, which `StreamReader::owner` names. The hash of a file that goes on beyond
    /// its group is zero here and comes with `FileEnd`.
    Entry(EntryId, Entry),
    /// The file that was left open by an earlier group ends in this one; comes before the data.
    FileEnd { id: EntryId, hash: ContentHash },
    /// A later generation names more models: `models` lists them all. What it codes with them comes
    /// after.
    Models,
    /// The next bytes of the raw stream, checked.
    Data { chunk: ChunkId, raw_offset: u64, bytes: Arc<[u8]> },
}

/// A group of which chunks or the table are still to come.
struct Current {
    group: Group,
    dictionary: Option<Arc<Dictionary>>,
    record: GroupRecord,
    frame_lens: Vec<u32>,
    raw_lens: Vec<u32>,
}

pub struct StreamReader<R: Read> {
    source: Source<R>,
    header: Header,
    order: RecordOrder,
    embedded: HashMap<u8, Vec<u8>>,
    models: Models,
    events: VecDeque<Event>,
    current: Option<Current>,
    base: Base,
    /// Number of the next chunk.
    next_chunk: u32,
    /// Raw offset of the next chunk.
    next_raw: u64,
    open: OpenFile,
    recent: VecDeque<(ChunkId, Arc<[u8]>)>,
    depths: Depths,
    /// The file that brought the raw bytes from this offset on, and where in it they lie.
    owners: BTreeMap<u64, (EntryId, u64, u64)>,
    /// Whether each entry is a file, for hardlinks.
    is_file: Vec<bool>,
    options: OpenOptions,
    finished: bool,
    /// Hashes of the paths so far: none may come again.
    paths: HashSet<[u8; 16]>,
    /// How far into the raw stream the data of entries reach.
    named: u64,
    budget: Budget,
    /// The list of models has grown since the caller last had a chance to look at it.
    more_models: bool,
}

impl<R: Read> StreamReader<R> {
    /// Reads the header and the models frames.
    pub fn open(input: R, options: &OpenOptions) -> Result<Self> {
        let mut source = Source::new(input);
        let header = Header::read(source.peek(HEADER_LEN)?)?;
        source.take(HEADER_LEN)?;
        let depths = Depths::new(header.ref_window);
        let mut reader = Self {
            source,
            header,
            order: RecordOrder::default(),
            embedded: HashMap::new(),
            models: Models::none(),
            events: VecDeque::new(),
            current: None,
            base: Base::default(),
            next_chunk: 0,
            next_raw: 0,
            open: OpenFile::default(),
            recent: VecDeque::new(),
            depths,
            owners: BTreeMap::new(),
            is_file: Vec::new(),
            options: options.clone(),
            finished: false,
            paths: HashSet::new(),
            named: 0,
            budget: Budget::new(options, 0),
            more_models: false,
        };
        // Models come first, so that callers can load them before the first event.
        while reader.models_ahead()? {
            reader.between()?;
        }
        reader.more_models = false;
        Ok(reader)
    }

    fn models_ahead(&mut self) -> Result<bool> {
        let start = self.source.peek(5)?;
        Ok(start.get(..4) == Some(&crate::wire::frame::MARKER) && matches!(start.get(4), Some(1 | 2)))
    }

    pub fn header(&self) -> &Header {
        &self.header
    }

    pub fn models(&self) -> &[ModelRef] {
        &self.order.index().models
    }

    /// The file of model `index`, if the archive carries it; its fingerprint was checked.
    pub fn embedded_model(&self, index: u8) -> Option<&[u8]> {
        self.embedded.get(&index).map(Vec::as_slice)
    }

    /// Models by the numbers of `models()`, which the caller has loaded and compared.
    pub fn set_models(&mut self, models: Models) {
        self.models = models;
    }

    /// The next event; `None` after the trailer at the end of the stream.
    pub fn next_event(&mut self) -> Result<Option<Event>> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Ok(Some(event));
            }
            if self.finished {
                return Ok(None);
            }
            match self.current.take() {
                Some(current) => self.continue_group(current)?,
                None => self.between()?,
            }
        }
    }

    /// The earlier file that brought the raw bytes from `raw_offset` on, where in it they lie, and how
    /// many of them are its own.
    pub fn owner(&self, raw_offset: u64) -> Option<(EntryId, u64, u64)> {
        let (start, &(id, file_offset, len)) = self.owners.range(..=raw_offset).next_back()?;
        let into = raw_offset - start;
        (into < len).then_some((id, file_offset + into, len - into))
    }

    fn corrupt(&self, rule: &'static str) -> Error {
        Error::Corrupt { offset: self.source.offset(), rule }
    }

    /// Takes the next thing that lies between groups, or the head of a group.
    fn between(&mut self) -> Result<()> {
        let offset = self.source.offset();
        let start = self.source.peek(TRAILER_LEN)?;
        if start.starts_with(&TRAILER_MARKER) {
            return self.trailer(offset);
        }
        if start.is_empty() {
            return Err(Error::Truncated { offset, needed: TRAILER_LEN as u64 });
        }
        let frame = self.source.frame()?;
        self.order.frame(frame.kind).map_err(|rule| Error::Corrupt { offset, rule })?;
        match frame.kind {
            FrameKind::Models => self.take_models(&frame, offset),
            FrameKind::Model => self.take_model(&frame, offset),
            FrameKind::Group => self.start_group(&frame, offset),
            FrameKind::Index => {
                let mut input = frame.expect(FrameKind::Index, offset)?;
                let index = Index::read(&mut input, offset)?;
                input.finish()?;
                let order = self.order.index_frame(&index, frame.len as u64);
                order.map_err(|rule| Error::Corrupt { offset, rule })
            }
            _ => Ok(()),
        }
    }

    fn take_models(&mut self, frame: &Frame, offset: u64) -> Result<()> {
        let mut input = frame.expect(FrameKind::Models, offset)?;
        let models = read_models(&mut input)?;
        input.finish()?;
        self.more_models |= models.len() > self.order.index().models.len();
        self.order.models(models).map_err(|rule| Error::Corrupt { offset, rule })
    }

    fn take_model(&mut self, frame: &Frame, offset: u64) -> Result<()> {
        let mut input = frame.expect(FrameKind::Model, offset)?;
        let (number, file) = read_model(&mut input)?;
        self.order.model(number, offset).map_err(|rule| Error::Corrupt { offset, rule })?;
        let named = self.order.index().models.get(usize::from(number));
        if named.is_none_or(|model| model.fingerprint != *blake3::hash(file).as_bytes()) {
            return Err(Error::Corrupt { offset, rule: "an embedded model is not the one that is named" });
        }
        self.embedded.insert(number, file.to_vec());
        Ok(())
    }

    fn trailer(&mut self, offset: u64) -> Result<()> {
        let bytes = self.source.take(TRAILER_LEN)?;
        let trailer = Trailer::read(&bytes, offset)?;
        let order = self.order.trailer(&trailer, self.open.is_open(), self.named);
        order.map_err(|rule| Error::Corrupt { offset, rule })?;
        self.finished = self.source.peek(1)?.is_empty();
        Ok(())
    }

    fn start_group(&mut self, frame: &Frame, offset: u64) -> Result<()> {
        let mut input = frame.expect(FrameKind::Group, offset)?;
        let group = Group::read(&mut input)?;
        input.finish()?;
        check_group(&group, &self.header, self.order.index().models.len(), offset)?;
        if std::mem::take(&mut self.more_models) {
            self.events.push_back(Event::Models);
        }
        let entries_offset = self.source.offset();
        let entries_frame = self.source.frame()?;
        self.budget = self.budget.grown(&self.options, self.source.offset());
        let mut input = entries_frame.expect(FrameKind::Entries, entries_offset)?.allow(self.budget.bytes());
        let entries = Entries::read(&mut input, self.base)?;
        input.finish()?;
        check_entries(&entries, &group, entries_offset)?;
        self.take_entries(entries, entries_offset)?;
        let (entry_count, chunk_count) = (group.entry_count, group.chunk_count);
        self.base.entry = self
            .base
            .entry
            .checked_add(entry_count)
            .ok_or(self.corrupt("there are more than 2^32 entries"))?;
        self.base.raw += u64::from(group.raw_len);
        self.next_chunk.checked_add(chunk_count).ok_or(self.corrupt("there are more than 2^32 chunks"))?;
        let record = GroupRecord {
            offset,
            head_len: (frame.len + entries_frame.len) as u32,
            body_len: group.body_len,
            table_len: 0,
            raw_len: group.raw_len,
            chunk_count,
            entry_count,
            crc: frame.crc,
        };
        let dictionary = self.take_dictionary(&group)?;
        self.current =
            Some(Current { group, dictionary, record, frame_lens: Vec::new(), raw_lens: Vec::new() });
        Ok(())
    }

    fn take_dictionary(&mut self, group: &Group) -> Result<Option<Arc<Dictionary>>> {
        if group.dictionary_len == 0 {
            return Ok(None);
        }
        let offset = self.source.offset();
        let frame = self.source.frame()?;
        if frame.len != group.dictionary_len as usize {
            return Err(Error::Corrupt { offset, rule: "a dictionary has another length" });
        }
        read_dictionary(&frame, offset).map(Some)
    }

    fn take_entries(&mut self, frame: Entries, offset: u64) -> Result<()> {
        let corrupt = |rule| Error::Corrupt { offset, rule };
        let ended = self.open.enter(&frame).map_err(corrupt)?;
        if let (Some(id), Some(hash)) = (ended, frame.ended) {
            self.events.push_back(Event::FileEnd { id: EntryId(id), hash });
        }
        let mut owned = self.base.raw + u64::from(frame.first_raw);
        for entry in frame.entries {
            self.budget.take(self.is_file.len() as u64, &entry)?;
            path::check(&entry.path)
                .map_err(|rule| Error::UnsafeEntry { path: path::escape(&entry.path), rule })?;
            if !self.paths.insert(key(&entry.path)) {
                let path = path::escape(&entry.path);
                return Err(Error::UnsafeEntry { path, rule: "its path occurs twice" });
            }
            let id = EntryId(self.is_file.len() as u32);
            match &entry.kind {
                Kind::Hardlink { target } if self.is_file.get(target.0 as usize) != Some(&true) => {
                    return Err(corrupt("a hardlink's target is not an earlier file"));
                }
                Kind::File { extents, .. } => {
                    for extent in extents.iter().filter(|extent| extent.raw_offset >= owned) {
                        self.owners.insert(extent.raw_offset, (id, extent.file_offset, extent.len));
                    }
                    let ends = extents.iter().map(|extent| extent.raw_offset + extent.len);
                    let end = ends.max().unwrap_or(0);
                    owned = owned.max(end);
                    self.named = self.named.max(end);
                }
                _ => {}
            }
            self.is_file.push(matches!(entry.kind, Kind::File { .. }));
            self.events.push_back(Event::Entry(id, entry));
        }
        self.open.leave(frame.open, (self.is_file.len() as u32).checked_sub(1));
        Ok(())
    }

    /// Takes the next batch of chunks, or the table after the last.
    fn continue_group(&mut self, mut current: Current) -> Result<()> {
        if current.frame_lens.len() as u32 == current.group.chunk_count {
            return self.end_group(current);
        }
        let mut done: Done = self.recent.iter().map(|(id, bytes)| (*id, Ok(Arc::clone(bytes)))).collect();
        let (mut pending, mut ids, mut raw) = (BTreeMap::new(), Vec::new(), 0);
        let left = current.group.chunk_count as usize - current.frame_lens.len();
        let chunk_size = current.group.chunk_size;
        let threads = rayon::current_num_threads();
        let most = together(&self.models, left, chunk_size, threads, 0);
        let most = most.saturating_mul(chunk_size as usize).max(BATCH);
        while (current.frame_lens.len() as u32) < current.group.chunk_count && raw < most {
            let id = ChunkId(self.next_chunk);
            let chunk = self.take_chunk(id, &mut current)?;
            raw += chunk.head.raw_len as usize;
            self.next_chunk += 1;
            ids.push(id);
            pending.insert(id, chunk);
        }
        decode_all(
            &self.models,
            &self.order.index().models,
            &self.header,
            threads,
            pending,
            &mut done,
            &mut |_, _| {},
        );
        for id in ids {
            let bytes = done.remove(&id).unwrap_or(Err(Error::Internal("a chunk was lost")))?;
            // Nothing refers to blocks.
            if self.header.ref_window > 0 && bytes.len() <= self.header.chunk_size as usize {
                self.recent.push_back((id, Arc::clone(&bytes)));
            }
            let raw_offset = self.next_raw;
            self.next_raw += bytes.len() as u64;
            self.events.push_back(Event::Data { chunk: id, raw_offset, bytes });
        }
        let out_of_reach = self.next_chunk.saturating_sub(self.header.ref_window);
        while self.recent.front().is_some_and(|(id, _)| id.0 < out_of_reach) {
            self.recent.pop_front();
        }
        self.current = Some(current);
        Ok(())
    }

    fn take_chunk(&mut self, id: ChunkId, current: &mut Current) -> Result<Pending> {
        let offset = self.source.offset();
        let chunk_size = current.group.chunk_size;
        let mut input = Cursor::at(self.source.peek(HEAD_MAX)?, offset);
        let bad = |e: Error| e.in_chunk(id.0, offset);
        let head = ChunkHead::read(&mut input, chunk_size).map_err(bad)?;
        let len = input.position() + head.coded_len as usize + CHECKS_LEN;
        let bytes = self.source.take(len)?;
        let place = Place { salt: current.group.salt, index: current.frame_lens.len() as u32 };
        let frame = ChunkFrame::read(&bytes, offset, chunk_size, place).map_err(bad)?;
        current.frame_lens.push(len as u32);
        current.raw_lens.push(frame.head.raw_len);
        let mut chunk = Pending::new(id, frame, offset, &current.group.models, self.header.ref_window)?;
        if self.depths.note(id, &chunk.refs) > self.header.ref_depth {
            return Err(Error::BadChunk { chunk: id.0, offset, rule: TOO_DEEP });
        }
        chunk.dictionary = current.dictionary.clone().filter(|_| chunk.takes_dictionary());
        Ok(chunk)
    }

    fn end_group(&mut self, mut current: Current) -> Result<()> {
        let offset = self.source.offset();
        let frame = self.source.frame()?;
        let mut input = frame.expect(FrameKind::Table, offset)?;
        let table = Table::read(&mut input)?;
        input.finish()?;
        let Current { group, frame_lens, raw_lens, .. } = current;
        if table != (Table { group, frame_lens, raw_lens }) {
            return Err(Error::Corrupt { offset, rule: "a table does not name the chunks before it" });
        }
        current.record.table_len = frame.len as u32;
        self.order.group(current.record);
        Ok(())
    }
}
