//! Unpacks an archive file into a folder.
//!
//! The whole index is checked before the first write. Then the raw stream is read once in its
//! order, decoded in batches on all workers while the batch before is written: about three batches
//! are held, whatever the archive says. Damaged chunks cost the files they are part of; everything
//! else is unpacked.

use std::iter::Peekable;
use std::path::Path;

use super::assembler::{Filled, Filler};
use super::existing;
use super::plan::{ExtractOptions, ExtractSummary, Item, LINK_LOST, link, plan, wanted};
use super::target::Target;
use crate::archive::observer::{Observer, Warning};
use crate::archive::path::cmp_paths;
use crate::archive::read::ahead::LOCKSTEP;
use crate::archive::read::archive::Archive;
use crate::archive::read::chunk_cache::RecentChunks;
use crate::archive::read::layout::GroupAt;
use crate::error::{Error, Result};
use crate::wire::entry::Kind;

/// Raw bytes that all workers decode together.
const BATCH: u32 = 8 << 20;

/// Raw bytes of chunks that are kept because later ones may refer to them.
const RECENT: usize = 32 << 20;

/// Unpacks `archive` into the folder `target`. Fails after all else was unpacked if files were damaged.
pub fn extract(
    archive: &Archive,
    target: &Path,
    options: &ExtractOptions,
    observer: &dyn Observer,
) -> Result<ExtractSummary> {
    observer.phase("checking the index", None);
    let mut items = plan(archive, options)?;
    let mut target = Target::open(target, options.replace, options.restore, observer)?;
    let held = items.iter().filter(|item| item.link.is_none()).map(|item| item.entry.data_len());
    target.bound(held.fold(0, u64::saturating_add), options.max_bytes);
    let mut skipped = 0;
    if options.skip_existing && !target.fresh {
        target.adopt(&existing::tops(&items));
        skipped = existing::mark(&mut items, &mut target, observer);
    } else if !target.fresh {
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

    for item in items.iter().filter(|item| !item.present) {
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
    let entries = items.len() as u64 - skipped;
    failure.map_or(Ok(ExtractSummary { files, entries, skipped }), Err)
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
            Kind::File { extents, .. } if item.has_content() => {
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
        let chunk = match archive.chunk(id) {
            Ok(chunk) => chunk,
            Err(e) if e.is_damage() => {
                // Where the chunks of its group lie is not known.
                let raw = archive.layout.group_of(id).map_or(0..0, GroupAt::raw);
                files.add(Some(raw.end), filler, observer)?;
                return filler.lose(raw.start, raw.end - raw.start, e);
            }
            Err(e) => return Err(e),
        };
        files.add(Some(chunk.raw_offset + u64::from(chunk.raw_len)), filler, observer)?;
        match bytes {
            Ok(bytes) => filler.feed(chunk.raw_offset, &bytes)?,
            Err(e) if e.is_damage() => {
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
