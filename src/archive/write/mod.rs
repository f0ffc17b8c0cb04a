//! Writing an archive: contents to chunks, chunks to groups, groups to records.

pub mod append;
pub mod blocks;
pub mod chunk_encoder;
pub mod content;
pub mod dictionary;
pub mod options;
pub mod record_writer;
pub mod references;
pub mod resume;
pub mod segments;
pub mod similar;
pub mod sketch;
pub mod workers;
pub mod writer;
