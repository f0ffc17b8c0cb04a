//! What is there already and is left as it is.
//!
//! A file gets its name when it is complete, so that what an interrupted run has left under final names is whole: a
//! later run need not decode it again.

use std::collections::{HashMap, HashSet};

use super::plan::Item;
use super::target::{Target, There};
use crate::archive::observer::{Observer, Warning};
use crate::wire::entry::{Entry, Kind};

/// Tells what is at a path; a warning if it is plainly not what the entry would bring.
pub(crate) fn look(
    target: &mut Target<'_>,
    path: &[u8],
    content: &Entry,
    entry: &Entry,
    observer: &dyn Observer,
) -> There {
    let there = target.there(path, content);
    if there == There::Other {
        let what = "left as it is, though what is there has another size or is of another kind";
        observer.warning(Warning::new(&entry.path[..], what));
    }
    there
}

/// Marks the items that are there. Of the names of a file, one that is there and has its size becomes the one that the
/// others link to; tells how many are there.
pub(crate) fn mark(items: &mut [Item<'_>], target: &mut Target<'_>, observer: &dyn Observer) -> u64 {
    let mut firsts: HashMap<usize, usize> = HashMap::new();
    let mut count = 0;
    for at in 0..items.len() {
        let first = items[at].link.unwrap_or(at);
        let item = &items[at];
        if item.entry.kind == Kind::Directory {
            continue;
        }
        let there = look(target, &item.path, items[first].entry, item.entry, observer);
        if there == There::Same && is_file(items[first].entry) {
            firsts.entry(first).or_insert(at);
        }
        items[at].present = there != There::Nothing;
        count += u64::from(items[at].present);
    }
    // The first of the names that are missing brings the content, if none is there.
    for at in 0..items.len() {
        let first = items[at].link.unwrap_or(at);
        if items[at].present || !is_file(items[first].entry) {
            continue;
        }
        match firsts.get(&first) {
            Some(&content) => items[at].link = Some(content),
            None => {
                firsts.insert(first, at);
                items[at].entry = items[first].entry;
                items[at].link = None;
            }
        }
    }
    count
}

fn is_file(entry: &Entry) -> bool {
    matches!(entry.kind, Kind::File { .. })
}

/// The names at the top of the target that the items bring.
pub(crate) fn tops<'i>(items: &'i [Item<'_>]) -> HashSet<&'i [u8]> {
    items.iter().map(|item| item.path.split(|&b| b == b'/').next().unwrap_or_default()).collect()
}
