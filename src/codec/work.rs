//! How much decoding is asked for, as devices are told of it.

/// Chunks that are decoded together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    pub chunks: usize,
    /// Plain bytes of all, and of the longest.
    pub bytes: u64,
    pub longest: u64,
    /// Threads of the CPU that would share them.
    pub threads: usize,
}

impl Work {
    /// `chunks` chunks of `len` bytes.
    pub fn of(chunks: usize, len: u64, threads: usize) -> Self {
        Self {
            chunks,
            bytes: len.saturating_mul(chunks as u64),
            longest: if chunks > 0 { len } else { 0 },
            threads,
        }
    }

    /// Adds a chunk.
    pub fn add(&mut self, len: u64) {
        self.chunks += 1;
        self.bytes = self.bytes.saturating_add(len);
        self.longest = self.longest.max(len);
    }
}

/// Chunks decoded in lockstep: two register tiles of six rows, and caches of keys that share the
/// second level with the default model's weights. More are no faster (docs/research/kernels.md).
pub const LANES: usize = 12;
