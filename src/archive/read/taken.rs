//! Which entries of an archive a selection takes: with each, the folders above it.
//!
//! A folder above something that is taken is made anyway; its entry says with what mode, owner and time.

use std::collections::HashSet;

use crate::archive::path::split;
use crate::archive::path_set::key;
use crate::archive::selection::Selection;
use crate::wire::entry::{Entry, Kind};

/// The folders above what was taken, by the hashes of their paths.
#[derive(Debug, Default)]
pub(crate) struct Above(HashSet<[u8; 16]>);

impl Above {
    /// Notes what lies above a path that is taken; tells each folder that was not noted before to `new`.
    pub fn note(&mut self, path: &[u8], mut new: impl FnMut(&[u8])) {
        let mut above = path;
        while !above.is_empty() {
            above = split(above).0;
            // Everything above that is known too.
            if !self.0.insert(key(above)) {
                break;
            }
            new(above);
        }
    }

    /// Whether this folder lies above what is taken.
    pub fn has(&self, entry: &Entry) -> bool {
        entry.kind == Kind::Directory && self.0.contains(&key(&entry.path))
    }
}

/// For each entry whether it is taken.
pub(crate) fn taken(entries: &[Entry], selection: &Selection) -> Vec<bool> {
    if selection.takes_all() {
        return vec![true; entries.len()];
    }
    let mut above = Above::default();
    let mut taken: Vec<bool> = Vec::with_capacity(entries.len());
    for entry in entries {
        let takes = selection.takes(&entry.path, entry.kind == Kind::Directory);
        if takes {
            above.note(&entry.path, |_| {});
        }
        taken.push(takes);
    }
    for (taken, entry) in taken.iter_mut().zip(entries) {
        *taken |= above.has(entry);
    }
    taken
}
