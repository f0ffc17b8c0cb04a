//! Bytes of an archive that lie elsewhere than in a file.

use std::ops::Range;

use crate::error::Result;

/// Bytes that any number of threads read at any position: an object at a URL, memory, an object of another language.
pub trait ReadAt: Send + Sync + 'static {
    /// How many there are. The number and the bytes stay the same as long as the value lives.
    fn size(&self) -> u64;

    /// Fills `buf` with the bytes from `offset` on, all of which lie below `size`.
    ///
    /// # Errors
    /// Whatever keeps the bytes from being read. Bytes are never mixed from two versions of what is read.
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<()>;

    /// Tells which bytes will be read soon, so that they can be fetched together and beside other work.
    fn expect(&self, ranges: &[Range<u64>]) {
        let _ = ranges;
    }
}
