//! zstd frames as archives hold them (spec/format.md, section 2.3): one frame of RFC 8878 without
//! its magic number, its first byte (Frame_Header_Descriptor) zero, so without content size,
//! checksum and dictionary id; a window of at most 8 MiB.

use std::io::Read;

use zstd::zstd_safe::{CCtx, CParameter, DCtx, find_frame_compressed_size};

use super::limits::ZSTD_WINDOW_LOG;
use crate::error::{Error, Result};

const MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
const LEVEL: i32 = 19;

/// Packs `plain`, which may match into `prefix` as if that stood before it.
pub fn compress(plain: &[u8], prefix: &[u8]) -> Result<Vec<u8>> {
    let failed = |_| Error::Internal("zstd could not compress");
    let mut context = CCtx::create();
    for parameter in [
        CParameter::CompressionLevel(LEVEL),
        CParameter::ContentSizeFlag(false),
        CParameter::ChecksumFlag(false),
        CParameter::DictIdFlag(false),
    ] {
        context.set_parameter(parameter).map_err(failed)?;
    }
    // Left alone, the window is that of the plain bytes, and cannot reach into the prefix.
    let reach = (plain.len() + prefix.len()).next_power_of_two().ilog2();
    if !prefix.is_empty() || reach > ZSTD_WINDOW_LOG {
        context.set_parameter(CParameter::WindowLog(reach.clamp(10, ZSTD_WINDOW_LOG))).map_err(failed)?;
    }
    if !prefix.is_empty() {
        context.ref_prefix(prefix).map_err(failed)?;
    }
    let mut out = Vec::with_capacity(zstd::zstd_safe::compress_bound(plain.len()));
    context.compress2(&mut out, plain).map_err(failed)?;
    if out.get(..5) != Some(&[0x28, 0xb5, 0x2f, 0xfd, 0]) {
        return Err(Error::Internal("zstd wrote another frame header than expected"));
    }
    out.drain(..MAGIC.len());
    Ok(out)
}

/// Unpacks one frame of exactly `len` plain bytes, all at once; `None` where it is damaged.
/// `len` must be within the chunk limit, for it is allocated.
pub fn decompress(packed: &[u8], prefix: &[u8], len: usize) -> Option<Vec<u8>> {
    let frame = with_magic(packed)?;
    let mut context = DCtx::create();
    if !prefix.is_empty() {
        context.ref_prefix(prefix).ok()?;
    }
    let mut out = Vec::with_capacity(len);
    context.decompress(&mut out, &frame).ok()?;
    (out.len() == len).then_some(out)
}

/// Unpacks one frame of exactly `len` plain bytes, however large, growing as bytes come out.
pub fn decompress_growing(packed: &[u8], len: usize) -> Option<Vec<u8>> {
    let frame = with_magic(packed)?;
    let mut decoder = zstd::stream::read::Decoder::with_buffer(&frame[..]).ok()?.single_frame();
    decoder.window_log_max(ZSTD_WINDOW_LOG).ok()?;
    let mut out = Vec::new();
    decoder.take(len as u64 + 1).read_to_end(&mut out).ok()?;
    (out.len() == len).then_some(out)
}

/// The frame as libzstd wants it, if `packed` is exactly one frame with the header prescribed.
fn with_magic(packed: &[u8]) -> Option<Vec<u8>> {
    let &[0, window, ..] = packed else { return None };
    // Window_Descriptor: 2^(10 + its upper five bits), and so many eighths more as the lower three.
    let eighths = (8 + u64::from(window & 7)) << (7 + (window >> 3));
    if eighths > 1 << ZSTD_WINDOW_LOG {
        return None;
    }
    let frame = [&MAGIC, packed].concat();
    (find_frame_compressed_size(&frame) == Ok(frame.len())).then_some(frame)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_of_unpacking_agree() {
        let plain: Vec<u8> = (0..50_000u32).map(|i| (i / 7 % 251) as u8).collect();
        let packed = compress(&plain, &[]).unwrap();
        assert!(packed.len() < plain.len());
        assert_eq!(decompress(&packed, &[], plain.len()).unwrap(), plain);
        assert_eq!(decompress_growing(&packed, plain.len()).unwrap(), plain);
    }

    #[test]
    fn a_prefix_serves_as_history() {
        for len in [500, 4000, 4096, 70_000, 1 << 20] {
            let mut prefix = vec![0; len];
            blake3::Hasher::new().finalize_xof().fill(&mut prefix);
            // Not the same memory: libzstd takes a prefix away where the input overlaps it.
            let packed = compress(&prefix.clone(), &prefix).unwrap();
            assert!(packed.len() < 200, "{len}: {}", packed.len());
            assert_eq!(decompress(&packed, &prefix, prefix.len()).unwrap(), prefix);
        }
    }

    #[test]
    fn large_windows_are_refused() {
        let mut packed = compress(b"some text some text some text", &[]).unwrap();
        packed[1] = 13 << 3;
        assert!(decompress(&packed, &[], 29).is_some());
        packed[1] += 1;
        assert_eq!(decompress(&packed, &[], 29), None);
    }

    #[test]
    fn wrong_lengths_and_appended_bytes_are_refused() {
        let packed = compress(b"some text some text some text", &[]).unwrap();
        for len in [0, 28, 30] {
            assert_eq!(decompress(&packed, &[], len), None);
            assert_eq!(decompress_growing(&packed, len), None);
        }
        let longer = [&packed[..], &MAGIC, &packed].concat();
        assert_eq!(decompress(&longer, &[], 58), None);
        for cut in 0..packed.len() {
            assert_eq!(decompress(&packed[..cut], &[], 29), None);
            assert_eq!(decompress_growing(&packed[..cut], 29), None);
        }
    }
}
