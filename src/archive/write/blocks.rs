//! Which stretches of a group are coded as large blocks, because no network pays there.
//!
//! The price of a cold read is time, not bytes: while a network decodes a chunk of 8 KiB, LZMA decodes
//! half a megabyte. So a group is cut where files of another kind begin, and each stretch, in parts of at
//! most a block, is coded as a block of LZMA2 unless a sample of it, coded in chunks, takes fewer bytes. What
//! cannot be packed is stored in blocks without a trial. All depends on the bytes and the options alone.

use std::ops::Range;
use std::sync::Arc;

use crate::archive::path::extension;
use crate::codec;
use crate::codec::job::{EncodeJob, Encoded};
use crate::codec::lz;
use crate::codec::model::Models;
use crate::codec::zstd_chunk::Zstd;
use crate::wire::chunk::Codec;
use crate::wire::zstd_raw;

/// Raw bytes that LZMA decodes in a millisecond on the nominal machine, from which the longest block of a
/// level follows.
pub const LZ_BYTES_PER_MS: u32 = 52 << 10;
/// Stretches of one kind of files that are shorter belong to the stretch before.
const STRETCH: usize = 64 << 10;
/// Shorter parts are not worth a block.
const LEAST: usize = 16 << 10;
/// Files from this size on are a stretch of their own.
const LONG_FILE: usize = 256 << 10;
/// Blocks begin at multiples of this within their stretch, so that records keep their places.
const ALIGN: usize = 4 << 10;
/// Chunks of a part that are coded to see what a network makes of it: one in eight, but at least so many.
const PROBES: usize = 8;
/// By how many tenths a sample has to be off the block for it to decide; in between, all chunks are coded.
const CLEAR: usize = 13;
/// Bytes that a chunk's head, checks and place in the table take, beside its payload.
const CHUNK_OVERHEAD: usize = 12;

/// A chunk of a group before it is coded: one of the usual size, or a block that was coded already.
pub(crate) struct Piece {
    pub raw: Arc<[u8]>,
    pub block: Option<Encoded>,
}

/// What parts of a group are tried with.
pub(crate) struct Trial<'a> {
    pub models: &'a Models,
    pub zstd: Zstd<'a>,
    pub chunk_size: usize,
    /// Whether each block is decoded again.
    pub check: bool,
}

/// The kind that a file's name tells.
pub(crate) fn kind_of(path: &[u8]) -> &[u8] {
    extension(path.rsplit(|&byte| byte == b'/').next().unwrap_or_default())
}

/// Parts of a group of `len` bytes, given where its files begin and of what kind they are.
pub(crate) fn parts(len: usize, files: &[(usize, &[u8])], block_len: usize) -> Vec<Range<usize>> {
    let mut borders = vec![0];
    let mut kind: Option<&[u8]> = None;
    for (i, &(start, of_file)) in files.iter().enumerate() {
        let end = files.get(i + 1).map_or(len, |next| next.0);
        let long = end.saturating_sub(start) >= LONG_FILE;
        let begins = long || kind != Some(of_file);
        if begins && start >= borders.last().map_or(0, |last| last + STRETCH) && len - start >= STRETCH {
            borders.push(start);
        }
        // What follows a long file is no part of it.
        kind = (!long).then_some(of_file);
    }
    borders.push(len);
    let mut parts = Vec::new();
    for border in borders.windows(2) {
        let (mut start, end) = (border[0], border[1]);
        let count = (end - start).div_ceil(block_len).max(1);
        let each = (end - start).div_ceil(count).next_multiple_of(ALIGN).min(block_len);
        while start < end {
            parts.push(start..end.min(start + each));
            start += each;
        }
    }
    parts
}

impl Trial<'_> {
    /// A part as a block, if that is what it is to be. `grid` are the chunks of the group from `from` on if it
    /// has no blocks; `history` gives what a chunk of the grid would look back on.
    pub fn block(
        &self,
        raw: &[u8],
        from: usize,
        grid: &[Arc<[u8]>],
        history: &dyn Fn(usize) -> Vec<Arc<[u8]>>,
    ) -> Option<Encoded> {
        if raw.len() < LEAST {
            return None;
        }
        if is_noise(raw) {
            return Some(Encoded {
                codec: Codec::Stored,
                model: 0,
                payload: raw.to_vec(),
                used_history: false,
            });
        }
        let block = lz::encode(raw)?;
        let part = from..from + raw.len();
        let sample = self.in_chunks(part.clone(), PROBES, grid, history)?;
        let (less, more) = (sample.min(block.payload.len()), sample.max(block.payload.len()));
        let clear = more * 10 > less * CLEAR;
        let in_chunks = if clear { sample } else { self.in_chunks(part, usize::MAX, grid, history)? };
        let right = || !self.check || lz::unpack(&block.payload, raw.len()).as_deref() == Some(raw);
        (block.payload.len() < in_chunks && right()).then_some(block)
    }

    /// About how many bytes a part takes in chunks, by one in eight of them, but at least `least`; nothing if
    /// it has no whole one.
    fn in_chunks(
        &self,
        part: Range<usize>,
        least: usize,
        grid: &[Arc<[u8]>],
        history: &dyn Fn(usize) -> Vec<Arc<[u8]>>,
    ) -> Option<usize> {
        let (first, last) = (part.start.div_ceil(self.chunk_size), part.end / self.chunk_size);
        let count = last.saturating_sub(first);
        if count == 0 {
            return None;
        }
        let step = (count / (count / 8).max(least)).max(1);
        let probes = (first + step / 2..last).step_by(step);
        let jobs: Vec<EncodeJob<'_>> =
            probes.map(|i| EncodeJob { raw: &grid[i], history: history(i) }).collect();
        let raw: usize = jobs.iter().map(|job| job.raw.len()).sum();
        let coded = codec::encode(self.models, self.zstd, &jobs);
        let coded: usize = coded.iter().map(|coded| coded.payload.len() + CHUNK_OVERHEAD).sum();
        Some((coded as u64 * part.len() as u64 / raw.max(1) as u64) as usize)
    }
}

/// Whether bytes are most likely compressed already: zstd gains nothing in any of a few places, nor in all.
fn is_noise(raw: &[u8]) -> bool {
    const PLACE: usize = 16 << 10;
    let packs = |place: &[u8]| {
        let packed = zstd_raw::Packer::new(1, None).and_then(|mut packer| packer.pack(place));
        packed.is_ok_and(|packed| packed.len() * 64 < place.len() * 63)
    };
    !raw.chunks(PLACE).step_by(raw.len().div_ceil(8 * PLACE).max(1)).any(packs) && !packs(raw)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_follow_the_kinds_of_files() {
        const K: usize = 1 << 10;
        assert_eq!((kind_of(b"a/b.rs"), kind_of(b"a.d/.hidden")), (&b"rs"[..], &b""[..]));
        let files: [(usize, &[u8]); 5] =
            [(0, b"rs"), (100 * K, b"rs"), (200 * K, b"c"), (210 * K, b"py"), (300 * K, b"bin")];
        // The C file is short and stays with what comes before; the last is long.
        let parts_of = |files: &[(usize, &[u8])], block| parts(900 * K, files, block * K);
        assert_eq!(parts_of(&files, 1024), [0..200 * K, 200 * K..300 * K, 300 * K..900 * K]);
        assert_eq!(parts_of(&files[4..], 1024), [0..300 * K, 300 * K..900 * K]);
        assert_eq!(
            parts_of(&files, 256),
            [0..200 * K, 200 * K..300 * K, 300 * K..500 * K, 500 * K..700 * K, 700 * K..900 * K]
        );
        assert_eq!(parts_of(&[], 1024), vec![std::ops::Range { start: 0, end: 900 * K }]);
        assert_eq!(parts(5, &[], 1024).len(), 1);
    }

    #[test]
    fn noise_is_known_without_a_model() {
        let noise: Vec<u8> = (0..2000u32).flat_map(|i| *blake3::hash(&i.to_le_bytes()).as_bytes()).collect();
        assert!(is_noise(&noise) && !is_noise(&[&noise[..], &[0; 20_000]].concat()));
        // The places that are looked at are noise, what lies between is not.
        let between: Vec<u8> = (0..8).flat_map(|_| [&noise[..16 << 10], &[0; 112 << 10]].concat()).collect();
        assert!(!is_noise(&between));
    }
}
