//! A damaged range of an archive file.

use crate::error::Error;
use crate::wire::entry::ChunkId;

/// One place that is damaged.
#[derive(Debug)]
pub struct Damage {
    /// Bytes of the archive.
    pub offset: u64,
    pub len: u64,
    pub chunk: Option<ChunkId>,
    pub error: Error,
}
