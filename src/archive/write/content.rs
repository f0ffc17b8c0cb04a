//! The content of one file on its way into the raw stream: exactly as long as declared, hashed.

use std::io::{self, ErrorKind, Read};

use crate::wire::entry::EntryId;

const PIECE: usize = 256 << 10;

/// Why filling stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// The buffer is as long as it may be, and more is to come.
    Full,
    /// The content is there.
    Done,
}

pub(crate) struct Input<'a> {
    data: &'a mut dyn Read,
    left: u64,
    /// What the reader did not give.
    missing: u64,
    failed: Option<io::Error>,
    hasher: blake3::Hasher,
}

impl<'a> Input<'a> {
    pub fn new(data: &'a mut dyn Read, len: u64) -> Self {
        Self { data, left: len, missing: 0, failed: None, hasher: blake3::Hasher::new() }
    }

    /// Appends to `raw` until the content ends or `raw` has `max` bytes.
    pub fn fill(&mut self, raw: &mut Vec<u8>, max: usize) -> Stop {
        while self.left > 0 {
            if raw.len() >= max {
                return Stop::Full;
            }
            let start = raw.len();
            let len = (max - start).min(PIECE).min(usize::try_from(self.left).unwrap_or(PIECE));
            raw.resize(start + len, 0);
            let got = if self.missing > 0 { len } else { self.read(&mut raw[start..]) };
            raw.truncate(start + got);
            self.hasher.update(&raw[start..]);
            self.left -= got as u64;
        }
        Stop::Done
    }

    /// Some of `buf`; all of it, left zero, where the reader has no more.
    fn read(&mut self, buf: &mut [u8]) -> usize {
        loop {
            match self.data.read(buf) {
                Ok(got @ 1..) => return got,
                Err(e) if e.kind() == ErrorKind::Interrupted => continue,
                Ok(0) => {}
                Err(e) => self.failed = Some(e),
            }
            self.missing = self.left;
            buf.fill(0);
            return buf.len();
        }
    }

    /// BLAKE3 of what was filled in, and what was not as declared.
    pub fn finish(self) -> ([u8; 32], Option<ContentWarning>) {
        let digest = *self.hasher.finalize().as_bytes();
        let missing = self.missing;
        let warning = match self.failed {
            Some(source) => Some(ContentWarning::Failed { missing, source }),
            None if missing > 0 => Some(ContentWarning::Shrunk { missing }),
            None => matches!(self.data.read(&mut [0]), Ok(1)).then_some(ContentWarning::Grown),
        };
        (digest, warning)
    }
}

/// Where the bytes of a new entry come from.
pub enum Content<'a> {
    /// Not a file, or an empty one.
    None,
    /// The whole file, `size` bytes.
    Data(&'a mut dyn Read),
    /// A file with holes: the reader yields the bytes of the segments (file_offset, len) in order.
    Sparse { segments: Vec<(u64, u64)>, data: &'a mut dyn Read },
    /// The content of an earlier file entry, known to be equal. (Equal files that begin and end
    /// within one group are found by the writer itself.)
    SameAs(EntryId),
}

/// What became of an added entry.
#[derive(Debug)]
pub struct Added {
    pub id: EntryId,
    /// The content was not as declared; the user should hear of it.
    pub warning: Option<ContentWarning>,
}

#[derive(Debug)]
pub enum ContentWarning {
    /// The reader ended early; zeros stand for the missing bytes.
    Shrunk { missing: u64 },
    /// The reader had more than the declared size; the rest was left out.
    Grown,
    /// The reader failed; zeros stand for the missing bytes.
    Failed { missing: u64, source: std::io::Error },
}
