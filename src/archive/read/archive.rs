//! Reads an archive at random, with pread.
//!
//! Opening reads header, trailer, index and all entries; tables are read when first needed. What
//! was opened keeps every rule of the format that can be told without decoding.

use std::fs::File;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use super::budget::Budget;
use super::catalog::{Catalog, by_path};
use super::chunk_cache::ChunkCache;
use super::dictionary::Dictionaries;
use super::file::ArchiveFile;
use super::layout::{GroupAt, Layout};
use super::options::OpenOptions;
use super::pending::Pending;
use super::records::{read_head, read_index};
use crate::archive::read_at::ReadAt;
use crate::archive::remote::location;
use crate::codec::model::Models;
use crate::error::{Error, Result};
use crate::wire::chunk::ChunkHead;
use crate::wire::entries::Base;
use crate::wire::entry::{ChunkId, Entry, EntryId};
use crate::wire::frame::FrameKind;
use crate::wire::header::{HEADER_LEN, Header};
use crate::wire::index::{GroupRecord, Index};
use crate::wire::models::{ModelRef, read_model};

/// Where a chunk lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkInfo {
    /// First byte in the raw stream.
    pub raw_offset: u64,
    pub raw_len: u32,
    /// First byte of the frame in the file.
    pub offset: u64,
    pub frame_len: u32,
}

/// An open archive. `Send + Sync`; share it in an `Arc`.
pub struct Archive {
    pub(crate) file: ArchiveFile,
    pub(crate) header: Header,
    pub(crate) index: Index,
    pub(crate) layout: Layout,
    pub(crate) models: Models,
    pub(crate) entries: Vec<Entry>,
    pub(crate) dictionaries: Dictionaries,
    by_path: Vec<EntryId>,
}

/// Groups whose heads are asked for together.
const HEADS: usize = 256;

impl Archive {
    /// Opens an archive at a path, or at a URL (`https`, `http`, `s3`, `gs`, `az`) if the build has the feature
    /// `remote`.
    pub fn open(path: impl AsRef<Path>, options: &OpenOptions) -> Result<Self> {
        let path = path.as_ref();
        if location::is_url(path) {
            return Self::open_url(path, options);
        }
        let file = File::open(path).map_err(|e| Error::io(path, e))?;
        Self::from_file(file, path, options)
    }

    #[cfg(feature = "remote")]
    fn open_url(url: &Path, options: &OpenOptions) -> Result<Self> {
        use crate::archive::remote::file::RemoteFile;
        use crate::archive::remote::options::RemoteOptions;

        let remote = RemoteFile::open(url, &RemoteOptions::from_env()?)?;
        Self::from_source(Arc::new(remote), &location::shown(url), options)
    }

    #[cfg(not(feature = "remote"))]
    fn open_url(url: &Path, _: &OpenOptions) -> Result<Self> {
        let url = location::shown(url);
        Err(Error::Usage(format!(
            "{}: this build reads no URLs; it lacks the feature `remote`",
            url.display()
        )))
    }

    /// `name` is for messages.
    pub fn from_file(file: File, name: &Path, options: &OpenOptions) -> Result<Self> {
        Self::from_bytes(ArchiveFile::new(file, name)?, options)
    }

    /// An archive whose bytes are no file; `name` is for messages.
    pub fn from_source(source: Arc<dyn ReadAt>, name: &Path, options: &OpenOptions) -> Result<Self> {
        Self::from_bytes(ArchiveFile::elsewhere(source, name), options)
    }

    fn from_bytes(file: ArchiveFile, options: &OpenOptions) -> Result<Self> {
        let header = Header::read(&file.read_up_to(0, HEADER_LEN as u64)?)?;
        let (index, index_offset) = read_index(&file)?;
        let mut layout = Layout::default();
        let budget = Budget::new(options, file.len());
        let mut catalog = Catalog::new(budget);
        let (mut base, mut chunks) = (Base::default(), 0u32);
        for (number, record) in index.groups.iter().enumerate() {
            if number % HEADS == 0 {
                expect_heads(&file, &index.groups[number..]);
            }
            let models = index.models.len();
            let (group, entries) = read_head(&file, record, &header, models, base, budget.bytes())?;
            catalog.add(entries, base.entry, record.offset)?;
            let mut group = GroupAt::new(record.clone(), group, chunks, base.raw, 0);
            group.leaves_open = catalog.is_open();
            layout.groups.push(group);
            let corrupt = |rule| Error::Corrupt { offset: index_offset, rule };
            base.entry = base
                .entry
                .checked_add(record.entry_count)
                .ok_or(corrupt("there are more than 2^32 entries"))?;
            chunks =
                chunks.checked_add(record.chunk_count).ok_or(corrupt("there are more than 2^32 chunks"))?;
            base.raw += u64::from(record.raw_len);
        }
        let entries = catalog.finish(base.raw, index_offset)?;
        Self::from_parts(file, header, index, layout, entries)
    }

    pub(crate) fn from_parts(
        file: ArchiveFile,
        header: Header,
        index: Index,
        layout: Layout,
        entries: Vec<Entry>,
    ) -> Result<Self> {
        let by_path = by_path(&entries)?;
        let dictionaries = Dictionaries::default();
        Ok(Self { file, header, index, layout, models: Models::none(), entries, dictionaries, by_path })
    }

    /// The models that chunks name, by number. Load them and hand them over with `set_models`.
    pub fn models(&self) -> &[ModelRef] {
        &self.index.models
    }

    /// The file of model `index`, if the archive carries it; its fingerprint is checked.
    pub fn embedded_model(&self, index: u8) -> Result<Option<Vec<u8>>> {
        let Some(model) = self.models().get(usize::from(index)) else { return Ok(None) };
        let Some(offset) = self.embedded_at(index) else { return Ok(None) };
        let frame = self.file.frame_at(offset)?;
        let mut input = frame.expect(FrameKind::Model, offset)?;
        let (number, file) = read_model(&mut input)?;
        if number != index || *blake3::hash(file).as_bytes() != model.fingerprint {
            return Err(Error::Corrupt { offset, rule: "an embedded model is not the one that is named" });
        }
        Ok(Some(file.to_vec()))
    }

    /// Where the frame with the file of model `index` begins, if the archive carries the file.
    pub(crate) fn embedded_at(&self, index: u8) -> Option<u64> {
        let at = usize::from(index);
        self.models().get(at).filter(|model| model.embedded)?;
        let nth = self.models()[..at].iter().filter(|model| model.embedded).count();
        self.index.embedded.get(nth).copied()
    }

    /// Models by the numbers of `models()`, which the caller has loaded and compared.
    pub fn set_models(&mut self, models: Models) {
        self.models = models;
    }

    pub fn header(&self) -> &Header {
        &self.header
    }

    /// All entries; `EntryId(i)` is `entries()[i]`. Hardlinks name their target here.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    pub fn entry(&self, id: EntryId) -> Option<&Entry> {
        self.entries.get(id.0 as usize)
    }

    /// The entry of exactly this path.
    pub fn lookup(&self, path: &[u8]) -> Option<EntryId> {
        let found = self.by_path.binary_search_by(|id| self.entries[id.0 as usize].path[..].cmp(path));
        found.ok().map(|at| self.by_path[at])
    }

    /// Ids of all entries in byte order of their paths.
    pub fn by_path(&self) -> &[EntryId] {
        &self.by_path
    }

    pub fn chunk_count(&self) -> u32 {
        self.layout.chunk_count()
    }

    /// Length of the raw stream.
    pub fn raw_len(&self) -> u64 {
        self.layout.raw_len()
    }

    /// Length of the archive file.
    pub fn archive_len(&self) -> u64 {
        self.file.len()
    }

    /// The largest chunk size that a group of the archive has.
    pub fn largest_chunk(&self) -> Option<u32> {
        self.layout.groups.iter().map(|group| group.group.chunk_size).max()
    }

    /// Bytes of all chunks with their heads and checks.
    pub fn chunk_bytes(&self) -> u64 {
        self.layout.groups.iter().map(|group| u64::from(group.record.body_len)).sum()
    }

    /// Whether any group has a dictionary.
    pub fn has_dictionaries(&self) -> bool {
        self.layout.groups.iter().any(|at| at.group.dictionary_len > 0)
    }

    /// Where a chunk lies in the raw stream and in the file.
    pub fn chunk(&self, id: ChunkId) -> Result<ChunkInfo> {
        let (group, index) = self.find(id)?;
        let chunks = group.chunks(&self.file)?;
        let at = index as usize;
        Ok(ChunkInfo {
            raw_offset: group.first_raw + u64::from(chunks.raw[at]),
            raw_len: chunks.raw[at + 1] - chunks.raw[at],
            offset: group.record.body() + u64::from(chunks.frames[at]),
            frame_len: chunks.frames[at + 1] - chunks.frames[at],
        })
    }

    fn find(&self, id: ChunkId) -> Result<(&GroupAt, u32)> {
        let lost =
            Error::BadChunk { chunk: id.0, offset: 0, rule: "its group is lost, or there is no such chunk" };
        let group = self.layout.group_of(id).ok_or(lost)?;
        Ok((group, id.0 - group.first_chunk))
    }

    /// The chunks that hold `len` raw bytes from `raw_offset` on; of a group whose table and chunks
    /// are damaged, all that may.
    pub fn chunks_of(&self, raw_offset: u64, len: u64) -> Range<u32> {
        let Some(last) = raw_offset.checked_add(len).and_then(|end| end.checked_sub(1)).filter(|_| len > 0)
        else {
            return 0..0;
        };
        let start = self.chunk_at(raw_offset, true);
        let end = self.chunk_at(last, false);
        start..end.max(start)
    }

    /// The number of the chunk that holds a raw byte, or of the one after it. Where none does: of
    /// the next one.
    fn chunk_at(&self, raw: u64, first: bool) -> u32 {
        let Some(group) = self.layout.groups.get(self.layout.group_at(raw)) else {
            return self.chunk_count();
        };
        if raw < group.first_raw {
            return group.first_chunk;
        }
        let after = u32::from(!first);
        match group.chunks(&self.file) {
            Ok(chunks) => group.first_chunk + chunks.at_raw((raw - group.first_raw) as u32) + after,
            Err(_) => group.first_chunk + after * group.group.chunk_count,
        }
    }

    /// Tells a remote source which chunks will be read, those that are not in `cache`.
    pub(crate) fn expect_chunks(&self, ids: &[ChunkId], cache: &dyn ChunkCache) {
        if !self.file.takes_hints() {
            return;
        }
        self.expect_tables(ids);
        let absent = ids.iter().filter(|id| cache.get(**id).is_none());
        let frames = absent.filter_map(|id| {
            let chunk = self.chunk(*id).ok()?;
            Some(chunk.offset..chunk.offset + u64::from(chunk.frame_len))
        });
        self.file.expect(&frames.collect::<Vec<_>>());
    }

    /// Tells a remote source that the tables of these chunks' groups will be read.
    pub(crate) fn expect_tables(&self, ids: &[ChunkId]) {
        if !self.file.takes_hints() {
            return;
        }
        let mut tables: Vec<Range<u64>> = Vec::new();
        for group in ids.iter().filter_map(|id| self.layout.group_of(*id)) {
            let table = group.record.table()..group.record.end();
            if !group.is_known() && tables.last() != Some(&table) {
                tables.push(table);
            }
        }
        self.file.expect(&tables);
    }

    /// The head of a chunk: codec, model (by its number in the archive), references. Its CRC is
    /// checked.
    pub fn chunk_head(&self, id: ChunkId) -> Result<ChunkHead> {
        Ok(self.load(id)?.head)
    }

    /// Reads a chunk's frame and checks all that can be checked before it is decoded.
    pub(crate) fn load(&self, id: ChunkId) -> Result<Pending> {
        let (group, _) = self.find(id)?;
        let info = self.chunk(id)?;
        let bad = |rule| Error::BadChunk { chunk: id.0, offset: info.offset, rule };
        let data = self.file.read(info.offset, info.frame_len.into())?;
        let reach = self.header.ref_window.min(id.0.saturating_sub(group.reach));
        let mut chunk = Pending::read(id, &data, info.offset, group, info.raw_len, reach)?;
        if chunk.takes_dictionary() {
            chunk.dictionary = self.dictionaries.of(&self.file, group).map_err(|e| match e {
                e if e.is_damage() => bad("its group's dictionary is damaged"),
                other => other,
            })?;
        }
        Ok(chunk)
    }
}

/// Tells a remote source that the heads of the first of these groups will be read, and their tables, each of which
/// stands right before the head of the next group.
fn expect_heads(file: &ArchiveFile, groups: &[GroupRecord]) {
    if file.takes_hints() {
        let groups = groups.iter().take(HEADS);
        let ranges = groups.flat_map(|group| [group.offset..group.body(), group.table()..group.end()]);
        file.expect(&ranges.collect::<Vec<_>>());
    }
}
