//! Unpacks an archive file into a folder.
//!
//! The whole index is checked before the first write. Then the raw stream is read once in its
//! order, decoded in batches on all workers while the batch before is written: about three batches
//! are held, whatever the archive says. Damaged chunks cost the files they are part of; everything
//! else is unpacked.

use std::borrow::Cow;
use std::collections::HashMap;
use std::iter::Peekable;
use std::path::Path;

use super::check::Checker;
use super::entry::{ChunkId, Entry, EntryId, Kind};
use super::events::{Observer, Warning};
use super::fill::{Filled, Filler};
use super::meta::Restore;
use super::select::Selection;
use super::target::Target;
use super::{Archive, RecentChunks, scan::cmp_paths};
use crate::error::{Error, Result};

/// Chunks that a worker decodes together, and raw bytes that all workers do. Models decode many
/// chunks in lockstep, but the user waits for a batch to see progress or to interrupt.
pub(super) const LOCKSTEP: usize = 64;
const BATCH: u32 = 8 << 20;

/// Raw bytes of chunks that are kept because later ones may refer to them.
const RECENT: usize = 32 << 20;

/// What is unpacked, and how.
#[derive(Clone, Debug)]
pub struct Options {
    pub selection: Selection,
    /// Leading components that are taken off each path; what has no more is left out.
    pub strip: usize,
    /// Replace files that are in the way. Folders with something in them never are.
    pub replace: bool,
    pub restore: Restore,
    /// Unpack devices, which otherwise are refused.
    pub devices: bool,
    /// Most bytes that all files together may hold between their holes.
    pub max_bytes: u64,
}

/// What was done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    pub files: u64,
    pub entries: u64,
}

/// An entry that is to be unpacked.
pub(super) struct Item<'a> {
    pub entry: &'a Entry,
    pub path: Cow<'a, [u8]>,
    /// For a hardlink: the item that has the content.
    pub link: Option<usize>,
}

impl Options {
    /// What becomes of an entry's path; `None` leaves it out.
    pub(super) fn path<'a>(&self, entry: &'a Entry) -> Option<&'a [u8]> {
        if !self.selection.takes(&entry.path, entry.kind == Kind::Directory) {
            return None;
        }
        let mut path = entry.path.as_slice();
        for _ in 0..self.strip {
            path = &path[path.iter().position(|&b| b == b'/')? + 1..];
        }
        Some(path)
    }
}

/// Unpacks `archive` into the folder `target`. Fails after all else was unpacked if files were damaged.
pub fn extract(
    archive: &Archive,
    target: &Path,
    options: &Options,
    observer: &dyn Observer,
) -> Result<Summary> {
    observer.phase("checking the index", None);
    let items = plan(archive, options)?;
    let mut target = Target::open(target, options.replace, options.restore, observer)?;
    if !target.fresh {
        items
            .iter()
            .filter(|item| item.entry.kind != Kind::Directory)
            .try_for_each(|item| target.check_free(&item.path))?;
    }
    let mut folders: Vec<_> = items.iter().filter(|item| item.entry.kind == Kind::Directory).collect();
    folders.sort_by(|a, b| cmp_paths(&a.path, &b.path));
    folders.iter().try_for_each(|item| target.make_folder(&item.path, item.entry))?;

    let mut filler = Filler::new(&mut target, observer);
    fill(archive, &items, &mut filler, observer)?;
    let Filled { files, failure, lost } = filler.finish();

    for item in &items {
        match (&item.entry.kind, item.link) {
            (Kind::Directory, _) | (Kind::File { .. }, None) => {}
            (_, Some(first)) if lost.contains(&items[first].path[..]) => {
                observer.warning(Warning::new(&item.entry.path[..], LINK_LOST));
            }
            (_, Some(first)) => link(&mut target, &item.path, &items[first].path, item.entry, observer)?,
            _ => target.make_other(&item.path, item.entry)?,
        }
    }
    target.finish();
    failure.map_or(Ok(Summary { files, entries: items.len() as u64 }), Err)
}

/// Checks everything that is to be unpacked. A hardlink whose file is left out brings the content.
pub(super) fn plan<'a>(archive: &'a Archive, options: &Options) -> Result<Vec<Item<'a>>> {
    let mut checker = Checker::new(options.devices, options.max_bytes);
    let mut items: Vec<Item<'a>> = Vec::new();
    let mut first: HashMap<EntryId, usize> = HashMap::new();
    for (id, entry) in (0..).map(EntryId).zip(archive.entries()) {
        let Some(path) = options.path(entry) else { continue };
        checker.admit(id, entry, path)?;
        let content = if let Kind::Hardlink { target } = entry.kind { target } else { id };
        let mut item = Item { entry, path: Cow::Borrowed(path), link: None };
        if matches!(entry.kind, Kind::File { .. } | Kind::Hardlink { .. }) {
            item.link = first.get(&content).copied();
            if item.link.is_none() {
                first.insert(content, items.len());
                item.entry = archive
                    .entry(content)
                    .filter(|e| matches!(e.kind, Kind::File { .. }))
                    .ok_or_else(|| Error::UnsafeEntry {
                        path: super::paths::escape(&entry.path),
                        rule: "it links to what is no file",
                    })?;
            }
        }
        items.push(item);
    }
    Ok(items)
}

/// The chunks that hold the data of all items, in order.
pub(super) fn wanted(archive: &Archive, items: &[Item<'_>]) -> Vec<ChunkId> {
    let mut ranges = Vec::new();
    for item in items.iter().filter(|item| item.link.is_none()) {
        let Kind::File { extents, .. } = &item.entry.kind else { continue };
        ranges.extend(extents.iter().filter(|e| e.len > 0).map(|e| archive.chunks_of(e.raw_offset, e.len)));
    }
    ranges.sort_unstable_by_key(|range| range.start);
    let (mut ids, mut next) = (Vec::new(), 0);
    for range in ranges {
        ids.extend((range.start.max(next)..range.end).map(ChunkId));
        next = next.max(range.end);
    }
    ids
}

/// The files among the items, in the order in which the raw stream comes to them, each with where that is;
/// those without data come first.
struct Files<'i, 'a> {
    items: &'i [Item<'a>],
    order: Peekable<std::vec::IntoIter<(u64, u32)>>,
}

impl<'i, 'a> Files<'i, 'a> {
    fn new(items: &'i [Item<'a>]) -> Self {
        let begins = |(number, item): (u32, &Item<'_>)| match &item.entry.kind {
            Kind::File { extents, .. } if item.link.is_none() => {
                let offsets = extents.iter().filter(|extent| extent.len > 0).map(|extent| extent.raw_offset);
                Some((offsets.min().unwrap_or(0), number))
            }
            _ => None,
        };
        let mut order: Vec<_> = (0..).zip(items).filter_map(begins).collect();
        order.sort_unstable();
        Self { items, order: order.into_iter().peekable() }
    }

    /// Gives those that begin before `end`, or all that are left, to the filler, which is told of no more than
    /// it needs: names and all else of a million files take half a gigabyte.
    fn add(&mut self, end: Option<u64>, filler: &mut Filler<'_, '_>, observer: &dyn Observer) -> Result<()> {
        while let Some((_, number)) = self.order.next_if(|(at, _)| end.is_none_or(|end| *at < end)) {
            let item = &self.items[number as usize];
            filler.add(&item.path, item.entry, 0)?;
            if observer.interrupted() {
                return Err(Error::Interrupted);
            }
        }
        Ok(())
    }
}

/// Decodes chunks in order and hands them to the files.
fn fill(
    archive: &Archive,
    items: &[Item<'_>],
    filler: &mut Filler<'_, '_>,
    observer: &dyn Observer,
) -> Result<()> {
    let (ids, mut files) = (&wanted(archive, items)[..], Files::new(items));
    let chunk_size = archive.header().chunk_size.max(1);
    observer.phase("unpacking", Some(ids.len() as u64 * u64::from(chunk_size)));
    let fits = usize::try_from(BATCH / chunk_size).unwrap_or(1);
    let batch = (LOCKSTEP * rayon::current_num_threads()).min(fits).max(1);
    let cache = RecentChunks::new(RECENT);
    archive.read_in_order(ids, batch, &cache, |id, bytes| {
        if observer.interrupted() {
            return Err(Error::Interrupted);
        }
        let chunk = archive.chunk(id)?;
        files.add(Some(chunk.raw_offset + u64::from(chunk.raw_len)), filler, observer)?;
        match bytes {
            Ok(bytes) => filler.feed(chunk.raw_offset, &bytes)?,
            Err(e @ (Error::BadChunk { .. } | Error::Corrupt { .. } | Error::Truncated { .. })) => {
                filler.lose(chunk.raw_offset, chunk.raw_len.into(), e)?;
            }
            Err(e) => return Err(e),
        }
        observer.advanced(chunk.raw_len.into());
        Ok(())
    })?;
    // What has no data, where there were no chunks.
    files.add(None, filler, observer)
}

pub(super) const LINK_LOST: &str = "not unpacked: the file that it is a name of was not";

/// Makes a hardlink; a file system that has none costs a warning.
pub(super) fn link(
    target: &mut Target<'_>,
    path: &[u8],
    first: &[u8],
    entry: &Entry,
    observer: &dyn Observer,
) -> Result<()> {
    match target.make_link(path, first) {
        Err(Error::Io { source, .. }) if source.kind() != std::io::ErrorKind::StorageFull => {
            observer.warning(Warning::new(&entry.path[..], format_args!("not linked: {source}")));
        }
        made => made?,
    }
    observer.entry(&entry.path);
    Ok(())
}
