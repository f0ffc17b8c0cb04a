//! What a writer is given, and what it tells.

use std::sync::Arc;

use super::references::References;
use crate::archive::observer::Observer;
use crate::codec::model::Models;
use crate::wire::{limits, zstd_raw};

/// Raw bytes after which a group is written.
const GROUP_LEN: u32 = 16 << 20;

/// The least length of the longest block.
const BLOCK_MIN: u32 = 64 << 10;

/// How an archive is written. The bytes depend on everything here but `threads` and `observer`.
#[derive(Clone)]
pub struct WriterOptions {
    /// Raw bytes of a chunk, 4 KiB to 1 MiB.
    pub chunk_size: u32,
    /// Raw bytes of a group, at least a chunk and at most 64 MiB: what is held while packing, and
    /// how far a reader of a stream goes between names and data.
    pub group_len: u32,
    /// Worker threads; 0 takes all.
    pub threads: usize,
    /// Models by number. A slot is empty where a model is carried that no chunk names, as one of `bases`.
    pub models: Models,
    /// Model files to carry in the archive, by model number: the bytes of each file.
    pub embed: Vec<(u8, Arc<[u8]>)>,
    /// Number and name of models that are carried because another is a difference to them.
    pub bases: Vec<(u8, String)>,
    /// Decode each neural chunk again before it is accepted.
    pub check: bool,
    /// Raw bytes of the longest block, at most 1 MiB, for stretches in which chunks take more bytes; 0 for none.
    pub block_len: u32,
    /// Chooses earlier chunks as history; without, chunks stand alone.
    pub references: Option<Arc<dyn References>>,
    /// zstd's level, 1 to 22, for chunks that no model codes shorter.
    pub zstd_level: i32,
    /// Most bytes of the dictionary that each group is given where it pays, up to 1 MiB; 0 for none.
    pub dictionary: u32,
    pub observer: Arc<dyn Observer + Send + Sync>,
}

impl WriterOptions {
    /// The bounds that the values must keep.
    pub(crate) fn check(&self) -> Result<(), &'static str> {
        if !(1..=22).contains(&self.zstd_level) {
            return Err("zstd's level is not within 1 and 22");
        }
        if self.block_len > 0 && !(BLOCK_MIN..=limits::CHUNK_SIZE_MAX).contains(&self.block_len) {
            return Err("the longest block is not within 64 KiB and 1 MiB");
        }
        if self.dictionary > limits::DICTIONARY_LEN {
            return Err("a dictionary has more than 1 MiB");
        }
        Ok(())
    }
}

impl Default for WriterOptions {
    fn default() -> Self {
        Self {
            chunk_size: 16 << 10,
            group_len: GROUP_LEN,
            threads: 0,
            models: Models::none(),
            embed: Vec::new(),
            bases: Vec::new(),
            check: true,
            block_len: 0,
            references: None,
            zstd_level: zstd_raw::LEVEL,
            dictionary: 0,
            observer: Arc::new(()),
        }
    }
}

/// Figures of a finished archive.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Bytes of the archive.
    pub archive_len: u64,
    pub entries: u64,
    pub chunks: u64,
    pub groups: u64,
    /// Sum of the sizes of all files.
    pub file_bytes: u64,
    /// Raw bytes after equal files were merged.
    pub raw_bytes: u64,
    /// By codec (stored, zstd, neural, LZMA2): chunks, raw bytes, payload bytes.
    pub codecs: [CodecStats; 4],
    /// Chunk heads, checks, tables, index.
    pub chunk_overhead: u64,
    /// Bytes of the DICTIONARY frames.
    pub dictionaries: u64,
    /// Bytes of the ENTRIES frames.
    pub metadata: u64,
    /// Neural chunks that did not decode to what was packed and were coded otherwise.
    pub rejected: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CodecStats {
    pub chunks: u64,
    pub raw_bytes: u64,
    pub payload_bytes: u64,
}
