//! Checks an archive, naming the files and ranges that are hit.

use std::ops::Range;

use super::{Archive, ChunkId, EntryId, Observer};
use crate::error::{Error, Result};

/// One place that is damaged.
#[derive(Debug)]
pub struct Damage {
    /// Bytes of the archive.
    pub offset: u64,
    pub len: u64,
    pub chunk: Option<ChunkId>,
    pub error: Error,
}

/// A file that cannot be read in full.
#[derive(Debug, PartialEq, Eq)]
pub struct HitFile {
    pub id: EntryId,
    /// Bytes of the file; all of it where only the content hash differs.
    pub ranges: Vec<Range<u64>>,
}

#[derive(Debug, Default)]
pub struct Report {
    pub damages: Vec<Damage>,
    pub files: Vec<HitFile>,
    pub chunks: u64,
    pub chunks_decoded: u64,
    pub files_hashed: u64,
}

impl Report {
    pub fn is_clean(&self) -> bool { self.damages.is_empty() && self.files.is_empty() }
}

/// Checks structure and the CRC of every byte; with `full`, decodes all chunks and hashes all files.
/// `Err` only where the work itself fails (interrupted, I/O, a model missing).
/// `Archive::open` fails where header, index or metadata are damaged.
pub fn verify(archive: &Archive, full: bool, observer: &dyn Observer) -> Result<Report> { let _ = (archive, full, observer); todo!() }
