//! Joins archives without coding their chunks again (spec/format.md, section 12).
//!
//! The groups of the archives follow one another. Nothing in a group depends on where it stands but
//! the numbers of models, so frames of chunks are copied as they are, after their checks. Models are
//! united by fingerprint. Contents are not decoded, so that their hashes are not checked. Entries that clash are dropped, see `join`.

use std::io::Write;

pub use super::plan::OnClash;
use super::plan::{Part, plan};
use crate::archive::observer::Observer;
use crate::archive::read::archive::Archive;
use crate::archive::read::file::ArchiveFile;
use crate::archive::read::layout::GroupAt;
use crate::archive::read::pending::Pending;
use crate::archive::read::records::read_head;
use crate::archive::write::record_writer::RecordWriter;
use crate::error::{Error, Result};
use crate::wire::entries::{Base, Entries};
use crate::wire::entry::{ChunkId, Kind};
use crate::wire::frame::{FrameKind, write_frame};
use crate::wire::group::{Group, Table};
use crate::wire::header::{Header, MAJOR, MINOR};
use crate::wire::index::Index;
use crate::wire::limits;
use crate::wire::models::ModelRef;

/// Figures of a joined archive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MergeSummary {
    pub archive_len: u64,
    pub entries: u64,
    pub chunks: u64,
    /// Entries left out because another archive has their path; folders not counted.
    pub dropped: u64,
}

/// Writes all entries and chunks of `archives` to `out`, which is given back for syncing. What
/// clashes is found before anything is written.
pub fn merge<W: Write>(
    archives: &[Archive],
    out: W,
    on_clash: OnClash,
    observer: &dyn Observer,
) -> Result<(W, MergeSummary)> {
    let header = header(archives)?;
    let (models, numbers) = unite(archives)?;
    let (parts, dropped) = plan(archives, on_clash)?;
    let entries =
        bounded("the number of entries", parts.iter().map(|part| part.len().into()), u32::MAX.into())?;
    let chunks = archives.iter().map(|archive| archive.chunk_count().into());
    let chunks = bounded("the number of chunks", chunks, u32::MAX.into())?;
    let raw = bounded("the raw length", archives.iter().map(Archive::raw_len), limits::RAW_LEN)?;

    observer.phase("joining", Some(raw));
    let records = RecordWriter::new(out, Index { models, ..Index::default() });
    let mut joiner = Joiner { records, observer };
    joiner.records.put(&header.write())?;
    joiner.put_models(archives, &numbers)?;
    for ((archive, part), numbers) in archives.iter().zip(&parts).zip(&numbers) {
        joiner.copy(archive, part, numbers)?;
    }
    let (out, archive_len) = joiner.records.finish()?;
    Ok((out, MergeSummary { archive_len, entries, chunks, dropped }))
}

fn bounded(what: &'static str, lens: impl Iterator<Item = u64>, max: u64) -> Result<u64> {
    let got = lens.fold(0u64, u64::saturating_add);
    if got > max { Err(Error::Limit { what, got, max }) } else { Ok(got) }
}

/// The bounds that hold for all of the archives.
fn header(archives: &[Archive]) -> Result<Header> {
    let most = |field: fn(&Header) -> u32| archives.iter().map(|a| field(a.header())).max().unwrap_or(0);
    let mut header = Header {
        major: MAJOR,
        minor: MINOR,
        required: 0,
        optional: 0,
        chunk_size: most(|header| header.chunk_size),
        ref_depth: most(|header| header.ref_depth.into()) as u8,
        ref_window: most(|header| header.ref_window),
        group_len: most(|header| header.group_len),
    };
    if header.check().is_err() {
        // A window in chunks is wider where chunks are larger; how far references go is less.
        header.ref_window = farthest(archives)?;
    }
    header.check().map_err(|rule| {
        Error::Usage(format!("these archives do not go together, their chunk sizes differ too much: {rule}"))
    })?;
    Ok(header)
}

/// The greatest distance of any reference.
fn farthest(archives: &[Archive]) -> Result<u32> {
    let mut most = 0;
    for archive in archives.iter().filter(|archive| archive.header().ref_window > 0) {
        for id in (0..archive.chunk_count()).map(ChunkId) {
            most = most.max(archive.chunk_head(id)?.refs.into_iter().max().unwrap_or(0));
        }
    }
    Ok(most)
}

/// All models, each once, and for each archive the numbers that its models get. A model that any of
/// the archives carries is carried.
fn unite(archives: &[Archive]) -> Result<(Vec<ModelRef>, Vec<Vec<u8>>)> {
    let mut models: Vec<ModelRef> = Vec::new();
    let mut numbers = Vec::new();
    for archive in archives {
        let mut mine = Vec::new();
        for model in archive.models() {
            let known = models.iter().position(|known| known.fingerprint == model.fingerprint);
            let at = known.unwrap_or(models.len());
            match models.get_mut(at) {
                Some(known) => known.embedded |= model.embedded,
                None => models.push(model.clone()),
            }
            mine.push(at as u8);
        }
        bounded("the number of models", [models.len() as u64].into_iter(), limits::MODELS as u64)?;
        numbers.push(mine);
    }
    Ok((models, numbers))
}

/// The archive that is written.
struct Joiner<'a, W> {
    records: RecordWriter<W>,
    observer: &'a dyn Observer,
}

impl<W: Write> Joiner<'_, W> {
    fn put_models(&mut self, archives: &[Archive], numbers: &[Vec<u8>]) -> Result<()> {
        if self.records.index.models.is_empty() {
            return Ok(());
        }
        self.records.put_models()?;
        for number in 0..self.records.index.models.len() {
            if !self.records.index.models[number].embedded {
                continue;
            }
            // From the first archive that carries it.
            let mut carried = None;
            for (archive, numbers) in archives.iter().zip(numbers) {
                // An archive may list a model twice, and carry it as one of them.
                for own in (0..=u8::MAX).zip(numbers).filter(|(_, n)| usize::from(**n) == number) {
                    if carried.is_none() {
                        carried = archive.embedded_model(own.0)?;
                    }
                }
            }
            let file = carried.ok_or(Error::Internal("a carried model was not found"))?;
            self.records.put_model(number as u8, &file)?;
        }
        Ok(())
    }

    /// Copies all groups of an archive.
    fn copy(&mut self, archive: &Archive, part: &Part, numbers: &[u8]) -> Result<()> {
        self.observer.archive(archive.file.name());
        let first = self.records.base;
        let mut old = Base::default();
        // Whether the file that the last group left open is still there.
        let mut open = false;
        for at in &archive.layout.groups {
            if self.observer.interrupted() {
                return Err(Error::Interrupted);
            }
            let (_, entries) = read_head(
                &archive.file,
                &at.record,
                archive.header(),
                archive.models().len(),
                old,
                u64::MAX,
            )?;
            let range = old.entry as usize..(old.entry + at.record.entry_count) as usize;
            // Whether an entry that stands in the place of a file is that file under another name.
            let all = archive.entries();
            let file = |at: usize| match all[at].kind {
                Kind::Hardlink { target } => &all[target.0 as usize].kind,
                _ => &all[at].kind,
            };
            let same = |at: u32, last: usize| file(at as usize) == file(last);
            let place = |&at: &u32| part.entry(archive.entries(), at, first.entry, first.raw);
            let kept: Vec<_> =
                part.places[range.clone()].iter().flatten().map(place).collect::<Result<_>>()?;
            let ended = entries.ended.filter(|_| open);
            open = match (entries.open, range.end.checked_sub(1)) {
                (true, Some(last)) => part.places[last].last().is_some_and(|&at| same(at, last)),
                _ => open && entries.ended.is_none(),
            };
            let entries = Entries {
                salt: entries.salt,
                ended,
                open: open && entries.open,
                first_raw: entries.first_raw,
                entries: kept,
            };
            self.put_group(archive, at, entries, numbers)?;
            old.entry += at.record.entry_count;
            old.raw += u64::from(at.record.raw_len);
            self.observer.advanced(at.record.raw_len.into());
        }
        Ok(())
    }

    fn put_group(&mut self, archive: &Archive, at: &GroupAt, entries: Entries, numbers: &[u8]) -> Result<()> {
        let table = at.read_table(&archive.file)?;
        let body = archive.file.read(at.record.body(), at.record.body_len.into())?;
        check_chunks(archive, at, &table, &body)?;
        let renumber = |&model: &u8| numbers.get(usize::from(model)).copied();
        let models: Option<Vec<u8>> = at.group.models.iter().map(renumber).collect();
        let group = Group {
            entry_count: entries.entries.len() as u32,
            models: models.ok_or(Error::Internal("a group names a model that its archive does not"))?,
            ..at.group.clone()
        };
        let (mut head, mut plain) = (Vec::new(), Vec::new());
        group.write(&mut plain);
        let crc = write_frame(FrameKind::Group, &plain, &mut head)?;
        plain.clear();
        entries.write(self.records.base, &mut plain);
        match same_entries(&archive.file, at, &plain)? {
            Some(frame) => head.extend(frame),
            None => drop(write_frame(FrameKind::Entries, &plain, &mut head)?),
        }
        let (mut plain, mut end) = (Vec::new(), Vec::new());
        Table { group: group.clone(), ..table }.write(&mut plain);
        write_frame(FrameKind::Table, &plain, &mut end)?;
        self.records.put_group(&group, crc, [&head, &body, &end])
    }
}

/// The ENTRIES frame of a group if its content is to stay as it is: packing it again could take long.
fn same_entries(file: &ArchiveFile, at: &GroupAt, plain: &[u8]) -> Result<Option<Vec<u8>>> {
    let group = file.frame_at(at.record.offset)?;
    let offset = at.record.offset + group.len as u64;
    let entries = file.frame_at(offset)?;
    if entries.plain != plain {
        return Ok(None);
    }
    file.read(offset, entries.len as u64).map(Some)
}

/// Chunks must pass their checks and refer to none before their archive, for what stands there now
/// is another's.
fn check_chunks(archive: &Archive, at: &GroupAt, table: &Table, body: &[u8]) -> Result<()> {
    archive.dictionaries.of(&archive.file, at)?;
    let mut from = at.group.dictionary_len as usize;
    for (index, (&frame_len, &raw_len)) in (0..).zip(table.frame_lens.iter().zip(&table.raw_lens)) {
        let chunk = ChunkId(at.first_chunk + index);
        let offset = at.record.body() + from as u64;
        let data = body.get(from..from + frame_len as usize).unwrap_or_default();
        Pending::read(chunk, data, offset, at, raw_len, archive.header().ref_window.min(chunk.0))?;
        from += frame_len as usize;
    }
    Ok(())
}
