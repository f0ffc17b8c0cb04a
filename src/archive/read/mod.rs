//! Reading an archive: its records, its index, chunks at random and in order.

pub mod ahead;
pub mod archive;
pub mod budget;
pub mod catalog;
pub mod chunk_cache;
pub mod content;
pub mod content_check;
pub mod damage;
pub mod decode;
pub mod dictionary;
pub mod file;
pub mod layout;
pub mod options;
pub mod peek;
pub mod pending;
pub mod pieces;
pub mod pipeline;
pub mod record_order;
pub mod records;
pub mod reference_depth;
pub mod stream;
pub mod taken;
