//! Head of a chunk frame (spec/format.md, section 8).

/// How a chunk's payload is coded (spec/format.md, section "Chunks").
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Codec {
    /// The payload is the raw bytes.
    Stored = 0,
    /// The payload is one zstd frame without magic, checksum and content size.
    Zstd = 1,
    /// The payload is c and the residual under a model (spec/numerics.md).
    Neural = 2,
}

/// How one chunk is coded, and from what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChunkHead {
    pub codec: Codec,
    /// Number of the model within the group's list, for `Codec::Neural`; otherwise 0.
    pub model: u8,
    pub raw_len: u32,
    pub coded_len: u32,
    /// Backward distances, in chunks, of the chunks that serve as history; at most eight.
    pub refs: Vec<u32>,
}
