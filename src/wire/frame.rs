//! The envelope of everything but the header, the chunks and the trailer (spec/format.md, section
//! 4).
//!
//! | bytes | field |
//! | --- | --- |
//! | 4 | marker |
//! | 1 | kind |
//! | 1 | flags: 1 packed with zstd, 2 may be skipped by a reader that does not know the kind |
//! | 4 | `stored_len` |
//! | 4 | `plain_len`, only if packed: length of the unpacked content |
//! | `stored_len` | content |
//! | 4 | CRC-32 of all bytes before |

use super::cursor::Cursor;
use super::{limits, zstd_raw};
use crate::error::{Error, Result};

/// The first bytes of every frame.
pub const MARKER: [u8; 4] = *b"\xf5S3F";
/// The longest head of a frame, in bytes.
pub const HEAD_MAX: usize = 14;

const PACKED: u8 = 1;
const SKIPPABLE: u8 = 2;

/// What a frame holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameKind {
    /// The list of models of the archive (section 5).
    Models,
    /// One model file that the archive carries (section 5).
    Model,
    /// The figures of a group, before its chunks (section 6).
    Group,
    /// The entries of a group (section 7).
    Entries,
    /// The lengths of a group's chunks, after these (section 9).
    Table,
    /// Where all groups of the archive lie (section 9).
    Index,
    /// The zstd dictionary of a group (section 6).
    Dictionary,
    /// A kind that this build does not know and may skip; the number is its code.
    Skippable(u8),
}

impl FrameKind {
    fn code(self) -> u8 {
        match self {
            Self::Models => 1,
            Self::Model => 2,
            Self::Group => 3,
            Self::Entries => 4,
            Self::Table => 5,
            Self::Index => 6,
            Self::Dictionary => 7,
            Self::Skippable(code) => code,
        }
    }

    /// The most bytes of content, both as stored and as unpacked.
    fn max_len(self) -> u32 {
        match self {
            Self::Model => limits::MODEL_LEN,
            Self::Dictionary => limits::DICTIONARY_LEN,
            _ => limits::FRAME_LEN,
        }
    }
}

/// The head of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHead {
    /// What the frame holds.
    pub kind: FrameKind,
    packed: bool,
    stored_len: u32,
    plain_len: u32,
}

impl FrameHead {
    /// Reads the head of a frame. Fails with `Error::Truncated`, or with `Error::Corrupt` where no
    /// frame begins or a length exceeds its limit.
    pub fn read(input: &mut Cursor<'_>) -> Result<Self> {
        let start = input.offset();
        let corrupt = |rule| Error::Corrupt { offset: start, rule };
        if input.array()? != MARKER {
            return Err(corrupt("no frame begins here"));
        }
        let (code, flags, stored_len) = (input.u8()?, input.u8()?, input.u32()?);
        if flags & !(PACKED | SKIPPABLE) != 0 {
            return Err(corrupt("a frame has unknown flags"));
        }
        let kind = match code {
            1 => FrameKind::Models,
            2 => FrameKind::Model,
            3 => FrameKind::Group,
            4 => FrameKind::Entries,
            5 => FrameKind::Table,
            6 => FrameKind::Index,
            7 => FrameKind::Dictionary,
            _ if flags & SKIPPABLE != 0 => FrameKind::Skippable(code),
            _ => return Err(corrupt("a frame has an unknown kind")),
        };
        if flags & SKIPPABLE != 0 && !matches!(kind, FrameKind::Skippable(_)) {
            return Err(corrupt("a frame that is needed is marked as skippable"));
        }
        let packed = flags & PACKED != 0;
        let plain_len = if packed { input.u32()? } else { stored_len };
        let max = kind.max_len();
        if stored_len > max || plain_len > max || plain_len > limits::unpacked_len(stored_len) {
            return Err(corrupt("a frame is longer than the limit"));
        }
        Ok(Self { kind, packed, stored_len, plain_len })
    }

    /// Bytes of the whole frame: head, content and CRC.
    pub fn frame_len(&self) -> usize {
        let head = if self.packed { HEAD_MAX } else { HEAD_MAX - 4 };
        head + self.stored_len as usize + 4
    }
}

/// A frame that was read and whose CRC is right.
#[derive(Debug)]
pub struct Frame {
    /// What the frame holds.
    pub kind: FrameKind,
    /// The content, unpacked.
    pub plain: Vec<u8>,
    /// The CRC of the frame.
    pub crc: u32,
    /// Bytes of the frame in the file.
    pub len: usize,
}

impl Frame {
    /// Reads the frame at the start of `data`, which lies at `offset` of the file. Fails with
    /// `Error::Truncated` or `Error::Corrupt`.
    pub fn read(data: &[u8], offset: u64) -> Result<Self> {
        let mut input = Cursor::at(data, offset);
        let head = FrameHead::read(&mut input)?;
        let content = input.bytes(head.stored_len as usize)?;
        let checked = &data[..input.position()];
        let crc = input.u32()?;
        if crc != crc32fast::hash(checked) {
            return Err(Error::Corrupt { offset, rule: "a frame's CRC differs" });
        }
        let plain = if head.packed {
            zstd_raw::decompress_growing(content, head.plain_len as usize)
                .ok_or(Error::Corrupt { offset, rule: "a frame does not unpack" })?
        } else {
            content.to_vec()
        };
        Ok(Self { kind: head.kind, plain, crc, len: input.position() })
    }

    /// A cursor over the content of a frame that must be of `kind`; another kind is
    /// `Error::Corrupt` at `offset`.
    pub fn expect(&self, kind: FrameKind, offset: u64) -> Result<Cursor<'_>> {
        if self.kind != kind {
            return Err(Error::Corrupt { offset, rule: "a frame of another kind belongs here" });
        }
        Ok(Cursor::inside(&self.plain, offset))
    }
}

/// Appends a frame with this content to `out`, packed where that is shorter. Returns the frame's
/// CRC.
pub fn write_frame(kind: FrameKind, plain: &[u8], out: &mut Vec<u8>) -> Result<u32> {
    write_frame_at(kind, plain, zstd_raw::LEVEL, out)
}

/// Appends a frame as `write_frame` does, packed at a level of zstd.
pub fn write_frame_at(kind: FrameKind, plain: &[u8], level: i32, out: &mut Vec<u8>) -> Result<u32> {
    let max = kind.max_len();
    if plain.len() > max as usize {
        return Err(Error::Limit { what: "a frame's length", got: plain.len() as u64, max: max.into() });
    }
    let start = out.len();
    let packed = zstd_raw::compress_at(plain, &[], level)?;
    let is_packed =
        packed.len() + 4 < plain.len() && plain.len() as u32 <= limits::unpacked_len(packed.len() as u32);
    let content = if is_packed { &packed } else { plain };
    let mut flags = if is_packed { PACKED } else { 0 };
    if matches!(kind, FrameKind::Skippable(_)) {
        flags |= SKIPPABLE;
    }
    out.extend(MARKER);
    out.extend([kind.code(), flags]);
    out.extend((content.len() as u32).to_le_bytes());
    if is_packed {
        out.extend((plain.len() as u32).to_le_bytes());
    }
    out.extend_from_slice(content);
    let crc = crc32fast::hash(&out[start..]);
    out.extend(crc.to_le_bytes());
    Ok(crc)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_back_packed_or_not() {
        for plain in [&b""[..], b"short", &[7; 5000]] {
            let mut bytes = Vec::new();
            let crc = write_frame(FrameKind::Group, plain, &mut bytes).unwrap();
            let frame = Frame::read(&bytes, 0).unwrap();
            assert_eq!(
                (frame.kind, &frame.plain[..], frame.len, frame.crc),
                (FrameKind::Group, plain, bytes.len(), crc)
            );
            assert!(bytes.len() <= plain.len() + 14);
        }
    }

    #[test]
    fn every_prefix_and_every_bit_flip_is_refused() {
        let mut bytes = Vec::new();
        write_frame(FrameKind::Entries, &[b"abc".repeat(60), b"xyz".to_vec()].concat(), &mut bytes).unwrap();
        for cut in 0..bytes.len() {
            assert!(Frame::read(&bytes[..cut], 0).is_err());
        }
        for bit in 0..bytes.len() * 8 {
            let mut bytes = bytes.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(Frame::read(&bytes, 0).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn unknown_kinds_are_refused_unless_skippable() {
        let mut bytes = Vec::new();
        write_frame(FrameKind::Skippable(77), b"later", &mut bytes).unwrap();
        assert_eq!(Frame::read(&bytes, 0).unwrap().kind, FrameKind::Skippable(77));
        bytes[5] = 0;
        let end = bytes.len() - 4;
        let crc = crc32fast::hash(&bytes[..end]).to_le_bytes();
        bytes[end..].copy_from_slice(&crc);
        assert!(Frame::read(&bytes, 0).is_err());
    }

    #[test]
    fn a_claimed_length_is_not_allocated() {
        let mut bytes = Vec::new();
        write_frame(FrameKind::Table, &[0; 100], &mut bytes).unwrap();
        bytes[10..14].copy_from_slice(&(4u32 << 20).to_le_bytes());
        let end = bytes.len() - 4;
        let crc = crc32fast::hash(&bytes[..end]).to_le_bytes();
        bytes[end..].copy_from_slice(&crc);
        assert!(matches!(
            Frame::read(&bytes, 0),
            Err(Error::Corrupt { rule: "a frame does not unpack", .. })
        ));
    }
}
