//! Puts the entries of all groups together, and checks what holds between them.

use std::collections::HashMap;

use super::budget::Budget;
use super::record_order::OpenFile;
use crate::archive::path;
use crate::error::{Error, Result};
use crate::wire::entries::Entries;
use crate::wire::entry::{ContentHash, Entry, EntryId, Kind};

/// The entries of an archive as they come together.
pub(crate) struct Catalog {
    pub entries: Vec<Entry>,
    budget: Budget,
    /// The file that the group before left open.
    open: OpenFile,
    /// Where numbers of the archive and places in `entries` differ, after a group was lost.
    moved: Option<HashMap<u32, u32>>,
}

impl Catalog {
    pub fn new(budget: Budget) -> Self {
        Self { entries: Vec::new(), budget, open: OpenFile::default(), moved: None }
    }

    /// The same for an archive of which groups may be lost: what refers to them is left out.
    pub fn with_gaps(budget: Budget) -> Self {
        Self { moved: Some(HashMap::new()), ..Self::new(budget) }
    }

    /// Takes in a group's entries, the first of which has the number `first` in the archive. Where groups may be
    /// lost, takes in all of them or none.
    pub fn add(&mut self, frame: Entries, first: u32, offset: u64) -> Result<()> {
        let corrupt = |rule| Error::Corrupt { offset, rule };
        let gaps = self.moved.is_some();
        if gaps {
            let mut budget = self.budget;
            for (nth, entry) in (self.entries.len() as u64..).zip(&frame.entries) {
                admit(&mut budget, nth, entry)?;
            }
        }
        let ended = if gaps {
            self.open.enter_after_loss(&frame)
        } else {
            self.open.enter(&frame).map_err(corrupt)?
        };
        if let (Some(at), Some(hash)) = (ended, frame.ended) {
            set_hash(&mut self.entries[at as usize], hash);
        }
        for (number, mut entry) in (first..).zip(frame.entries) {
            admit(&mut self.budget, self.entries.len() as u64, &entry)?;
            if let Kind::Hardlink { target } = &mut entry.kind {
                match self.find(*target) {
                    Some(at) => *target = at,
                    None if gaps => continue,
                    None => return Err(corrupt("a hardlink's target is not an earlier file")),
                }
            }
            if let Some(moved) = &mut self.moved {
                moved.insert(number, self.entries.len() as u32);
            }
            self.entries.push(entry);
        }
        self.open.leave(frame.open, (self.entries.len() as u32).checked_sub(1));
        Ok(())
    }

    /// Whether the last group left a file open.
    pub fn is_open(&self) -> bool {
        self.open.is_open()
    }

    /// The place of an earlier file.
    fn find(&self, id: EntryId) -> Option<EntryId> {
        let at = match &self.moved {
            Some(moved) => *moved.get(&id.0)?,
            None => id.0,
        };
        let entry = self.entries.get(at as usize)?;
        matches!(entry.kind, Kind::File { .. }).then_some(EntryId(at))
    }

    /// All entries, once the length of the raw stream is known.
    pub fn finish(self, raw_len: u64, offset: u64) -> Result<Vec<Entry>> {
        if self.moved.is_none() {
            if self.open.is_open() {
                return Err(Error::Corrupt { offset, rule: "a file is left open by the last group" });
            }
            let beyond = |entry: &Entry| match &entry.kind {
                Kind::File { extents, .. } => {
                    extents.iter().any(|extent| extent.raw_offset + extent.len > raw_len)
                }
                _ => false,
            };
            if self.entries.iter().any(beyond) {
                return Err(Error::Corrupt { offset, rule: "a file's data lies beyond the last group" });
            }
        }
        Ok(self.entries)
    }
}

fn admit(budget: &mut Budget, nth: u64, entry: &Entry) -> Result<()> {
    budget.take(nth, entry)?;
    path::check(&entry.path).map_err(|rule| Error::UnsafeEntry { path: path::escape(&entry.path), rule })
}

fn set_hash(entry: &mut Entry, found: ContentHash) {
    if let Kind::File { hash, .. } = &mut entry.kind {
        *hash = found;
    }
}

/// Ids in byte order of their paths; no path may occur twice.
pub(crate) fn by_path(entries: &[Entry]) -> Result<Vec<EntryId>> {
    let mut ids: Vec<EntryId> = (0..entries.len() as u32).map(EntryId).collect();
    let path = |id: &EntryId| &entries[id.0 as usize].path[..];
    ids.sort_unstable_by(|a, b| path(a).cmp(path(b)).then(a.cmp(b)));
    match ids.windows(2).find(|pair| path(&pair[0]) == path(&pair[1])) {
        Some(pair) => {
            Err(Error::UnsafeEntry { path: path::escape(path(&pair[0])), rule: "its path occurs twice" })
        }
        None => Ok(ids),
    }
}
