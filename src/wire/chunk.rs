//! One chunk in its frame (spec/format.md, section 8).
//!
//! A frame is a head, the payload, a check of the raw bytes (the first 4 bytes of their BLAKE3) and
//! a CRC. The CRC also covers the group's salt and the chunk's number in the group, so that a frame
//! in the wrong place does not pass. The head is 16 bits, `form << 13 | len`, and more where
//! needed:
//!
//! | form | chunk |
//! | --- | --- |
//! | 0 to 4 | neural, model 0, full length; the form is the number of references, which follow |
//! | 5 | zstd, no references, full length |
//! | 6 | stored, full length; `len` is 0 |
//! | 7 | an extension byte follows |

use super::cursor::{Cursor, put_varint};
use super::limits;
use crate::error::{Error, Result};

/// How a chunk's payload is coded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Codec {
    /// The payload is the raw bytes.
    Stored = 0,
    /// The payload is one zstd frame without magic, checksum and content size.
    Zstd = 1,
    /// The payload is the learned sequence c and the tokens, coded under a model
    /// (spec/numerics.md).
    Neural = 2,
    /// The payload is the number of a filter and LZMA2 data.
    Lz = 3,
}

impl Codec {
    /// Whether chunks of this codec may be longer than the chunk size. Such chunks have no
    /// references.
    pub fn makes_blocks(self) -> bool {
        matches!(self, Self::Stored | Self::Lz)
    }
}

/// The longest possible head of a chunk, in bytes, rounded up.
pub const HEAD_MAX: usize = 64;
/// Bytes after the payload: the check of the raw bytes and the CRC.
pub const CHECKS_LEN: usize = 8;
/// The value of the 13-bit length that says that a varint with the rest of the length follows.
const LEN_ESCAPE: u32 = 0x1fff;

const FORM_ZSTD: u16 = 5;
const FORM_STORED: u16 = 6;
const FORM_EXTENDED: u16 = 7;
/// The bit of the extension byte that says that the raw length follows. Bits 0 to 2 of that byte
/// are the codec, bits 4 to 7 the number of references.
const EXT_RAW_LEN: u8 = 8;

/// How one chunk is coded, and from what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChunkHead {
    /// The codec of the payload.
    pub codec: Codec,
    /// For `Codec::Neural`, the model's place in the group's list of models; otherwise 0.
    pub model: u8,
    /// Bytes of the chunk before coding.
    pub raw_len: u32,
    /// Bytes of the payload.
    pub coded_len: u32,
    /// The chunks that serve as history, at most eight: how many chunks before this one each lies.
    pub refs: Vec<u32>,
}

impl ChunkHead {
    /// The form below 7 that says everything about this head, if there is one.
    fn short_form(&self, chunk_size: u32) -> Option<u16> {
        match self.codec {
            _ if self.raw_len != chunk_size => None,
            Codec::Neural if self.model == 0 && self.refs.len() <= 4 => Some(self.refs.len() as u16),
            Codec::Zstd if self.refs.is_empty() => Some(FORM_ZSTD),
            Codec::Stored => Some(FORM_STORED),
            _ => None,
        }
    }

    /// Appends the head to `out`; `chunk_size` is the raw length of a full chunk of the group.
    pub fn write(&self, chunk_size: u32, out: &mut Vec<u8>) {
        let form = self.short_form(chunk_size);
        let len = if self.codec == Codec::Stored { 0 } else { self.coded_len };
        let first = form.unwrap_or(FORM_EXTENDED) << 13 | len.min(LEN_ESCAPE) as u16;
        out.extend(first.to_le_bytes());
        if len >= LEN_ESCAPE {
            put_varint(out, u64::from(len - LEN_ESCAPE));
        }
        if form.is_none() {
            let explicit = self.raw_len != chunk_size;
            out.push(
                self.codec as u8 | if explicit { EXT_RAW_LEN } else { 0 } | (self.refs.len() as u8) << 4,
            );
            if self.codec == Codec::Neural {
                out.push(self.model);
            }
            if explicit {
                put_varint(out, u64::from(self.raw_len));
            }
        }
        for &distance in &self.refs {
            put_varint(out, u64::from(distance));
        }
    }

    /// Reads a head, for a group whose full chunks have `chunk_size` raw bytes. Fails with
    /// `Error::Truncated` or `Error::Corrupt`; every head has one form only, and another is
    /// corrupt.
    pub fn read(input: &mut Cursor<'_>, chunk_size: u32) -> Result<Self> {
        let first = input.u16()?;
        let (form, mut len) = (first >> 13, u32::from(first) & LEN_ESCAPE);
        if len == LEN_ESCAPE {
            len += input.bounded_u32(limits::CHUNK_SIZE_MAX, "a chunk's coded length exceeds the limit")?;
        }
        let (mut codec, mut model, mut raw_len, mut ref_count) =
            (Codec::Neural, 0, chunk_size, usize::from(form));
        match form {
            FORM_ZSTD => (codec, ref_count) = (Codec::Zstd, 0),
            FORM_STORED => (codec, ref_count) = (Codec::Stored, 0),
            FORM_EXTENDED => {
                let ext = input.u8()?;
                codec = match ext & 7 {
                    0 => Codec::Stored,
                    1 => Codec::Zstd,
                    2 => Codec::Neural,
                    3 => Codec::Lz,
                    _ => return Err(input.corrupt("a chunk has an unknown codec")),
                };
                if codec == Codec::Neural {
                    model = input.u8()?;
                }
                if ext & EXT_RAW_LEN != 0 {
                    let most = if codec.makes_blocks() { limits::CHUNK_SIZE_MAX } else { chunk_size };
                    raw_len = input.bounded_u32(most, "a chunk is longer than the chunk size")?;
                    if raw_len == chunk_size {
                        return Err(input.corrupt("a chunk's head is longer than it need be"));
                    }
                }
                ref_count = usize::from(ext >> 4);
            }
            _ => {}
        }
        if ref_count > limits::REFS {
            return Err(input.corrupt("a chunk names more than eight others"));
        }
        let mut refs = Vec::with_capacity(ref_count);
        for _ in 0..ref_count {
            let distance = input.bounded_u32(u32::MAX, "a reference exceeds 32 bits")?;
            if distance == 0 || refs.contains(&distance) {
                return Err(input.corrupt("a chunk names itself, or another twice"));
            }
            refs.push(distance);
        }
        let coded_len = match (codec, len) {
            (Codec::Stored, 0) => raw_len,
            (Codec::Stored, _) => return Err(input.corrupt("a stored chunk has a coded length")),
            _ => len,
        };
        let head = Self { codec, model, raw_len, coded_len, refs };
        if codec.makes_blocks() && !head.refs.is_empty() {
            return Err(input.corrupt("a chunk has references that its codec knows nothing of"));
        }
        if codec != Codec::Stored && coded_len >= raw_len || raw_len == 0 {
            return Err(input.corrupt("a chunk is coded with no fewer bytes than it has"));
        }
        if form == FORM_EXTENDED && head.short_form(chunk_size).is_some() {
            return Err(input.corrupt("a chunk's head is longer than it need be"));
        }
        Ok(head)
    }
}

/// The check of a chunk's raw bytes: the first 4 bytes of their BLAKE3.
pub fn plain_check(raw: &[u8]) -> [u8; 4] {
    let mut check = [0; 4];
    check.copy_from_slice(&blake3::hash(raw).as_bytes()[..4]);
    check
}

/// What ties a frame to its place in an archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The salt of the group.
    pub salt: u32,
    /// The chunk's number in its group, from 0.
    pub index: u32,
}

impl Place {
    fn crc(self, frame: &[u8]) -> u32 {
        let mut crc = crc32fast::Hasher::new();
        crc.update(&self.salt.to_le_bytes());
        crc.update(&self.index.to_le_bytes());
        crc.update(frame);
        crc.finalize()
    }
}

/// Appends the frame of a chunk to `out`: the head, the payload, `check` (the `plain_check` of the
/// raw bytes) and the CRC, which covers `place`.
pub fn write_chunk(
    head: &ChunkHead,
    chunk_size: u32,
    payload: &[u8],
    check: [u8; 4],
    place: Place,
    out: &mut Vec<u8>,
) {
    let start = out.len();
    head.write(chunk_size, out);
    out.extend_from_slice(payload);
    out.extend(check);
    let crc = place.crc(&out[start..]);
    out.extend(crc.to_le_bytes());
}

/// A chunk's frame whose CRC is right.
#[derive(Debug)]
pub struct ChunkFrame<'a> {
    /// How the chunk is coded.
    pub head: ChunkHead,
    /// The coded bytes.
    pub payload: &'a [u8],
    /// The value that `plain_check` of the decoded bytes must have.
    pub check: [u8; 4],
    /// Bytes of the whole frame.
    pub len: usize,
}

impl<'a> ChunkFrame<'a> {
    /// Reads the frame at the start of `data`, which lies at `offset` of the file. Fails with
    /// `Error::Truncated` or `Error::Corrupt`, the latter also where the CRC belongs to another
    /// place.
    pub fn read(data: &'a [u8], offset: u64, chunk_size: u32, place: Place) -> Result<Self> {
        let mut input = Cursor::at(data, offset);
        let head = ChunkHead::read(&mut input, chunk_size)?;
        let payload = input.bytes(head.coded_len as usize)?;
        let check = input.array()?;
        let crc = place.crc(&data[..input.position()]);
        if input.u32()? != crc {
            return Err(Error::Corrupt { offset, rule: "its CRC differs" });
        }
        Ok(Self { head, payload, check, len: input.position() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: u32 = 16 << 10;
    const PLACE: Place = Place { salt: 77, index: 3 };

    fn heads() -> Vec<ChunkHead> {
        let neural =
            ChunkHead { codec: Codec::Neural, model: 0, raw_len: SIZE, coded_len: 3000, refs: vec![] };
        vec![
            neural.clone(),
            ChunkHead { coded_len: 0, ..neural.clone() },
            ChunkHead { coded_len: 8190, ..neural.clone() },
            ChunkHead { coded_len: 8191, ..neural.clone() },
            ChunkHead { coded_len: 16000, refs: vec![1, 500, 70000], ..neural.clone() },
            ChunkHead { refs: vec![4, 3, 2, 1], ..neural.clone() },
            ChunkHead { refs: (1..=8).collect(), ..neural.clone() },
            ChunkHead { model: 9, raw_len: 5000, refs: vec![2], ..neural.clone() },
            ChunkHead { codec: Codec::Zstd, ..neural.clone() },
            ChunkHead { codec: Codec::Zstd, refs: vec![9], ..neural.clone() },
            ChunkHead { codec: Codec::Stored, coded_len: SIZE, ..neural.clone() },
            ChunkHead { codec: Codec::Stored, coded_len: 17, raw_len: 17, ..neural.clone() },
            ChunkHead { codec: Codec::Stored, coded_len: 1 << 20, raw_len: 1 << 20, ..neural.clone() },
            ChunkHead { codec: Codec::Lz, raw_len: 1 << 20, coded_len: 300_000, ..neural.clone() },
            ChunkHead { codec: Codec::Lz, ..neural },
        ]
    }

    #[test]
    fn heads_come_back() {
        for head in heads() {
            let mut bytes = Vec::new();
            head.write(SIZE, &mut bytes);
            assert!(bytes.len() <= HEAD_MAX);
            let mut input = Cursor::at(&bytes, 0);
            assert_eq!(ChunkHead::read(&mut input, SIZE).unwrap(), head);
            input.finish().unwrap();
        }
    }

    #[test]
    fn the_common_chunk_costs_ten_bytes() {
        let mut bytes = Vec::new();
        write_chunk(&heads()[0], SIZE, &[5; 3000], [0; 4], PLACE, &mut bytes);
        assert_eq!(bytes.len(), 3010);
    }

    #[test]
    fn a_frame_passes_in_its_place_only() {
        let raw = [5; 17];
        let mut bytes = Vec::new();
        write_chunk(&heads()[11], SIZE, &raw, plain_check(&raw), PLACE, &mut bytes);
        let frame = ChunkFrame::read(&bytes, 0, SIZE, PLACE).unwrap();
        assert_eq!((frame.payload, frame.check, frame.len), (&raw[..], plain_check(&raw), bytes.len()));
        for place in [Place { salt: 78, ..PLACE }, Place { index: 4, ..PLACE }] {
            assert!(ChunkFrame::read(&bytes, 0, SIZE, place).is_err());
        }
        for cut in 0..bytes.len() {
            assert!(ChunkFrame::read(&bytes[..cut], 0, SIZE, PLACE).is_err());
        }
        for bit in (0..bytes.len() * 8).step_by(if cfg!(miri) { 7 } else { 1 }) {
            let mut bytes = bytes.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(ChunkFrame::read(&bytes, 0, SIZE, PLACE).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn heads_that_break_a_rule_are_refused() {
        let extended = |len: u16, rest: &[u8]| [&(FORM_EXTENDED << 13 | len).to_le_bytes(), rest].concat();
        for bytes in [
            extended(10, &[4]),                                  // unknown codec
            extended(10, &[0x13, 1]),                            // LZMA2 with references
            extended(10, &[0x0b, 0x81, 0x80, 0x40]),             // longer than the longest block
            extended(10, &[2, 0]),                               // has a short form
            extended(10, &[1]),                                  // has a short form
            extended(0, &[0]),                                   // has a short form
            extended(0, &[8, 0]),                                // no raw bytes
            extended(10, &[9, 10]),                              // not shorter than raw
            extended(10, &[8, 20]),                              // stored with a length
            extended(0, &[0x18, 20, 1]),                         // stored with references
            extended(10, &[0x92, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9]), // nine references
            extended(10, &[0x11, 0]),                            // names itself
            extended(10, &[0x21, 5, 5]),                         // names one twice
            extended(10, &[9, 0x81, 0x80, 0x01]),                // longer than the chunk size
            extended(10, &[0x1a, 1, 0x80, 0x80, 0x01, 5]),       // the chunk size, though given
        ] {
            assert!(ChunkHead::read(&mut Cursor::at(&bytes, 0), SIZE).is_err(), "{bytes:?}");
        }
    }
}
