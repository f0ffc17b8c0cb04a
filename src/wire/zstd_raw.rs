//! zstd frames as archives hold them (spec/format.md, section 2.3): one frame of RFC 8878 without
//! its magic number, its first byte (Frame_Header_Descriptor) zero, so without content size,
//! checksum and dictionary id; a window of at most 8 MiB. Dictionaries have zstd's own form.

use std::cell::RefCell;
use std::io::Read;

use zstd::zstd_safe::{CCtx, CDict, CParameter, DCtx, DDict, find_frame_compressed_size};

use super::limits::{DICTIONARY_LEN, ZSTD_WINDOW_LOG};
use crate::error::{Error, Result};

const MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
const DICTIONARY_MAGIC: [u8; 4] = [0x37, 0xa4, 0x30, 0xec];
/// Plain bytes that are allocated whoever asks for them.
const SHORT: usize = 64 << 10;
/// The most memory of a context that a thread keeps.
const KEPT: usize = 2 << 20;
/// The level for what is small or packed for ever.
pub const LEVEL: i32 = 19;

/// Packs `plain`, which may match into `prefix` as if that stood before it.
pub fn compress(plain: &[u8], prefix: &[u8]) -> Result<Vec<u8>> {
    compress_at(plain, prefix, LEVEL)
}

/// The same at one of zstd's levels.
pub fn compress_at(plain: &[u8], prefix: &[u8], level: i32) -> Result<Vec<u8>> {
    if level == LEVEL && prefix.is_empty() && plain.len() <= SHORT {
        return pack_short(plain);
    }
    let mut context = context(level)?;
    // Left alone, the window is that of the plain bytes, and cannot reach into the prefix.
    let reach = (plain.len() + prefix.len()).next_power_of_two().ilog2();
    if !prefix.is_empty() || reach > ZSTD_WINDOW_LOG {
        context.set_parameter(CParameter::WindowLog(reach.clamp(10, ZSTD_WINDOW_LOG))).map_err(failed)?;
    }
    if !prefix.is_empty() {
        context.ref_prefix(prefix).map_err(failed)?;
    }
    run(&mut context, plain)
}

/// The same for few bytes at the usual level, without prefix.
fn pack_short(plain: &[u8]) -> Result<Vec<u8>> {
    PACKING.with_borrow_mut(|kept| {
        let mut context = kept.take().map_or_else(|| context(LEVEL), Ok)?;
        let packed = run(&mut context, plain);
        *kept = Some(context).filter(|context| packed.is_ok() && context.sizeof() <= KEPT);
        packed
    })
}

fn failed(_: usize) -> Error {
    Error::Internal("zstd could not compress")
}

fn context<'a>(level: i32) -> Result<CCtx<'a>> {
    let mut context = CCtx::create();
    for parameter in [
        CParameter::CompressionLevel(level),
        CParameter::ContentSizeFlag(false),
        CParameter::ChecksumFlag(false),
        CParameter::DictIdFlag(false),
    ] {
        context.set_parameter(parameter).map_err(failed)?;
    }
    Ok(context)
}

fn run(context: &mut CCtx<'_>, plain: &[u8]) -> Result<Vec<u8>> {
    let mut out = Vec::with_capacity(zstd::zstd_safe::compress_bound(plain.len()));
    context.compress2(&mut out, plain).map_err(failed)?;
    if out.get(..5) != Some(&[0x28, 0xb5, 0x2f, 0xfd, 0]) {
        return Err(Error::Internal("zstd wrote another frame header than expected"));
    }
    out.drain(..MAGIC.len());
    Ok(out)
}

/// A dictionary made ready for packing at one level.
pub struct PackDictionary(CDict<'static>);

impl PackDictionary {
    /// `None` where it is none.
    pub fn new(plain: &[u8], level: i32) -> Option<Self> {
        CDict::try_create(plain, level).map(Self)
    }
}

/// Packs many small frames, without prefix.
pub struct Packer<'a>(CCtx<'a>);

impl<'a> Packer<'a> {
    /// With a dictionary, its level counts.
    pub fn new(level: i32, dictionary: Option<&'a PackDictionary>) -> Result<Self> {
        let mut context = context(level)?;
        if let Some(dictionary) = dictionary {
            context.ref_cdict(&dictionary.0).map_err(failed)?;
        }
        Ok(Self(context))
    }

    pub fn pack(&mut self, plain: &[u8]) -> Result<Vec<u8>> {
        run(&mut self.0, plain)
    }
}

/// Trains a dictionary of at most `most` bytes; none where the samples are too few or too alike.
pub fn train(samples: &[u8], lens: &[usize], most: usize) -> Option<Vec<u8>> {
    let mut dictionary = Vec::with_capacity(most);
    zstd::zstd_safe::train_from_buffer(&mut dictionary, samples, lens).ok()?;
    Some(dictionary).filter(|dictionary| dictionary.starts_with(&DICTIONARY_MAGIC))
}

/// A dictionary made ready for unpacking.
pub struct Dictionary(DDict<'static>);

impl Dictionary {
    /// `None` where it is none.
    pub fn new(plain: &[u8]) -> Option<Self> {
        // libzstd takes what is shorter for raw content.
        let formed =
            plain.starts_with(&DICTIONARY_MAGIC) && (9..=DICTIONARY_LEN as usize).contains(&plain.len());
        if formed { DDict::try_create(plain).map(Self) } else { None }
    }
}

// A new context asks for the processor's features, which takes a virtual machine tens of microseconds.
thread_local! {
    static UNPACKING: RefCell<DCtx<'static>> = RefCell::new(DCtx::create());
    static PACKING: RefCell<Option<CCtx<'static>>> = const { RefCell::new(None) };
}

/// As `decompress` does, with a dictionary instead of a prefix, or without.
pub fn unpack(packed: &[u8], dictionary: Option<&Dictionary>, len: usize) -> Option<Vec<u8>> {
    let frame = with_magic(packed)?;
    let mut out = Vec::with_capacity(len);
    UNPACKING.with_borrow_mut(|context| match dictionary {
        Some(dictionary) => context.decompress_using_ddict(&mut out, &frame, &dictionary.0).ok(),
        None => context.decompress(&mut out, &frame).ok(),
    })?;
    (out.len() == len).then_some(out)
}

/// Unpacks one frame of exactly `len` plain bytes, all at once; `None` where it is damaged.
/// `len` must be within the chunk limit, for it is allocated.
pub fn decompress(packed: &[u8], prefix: &[u8], len: usize) -> Option<Vec<u8>> {
    if prefix.is_empty() {
        return unpack(packed, None, len);
    }
    let frame = with_magic(packed)?;
    let mut context = DCtx::create();
    context.ref_prefix(prefix).ok()?;
    let mut out = Vec::with_capacity(len);
    context.decompress(&mut out, &frame).ok()?;
    (out.len() == len).then_some(out)
}

/// Unpacks one frame of exactly `len` plain bytes, however large, growing as bytes come out.
pub fn decompress_growing(packed: &[u8], len: usize) -> Option<Vec<u8>> {
    if len <= SHORT {
        return unpack(packed, None, len);
    }
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
    fn a_dictionary_serves_many_frames() {
        // Each is made of a few of the same pieces, and something of its own.
        let piece = |i: u32| blake3::hash(&i.to_le_bytes()).to_hex().to_string().repeat(2);
        let plains: Vec<Vec<u8>> = (0..200)
            .map(|i| {
                (0..9).map(|j| piece(if j < 8 { i * j * j % 37 } else { 100 + i })).collect::<String>().into()
            })
            .collect();
        let lens: Vec<usize> = plains.iter().map(Vec::len).collect();
        let trained = train(&plains.concat(), &lens, 8 << 10).unwrap();
        assert!(trained.len() <= 8 << 10);
        let to_unpack = Dictionary::new(&trained).unwrap();
        for level in [3, 9, 19] {
            let pack = PackDictionary::new(&trained, level).unwrap();
            let mut packer = Packer::new(level, Some(&pack)).unwrap();
            let mut total = (0, 0);
            for plain in &plains {
                let packed = packer.pack(plain).unwrap();
                let alone = compress_at(plain, &[], level).unwrap();
                total = (total.0 + packed.len(), total.1 + alone.len());
                assert!(unpack(&packed, Some(&to_unpack), plain.len()).as_ref() == Some(plain));
                assert!(unpack(&packed, None, plain.len()).as_ref() != Some(plain));
                assert!(unpack(&alone, None, plain.len()).as_ref() == Some(plain));
            }
            assert!(total.0 < total.1 / 2, "{level}: {total:?}");
        }
        assert!(Dictionary::new(b"no dictionary").is_none());
        for cut in 0..trained.len().min(300) {
            let _ = Dictionary::new(&trained[..cut]);
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
