//! Whether a file that is read from its start to its end has the content that was packed.

use super::archive::Archive;
use crate::wire::entry::{ContentHash, EntryId, Extent, Kind, content_hash};

/// Hashes the data of a file, which lie between its holes, as its bytes come by.
pub struct ContentCheck<'a> {
    size: u64,
    extents: &'a [Extent],
    hash: &'a ContentHash,
    hasher: blake3::Hasher,
    /// Where the next byte lies.
    at: u64,
}

impl ContentCheck<'_> {
    /// The next bytes of the file, holes included.
    pub fn feed(&mut self, bytes: &[u8]) {
        let (start, end) = (self.at, self.at.saturating_add(bytes.len() as u64));
        for extent in super::pieces::extents_from(self.extents, start) {
            if extent.file_offset >= end {
                break;
            }
            let from = extent.file_offset.max(start);
            let to = extent.file_offset.saturating_add(extent.len).min(end);
            if let Some(part) = bytes.get((from - start) as usize..(to.max(from) - start) as usize) {
                self.hasher.update(part);
            }
        }
        self.at = end;
    }

    /// Whether the content is right, if all of it has come.
    pub fn is_right(&self) -> Option<bool> {
        let found = || content_hash(self.hasher.finalize().as_bytes(), self.hasher.count());
        (self.at == self.size).then(|| found() == *self.hash)
    }
}

impl Archive {
    /// The check of a file's content; follows hardlinks. `None` if the entry is no file.
    pub fn content_check(&self, id: EntryId) -> Option<ContentCheck<'_>> {
        let mut kind = &self.entry(id)?.kind;
        if let Kind::Hardlink { target } = kind {
            kind = &self.entry(*target)?.kind;
        }
        let Kind::File { size, extents, hash } = kind else { return None };
        Some(ContentCheck { size: *size, extents, hash, hasher: blake3::Hasher::new(), at: 0 })
    }
}
