//! Writes what is whole of an archive, damaged or not, into a new one.
//!
//! A file is taken when all its bytes were read and have the hash that its entry tells: so nothing is in the
//! new archive but what was packed. Files are coded anew, since what is left of a group cannot stand
//! as one. Those of which a part is lost are left out and told.

use std::collections::HashMap;
use std::io::{self, Read, Write};

use crate::archive::observer::{Observer, Warning};
use crate::archive::path_set::{Clash, Paths};
use crate::archive::read::archive::Archive;
use crate::archive::read::chunk_cache::RecentChunks;
use crate::archive::read::taken::taken;
use crate::archive::selection::Selection;
use crate::archive::write::content::{Content, ContentWarning};
use crate::archive::write::options::WriterOptions;
use crate::archive::write::writer::Writer;
use crate::error::{Error, Result};
use crate::wire::entry::{ContentHash, Entry, EntryId, Extent, Kind};

/// Decoded chunks that are kept: a file that fits is decoded once, though read twice.
const CACHE: usize = 64 << 20;
/// Bytes read at a time.
const PIECE: usize = 1 << 20;

/// What takes part, and how much.
#[derive(Clone, Debug)]
pub struct RepackOptions {
    pub selection: Selection,
    /// Most bytes that all files together may have.
    pub max_bytes: u64,
}

/// What became of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RepackSummary {
    pub entries: u64,
    pub files: u64,
    /// Entries that are lost.
    pub lost: u64,
    pub archive_len: u64,
}

/// Writes the whole entries of `archive`, whose models are set, to `out`, which is given back for syncing.
/// Those that are taken are told as entries, those that are lost as warnings.
pub fn repack<W: Write>(
    archive: &Archive,
    out: W,
    options: &RepackOptions,
    writer: WriterOptions,
) -> Result<(W, RepackSummary)> {
    let observer = writer.observer.clone();
    let mut repack = Rescue {
        archive,
        cache: RecentChunks::new(CACHE),
        observer: &*observer,
        writer: Writer::create(out, writer)?,
        paths: Paths::default(),
        placed: HashMap::new(),
        left: options.max_bytes,
        max: options.max_bytes,
        summary: RepackSummary::default(),
    };
    let sizes = archive.entries().iter().map(|entry| match entry.kind {
        Kind::File { size, .. } => size,
        _ => 0,
    });
    observer.phase("salvaging", Some(sizes.fold(0, u64::saturating_add)));
    let taken = taken(archive.entries(), &options.selection);
    for ((id, entry), taken) in (0..).map(EntryId).zip(archive.entries()).zip(taken) {
        if observer.interrupted() {
            return Err(Error::Interrupted);
        }
        if taken {
            repack.take(id, entry)?;
        }
    }
    let (out, stats) = repack.writer.finish()?;
    Ok((out, RepackSummary { archive_len: stats.archive_len, ..repack.summary }))
}

struct Rescue<'a, W: Write> {
    archive: &'a Archive,
    cache: RecentChunks,
    observer: &'a dyn Observer,
    writer: Writer<W>,
    paths: Paths,
    /// Numbers in the new archive of files, by those in the old.
    placed: HashMap<EntryId, EntryId>,
    /// Bytes that may still come.
    left: u64,
    max: u64,
    summary: RepackSummary,
}

impl<W: Write> Rescue<'_, W> {
    fn take(&mut self, id: EntryId, entry: &Entry) -> Result<()> {
        let is_folder = entry.kind == Kind::Directory;
        match self.paths.clash(&entry.path, is_folder) {
            Clash::None => {}
            Clash::SameFolder => return Ok(()),
            Clash::Taken => {
                self.lose(&entry.path, "its path contradicts another entry's");
                return Ok(());
            }
        }
        // A link whose file was not selected, but whole, becomes a file; the next ones link to that.
        let (file, content) = match &entry.kind {
            Kind::Hardlink { target } => (*target, self.archive.entry(*target)),
            _ => (id, Some(entry)),
        };
        let mut new = entry.clone();
        let added = match content.map(|found| &found.kind) {
            Some(Kind::File { size, extents, hash }) => match self.placed.get(&file) {
                Some(&target) => {
                    new.kind = Kind::Hardlink { target };
                    self.writer.add(new, Content::None)?
                }
                None => {
                    if let Err(error) = self.check(extents, hash) {
                        return self.lose_if_damaged(&entry.path, error);
                    }
                    new.kind = Kind::File { size: *size, extents: Vec::new(), hash: [0; 16] };
                    let added = self.add_file(new, *size, extents)?;
                    self.placed.insert(file, added.id);
                    self.summary.files += 1;
                    added
                }
            },
            Some(_) if !matches!(entry.kind, Kind::Hardlink { .. }) => self.writer.add(new, Content::None)?,
            _ => {
                self.lose(&entry.path, "the file that it is a name of is lost");
                return Ok(());
            }
        };
        // It was whole when it was checked: the archive was changed since, or its disk is failing.
        match added.warning {
            None => {}
            Some(ContentWarning::Failed { source, .. }) => {
                let inner = source.into_inner().and_then(|inner| inner.downcast::<Error>().ok());
                return Err(inner.map_or(Error::Internal("a reader of an archive failed"), |error| *error));
            }
            Some(_) => return Err(Error::Internal("a file that was whole has another length")),
        }
        self.paths.take(&entry.path, is_folder);
        self.observer.entry(&entry.path);
        self.summary.entries += 1;
        Ok(())
    }

    /// Whether all bytes can be read and have this hash.
    fn check(&mut self, extents: &[Extent], hash: &ContentHash) -> Result<()> {
        let len = extents.iter().fold(0u64, |sum, extent| sum.saturating_add(extent.len));
        let Some(left) = self.left.checked_sub(len) else {
            return Err(Error::Limit { what: "the bytes of all files", got: len, max: self.max });
        };
        let found =
            self.archive.hash_extents_while(extents, &self.cache, &|| !self.observer.interrupted())?;
        if found != *hash {
            return Err(Error::Inconsistent { rule: "its content has another hash than its entry" });
        }
        self.left = left;
        Ok(())
    }

    fn add_file(
        &mut self,
        entry: Entry,
        size: u64,
        extents: &[Extent],
    ) -> Result<crate::archive::write::content::Added> {
        let data_len: u64 = extents.iter().map(|extent| extent.len).sum();
        let mut data = Reader::new(self.archive, &self.cache, extents);
        let content = if size == 0 {
            Content::None
        } else if data_len == size {
            Content::Data(&mut data)
        } else {
            let segments = extents.iter().map(|extent| (extent.file_offset, extent.len)).collect();
            Content::Sparse { segments, data: &mut data }
        };
        self.writer.add(entry, content)
    }

    fn lose(&mut self, path: &[u8], what: impl std::fmt::Display) {
        self.summary.lost += 1;
        self.observer.warning(Warning::new(path, format_args!("lost: {what}")));
    }

    /// Damage costs a file; anything else ends the work.
    fn lose_if_damaged(&mut self, path: &[u8], error: Error) -> Result<()> {
        match error {
            Error::Corrupt { rule, .. } | Error::Inconsistent { rule } => self.lose(path, rule),
            error if error.is_damage() => self.lose(path, error),
            other => return Err(other),
        }
        Ok(())
    }
}

/// The bytes of extents, one after another.
struct Reader<'a> {
    archive: &'a Archive,
    cache: &'a RecentChunks,
    extents: std::slice::Iter<'a, Extent>,
    /// What is left of the current extent, as a raw offset and a length.
    raw: u64,
    len: u64,
}

impl<'a> Reader<'a> {
    fn new(archive: &'a Archive, cache: &'a RecentChunks, extents: &'a [Extent]) -> Self {
        Self { archive, cache, extents: extents.iter(), raw: 0, len: 0 }
    }

    /// Reads the next bytes; none at the end.
    fn next(&mut self, buf: &mut [u8]) -> Result<usize> {
        if self.len == 0 {
            let Some(extent) = self.extents.next() else { return Ok(0) };
            (self.raw, self.len) = (extent.raw_offset, extent.len);
        }
        let part = usize::try_from(self.len).unwrap_or(usize::MAX).min(buf.len()).min(PIECE);
        self.archive.read_raw(self.raw, &mut buf[..part], self.cache)?;
        self.raw += part as u64;
        self.len -= part as u64;
        Ok(part)
    }
}

impl Read for Reader<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if buf.is_empty() {
            return Ok(0);
        }
        self.next(buf).map_err(io::Error::other)
    }
}
