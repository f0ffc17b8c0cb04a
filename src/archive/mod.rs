//! Many files in one archive: writing, reading at random and in order, checking, salvage.
//!
//! Contents of all files form one raw stream that is cut into chunks; entries point into it
//! (spec/format.md).

pub mod cache;
pub mod entry;
pub mod events;
pub mod paths;
pub mod reader;
pub mod salvage;
pub mod scan;
pub mod select;
pub mod stream;
pub mod verify;
mod walk;
pub mod writer;
mod xattr;

pub use cache::{ChunkCache, NoCache, RecentChunks};
pub use entry::{ChunkId, ContentHash, Entry, EntryId, Extent, Kind, Timestamp};
pub use events::{Observer, Warning};
pub use reader::{Archive, ChunkInfo, OpenOptions};
pub use stream::{Event, StreamReader};
pub use writer::{Added, Content, ContentWarning, Stats, Writer, WriterOptions};
