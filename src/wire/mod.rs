//! Bytes to structs and back, one file per section of spec/format.md.
//!
//! Nothing here does input or output, and nothing allocates by a count that it read.

pub mod chunk;
pub mod entry;
pub mod header;
pub mod models;
