//! Which entries of archives that are joined stay, and in which places (spec/format.md, section 12).
//!
//! An entry that clashes with one of another archive is dropped. The data of a dropped file stay in
//! the raw stream; the first entry that is left and has the same data takes the file's place, so
//! that names still come before data. A hardlink that loses its file becomes the file.

use std::collections::HashMap;

use crate::archive::path::escape;
use crate::archive::path_set::{Clash, Paths};
use crate::archive::read::archive::Archive;
use crate::error::{Error, Result};
use crate::wire::entry::{Entry, EntryId, Kind};

/// What becomes of a path that more than one archive has. Folders come together, with the
/// properties of the archive named last for `Last`, else first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnClash {
    /// Nothing is joined.
    #[default]
    Refuse,
    /// The entry of the archive that is named first stays.
    First,
    /// The entry of the archive that is named last stays.
    Last,
}

/// What one archive brings to the archive it becomes a part of.
pub(crate) struct Part {
    /// For each place of the archive's entries, which entry stands there now.
    pub places: Vec<Option<u32>>,
    /// New numbers of the entries, counted from the part's first.
    numbers: Vec<Option<u32>>,
    /// For a dropped file: the entry that is the file now.
    heirs: HashMap<u32, u32>,
}

/// Plans the parts; tells how many entries are dropped that are no folders.
pub(crate) fn plan(archives: &[Archive], on_clash: OnClash) -> Result<(Vec<Part>, u64)> {
    let mut order: Vec<usize> = (0..archives.len()).collect();
    if on_clash == OnClash::Last {
        order.reverse();
    }
    let mut paths = Paths::default();
    let mut dropped: Vec<Vec<bool>> =
        archives.iter().map(|archive| vec![false; archive.entries().len()]).collect();
    let mut count = 0;
    for at in order {
        let entries = archives[at].entries();
        for (dropped, entry) in dropped[at].iter_mut().zip(entries) {
            match paths.clash(&entry.path, entry.kind == Kind::Directory) {
                Clash::None => {}
                Clash::SameFolder => *dropped = true,
                Clash::Taken if on_clash == OnClash::Refuse => return Err(clashes(archives, at, entry)),
                Clash::Taken => {
                    *dropped = true;
                    count += u64::from(entry.kind != Kind::Directory);
                }
            }
        }
        // Only now: entries of one archive do not clash.
        for (_, entry) in dropped[at].iter().zip(entries).filter(|(dropped, _)| !**dropped) {
            paths.take(&entry.path, entry.kind == Kind::Directory);
        }
    }
    let parts = archives.iter().zip(&dropped).map(|(archive, dropped)| Part::new(archive.entries(), dropped));
    Ok((parts.collect(), count))
}

fn clashes(archives: &[Archive], at: usize, entry: &Entry) -> Error {
    let name = |archive: &Archive| archive.file.name().display().to_string();
    let other = archives[..at].iter().find(|archive| archive.lookup(&entry.path).is_some());
    let with = other
        .map_or_else(|| "contradicts an archive before".to_owned(), |o| format!("is in {} too", name(o)));
    Error::Clash(format!("{} of {} {with}", escape(&entry.path), name(&archives[at])))
}

impl Part {
    fn new(entries: &[Entry], dropped: &[bool]) -> Self {
        let file_of = |at: u32| match entries[at as usize].kind {
            Kind::Hardlink { target } => target.0,
            _ => at,
        };
        // The first file that has the data which begin here; the raw stream has them once.
        let mut firsts: HashMap<u64, u32> = HashMap::new();
        let mut heirs: HashMap<u32, u32> = HashMap::new();
        let mut moved: HashMap<u32, u32> = HashMap::new();
        for at in 0..entries.len() as u32 {
            let file = file_of(at);
            let Kind::File { extents, .. } = &entries[file as usize].kind else { continue };
            let stays = !dropped[at as usize];
            let inherits = stays && file != at && dropped[file as usize] && !heirs.contains_key(&file);
            if inherits {
                heirs.insert(file, at);
            }
            let Some(start) = extents.first().map(|extent| extent.raw_offset) else { continue };
            let first = *firsts.entry(start).or_insert(file);
            let candidate = stays && (file == at || inherits) && first != at;
            if candidate && dropped[first as usize] && !moved.contains_key(&first) {
                moved.insert(first, at);
            }
        }
        let gone: std::collections::HashSet<u32> = moved.values().copied().collect();
        let place = |at: u32| match dropped[at as usize] {
            true => moved.get(&at).copied(),
            false => Some(at).filter(|at| !gone.contains(at)),
        };
        let places: Vec<Option<u32>> = (0..entries.len() as u32).map(place).collect();
        let mut numbers = vec![None; entries.len()];
        for (number, &at) in (0..).zip(places.iter().flatten()) {
            numbers[at as usize] = Some(number);
        }
        Self { places, numbers, heirs }
    }

    /// Number of entries that stay.
    pub fn len(&self) -> u32 {
        self.places.iter().flatten().count() as u32
    }

    /// The entry at `at` as it is to be written: with numbers from `first` on, and raw offsets
    /// from `raw` on.
    pub fn entry(&self, entries: &[Entry], at: u32, first: u32, raw: u64) -> Result<Entry> {
        let mut entry = entries[at as usize].clone();
        if let Kind::Hardlink { target } = entry.kind {
            let file = self.heirs.get(&target.0).copied().unwrap_or(target.0);
            entry.kind = if file == at {
                entries[target.0 as usize].kind.clone()
            } else {
                let number =
                    self.numbers[file as usize].ok_or(Error::Internal("a link has lost its file"))?;
                Kind::Hardlink { target: EntryId(first + number) }
            };
        }
        if let Kind::File { extents, .. } = &mut entry.kind {
            for extent in extents {
                extent.raw_offset += raw;
            }
        }
        Ok(entry)
    }
}
