//! Decides, before anything is written, whether entries can be unpacked.
//!
//! Paths may not leave the target, occur twice, or lie below something that is no folder. What
//! devices and limits allow is the user's choice. Paths are remembered by hash, so that a million
//! of them cost little.

use std::collections::HashMap;
use std::collections::hash_map::Entry as Slot;

use crate::archive::path::{check, escape, split};
use crate::archive::path_set::{Seen, key};
use crate::error::{Error, Result};
use crate::wire::entry::{Entry, EntryId, Kind};

/// Longest target of a symlink, as Linux has it.
const SYMLINK_MAX: usize = 4095;

/// Remembers what was admitted, to find what contradicts it.
#[derive(Debug)]
pub(crate) struct Checker {
    seen: HashMap<[u8; 16], Seen>,
    devices: bool,
    max_bytes: u64,
    bytes: u64,
}

impl Checker {
    /// `max_bytes` bounds the sum of what all files hold between their holes.
    pub fn new(devices: bool, max_bytes: u64) -> Self {
        Self { seen: HashMap::new(), devices, max_bytes, bytes: 0 }
    }

    /// Bytes that the files so far hold between their holes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Checks an entry that is to be unpacked as `path`.
    pub fn admit(&mut self, id: EntryId, entry: &Entry, path: &[u8]) -> Result<()> {
        let refuse = |rule| Err(Error::UnsafeEntry { path: escape(&entry.path), rule });
        if let Err(rule) = check(&entry.path).and_then(|()| check(path)) {
            return refuse(rule);
        }
        match &entry.kind {
            Kind::Symlink { target }
                if target.is_empty() || target.contains(&0) || target.len() > SYMLINK_MAX =>
            {
                return refuse("its target is empty, too long or holds a NUL byte");
            }
            Kind::CharDevice { .. } | Kind::BlockDevice { .. } if !self.devices => {
                return Err(Error::Device { path: escape(path) });
            }
            Kind::Hardlink { target } if target.0 >= id.0 => return refuse("it links to a later entry"),
            Kind::File { size, extents, .. } => {
                let mut end = 0;
                for extent in extents {
                    let over = extent.file_offset.checked_add(extent.len);
                    if extent.file_offset < end || over.is_none_or(|over| over > *size) {
                        return refuse("its extents overlap or exceed its size");
                    }
                    end = extent.file_offset + extent.len;
                    self.bytes = self.bytes.saturating_add(extent.len);
                }
                if i64::try_from(*size).is_err() {
                    return refuse("its size is beyond what any file can have");
                }
                if self.bytes > self.max_bytes {
                    return Err(Error::TooLarge { bytes: self.bytes, max: self.max_bytes });
                }
            }
            _ => {}
        }
        let is_folder = entry.kind == Kind::Directory;
        if path.is_empty() && !is_folder {
            return refuse("it takes the place of the target folder");
        }
        match self.seen.entry(key(path)) {
            Slot::Vacant(slot) => {
                slot.insert(if is_folder { Seen::Folder } else { Seen::Other });
            }
            Slot::Occupied(mut slot) if *slot.get() == Seen::Implied && is_folder => {
                slot.insert(Seen::Folder);
                return Ok(());
            }
            Slot::Occupied(slot) if *slot.get() == Seen::Implied => {
                return refuse("other entries lie below it");
            }
            // Folders that are different come together where leading components are taken off.
            Slot::Occupied(slot)
                if *slot.get() == Seen::Folder && is_folder && path.len() < entry.path.len() =>
            {
                return Ok(());
            }
            Slot::Occupied(_) => return refuse("its path occurs twice"),
        }
        let mut above = path;
        while !above.is_empty() {
            above = split(above).0;
            match self.seen.entry(key(above)) {
                Slot::Vacant(slot) => {
                    slot.insert(Seen::Implied);
                }
                Slot::Occupied(slot) if *slot.get() == Seen::Other => {
                    return refuse("it lies below something that is no folder");
                }
                // Everything above that is known too.
                Slot::Occupied(_) => break,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::entry::{Extent, Timestamp};

    fn entry(path: &str, kind: Kind) -> Entry {
        Entry {
            path: path.into(),
            kind,
            mode: 0o644,
            uid: 0,
            gid: 0,
            mtime: Timestamp::default(),
            xattrs: Vec::new(),
        }
    }

    fn admit(list: &[(&str, Kind)]) -> Result<()> {
        let mut checker = Checker::new(false, 1000);
        (0..).zip(list).try_for_each(|(id, (path, kind))| {
            checker.admit(EntryId(id), &entry(path, kind.clone()), path.as_bytes())
        })
    }

    fn file() -> Kind {
        Kind::File { size: 0, extents: Vec::new(), hash: [0; 16] }
    }

    #[test]
    fn a_plain_tree_passes_in_any_order() {
        use Kind::Directory as Dir;
        admit(&[
            ("", Dir),
            ("a", Dir),
            ("a/b", Dir),
            ("a/b/c", file()),
            ("z", Kind::Symlink { target: b"/etc".into() }),
        ])
        .unwrap();
        admit(&[("a/b/c", file()), ("a/b", Dir), ("a", Dir), ("x/y", file()), ("", Dir)]).unwrap();
    }

    #[test]
    fn contradictions_are_unsafe() {
        let link = || Kind::Symlink { target: b"/tmp".into() };
        for list in [
            vec![("a", file()), ("a", file())],
            vec![("a", file()), ("a/b", file())],
            vec![("a/b", file()), ("a", file())],
            vec![("a", link()), ("a/b/c", file())],
            vec![("a/b/c", file()), ("a", link())],
            vec![("", link())],
            vec![("../a", file())],
            vec![("a", Kind::Hardlink { target: EntryId(0) })],
            vec![("a", Kind::Symlink { target: Vec::new() })],
            vec![("a", Kind::CharDevice { major: 1, minor: 3 })],
            vec![("a", Kind::File { size: u64::MAX, extents: Vec::new(), hash: [0; 16] })],
            vec![(
                "a",
                Kind::File {
                    size: 4,
                    extents: vec![Extent { file_offset: 2, raw_offset: 0, len: 3 }],
                    hash: [0; 16],
                },
            )],
            vec![(
                "a",
                Kind::File {
                    size: 4,
                    extents: vec![Extent { file_offset: u64::MAX, raw_offset: 0, len: 2 }],
                    hash: [0; 16],
                },
            )],
        ] {
            let refused = admit(&list);
            assert!(matches!(refused, Err(Error::UnsafeEntry { .. } | Error::Device { .. })), "{list:?}");
        }
    }

    #[test]
    fn extents_that_fan_out_hit_the_limit() {
        let big = || Kind::File {
            size: 600,
            extents: vec![Extent { file_offset: 0, raw_offset: 0, len: 600 }],
            hash: [0; 16],
        };
        admit(&[("a", big())]).unwrap();
        assert!(matches!(admit(&[("a", big()), ("b", big())]), Err(Error::TooLarge { .. })));
    }
}
