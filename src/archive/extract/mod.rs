//! From an archive to a tree: to a directory, from a file or a stream, or to a tar stream.

pub mod admission;
pub mod assembler;
pub mod existing;
pub mod from_file;
pub mod from_stream;
pub mod metadata;
pub mod plan;
pub mod target;
pub mod to_tar;
