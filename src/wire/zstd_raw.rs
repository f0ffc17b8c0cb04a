//! zstd data as archives hold them (spec/format.md, section 2.3).
//!
//! They are one frame of RFC 8878 without its magic number. Its first byte
//! (Frame_Header_Descriptor) is zero, so that it has no content size, checksum or dictionary id;
//! its window is at most 8 MiB. Dictionaries have zstd's own form.

use std::cell::RefCell;
use std::io::Read;

use zstd::zstd_safe::{CCtx, CDict, CParameter, DCtx, DDict, find_frame_compressed_size};

use super::limits::{DICTIONARY_LEN, ZSTD_WINDOW_LOG};
use crate::error::{Error, Result};

const MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
const DICTIONARY_MAGIC: [u8; 4] = [0x37, 0xa4, 0x30, 0xec];
/// Up to so many unpacked bytes are allocated at once, whatever the input is.
const SHORT: usize = 64 << 10;
/// The most bytes of memory that a cached context of a thread may have.
const KEPT: usize = 2 << 20;
/// The level for data that are small, or packed once and read for ever.
pub const LEVEL: i32 = 19;

/// Packs `plain` at the usual level. Matches may reach into `prefix`, as if it stood before
/// `plain`.
pub fn compress(plain: &[u8], prefix: &[u8]) -> Result<Vec<u8>> {
    compress_at(plain, prefix, LEVEL)
}

/// Packs `plain` as `compress` does, at a level of zstd (1 to 22).
pub fn compress_at(plain: &[u8], prefix: &[u8], level: i32) -> Result<Vec<u8>> {
    if level == LEVEL && prefix.is_empty() && plain.len() <= SHORT {
        return pack_short(plain);
    }
    let mut context = context(level)?;
    // By itself, zstd takes a window of the length of the input, which cannot reach into the
    // prefix.
    let reach = (plain.len() + prefix.len()).next_power_of_two().ilog2();
    if !prefix.is_empty() || reach > ZSTD_WINDOW_LOG {
        context.set_parameter(CParameter::WindowLog(reach.clamp(10, ZSTD_WINDOW_LOG))).map_err(failed)?;
    }
    if !prefix.is_empty() {
        context.ref_prefix(prefix).map_err(failed)?;
    }
    run(&mut context, plain)
}

/// Packs few bytes at the usual level without prefix, with the thread's cached context.
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

/// A dictionary prepared for packing at one level.
pub struct PackDictionary(CDict<'static>);

impl PackDictionary {
    /// Prepares a dictionary from its bytes; `None` where they are no dictionary.
    pub fn new(plain: &[u8], level: i32) -> Option<Self> {
        CDict::try_create(plain, level).map(Self)
    }
}

/// Packs many small frames, without prefix.
pub struct Packer<'a>(CCtx<'a>);

impl<'a> Packer<'a> {
    /// A packer at `level`, or with `dictionary` and at its level.
    pub fn new(level: i32, dictionary: Option<&'a PackDictionary>) -> Result<Self> {
        let mut context = context(level)?;
        if let Some(dictionary) = dictionary {
            context.ref_cdict(&dictionary.0).map_err(failed)?;
        }
        Ok(Self(context))
    }

    /// Packs `plain` into one frame.
    pub fn pack(&mut self, plain: &[u8]) -> Result<Vec<u8>> {
        run(&mut self.0, plain)
    }
}

/// Trains a dictionary of at most `most` bytes on `samples`, which stand one after another with the
/// lengths `lens`. `None` where the samples are too few or too alike.
pub fn train(samples: &[u8], lens: &[usize], most: usize) -> Option<Vec<u8>> {
    let mut dictionary = Vec::with_capacity(most);
    zstd::zstd_safe::train_from_buffer(&mut dictionary, samples, lens).ok()?;
    Some(dictionary).filter(|dictionary| dictionary.starts_with(&DICTIONARY_MAGIC))
}

/// A dictionary prepared for unpacking.
pub struct Dictionary(DDict<'static>);

impl Dictionary {
    /// Prepares a dictionary from its bytes; `None` where they are no dictionary or exceed the
    /// limit.
    pub fn new(plain: &[u8]) -> Option<Self> {
        // libzstd would take shorter bytes, or bytes without the magic number, as raw content.
        let formed =
            plain.starts_with(&DICTIONARY_MAGIC) && (9..=DICTIONARY_LEN as usize).contains(&plain.len());
        if formed { DDict::try_create(plain).map(Self) } else { None }
    }
}

// A new context asks the processor for its features, which takes tens of microseconds on a virtual
// machine.
thread_local! {
    static UNPACKING: RefCell<DCtx<'static>> = RefCell::new(DCtx::create());
    static PACKING: RefCell<Option<CCtx<'static>>> = const { RefCell::new(None) };
}

/// Unpacks one frame of exactly `len` bytes, with a dictionary or without; `None` where the frame
/// is damaged. `len` must be within the chunk limit, since it is allocated at once.
pub fn unpack(packed: &[u8], dictionary: Option<&Dictionary>, len: usize) -> Option<Vec<u8>> {
    let frame = with_magic(packed)?;
    let mut out = Vec::with_capacity(len);
    UNPACKING.with_borrow_mut(|context| match dictionary {
        Some(dictionary) => context.decompress_using_ddict(&mut out, &frame, &dictionary.0).ok(),
        None => context.decompress(&mut out, &frame).ok(),
    })?;
    (out.len() == len).then_some(out)
}

/// Unpacks one frame of exactly `len` bytes that was packed with `prefix`; `None` where the frame
/// is damaged. `len` must be within the chunk limit, since it is allocated at once.
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

/// Unpacks one frame of exactly `len` bytes, however many, and allocates as bytes come out; `None`
/// where the frame is damaged.
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

/// Puts back the magic number that libzstd wants; `None` unless `packed` is exactly one frame with
/// the prescribed header.
fn with_magic(packed: &[u8]) -> Option<Vec<u8>> {
    let &[0, window, ..] = packed else { return None };
    // Window_Descriptor: the window has 2^(10 + upper five bits) bytes, and as many eighths of that
    // more as the lower three bits say.
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
