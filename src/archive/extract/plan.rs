//! What is unpacked: the entries that are wanted, and which of them are links to others.

use std::borrow::Cow;
use std::collections::HashMap;

use super::admission::Checker;
use super::metadata::Restore;
use super::target::Target;
use crate::archive::observer::{Observer, Warning};
use crate::archive::read::ahead::in_order;
use crate::archive::read::archive::Archive;
use crate::archive::read::taken::taken;
use crate::archive::selection::Selection;
use crate::error::{Error, Result};
use crate::wire::entry::{ChunkId, Entry, EntryId, Kind};

/// What is unpacked, and how.
#[derive(Clone, Debug)]
pub struct ExtractOptions {
    pub selection: Selection,
    /// Leading components that are taken off each path; what has no more is left out.
    pub strip: usize,
    /// Replace files that are in the way. Folders with something in them never are.
    pub replace: bool,
    /// Leave what is there already, instead of refusing to unpack; not with `replace`.
    pub skip_existing: bool,
    pub restore: Restore,
    /// Unpack devices, which otherwise are refused.
    pub devices: bool,
    /// Most bytes that all files together may hold between their holes.
    pub max_bytes: u64,
}

/// What was done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ExtractSummary {
    pub files: u64,
    pub entries: u64,
    /// Entries that were there already and left as they were.
    pub skipped: u64,
}

/// An entry that is to be unpacked.
pub(crate) struct Item<'a> {
    pub entry: &'a Entry,
    pub path: Cow<'a, [u8]>,
    /// For a hardlink: the item that has the content.
    pub link: Option<usize>,
    /// Something is at its path, and stays.
    pub present: bool,
}

impl Item<'_> {
    /// Whether it brings the content of a file that is to be unpacked.
    pub fn has_content(&self) -> bool {
        matches!(self.entry.kind, Kind::File { .. }) && self.link.is_none() && !self.present
    }
}

impl ExtractOptions {
    /// What becomes of the path of an entry that is taken; `None` leaves it out.
    pub(crate) fn path<'a>(&self, entry: &'a Entry) -> Option<&'a [u8]> {
        let mut path = entry.path.as_slice();
        for _ in 0..self.strip {
            path = &path[path.iter().position(|&b| b == b'/')? + 1..];
        }
        Some(path)
    }
}

/// Checks everything that is to be unpacked. A hardlink whose file is left out brings the content.
pub(crate) fn plan<'a>(archive: &'a Archive, options: &ExtractOptions) -> Result<Vec<Item<'a>>> {
    let mut checker = Checker::new(options.devices, options.max_bytes);
    let mut items: Vec<Item<'a>> = Vec::new();
    let mut first: HashMap<EntryId, usize> = HashMap::new();
    let taken = taken(archive.entries(), &options.selection);
    for (id, entry) in (0..).map(EntryId).zip(archive.entries()) {
        let Some(path) = options.path(entry).filter(|_| taken[id.0 as usize]) else { continue };
        checker.admit(id, entry, path)?;
        let content = if let Kind::Hardlink { target } = entry.kind { target } else { id };
        let mut item = Item { entry, path: Cow::Borrowed(path), link: None, present: false };
        if matches!(entry.kind, Kind::File { .. } | Kind::Hardlink { .. }) {
            item.link = first.get(&content).copied();
            if item.link.is_none() {
                first.insert(content, items.len());
                item.entry = archive
                    .entry(content)
                    .filter(|e| matches!(e.kind, Kind::File { .. }))
                    .ok_or_else(|| Error::UnsafeEntry {
                        path: crate::archive::path::escape(&entry.path),
                        rule: "it links to what is no file",
                    })?;
            }
        }
        items.push(item);
    }
    Ok(items)
}

/// The chunks that hold the data of all items, in order.
pub(crate) fn wanted(archive: &Archive, items: &[Item<'_>]) -> Vec<ChunkId> {
    let mut ranges = Vec::new();
    for item in items.iter().filter(|item| item.has_content()) {
        let Kind::File { extents, .. } = &item.entry.kind else { continue };
        ranges.extend(extents.iter().filter(|e| e.len > 0).map(|e| archive.chunks_of(e.raw_offset, e.len)));
    }
    in_order(ranges)
}

pub(crate) const LINK_LOST: &str = "not unpacked: the file that it is a name of was not";

/// Makes a hardlink, or a copy where the file system takes no more links, or none.
pub(crate) fn link(
    target: &mut Target<'_>,
    path: &[u8],
    first: &[u8],
    entry: &Entry,
    observer: &dyn Observer,
) -> Result<()> {
    let fits = |e: &std::io::Error| {
        !matches!(e.kind(), std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded)
    };
    let made = match target.make_link(path, first) {
        Err(Error::Io { source, .. }) if fits(&source) => target.make_copy(path, first),
        made => made,
    };
    match made {
        Err(Error::Io { source, .. }) if fits(&source) => {
            observer
                .warning(Warning::new(&entry.path[..], format_args!("not linked and not copied: {source}")));
        }
        made => {
            made?;
            observer.entry(&entry.path);
        }
    }
    Ok(())
}
