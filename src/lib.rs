//! Archives with the size of a strong solid compressor, readable at random.
//!
//! `pack` makes an archive of a directory, `open` and `Archive::read_range` read any part of any file
//! in it without decoding the rest, `unpack` gives all of it back:
//!
//! ```
//! # let dir = std::env::temp_dir().join(format!("s3a-doc-{}", std::process::id()));
//! # std::fs::create_dir_all(dir.join("docs"))?;
//! # std::fs::write(dir.join("docs/guide.md"), "How to read an archive at random.".repeat(99))?;
//! # let (docs, file, copy) = (dir.join("docs"), dir.join("docs.s3a"), dir.join("copy"));
//! s3a::pack(&docs, &file)?;
//! let archive = s3a::open(&file)?;
//! let bytes = archive.read_range("guide.md", 4..11)?;
//! assert_eq!(bytes, b"to read");
//! s3a::unpack(&file, &copy)?;
//! # std::fs::remove_dir_all(dir)?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Three depths: the calls above; `Writer`, `Archive` and `StreamReader` with options; and the hidden
//! modules, which serve the command and the tests and promise nothing.
//!
//! # Features
//! - `bundled-models`: the default model and a fast one inside the program, 11 MB. Without, archives that
//!   need a model need its file, or carry it.
//! - `mount`: the FUSE file system. `train`: `s3a train`, and the compressors that choose learned sequences.
//!   `gpu`: decoding on an NVIDIA GPU where one is found at run time. `cli`: the command.
//! - `remote`: archives at URLs. `serve`: an archive as an HTTP server.
#![deny(unsafe_code)]
#![warn(missing_docs)]

#[doc(hidden)]
pub mod archive;
#[doc(hidden)]
#[cfg(feature = "cli")]
pub mod cli;
#[doc(hidden)]
pub mod codec;
#[doc(hidden)]
pub mod coder;
#[doc(hidden)]
pub mod error;
#[allow(unsafe_code)]
#[doc(hidden)]
pub mod kernels;
#[doc(hidden)]
pub mod model;
#[cfg(feature = "mount")]
#[doc(hidden)]
pub mod mount;
#[cfg(feature = "serve")]
#[doc(hidden)]
pub mod serve;
#[doc(hidden)]
pub mod setup;
#[cfg(feature = "train")]
#[doc(hidden)]
pub mod train;
#[doc(hidden)]
pub mod wire;

pub use archive::extract::plan::ExtractSummary;
pub use archive::observer::{Observer, Remedy, Warning};
pub use archive::read::archive::{Archive, ChunkInfo};
pub use archive::read::chunk_cache::{ChunkCache, NoCache, RecentChunks};
pub use archive::read::options::OpenOptions;
pub use archive::read::stream::{Event, StreamReader};
pub use archive::read_at::ReadAt;
#[cfg(feature = "remote")]
pub use archive::remote::{file::RemoteFile, options::RemoteOptions};
pub use archive::write::content::{Added, Content, ContentWarning};
pub use archive::write::options::{CodecStats, Stats, WriterOptions};
pub use archive::write::writer::Writer;
pub use codec::model::Models;
pub use error::{Error, Result};
pub use setup::calls::{models_for, open, pack, pack_with, unpack};
pub use wire::entry::{ChunkId, ContentHash, Entry, EntryId, Extent, Kind, Timestamp};
pub use wire::models::ModelRef;

/// The Rust of the README compiles.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
