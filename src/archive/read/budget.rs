//! The memory that an archive's metadata may take.

use super::options::OpenOptions;
use crate::error::{Error, Result};
use crate::wire::entry::{Entry, Extent, Kind};

/// What a reader may have to hold.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Budget {
    entries: u64,
    bytes: u64,
    used: u64,
}

impl Budget {
    /// Bounds given by the user, else derived from how long the archive is: 24 MiB, and 32 bytes
    /// for each byte of the archive.
    pub fn new(options: &OpenOptions, archive_len: u64) -> Self {
        let derived = archive_len.saturating_mul(32).saturating_add(24 << 20);
        Self {
            entries: options.max_entries.unwrap_or(u32::MAX.into()),
            bytes: options.max_metadata.unwrap_or(derived),
            used: 0,
        }
    }

    /// Most bytes that entries may take.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Of a longer archive, of which as much was used.
    pub fn grown(self, options: &OpenOptions, archive_len: u64) -> Self {
        Self { used: self.used, ..Self::new(options, archive_len) }
    }

    /// Counts an entry in, which is `nth`.
    pub fn take(&mut self, nth: u64, entry: &Entry) -> Result<()> {
        let xattrs: usize = entry.xattrs.iter().map(|(name, value)| name.len() + value.len() + 48).sum();
        let extra = match &entry.kind {
            Kind::File { extents, .. } => extents.len() * size_of::<Extent>(),
            Kind::Symlink { target } => target.len(),
            _ => 0,
        };
        self.used += (size_of::<Entry>() + entry.path.len() + extra + xattrs) as u64;
        if nth >= self.entries {
            return Err(Error::Limit { what: "the number of entries", got: nth + 1, max: self.entries });
        }
        if self.used > self.bytes {
            return Err(Error::Limit { what: "the memory for entries", got: self.used, max: self.bytes });
        }
        Ok(())
    }
}
