//! Checks an archive, naming the files and ranges that are hit.
//!
//! An archive that opens has a sound header, index, trailer, and sound entries. What is left are
//! frames between groups, chunks and tables; and with `full` what the chunks decode to.

use std::ops::Range;

use super::content_hashes::{Hashing, overlaps};
use super::record_order::check_between;
use crate::archive::observer::Observer;
use crate::archive::read::archive::Archive;
use crate::archive::read::chunk_cache::RecentChunks;
use crate::archive::read::damage::Damage;
use crate::archive::read::decode::TOO_DEEP;
use crate::archive::read::pending::Pending;
use crate::archive::read::reference_depth::Depths;
use crate::error::{Error, Result};
use crate::wire::entry::{ChunkId, EntryId, Kind};
use crate::wire::limits;

/// Raw bytes that are decoded together.
const BATCH: u32 = 8 << 20;

/// A file that cannot be read in full.
#[derive(Debug, PartialEq, Eq)]
pub struct HitFile {
    pub id: EntryId,
    /// Bytes of the file; all of it where only the content hash differs.
    pub ranges: Vec<Range<u64>>,
}

#[derive(Debug, Default)]
pub struct Report {
    pub damages: Vec<Damage>,
    pub files: Vec<HitFile>,
    pub chunks: u64,
    pub chunks_decoded: u64,
    pub files_hashed: u64,
}

impl Report {
    pub fn is_clean(&self) -> bool {
        self.damages.is_empty() && self.files.is_empty()
    }
}

/// Checks structure and the CRC of every byte; with `full`, decodes all chunks and hashes all files.
/// `Err` only where the work itself fails (interrupted, I/O, a model missing).
/// `Archive::open` fails where header, index or metadata are damaged.
pub fn verify(archive: &Archive, full: bool, observer: &dyn Observer) -> Result<Report> {
    let depths = Depths::new(archive.header.ref_window);
    let mut check = Check { archive, report: Report::default(), bad: Vec::new(), depths };
    observer.phase("checking", Some(archive.raw_len()));
    for (place, error) in check_between(archive) {
        check.damage(place, error);
    }
    check.models();
    check.tables();
    if full {
        check.decode(observer)?;
    } else {
        check.read(observer)?;
    }
    check.report.files.extend(hit_files(archive, &check.bad));
    check.report.files.sort_by_key(|file| file.id);
    Ok(check.report)
}

struct Check<'a> {
    archive: &'a Archive,
    report: Report,
    /// Raw bytes that cannot be read, in order, without overlap.
    bad: Vec<Range<u64>>,
    depths: Depths,
}

impl Check<'_> {
    fn damage(&mut self, place: Range<u64>, error: Error) {
        self.report.damages.push(Damage {
            offset: place.start,
            len: place.end - place.start,
            chunk: None,
            error,
        });
    }

    /// Every model that the archive is to carry must be there.
    fn models(&mut self) {
        for number in (0..=u8::MAX).take(self.archive.models().len()) {
            if let Err(error) = self.archive.embedded_model(number) {
                let offset = self.archive.embedded_at(number).unwrap_or(0);
                // A damaged frame in its place was found before.
                if error.is_damage() && !self.report.damages.iter().any(|damage| damage.offset == offset) {
                    self.damage(offset..offset, error);
                }
            }
        }
    }

    fn tables(&mut self) {
        self.archive.expect_tables(&self.chunk_ids());
        for group in &self.archive.layout.groups {
            if let Err(error) = self.archive.dictionaries.of(&self.archive.file, group) {
                let start = group.record.body();
                self.damage(start..start + u64::from(group.group.dictionary_len), error);
            }
            if let Err(error) = group.read_table(&self.archive.file) {
                self.damage(group.record.table()..group.record.end(), error);
            }
        }
    }

    /// Notes a damaged chunk.
    fn bad_chunk(&mut self, id: ChunkId, error: Error) -> Result<()> {
        if !error.is_damage() {
            return Err(error);
        }
        let Some(group) = self.archive.layout.group_of(id) else { return Err(error) };
        let (raw, file) = match self.archive.chunk(id) {
            Ok(info) => (
                info.raw_offset..info.raw_offset + u64::from(info.raw_len),
                info.offset..info.offset + u64::from(info.frame_len),
            ),
            Err(_) => (group.raw(), group.record.body()..group.record.table()),
        };
        if self.bad.last().is_none_or(|last| last.end <= raw.start) {
            self.bad.push(raw);
        }
        self.report.damages.push(Damage {
            offset: file.start,
            len: file.end - file.start,
            chunk: Some(id),
            error,
        });
        Ok(())
    }

    /// The fast check: frames and their CRCs.
    fn read(&mut self, observer: &dyn Observer) -> Result<()> {
        for id in self.chunk_ids() {
            if observer.interrupted() {
                return Err(Error::Interrupted);
            }
            match self.archive.load(id).and_then(|chunk| self.depth(id, &chunk).map(|()| chunk)) {
                Ok(chunk) => observer.advanced(chunk.head.raw_len.into()),
                Err(error) => self.bad_chunk(id, error)?,
            }
            self.report.chunks += 1;
        }
        Ok(())
    }

    /// A reader of this chunk alone decodes all that its references lead to; one that comes by in order does not
    /// see how many those are.
    fn depth(&mut self, id: ChunkId, chunk: &Pending) -> Result<()> {
        if self.depths.note(id, &chunk.refs) > self.archive.header.ref_depth {
            return Err(Error::BadChunk { chunk: id.0, offset: chunk.offset, rule: TOO_DEEP });
        }
        Ok(())
    }

    fn chunk_ids(&self) -> Vec<ChunkId> {
        let groups = self.archive.layout.groups.iter();
        groups
            .flat_map(|group| group.first_chunk..group.first_chunk + group.group.chunk_count)
            .map(ChunkId)
            .collect()
    }

    /// The full check: all chunks in order, files hashed as their bytes come by.
    fn decode(&mut self, observer: &dyn Observer) -> Result<()> {
        let cache = RecentChunks::new((limits::REF_BYTES + u64::from(BATCH)) as usize);
        let batch = (BATCH / self.archive.header.chunk_size).max(1) as usize;
        let ids = self.chunk_ids();
        let archive = self.archive;
        let mut hashing = Hashing::new(archive);
        archive.read_in_order(&ids, batch, &cache, |id, result| {
            if observer.interrupted() {
                return Err(Error::Interrupted);
            }
            self.report.chunks += 1;
            let result = match result {
                Ok(bytes) if archive.header.ref_depth > 0 => {
                    archive.load(id).and_then(|chunk| self.depth(id, &chunk)).map(|()| bytes)
                }
                other => other,
            };
            match result {
                Ok(bytes) => {
                    self.report.chunks_decoded += 1;
                    hashing.feed(archive.chunk(id)?.raw_offset, &bytes);
                    observer.advanced(bytes.len() as u64);
                }
                Err(error) => self.bad_chunk(id, error)?,
            }
            Ok(())
        })?;
        let (hashed, wrong) = hashing.finish(self.archive, &self.bad, &cache)?;
        self.report.files_hashed = hashed;
        for id in wrong {
            let Some(Kind::File { size, .. }) = self.archive.entry(id).map(|entry| &entry.kind) else {
                continue;
            };
            self.report.files.push(HitFile { id, ranges: std::iter::once(0..*size).collect() });
        }
        Ok(())
    }
}

/// Files with bytes among the damaged.
fn hit_files(archive: &Archive, bad: &[Range<u64>]) -> Vec<HitFile> {
    let mut files = Vec::new();
    for (id, entry) in (0..).map(EntryId).zip(&archive.entries) {
        let Kind::File { extents, .. } = &entry.kind else { continue };
        let mut ranges: Vec<Range<u64>> = Vec::new();
        for extent in extents {
            for part in overlaps(extent, bad) {
                let start = part.start - extent.raw_offset + extent.file_offset;
                let end = part.end - extent.raw_offset + extent.file_offset;
                match ranges.last_mut().filter(|last| last.end == start) {
                    Some(last) => last.end = end,
                    None => ranges.push(start..end),
                }
            }
        }
        if !ranges.is_empty() {
            files.push(HitFile { id, ranges });
        }
    }
    files
}
