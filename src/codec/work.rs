//! How much decoding is asked for; by this figure work is divided between the CPU and a device.

/// Chunks that are decoded together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// How many chunks there are.
    pub chunks: usize,
    /// Raw bytes of all chunks.
    pub bytes: u64,
    /// Raw bytes of the longest chunk.
    pub longest: u64,
    /// Threads of the CPU that would divide the chunks among them.
    pub threads: usize,
}

impl Work {
    /// `chunks` chunks of `len` bytes each.
    pub fn of(chunks: usize, len: u64, threads: usize) -> Self {
        Self {
            chunks,
            bytes: len.saturating_mul(chunks as u64),
            longest: if chunks > 0 { len } else { 0 },
            threads,
        }
    }

    /// Adds a chunk of `len` bytes.
    pub fn add(&mut self, len: u64) {
        self.chunks += 1;
        self.bytes = self.bytes.saturating_add(len);
        self.longest = self.longest.max(len);
    }
}

/// Chunks that a thread decodes in lockstep: two register tiles of six rows, whose caches of keys
/// fit into the second-level cache together with the default model's weights. More chunks are no
/// faster (docs/research/kernels.md).
pub const LANES: usize = 12;
