//! Many files in one archive: writing, reading at random and in order, checking, salvage.
//!
//! Contents of all files form one raw stream that is cut into chunks; entries point into it
//! (spec/format.md).

pub mod byte_size;
pub mod check;
pub mod entry;
pub mod extract;
pub mod gitignore;
pub mod merge;
pub mod observer;
pub mod os;
pub mod pack;
pub mod path;
pub mod path_set;
pub mod read;
pub mod read_at;
pub mod remote;
pub mod salvage;
pub mod selection;
pub mod tar;
pub mod write;

pub use observer::{Observer, Warning};
pub use read::archive::{Archive, ChunkInfo};
pub use read::chunk_cache::{ChunkCache, NoCache, RecentChunks};
pub use read::options::OpenOptions;
pub use read::stream::{Event, StreamReader};
pub use write::content::{Added, Content, ContentWarning};
pub use write::options::{Stats, WriterOptions};
pub use write::references::{Earlier, References};
pub use write::similar::Similar;
pub use write::writer::Writer;

pub use crate::wire::entry::{ChunkId, ContentHash, Entry, EntryId, Extent, Kind, Timestamp};
