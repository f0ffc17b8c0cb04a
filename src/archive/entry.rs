//! What an archive knows of one file system object; defined with its bytes in `wire::entry`.

pub use crate::wire::entry::{ChunkId, ContentHash, Entry, EntryId, Extent, Kind, Timestamp};
