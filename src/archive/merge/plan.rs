//! Which entries of archives that are joined stay, and in which places (spec/format.md, section 12).
//!
//! An entry that clashes with one of another archive is dropped. The data of a dropped file stay in
//! the raw stream; the entries that are left and share some of those data take the file's place, so
//! that names still come before data. A hardlink that loses its file becomes the file.

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::archive::path::escape;
use crate::archive::path_set::{Clash, Paths};
use crate::archive::read::archive::Archive;
use crate::error::{Error, Result};
use crate::wire::entry::{Entry, EntryId, Extent, Kind};

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
    /// For each place of the archive's entries, which entries stand there now.
    pub places: Vec<Vec<u32>>,
    /// New numbers of the entries, counted from the part's first.
    numbers: Vec<Option<u32>>,
    /// For a dropped file: the entry that is the file now.
    heirs: HashMap<u32, u32>,
}

/// Which file brought which part of the raw stream.
#[derive(Default)]
struct Owners(BTreeMap<u64, (u64, u32)>);

impl Owners {
    /// Enters the extents of a file, which owns what no file before it does. Gives the first of the dropped owners
    /// of its data, itself included.
    fn enter(&mut self, file: u32, extents: &[Extent], is_dropped: &dyn Fn(u32) -> bool) -> Option<u32> {
        let mut first: Option<u32> = None;
        for extent in extents {
            let (mut at, end) = (extent.raw_offset, extent.raw_offset.saturating_add(extent.len));
            while at < end {
                let known = self.0.range(..=at).next_back().filter(|(_, (over, _))| *over > at);
                let (over, owner) = match known {
                    Some((_, &(over, owner))) => (over, owner),
                    None => {
                        let next = self.0.range(at..).next().map_or(end, |(&start, _)| start.min(end));
                        self.0.insert(at, (next, file));
                        (next, file)
                    }
                };
                if is_dropped(owner) {
                    first = Some(first.map_or(owner, |first| first.min(owner)));
                }
                at = over;
            }
        }
        first
    }
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
        let mut owners = Owners::default();
        let mut heirs: HashMap<u32, u32> = HashMap::new();
        let mut moved: HashMap<u32, Vec<u32>> = HashMap::new();
        let mut gone: HashSet<u32> = HashSet::new();
        for at in 0..entries.len() as u32 {
            let file = file_of(at);
            let Kind::File { extents, .. } = &entries[file as usize].kind else { continue };
            let stays = !dropped[at as usize];
            let inherits = stays && file != at && dropped[file as usize] && !heirs.contains_key(&file);
            if inherits {
                heirs.insert(file, at);
            }
            let first = owners.enter(file, extents, &|owner| dropped[owner as usize]);
            let candidate = stays && (file == at || inherits);
            if let Some(first) = first.filter(|first| candidate && *first != at) {
                moved.entry(first).or_default().push(at);
                gone.insert(at);
            }
        }
        let place = |at: u32| match dropped[at as usize] {
            true => moved.get(&at).cloned().unwrap_or_default(),
            false if gone.contains(&at) => Vec::new(),
            false => vec![at],
        };
        let places: Vec<Vec<u32>> = (0..entries.len() as u32).map(place).collect();
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
