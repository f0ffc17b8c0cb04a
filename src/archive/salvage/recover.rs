//! Opens what is intact of a damaged archive, without its index.
//!
//! The file is searched for frames. A group is known from its GROUP frame or, where that is
//! damaged, from its TABLE frame, which repeats it. Where bytes are left over between groups, a
//! whole group may be lost: raw offsets then go on after a gap into which what refers to the lost
//! bytes leads, and references do not reach across.

use std::cell::{Cell, RefCell};
use std::fs::File;
use std::path::Path;

use crate::archive::path;
use crate::archive::read::archive::Archive;
use crate::archive::read::budget::Budget;
use crate::archive::read::catalog::Catalog;
use crate::archive::read::damage::Damage;
use crate::archive::read::file::{ArchiveFile, Unreadable};
use crate::archive::read::layout::{GroupAt, Layout};
use crate::archive::read::options::OpenOptions;
use crate::archive::read::records::{read_entries, read_group, read_index};
use crate::error::{Error, Result};
use crate::wire::entries::Base;
use crate::wire::frame::{Frame, FrameKind, MARKER};
use crate::wire::group::{Group, Table};
use crate::wire::header::{HEADER_LEN, Header, MAJOR, MINOR};
use crate::wire::index::{GroupRecord, Index, TRAILER_LEN, TRAILER_MARKER, Trailer};
use crate::wire::limits;
use crate::wire::models::{read_model, read_models};

/// How far numbers go on after a loss.
const RAW_GAP: u64 = 1 << 44;
const ENTRY_GAP: u32 = 1 << 20;
/// Bytes searched at a time.
const PIECE: u64 = 1 << 20;
/// How often all bytes of the file may be looked at, and how many bytes are allowed whatever its length. What is
/// sound is looked at three times, and markers in the midst of data are rare, but for forged ones.
const LOOKS: u64 = 64;
const FREE_BYTES: u64 = 16 << 20;
/// What it costs to look at a frame, however short.
const LOOK: u64 = 256;

/// Finds groups by scanning the file; reads of what is lost give errors, the rest reads as usual.
/// The second value lists what was found damaged on the way. Content hashes tell which files are
/// whole: one that fails its hash is not.
pub fn salvage(file: File, name: &Path, options: &OpenOptions) -> Result<(Archive, Vec<Damage>)> {
    let file = ArchiveFile::new(file, name)?;
    let mut scan = Scan::new(&file, options);
    let header = scan.header()?;
    while let Some(next) = scan.find(scan.at)? {
        scan.skip_to(next);
        match scan.take() {
            Ok(()) => {}
            Err(error @ Error::Io { .. }) => return Err(error),
            Err(error) => scan.lose(error),
        }
        if let Err(error) = scan.check_looks() {
            // What was found by now is kept.
            scan.damages.push(Damage { offset: scan.at, len: file.len() - scan.at, chunk: None, error });
            break;
        }
    }
    scan.skip_to(file.len());
    let Scan { damages, catalog, layout, mut index, .. } = scan;
    if let Ok((last, _)) = read_index(&file) {
        index.models = last.models;
        index.embedded = last.embedded;
    }
    index.groups = layout.groups.iter().map(|group| group.record.clone()).collect();
    let mut entries = catalog.finish(u64::MAX, 0)?;
    // Of two entries of one path the later is kept; a hardlink's target must stay where it is.
    let mut seen = std::collections::HashSet::new();
    for at in (0..entries.len()).rev() {
        if !seen.insert(entries[at].path.clone()) {
            let more = format!(".salvaged-{at}");
            let path = &mut entries[at].path;
            // The name must stay within what a file system takes.
            let name = path.len() - path::split(path).1.len();
            path.truncate(path.len().min(name + path::NAME_MAX - more.len()));
            path.extend(more.into_bytes());
        }
    }
    Ok((Archive::from_parts(file, header, index, layout, entries)?, damages))
}

struct Scan<'a> {
    file: &'a ArchiveFile,
    /// The bytes that were searched last, and where they begin.
    piece: RefCell<(u64, Vec<u8>)>,
    /// What the search stepped over.
    unreadable: RefCell<Unreadable>,
    /// Bytes looked at in frames, and how many that may be.
    looked: Cell<u64>,
    most_looked: u64,
    at: u64,
    damages: Vec<Damage>,
    catalog: Catalog,
    budget: Budget,
    layout: Layout,
    index: Index,
    base: Base,
    next_chunk: u32,
    /// The first chunk since something was lost.
    reach: u32,
    /// Bytes from here on are not accounted for.
    lost_from: Option<u64>,
    /// Something was lost since the last group.
    gap_due: bool,
}

impl<'a> Scan<'a> {
    fn new(file: &'a ArchiveFile, options: &OpenOptions) -> Self {
        let budget = Budget::new(options, file.len());
        Self {
            file,
            piece: RefCell::default(),
            unreadable: RefCell::default(),
            looked: Cell::new(0),
            most_looked: file.len().saturating_mul(LOOKS).saturating_add(FREE_BYTES),
            at: 0,
            damages: Vec::new(),
            catalog: Catalog::with_gaps(budget),
            budget,
            layout: Layout::default(),
            index: Index::default(),
            base: Base::default(),
            next_chunk: 0,
            reach: 0,
            lost_from: None,
            gap_due: false,
        }
    }

    /// The header, or the widest bounds where it is damaged.
    fn header(&mut self) -> Result<Header> {
        let bytes = self.file.read_up_to(0, HEADER_LEN as u64);
        match bytes.and_then(|bytes| Header::read(&bytes)) {
            Err(
                error @ (Error::UnsupportedVersion { .. }
                | Error::UnsupportedFeature { .. }
                | Error::Io { .. }),
            ) => Err(error),
            Err(error) => {
                if self.find(0)?.is_none() {
                    return Err(error);
                }
                self.damages.push(Damage { offset: 0, len: HEADER_LEN as u64, chunk: None, error });
                let chunk_size = limits::CHUNK_SIZE_MAX;
                Ok(Header {
                    major: MAJOR,
                    minor: MINOR,
                    required: 0,
                    optional: 0,
                    chunk_size,
                    ref_depth: limits::REF_DEPTH,
                    ref_window: (limits::REF_BYTES / u64::from(limits::CHUNK_SIZE_MIN)) as u32,
                    group_len: limits::GROUP_LEN,
                })
            }
            Ok(header) => {
                self.at = HEADER_LEN as u64;
                Ok(header)
            }
        }
    }

    /// Up to `len` bytes from `from` on, with zeros for what cannot be read.
    fn read_around(&self, from: u64, len: u64) -> Result<Vec<u8>> {
        let len = len.min(self.file.len().saturating_sub(from));
        self.file.read_around(from, len, &mut self.unreadable.borrow_mut())
    }

    /// Where the next marker of a frame or trailer lies.
    fn find(&self, mut from: u64) -> Result<Option<u64>> {
        let mut piece = self.piece.borrow_mut();
        while from < self.file.len() {
            let (start, bytes) = &mut *piece;
            let end = *start + bytes.len() as u64;
            if from < *start || (from + 4 > end && end < self.file.len()) || from >= end {
                (*start, *bytes) = (from, self.read_around(from, PIECE)?);
            }
            let skipped = (from - *start) as usize;
            let found = bytes[skipped..].windows(4).position(|four| four == MARKER || four == TRAILER_MARKER);
            if let Some(at) = found {
                return Ok(Some(from + at as u64));
            }
            let end = *start + bytes.len() as u64;
            if end == self.file.len() {
                break;
            }
            from = end - 3;
        }
        Ok(None)
    }

    /// The frame that begins at `at`. What is read for that in all is bounded: frames that are forged inside one
    /// another would each be read to the end otherwise.
    fn frame_at(&self, at: u64) -> Result<Frame> {
        self.check_looks()?;
        self.looked.update(|looked| looked + LOOK);
        let stored = self.file.frame_head_at(at)?.frame_len() as u64;
        if at.saturating_add(stored) <= self.file.len() {
            self.looked.update(|looked| looked + stored);
        }
        let frame = self.file.frame_at(at)?;
        self.looked.update(|looked| looked + frame.plain.len() as u64);
        Ok(frame)
    }

    /// # Errors
    /// `Limit` if the file was looked at too often.
    fn check_looks(&self) -> Result<()> {
        let (got, max) = (self.looked.get(), self.most_looked);
        let what = "the bytes read in search of what is intact";
        if got > max { Err(Error::Limit { what, got, max }) } else { Ok(()) }
    }

    /// Notes that all up to `next` is lost.
    fn skip_to(&mut self, next: u64) {
        if next > self.at {
            self.lost_from.get_or_insert(self.at);
            self.at = next;
        }
        if next == self.file.len() {
            self.report_lost();
        }
    }

    /// What begins here is no frame after all, or a damaged one.
    fn lose(&mut self, _: Error) {
        self.lost_from.get_or_insert(self.at);
        self.at += 1;
    }

    fn report_lost(&mut self) {
        if let Some(offset) = self.lost_from.take() {
            self.gap_due = true;
            let rule = "nothing that belongs here can be read";
            let unreadable = self.unreadable.borrow().within(offset..self.at);
            let error = unreadable.unwrap_or(Error::Corrupt { offset, rule });
            self.damages.push(Damage { offset, len: self.at - offset, chunk: None, error });
        }
    }

    /// Takes in the frame, trailer or group that begins here.
    fn take(&mut self) -> Result<()> {
        let at = self.at;
        let start = self.read_around(at, TRAILER_LEN as u64)?;
        if start.starts_with(&TRAILER_MARKER) {
            // Damaged lengths tell no more than that something is lost.
            Trailer::read(&start, at)?;
            self.report_lost();
            self.at += TRAILER_LEN as u64;
            return Ok(());
        }
        let frame = self.frame_at(at)?;
        match frame.kind {
            FrameKind::Group => return self.take_group(),
            FrameKind::Table => return self.take_table(&frame),
            // Of a group that is lost otherwise.
            FrameKind::Entries => return Err(Error::Corrupt { offset: at, rule: "entries without a group" }),
            FrameKind::Models => {
                let models = read_models(&mut frame.expect(FrameKind::Models, at)?)?;
                // No frame is at 0, where those stay that are lost.
                self.index.embedded.resize(models.iter().filter(|model| model.embedded).count(), 0);
                self.index.models = models;
            }
            FrameKind::Model => {
                let (number, _) = read_model(&mut frame.expect(FrameKind::Model, at)?)?;
                let before = self.index.models.iter().take(number.into()).filter(|model| model.embedded);
                if let Some(offset) = self.index.embedded.get_mut(before.count()) {
                    *offset = at;
                }
            }
            FrameKind::Dictionary => {
                return Err(Error::Corrupt { offset: at, rule: "a dictionary without a group" });
            }
            FrameKind::Index | FrameKind::Skippable(_) => {}
        }
        self.report_lost();
        self.at += frame.len as u64;
        Ok(())
    }

    /// A group whose GROUP frame is sound.
    fn take_group(&mut self) -> Result<()> {
        let at = self.at;
        let head = self.file.read_up_to(at, u64::from(limits::FRAME_LEN).min(self.head_bound(at)?))?;
        let (group, crc, group_len) = read_group(&head, at)?;
        self.gap();
        let entries_at = at + group_len as u64;
        let (entries_len, table_at) =
            match read_entries(&head[group_len..], entries_at, &group, self.base, self.budget.bytes()) {
                Ok((entries, len)) => {
                    self.catalog.add(entries, self.base.entry, entries_at)?;
                    (len as u64, entries_at + len as u64 + u64::from(group.body_len))
                }
                Err(error) => {
                    let Some(table_at) = self.find_table(entries_at, &group)? else { return Err(error) };
                    // Why the frame could not be read, where it was not.
                    let error = self.frame_at(entries_at).err().unwrap_or(error);
                    let body_at = table_at.saturating_sub(group.body_len.into()).max(entries_at);
                    self.damages.push(Damage {
                        offset: entries_at,
                        len: body_at - entries_at,
                        chunk: None,
                        error,
                    });
                    (body_at - entries_at, table_at)
                }
            };
        let table_len = self.table_len(table_at, &group);
        let record = record(at, group_len as u64 + entries_len, table_len, crc, &group);
        self.push(group, record);
        Ok(())
    }

    /// How much to read for the frames at the head of a group: up to the next group's.
    fn head_bound(&self, at: u64) -> Result<u64> {
        let frame = self.frame_at(at)?;
        let next = at + frame.len as u64;
        let entries = self.frame_at(next).map_or(0, |entries| entries.len);
        Ok((frame.len + entries) as u64)
    }

    /// A group of which only the table, and maybe chunks, are sound.
    fn take_table(&mut self, frame: &Frame) -> Result<()> {
        let at = self.at;
        let mut input = frame.expect(FrameKind::Table, at)?;
        let table = Table::read(&mut input)?;
        let body = at.checked_sub(table.group.body_len.into());
        let body = body.filter(|&body| self.lost_from.is_some_and(|from| from <= body));
        let body = body.ok_or(Error::Corrupt { offset: at, rule: "a table without its group" })?;
        let from = self.lost_from.unwrap_or(body);
        self.at = body;
        self.gap();
        // The entries may be sound where only the GROUP frame is not.
        let mut search = from;
        while let Some(found) = self.find(search)?.filter(|&found| found < body) {
            self.check_looks()?;
            if let Ok(frame) = self.frame_at(found) {
                let data = self.file.read(found, frame.len as u64)?;
                if let Ok((entries, _)) =
                    read_entries(&data, found, &table.group, self.base, self.budget.bytes())
                {
                    self.catalog.add(entries, self.base.entry, found)?;
                    break;
                }
            }
            search = found + 1;
        }
        let record = record(from, body - from, frame.len as u32, 0, &table.group);
        self.push(table.group, record);
        Ok(())
    }

    /// Before a group: if something was lost, numbers go on after a gap.
    fn gap(&mut self) {
        self.report_lost();
        if std::mem::take(&mut self.gap_due) {
            self.base.raw = self.base.raw.saturating_add(RAW_GAP);
            self.base.entry = self.base.entry.saturating_add(ENTRY_GAP);
            self.reach = self.next_chunk;
        }
    }

    fn push(&mut self, group: Group, record: GroupRecord) {
        let (len, end) = (self.file.len(), record.end());
        if end > len {
            let error = Error::Truncated { offset: len, needed: end - len };
            self.damages.push(Damage { offset: len, len: end - len, chunk: None, error });
        }
        self.at = end.min(len);
        let (chunks, entries, raw) = (group.chunk_count, group.entry_count, u64::from(group.raw_len));
        self.layout.groups.push(GroupAt::new(record, group, self.next_chunk, self.base.raw, self.reach));
        self.next_chunk = self.next_chunk.saturating_add(chunks);
        self.base.entry = self.base.entry.saturating_add(entries);
        self.base.raw = self.base.raw.saturating_add(raw);
    }

    /// Where the table of this group lies, after damaged entries.
    fn find_table(&self, from: u64, group: &Group) -> Result<Option<u64>> {
        let mut from = from;
        while let Some(at) = self.find(from)? {
            self.check_looks()?;
            if let Ok(frame) = self.frame_at(at) {
                let table = frame.expect(FrameKind::Table, at).and_then(|mut input| Table::read(&mut input));
                if table.is_ok_and(|table| table.group == *group) {
                    return Ok(Some(at));
                }
                if frame.kind == FrameKind::Group {
                    return Ok(None);
                }
            }
            from = at + 1;
        }
        Ok(None)
    }

    /// Length of the table, if it is sound; else nothing, and the chunks tell where they are.
    fn table_len(&mut self, at: u64, group: &Group) -> u32 {
        let frame = self.frame_at(at);
        let sound = frame.as_ref().ok().filter(|frame| {
            let table = frame.expect(FrameKind::Table, at).and_then(|mut input| Table::read(&mut input));
            table.is_ok_and(|table| table.group == *group)
        });
        sound.map_or(0, |frame| frame.len as u32)
    }
}

fn record(offset: u64, head_len: u64, table_len: u32, crc: u32, group: &Group) -> GroupRecord {
    // Before a group without head, much may be lost; what counts is where the body begins.
    let kept = u32::try_from(head_len).unwrap_or(u32::MAX);
    GroupRecord {
        offset: offset + (head_len - u64::from(kept)),
        head_len: kept,
        body_len: group.body_len,
        table_len,
        raw_len: group.raw_len,
        chunk_count: group.chunk_count,
        entry_count: group.entry_count,
        crc,
    }
}
