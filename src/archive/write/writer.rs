//! Writes an archive as a pure stream, group by group (spec/format.md, section 6).
//!
//! A group's raw bytes are gathered, then its entries, chunks and table are written at once; so
//! the memory that a writer needs is that of a few groups. Equal files that begin and end within
//! one group are found here; others are known to the caller.

use std::collections::{HashMap, VecDeque};
use std::io::{Read, Write};
use std::sync::Arc;

use super::blocks::kind_of;
use super::chunk_encoder::{ChunkEncoder, Coded};
pub use super::content::{Added, Content, ContentWarning};
use super::content::{Input, Stop};
use super::options::{Stats, WriterOptions};
use super::record_writer::RecordWriter;
use super::resume::{Kept, Previous};
use super::segments::{LOOKED_AT, Part, Recent, Segments};
use super::workers::Workers;
use crate::archive::observer::Observer;
use crate::error::{Error, Result};
use crate::wire::chunk::{ChunkHead, Codec, Place, write_chunk};
use crate::wire::entries::Entries;
use crate::wire::entry::{ContentHash, Entry, EntryId, Extent, Kind, content_hash};
use crate::wire::files::empty_hash;
use crate::wire::frame::{FrameKind, write_frame};
use crate::wire::group::{Group, Table};
use crate::wire::header::{Header, MAJOR, MINOR};
use crate::wire::index::Index;
use crate::wire::limits;
use crate::wire::models::ModelRef;

/// Entries and bytes of metadata after which a group is written though its raw bytes are few.
const GROUP_ENTRIES: usize = 16 << 10;
const GROUP_METADATA: usize = 2 << 20;
/// Raw bytes that references may reach back.
pub(crate) const REF_BYTES: u32 = 32 << 20;

/// What is kept of a file that was added.
pub(crate) struct Known {
    pub size: u64,
    pub raw_offset: u64,
    pub hash: ContentHash,
    /// Only if it is not one run of the raw stream without holes.
    pub extents: Option<Box<[Extent]>>,
}

/// The group that is being gathered.
#[derive(Default)]
pub(crate) struct Gathered {
    raw: Vec<u8>,
    entries: Entries,
    /// About how many bytes the entries take.
    metadata: usize,
    /// Where files begin, and of what kind they are.
    starts: Vec<(usize, Vec<u8>)>,
}

impl Gathered {
    /// The next new byte is of the file at this path.
    fn starts(&mut self, path: &[u8]) {
        let start = self.raw.len();
        match self.starts.last_mut() {
            Some((last, kind)) if *last == start => *kind = kind_of(path).to_vec(),
            _ => self.starts.push((start, kind_of(path).to_vec())),
        }
    }

    /// Where files begin whose bytes are new, in order, and of what kind they are.
    fn files(&self) -> Vec<(usize, &[u8])> {
        let new = self.starts.iter().filter(|(start, _)| *start < self.raw.len());
        new.map(|(start, kind)| (*start, &kind[..])).collect()
    }
}

pub struct Writer<W: Write> {
    pub(crate) records: RecordWriter<W>,
    pub(crate) header: Header,
    pub(crate) pool: Workers,
    pub(crate) encoder: ChunkEncoder,
    pub(crate) observer: Arc<dyn Observer + Send + Sync>,
    pub(crate) stats: Stats,
    pub(crate) gathered: Gathered,
    /// Raw bytes of a full group.
    pub(crate) group_len: usize,
    /// By entry number; `None` for what is not a file.
    pub(crate) known: Vec<Option<Known>>,
    /// Where the content of this BLAKE3 lies.
    pub(crate) contents: HashMap<[u8; 32], u64>,
    pub(crate) segments: Segments,
    /// The raw bytes of the last groups, each with the offset at which they begin.
    pub(crate) recent: VecDeque<(u64, Vec<u8>)>,
    /// What need not be coded again.
    pub(crate) previous: Option<Previous>,
}

impl<W: Write> Writer<W> {
    /// Writes the head of an archive to `out`, which is only ever appended to.
    pub fn create(out: W, options: WriterOptions) -> Result<Self> {
        Self::resume(out, options, None)
    }

    /// The same, but takes over what `previous` holds of the same archive.
    pub fn resume(out: W, options: WriterOptions, previous: Option<Previous>) -> Result<Self> {
        let chunk_size = options.chunk_size;
        let (ref_depth, ref_window) = match &options.references {
            Some(references) => (references.depth(), REF_BYTES / chunk_size.max(1)),
            None => (0, 0),
        };
        let (required, optional) = (0, 0);
        let group_len = options.group_len;
        let header = Header {
            major: MAJOR,
            minor: MINOR,
            required,
            optional,
            chunk_size,
            ref_depth,
            ref_window,
            group_len,
        };
        header.check().and_then(|()| options.check()).map_err(|rule| Error::Usage(rule.to_owned()))?;
        let pool = Workers::new(options.threads)?;
        let models = model_refs(&options)?;
        let mut writer = Self {
            records: RecordWriter::new(out, Index { models, ..Index::default() }),
            pool,
            encoder: ChunkEncoder::new(&options, chunk_size, ref_window),
            observer: options.observer,
            stats: Stats::default(),
            gathered: Gathered::default(),
            group_len: (group_len / chunk_size * chunk_size) as usize,
            known: Vec::new(),
            contents: HashMap::new(),
            segments: Segments::new(),
            recent: VecDeque::new(),
            previous,
            header,
        };
        let head = writer.header.write();
        writer.records.put(&head)?;
        writer.pass(&head);
        writer.write_models(options.embed)?;
        Ok(writer)
    }

    pub(crate) fn write_models(&mut self, mut embed: Vec<(u8, Arc<[u8]>)>) -> Result<()> {
        if self.records.index.models.is_empty() {
            return Ok(());
        }
        let frame = self.records.put_models()?;
        self.pass(&frame);
        embed.sort_by_key(|(number, _)| *number);
        for (number, file) in embed {
            let frame = self.records.put_model(number, &file)?;
            self.pass(&frame);
        }
        Ok(())
    }

    /// Adds the next entry, in final order. Of `entry.kind` for a file, `size` counts; `extents` and
    /// `hash` are filled in here. A hardlink's target is the id of an earlier file.
    pub fn add(&mut self, mut entry: Entry, content: Content<'_>) -> Result<Added> {
        let full = self.gathered.raw.len() >= self.group_len
            || self.gathered.entries.entries.len() >= GROUP_ENTRIES
            || self.gathered.metadata >= GROUP_METADATA;
        if full {
            self.write_group(false)?;
        }
        let Ok(number) = u32::try_from(self.known.len()) else {
            return Err(Error::Limit {
                what: "the number of entries",
                got: self.known.len() as u64,
                max: u32::MAX.into(),
            });
        };
        let id = EntryId(number);
        check(&entry)?;
        let mut warning = None;
        let known = match &mut entry.kind {
            Kind::File { .. } => {
                let (known, found) = self.add_file(entry, content)?;
                warning = found;
                Some(known)
            }
            Kind::Hardlink { target } if !matches!(self.known.get(target.0 as usize), Some(Some(_))) => {
                return Err(Error::Usage("a hardlink's target is not an earlier file".to_owned()));
            }
            _ => {
                self.gather(entry);
                None
            }
        };
        self.known.push(known);
        Ok(Added { id, warning })
    }

    fn gather(&mut self, entry: Entry) {
        let xattrs: usize = entry.xattrs.iter().map(|(name, value)| name.len() + value.len() + 8).sum();
        let extents = if let Kind::File { extents, .. } = &entry.kind { extents.len() * 16 } else { 0 };
        self.gathered.metadata += 40 + entry.path.len() + xattrs + extents;
        self.gathered.entries.entries.push(entry);
        self.stats.entries += 1;
    }

    fn add_file(
        &mut self,
        mut entry: Entry,
        content: Content<'_>,
    ) -> Result<(Known, Option<ContentWarning>)> {
        let Kind::File { size, extents, hash } = &mut entry.kind else {
            return Err(Error::Internal("an entry changed its kind"));
        };
        let size = *size;
        self.stats.file_bytes = self.stats.file_bytes.saturating_add(size);
        let (segments, data) = match content {
            Content::SameAs(target) => {
                let known = self.known.get(target.0 as usize).and_then(Option::as_ref);
                let known = known.filter(|known| known.size == size);
                let known = known.ok_or_else(|| {
                    Error::Usage("no earlier file of that size to be the same as".to_owned())
                })?;
                *extents = known.extents();
                *hash = known.hash;
                let known = Known { extents: known.extents.clone(), ..*known };
                self.gather(entry);
                self.observer.advanced(size);
                return Ok((known, None));
            }
            Content::None if size > 0 => {
                return Err(Error::Usage("a file with bytes came without content".to_owned()));
            }
            Content::None => (None, &mut std::io::empty() as &mut dyn Read),
            Content::Data(data) => (None, data),
            Content::Sparse { segments, data } => (Some(segments), data),
        };
        if segments.is_none() && LOOKED_AT.contains(&size) {
            return self.add_looked_at(entry, size, data);
        }
        let raw_offset = self.records.base.raw + self.gathered.raw.len() as u64;
        *extents = place(segments.as_deref().unwrap_or(&[(0, size)]), size, raw_offset)?;
        let len: u64 = extents.iter().map(|extent| extent.len).sum();
        *hash = empty_hash();
        let sparse = segments.is_some().then(|| extents.clone().into_boxed_slice());
        let mut known = Known { size, raw_offset, hash: empty_hash(), extents: sparse };
        let group = self.records.index.groups.len();
        if len > 0 {
            self.gathered.starts(&entry.path);
        }
        self.gather(entry);
        let mut input = Input::new(data, len);
        while input.fill(&mut self.gathered.raw, self.group_len) == Stop::Full {
            self.write_group(true)?;
        }
        let (digest, warning) = input.finish();
        known.hash = content_hash(&digest, len);
        let twice = if len > 0 { self.finish_file(&mut known, digest, len, group) } else { 0 };
        self.observer.advanced(size - len + twice);
        Ok((known, warning))
    }

    /// Adds a file of `size` bytes without what of it was seen before.
    fn add_looked_at(
        &mut self,
        mut entry: Entry,
        size: u64,
        data: &mut dyn Read,
    ) -> Result<(Known, Option<ContentWarning>)> {
        let (mut input, mut bytes) = (Input::new(data, size), Vec::new());
        input.fill(&mut bytes, usize::MAX);
        let (digest, warning) = input.finish();
        let hash = content_hash(&digest, size);
        let raw_offset = self.records.base.raw + self.gathered.raw.len() as u64;
        let parts = match self.contents.get(&digest) {
            Some(&before) => {
                vec![Part { start: 0, len: bytes.len(), raw_offset: before, is_new: false }]
            }
            None => {
                let groups = self.recent.iter().map(|(start, raw)| (*start, &raw[..]));
                let gathered = (self.records.base.raw, &self.gathered.raw[..]);
                let recent = Recent(groups.chain([gathered]).collect());
                self.segments.plan(&bytes, raw_offset, &recent)
            }
        };
        let extents: Vec<Extent> = parts
            .iter()
            .map(|part| {
                let (file_offset, len) = (part.start as u64, part.len as u64);
                Extent { file_offset, raw_offset: part.raw_offset, len }
            })
            .collect();
        let known = match &extents[..] {
            [only] => Known { size, raw_offset: only.raw_offset, hash, extents: None },
            _ => Known { size, raw_offset, hash, extents: Some(extents.clone().into_boxed_slice()) },
        };
        if let ([only], None) = (&extents[..], self.contents.get(&digest)) {
            self.contents.insert(digest, only.raw_offset);
        }
        entry.kind = Kind::File { size, extents, hash };
        let (group, path) = (self.records.index.groups.len(), entry.path.clone());
        self.gather(entry);
        let mut seen = 0;
        for part in &parts {
            let mut rest = &bytes[part.start..part.start + part.len];
            if !part.is_new {
                seen += rest.len() as u64;
                continue;
            }
            if group == self.records.index.groups.len() {
                self.gathered.starts(&path);
            }
            while !rest.is_empty() {
                if self.gathered.raw.len() >= self.group_len {
                    self.write_group(true)?;
                }
                let (now, later) = rest.split_at(rest.len().min(self.group_len - self.gathered.raw.len()));
                self.gathered.raw.extend_from_slice(now);
                rest = later;
            }
        }
        if group < self.records.index.groups.len() {
            self.gathered.entries.ended = Some(hash);
            self.gathered.entries.first_raw = self.gathered.raw.len() as u32;
        }
        self.observer.advanced(seen);
        Ok((known, warning))
    }

    /// Notes the hash of the file gathered last; takes its bytes back where they were there before,
    /// and tells how many. `group` is that in which it began.
    fn finish_file(&mut self, known: &mut Known, digest: [u8; 32], len: u64, group: usize) -> u64 {
        if group < self.records.index.groups.len() {
            self.gathered.entries.ended = Some(known.hash);
            self.gathered.entries.first_raw = self.gathered.raw.len() as u32;
            self.contents.insert(digest, known.raw_offset);
            return 0;
        }
        let before = *self.contents.entry(digest).or_insert(known.raw_offset);
        if let Some(Entry { kind: Kind::File { extents, hash, .. }, .. }) =
            self.gathered.entries.entries.last_mut()
        {
            *hash = known.hash;
            for extent in &mut *extents {
                extent.raw_offset = extent.raw_offset - known.raw_offset + before;
            }
            if known.extents.is_some() {
                known.extents = Some(extents.clone().into_boxed_slice());
            }
        }
        if before == known.raw_offset {
            return 0;
        }
        known.raw_offset = before;
        self.gathered.raw.truncate(self.gathered.raw.len() - len as usize);
        len
    }

    /// Writes the group gathered so far. `open`: its last file goes on.
    fn write_group(&mut self, open: bool) -> Result<()> {
        let mut gathered = std::mem::take(&mut self.gathered);
        gathered.entries.open = open && !gathered.entries.entries.is_empty();
        let files = gathered.files();
        let pieces = self.encoder.cut(&self.pool, &gathered.raw, &files, &*self.observer)?;
        let chunks: Vec<Arc<[u8]>> = pieces.iter().map(|piece| Arc::clone(&piece.raw)).collect();
        let plans = self.encoder.plan(&pieces);
        let mut plain = Vec::new();
        gathered.entries.write(self.records.base, &mut plain);
        let mut salt = [0; 4];
        let raw_offset = self.records.base.raw;
        let digest = blake3::Hasher::new().update(&gathered.raw).update(&plain[4..]).finalize();
        salt.copy_from_slice(&digest.as_bytes()[..4]);
        plain[..4].copy_from_slice(&salt);
        let salt = u32::from_le_bytes(salt);
        let raw_len = gathered.raw.len() as u32;
        self.remember(raw_offset, gathered.raw);
        if let Some(previous) = &mut self.previous {
            match previous.take(salt, &plain, self.header.chunk_size, &chunks, &plans) {
                Some(kept) => return self.keep_group(kept),
                None => self.previous = None,
            }
        }
        let (coded, dictionary) = self.encoder.encode(&self.pool, pieces, &plans, &*self.observer)?;

        let mut models: Vec<u8> =
            coded.iter().filter(|c| c.head.codec == Codec::Neural).map(|c| c.head.model).collect();
        models.sort_unstable();
        models.dedup();
        let dictionary_len = dictionary.len() as u32;
        let (body, frame_lens) = self.write_chunks(dictionary, coded, salt, &models);
        let entry_count = gathered.entries.entries.len() as u32;
        let group = Group {
            salt,
            raw_len,
            chunk_size: self.header.chunk_size,
            chunk_count: chunks.len() as u32,
            entry_count,
            dictionary_len,
            body_len: body.len() as u32,
            models,
        };
        let (mut head, mut table) = (Vec::new(), Vec::new());
        let mut group_plain = Vec::new();
        group.write(&mut group_plain);
        let crc = write_frame(FrameKind::Group, &group_plain, &mut head)?;
        let group_frame = head.len();
        write_frame(FrameKind::Entries, &plain, &mut head)?;
        let mut table_plain = Vec::new();
        let raw_lens = chunks.iter().map(|chunk| chunk.len() as u32).collect();
        Table { group: group.clone(), frame_lens, raw_lens }.write(&mut table_plain);
        write_frame(FrameKind::Table, &table_plain, &mut table)?;

        self.put_group(&group, crc, group_frame, [head, body, table])
    }

    /// Notes the raw bytes of a group, for as long as references could reach them.
    fn remember(&mut self, raw_offset: u64, raw: Vec<u8>) {
        self.recent.push_back((raw_offset, raw));
        let end = self.records.base.raw + self.group_len as u64;
        while self
            .recent
            .front()
            .is_some_and(|(start, raw)| start + raw.len() as u64 + u64::from(REF_BYTES) < end)
        {
            self.recent.pop_front();
        }
    }

    /// Writes a group that a run before has coded.
    fn keep_group(&mut self, kept: Kept) -> Result<()> {
        for (head, frame_len) in kept.heads.iter().zip(&kept.frame_lens) {
            self.count(head, *frame_len as usize);
            self.observer.advanced(head.raw_len.into());
        }
        let Kept { group, group_crc, group_len, head, body, table, .. } = kept;
        self.put_group(&group, group_crc, group_len, [head, body, table])
    }

    /// Writes the parts of a group and notes where they lie; `group_frame` bytes of the first are
    /// its GROUP frame.
    fn put_group(&mut self, group: &Group, crc: u32, group_frame: usize, parts: [Vec<u8>; 3]) -> Result<()> {
        let [head, body, table] = &parts;
        self.stats.metadata += (head.len() - group_frame) as u64;
        self.stats.chunk_overhead += (group_frame + table.len()) as u64;
        self.stats.groups += 1;
        self.stats.raw_bytes += u64::from(group.raw_len);
        self.records.put_group(group, crc, [head, body, table])?;
        // Whole groups are what a resumed run can use, and a reader of a pipe.
        self.records.flush()
    }

    /// The body of a group, which begins with its dictionary, and the lengths of the chunk frames.
    fn write_chunks(
        &mut self,
        dictionary: Vec<u8>,
        coded: Vec<Coded>,
        salt: u32,
        models: &[u8],
    ) -> (Vec<u8>, Vec<u32>) {
        let (mut body, mut lens) = (dictionary, Vec::new());
        self.stats.dictionaries += body.len() as u64;
        for (index, mut chunk) in (0..).zip(coded) {
            let start = body.len();
            chunk.head.model = models.binary_search(&chunk.head.model).unwrap_or(0) as u8;
            let place = Place { salt, index };
            write_chunk(&chunk.head, self.header.chunk_size, &chunk.payload, chunk.check, place, &mut body);
            lens.push((body.len() - start) as u32);
            self.count(&chunk.head, body.len() - start);
            self.stats.rejected += u64::from(chunk.rejected);
        }
        (body, lens)
    }

    fn count(&mut self, head: &ChunkHead, frame_len: usize) {
        let stats = &mut self.stats.codecs[head.codec as usize];
        stats.chunks += 1;
        stats.raw_bytes += u64::from(head.raw_len);
        stats.payload_bytes += u64::from(head.coded_len);
        self.stats.chunk_overhead += (frame_len - head.coded_len as usize) as u64;
        self.stats.chunks += 1;
    }

    /// Writes what is left, the index and the trailer, and flushes; gives `out` back for syncing.
    pub fn finish(mut self) -> Result<(W, Stats)> {
        let entries = &self.gathered.entries;
        if !entries.entries.is_empty() || !self.gathered.raw.is_empty() || entries.ended.is_some() {
            self.write_group(false)?;
        }
        let before = self.records.len();
        let (out, archive_len) = self.records.finish()?;
        self.stats.chunk_overhead += archive_len - before;
        self.stats.archive_len = archive_len;
        Ok((out, self.stats))
    }

    /// Tells what an interrupted run had written that this is there, and is no group.
    fn pass(&mut self, bytes: &[u8]) {
        if let Some(previous) = &mut self.previous {
            previous.pass(bytes);
        }
    }
}

impl Known {
    fn extents(&self) -> Vec<Extent> {
        match &self.extents {
            Some(extents) => extents.to_vec(),
            None if self.size == 0 => Vec::new(),
            None => vec![Extent { file_offset: 0, raw_offset: self.raw_offset, len: self.size }],
        }
    }
}

/// The extents of a file whose segments lie one after another from `raw_offset` on.
fn place(segments: &[(u64, u64)], size: u64, raw_offset: u64) -> Result<Vec<Extent>> {
    let (mut end, mut next) = (0, raw_offset);
    let mut extents = Vec::new();
    for &(file_offset, len) in segments.iter().filter(|(_, len)| *len > 0) {
        let over = file_offset.checked_add(len).filter(|&over| over <= size && file_offset >= end);
        end = over.ok_or_else(|| Error::Usage("a file's segments overlap or exceed its size".to_owned()))?;
        extents.push(Extent { file_offset, raw_offset: next, len });
        next += len;
    }
    Ok(extents)
}

/// Bounds that every reader holds an entry to.
fn check(entry: &Entry) -> Result<()> {
    let mut bounds = vec![("the length of a path", entry.path.len(), limits::PATH_LEN)];
    if let Kind::Symlink { target } = &entry.kind {
        bounds.push(("the length of a link's target", target.len(), limits::TARGET_LEN));
    }
    for (name, value) in &entry.xattrs {
        bounds.push(("the length of an attribute's name", name.len(), limits::XATTR_NAME));
        bounds.push(("the length of an attribute's value", value.len(), limits::XATTR_VALUE));
    }
    match bounds.into_iter().find(|(_, got, max)| got > max) {
        Some((what, got, max)) => Err(Error::Limit { what, got: got as u64, max: max as u64 }),
        None => Ok(()),
    }
}

fn model_refs(options: &WriterOptions) -> Result<Vec<ModelRef>> {
    let missing = || Error::Usage("a model to pack with is missing".to_owned());
    let embedded = |number| options.embed.iter().find(|(n, _)| *n == number);
    let named = |number: u8| {
        let embedded = embedded(number);
        let (fingerprint, name) = match options.models.get(number) {
            Some(model) => (model.fingerprint(), model.name().to_owned()),
            None => {
                let (_, file) = embedded.ok_or_else(missing)?;
                let base = options.bases.iter().find(|(n, _)| *n == number).ok_or_else(missing)?;
                (*blake3::hash(file).as_bytes(), base.1.clone())
            }
        };
        Ok(ModelRef { fingerprint, name, embedded: embedded.is_some() })
    };
    if options.models.len() > limits::MODELS {
        return Err(missing());
    }
    let models = (0..=u8::MAX).take(options.models.len()).map(named).collect::<Result<Vec<_>>>()?;
    let right = |(n, file): &(u8, Arc<[u8]>)| {
        models.get(usize::from(*n)).is_some_and(|model| model.fingerprint == *blake3::hash(file).as_bytes())
    };
    if !options.embed.iter().all(right) {
        return Err(Error::Usage("a model to embed is not the one to pack with".to_owned()));
    }
    Ok(models)
}
