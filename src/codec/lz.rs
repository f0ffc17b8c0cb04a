//! LZMA2 after a filter, for large blocks of data that no network has learned (spec/format.md,
//! section 8.1).
//!
//! The payload's first byte is the number of the filter. The rest is raw LZMA2 data, whose own
//! chunks tell the properties that they are packed with. The filters for machine code are those of
//! xz; the others bring together bytes that have the same place in records.

use liblzma::stream::{Action, Filters, LzmaOptions, MatchFinder, Mode, Status, Stream};

use super::job::{DecodeJob, Decoded, Encoded, damaged};
use crate::wire::chunk::Codec;

/// The smallest dictionary that LZMA2 allows, in bytes.
const DICTIONARY_MIN: u32 = 4 << 10;
/// Filters and properties are tried on this many bytes from the middle of a block.
const SAMPLE: usize = 64 << 10;
/// Numbers of literal context bits, literal position bits and position bits that are tried.
const PROPERTIES: [[u32; 3]; 5] = [[3, 0, 2], [4, 0, 0], [3, 0, 0], [0, 2, 2], [0, 0, 2]];
/// A match of this length ends the search for a longer one.
const NICE_LEN: u32 = 128;

/// What happens to the bytes before they are packed. Each filter has a number in the payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Filter {
    None,
    X86,
    Arm64,
    /// Each byte less the byte so many places before it.
    Delta(usize),
    /// The first bytes of all words of so many bytes, then all second bytes, and so on.
    Planes(usize),
    /// Each little-endian word less the word before it, then as `Planes`.
    WordPlanes(usize),
}

/// All filters that a writer tries on data other than text.
const FILTERS: [Filter; 13] = [
    Filter::None,
    Filter::X86,
    Filter::Arm64,
    Filter::Delta(1),
    Filter::Delta(2),
    Filter::Delta(3),
    Filter::Delta(4),
    Filter::Delta(8),
    Filter::Planes(2),
    Filter::Planes(4),
    Filter::Planes(8),
    Filter::WordPlanes(2),
    Filter::WordPlanes(4),
];

impl Filter {
    fn number(self) -> u8 {
        match self {
            Self::None => 0,
            Self::X86 => 1,
            Self::Arm64 => 2,
            Self::Delta(distance) => 0x10 | (distance - 1) as u8,
            Self::Planes(bytes) => 0x20 | bytes as u8,
            Self::WordPlanes(bytes) => 0x30 | bytes as u8,
        }
    }

    fn from_number(number: u8) -> Option<Self> {
        let low = usize::from(number & 15);
        match (number, number >> 4) {
            (0, _) => Some(Self::None),
            (1, _) => Some(Self::X86),
            (2, _) => Some(Self::Arm64),
            (_, 1) if low < 8 => Some(Self::Delta(low + 1)),
            (_, 2) if matches!(low, 2 | 4 | 8) => Some(Self::Planes(low)),
            (_, 3) if matches!(low, 2 | 4) => Some(Self::WordPlanes(low)),
            _ => None,
        }
    }

    /// The bytes that are packed, for the filters that are not of xz.
    fn apply(self, raw: &[u8]) -> Vec<u8> {
        match self {
            Self::None | Self::X86 | Self::Arm64 => raw.to_vec(),
            Self::Delta(distance) => {
                let before = |i: usize| i.checked_sub(distance).map_or(0, |at| raw[at]);
                raw.iter().enumerate().map(|(i, byte)| byte.wrapping_sub(before(i))).collect()
            }
            Self::Planes(bytes) => planes(raw, bytes),
            Self::WordPlanes(bytes) => planes(&word_differences(raw, bytes), bytes),
        }
    }

    /// Turns packed bytes back into raw ones.
    fn undo(self, mut bytes: Vec<u8>) -> Vec<u8> {
        match self {
            Self::None | Self::X86 | Self::Arm64 => bytes,
            Self::Delta(distance) => {
                for i in distance..bytes.len() {
                    bytes[i] = bytes[i].wrapping_add(bytes[i - distance]);
                }
                bytes
            }
            Self::Planes(size) => words(&bytes, size),
            Self::WordPlanes(size) => {
                let mut raw = words(&bytes, size);
                let mut before = 0u32;
                for word in raw.chunks_exact_mut(size) {
                    before = before.wrapping_add(number(word));
                    word.copy_from_slice(&before.to_le_bytes()[..size]);
                }
                raw
            }
        }
    }
}

/// A little-endian word of at most four bytes.
fn number(word: &[u8]) -> u32 {
    word.iter().rev().fold(0, |number, &byte| number << 8 | u32::from(byte))
}

fn word_differences(raw: &[u8], size: usize) -> Vec<u8> {
    let mut out = raw.to_vec();
    let mut before = 0u32;
    for word in out.chunks_exact_mut(size) {
        let value = number(word);
        word.copy_from_slice(&value.wrapping_sub(before).to_le_bytes()[..size]);
        before = value;
    }
    out
}

/// The bytes of whole words sorted by their place in the word; bytes after the last whole word stay
/// at the end.
fn planes(raw: &[u8], size: usize) -> Vec<u8> {
    let whole = raw.len() / size * size;
    let places = (0..size).flat_map(|place| raw[place.min(whole)..whole].iter().step_by(size));
    places.chain(&raw[whole..]).copied().collect()
}

/// The inverse of `planes`.
fn words(bytes: &[u8], size: usize) -> Vec<u8> {
    let count = bytes.len() / size;
    let whole = (0..count).flat_map(|word| (0..size).map(move |place| bytes[place * count + word]));
    whole.chain(bytes[count * size..].iter().copied()).collect()
}

/// The chain of xz's filters for a block.
fn chain(filter: Filter, options: &LzmaOptions) -> Filters {
    let mut filters = Filters::new();
    match filter {
        Filter::X86 => _ = filters.x86(),
        Filter::Arm64 => _ = filters.arm64(),
        _ => {}
    }
    filters.lzma2(options);
    filters
}

fn dictionary(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX).max(DICTIONARY_MIN)
}

/// LZMA2 data of the bytes after `filter`; `None` if packing fails.
fn pack(raw: &[u8], filter: Filter, [lc, lp, pb]: [u32; 3], thorough: bool) -> Option<Vec<u8>> {
    let mut options = LzmaOptions::new_preset(if thorough { 6 } else { 0 }).ok()?;
    options.dict_size(dictionary(raw.len()));
    options.literal_context_bits(lc).literal_position_bits(lp).position_bits(pb);
    if thorough {
        options.mode(Mode::Normal).match_finder(MatchFinder::BinaryTree4).nice_len(NICE_LEN);
    }
    let mut stream = Stream::new_raw_encoder(&chain(filter, &options)).ok()?;
    let bytes = filter.apply(raw);
    // LZMA2 stores incompressible data in pieces with three bytes of head each.
    let mut out = Vec::with_capacity(1 + raw.len() + raw.len() / 1024 + 64);
    out.push(filter.number());
    let status = stream.process_vec(&bytes, &mut out, Action::Finish).ok()?;
    (status == Status::StreamEnd).then_some(out)
}

/// Whether the bytes are text alone, so that filters for records and machine code are useless.
fn is_text(sample: &[u8]) -> bool {
    let other = sample.iter().filter(|&&byte| byte < 9 || (14..32).contains(&byte) || byte == 127).count();
    other * 200 < sample.len()
}

/// Encodes a block; `None` if that does not make it shorter.
pub fn encode(raw: &[u8]) -> Option<Encoded> {
    let len = raw.len().min(SAMPLE);
    // The sample begins at a multiple of 64, so that records have the same phase as in the block.
    let from = (raw.len() - len) / 2 / 64 * 64;
    let sample = &raw[from..from + len];
    let size = |filter, properties| pack(sample, filter, properties, false).map_or(usize::MAX, |p| p.len());
    let filters = if is_text(sample) { &FILTERS[..1] } else { &FILTERS[..] };
    let by_size = filters.iter().min_by_key(|&&filter| size(filter, PROPERTIES[0]));
    let filter = by_size.copied().unwrap_or(Filter::None);
    let properties = PROPERTIES.into_iter().min_by_key(|&properties| size(filter, properties));
    let mut payload = pack(raw, filter, properties.unwrap_or(PROPERTIES[0]), true)?;
    if payload.len() >= raw.len() {
        return None;
    }
    payload.shrink_to_fit();
    Some(Encoded { codec: Codec::Lz, model: 0, payload, used_history: false })
}

/// Decodes a block.
pub fn decode(job: &DecodeJob<'_>) -> Decoded {
    unpack(job.payload, job.raw_len).ok_or(damaged("its LZMA2 data are damaged"))
}

/// The raw bytes of a payload; `None` if it does not hold exactly `raw_len` of them.
pub fn unpack(payload: &[u8], raw_len: usize) -> Option<Vec<u8>> {
    let (&number, data) = payload.split_first()?;
    let filter = Filter::from_number(number)?;
    let mut options = LzmaOptions::new_preset(0).ok()?;
    options.dict_size(dictionary(raw_len));
    let mut stream = Stream::new_raw_decoder(&chain(filter, &options)).ok()?;
    // One byte of room more shows data that do not end in time.
    let mut bytes = Vec::with_capacity(raw_len + 1);
    let status = stream.process_vec(data, &mut bytes, Action::Finish).ok()?;
    let whole = status == Status::StreamEnd && stream.total_in() == data.len() as u64;
    (whole && bytes.len() == raw_len).then(|| filter.undo(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 16-bit samples of a wave with noise.
    fn wave(len: usize) -> Vec<u8> {
        let sample = |i: u32| ((f64::from(i) / 40.0).sin() * 9000.0) as i16 + (i % 23 * i % 19) as i16;
        (0..len as u32 / 2).flat_map(|i| sample(i).to_le_bytes()).collect()
    }

    #[test]
    fn every_filter_comes_back_at_awkward_lengths() {
        for len in [1usize, 2, 3, 7, 8, 15, 4099] {
            let raw: Vec<u8> = (0..len).map(|i| (i * i / 7 + i % 3) as u8).collect();
            for filter in FILTERS {
                assert_eq!(Filter::from_number(filter.number()), Some(filter));
                let packed = pack(&raw, filter, PROPERTIES[0], true).unwrap();
                assert_eq!(unpack(&packed, len).unwrap(), raw, "{filter:?} {len}");
                for wrong in [len - 1, len + 1] {
                    assert!(unpack(&packed, wrong).is_none(), "{filter:?} {len} as {wrong}");
                }
                assert!(unpack(&[&packed[..], &[0]].concat(), len).is_none());
                for cut in 0..packed.len().min(40) {
                    assert!(unpack(&packed[..cut], len).is_none());
                }
            }
        }
        assert_eq!((0..=u8::MAX).filter_map(Filter::from_number).count(), FILTERS.len() + 3);
    }

    #[test]
    fn records_find_their_filter() {
        let raw = wave(200_000);
        let encoded = encode(&raw).unwrap();
        assert_eq!(Filter::from_number(encoded.payload[0]), Some(Filter::WordPlanes(2)));
        assert!(encoded.payload.len() < pack(&raw, Filter::None, PROPERTIES[0], true).unwrap().len() * 3 / 4);
        let text = b"a line of text, and one more line of it\n".repeat(50);
        assert_eq!(encode(&text).unwrap().payload[0], 0);
        assert!(encode(&[7]).is_none());
    }
}
