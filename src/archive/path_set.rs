//! Finds paths that contradict others, when entries of several origins come together.
//!
//! Paths are remembered by hash, so that a million of them cost little.

use std::collections::HashMap;

use super::path::split;

/// What a path is known to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    Folder,
    /// Something lies below it, itself it was not seen.
    Implied,
    Other,
}

/// How an entry stands to those that were there before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Clash {
    /// Nothing is in its way.
    None,
    /// It is a folder that is there already.
    SameFolder,
    /// Its path is taken, or lies below what is no folder, or has something below it.
    Taken,
}

/// The paths that are there.
#[derive(Debug, Default)]
pub(crate) struct Paths(HashMap<[u8; 16], Seen>);

impl Paths {
    pub fn clash(&self, path: &[u8], is_folder: bool) -> Clash {
        match self.0.get(&key(path)) {
            Some(Seen::Folder) if is_folder => return Clash::SameFolder,
            Some(Seen::Implied) if is_folder => return Clash::None,
            Some(_) => return Clash::Taken,
            None => {}
        }
        let mut above = path;
        while !above.is_empty() {
            above = split(above).0;
            match self.0.get(&key(above)) {
                Some(Seen::Other) => return Clash::Taken,
                // Everything above that is known to be a folder too.
                Some(Seen::Folder | Seen::Implied) => break,
                None => {}
            }
        }
        Clash::None
    }

    pub fn take(&mut self, path: &[u8], is_folder: bool) {
        self.0.insert(key(path), if is_folder { Seen::Folder } else { Seen::Other });
        let mut above = path;
        while !above.is_empty() {
            above = split(above).0;
            let known = self.0.len();
            self.0.entry(key(above)).or_insert(Seen::Implied);
            if self.0.len() == known {
                break;
            }
        }
    }
}

/// The first half of a path's BLAKE3 hash, by which paths are remembered.
pub(crate) fn key(path: &[u8]) -> [u8; 16] {
    let mut key = [0; 16];
    key.copy_from_slice(&blake3::hash(path).as_bytes()[..16]);
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_contradicts_is_taken_and_folders_come_together() {
        let mut paths = Paths::default();
        assert_eq!(paths.clash(b"", true), Clash::None);
        paths.take(b"", true);
        paths.take(b"a", true);
        paths.take(b"a/file", false);
        paths.take(b"implied/deep/file", false);
        for (path, is_folder, clash) in [
            (&b""[..], true, Clash::SameFolder),
            (b"a", true, Clash::SameFolder),
            (b"a", false, Clash::Taken),
            (b"a/file", false, Clash::Taken),
            (b"a/file", true, Clash::Taken),
            (b"a/file/below/it", false, Clash::Taken),
            (b"a/other", false, Clash::None),
            (b"implied", true, Clash::None),
            (b"implied/deep", false, Clash::Taken),
            (b"implied/deep/other", false, Clash::None),
            (b"new/folder/file", false, Clash::None),
        ] {
            assert_eq!(paths.clash(path, is_folder), clash, "{:?}", String::from_utf8_lossy(path));
        }
    }
}
