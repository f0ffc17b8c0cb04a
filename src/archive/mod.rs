//! Many files in one archive: writing, reading at random and in order, checking, salvage.
//!
//! Contents of all files form one raw stream that is cut into chunks; entries point into it
//! (spec/format.md).

pub mod alike;
mod append;
mod batches;
mod between;
pub mod blocks;
pub mod cache;
mod catalog;
mod check;
mod clash;
mod content;
mod depths;
mod dictionary;
pub mod diff;
mod encode;
pub mod entry;
pub mod events;
pub mod extract;
pub mod extract_stream;
pub mod extract_tar;
mod fetch;
mod file;
mod fill;
mod input;
mod join;
mod layout;
pub mod merge;
pub mod meta;
pub mod order;
pub mod pack;
pub mod pack_tar;
pub mod partial;
pub mod paths;
pub mod reader;
pub mod references;
pub mod rescue;
pub mod resume;
pub mod salvage;
pub mod scan;
pub mod select;
mod source;
pub mod stream;
pub mod tar;
mod target;
pub mod verify;
mod walk;
mod workers;
pub mod writer;
mod writer_options;
mod xattr;

pub use cache::{ChunkCache, NoCache, RecentChunks};
pub use encode::{Earlier, References};
pub use entry::{ChunkId, ContentHash, Entry, EntryId, Extent, Kind, Timestamp};
pub use events::{Observer, Warning};
pub use reader::{Archive, ChunkInfo, OpenOptions};
pub use references::Similar;
pub use stream::{Event, StreamReader};
pub use writer::{Added, Content, ContentWarning, Stats, Writer, WriterOptions};
