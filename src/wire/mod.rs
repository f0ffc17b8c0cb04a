//! Bytes to structs and back, one file per section of spec/format.md.
//!
//! Nothing here does input or output, and nothing allocates by a count that it read.

pub mod chunk;
pub mod cursor;
pub mod entries;
pub mod entry;
pub mod files;
pub mod frame;
pub mod group;
pub mod header;
pub mod index;
pub mod limits;
pub mod models;
pub mod zstd_raw;
