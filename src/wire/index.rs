//! Where all parts of an archive lie: index and trailer (spec/format.md, section 9).
//!
//! The index at the end of an archive covers all generations. Absolute offsets stand in the index
//! only.

use super::cursor::{Cursor, put_varint};
use super::limits;
use super::models::{ModelRef, read_models, write_models};
use crate::error::{Error, Result};

/// The first bytes of a trailer.
pub const TRAILER_MARKER: [u8; 4] = *b"\xf5S3T";
/// The last bytes of a trailer, and so of an archive.
pub const TRAILER_END: [u8; 4] = *b"S3A\n";
/// Bytes of a trailer.
pub const TRAILER_LEN: usize = 32;

/// What the index knows of one group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupRecord {
    /// Offset in the file of the GROUP frame. It is stored as the distance from the end of the
    /// group before.
    pub offset: u64,
    /// Bytes of the GROUP and ENTRIES frames.
    pub head_len: u32,
    /// Bytes of the DICTIONARY frame and of all chunk frames.
    pub body_len: u32,
    /// Bytes of the TABLE frame.
    pub table_len: u32,
    /// Raw bytes of all chunks of the group.
    pub raw_len: u32,
    /// How many chunks the group has.
    pub chunk_count: u32,
    /// How many entries the group has.
    pub entry_count: u32,
    /// CRC of the GROUP frame, which ties the record to its group.
    pub crc: u32,
}

impl GroupRecord {
    /// Offset in the file of the DICTIONARY frame or, without one, of the first chunk.
    pub fn body(&self) -> u64 {
        self.offset + u64::from(self.head_len)
    }

    /// Offset in the file of the TABLE frame.
    pub fn table(&self) -> u64 {
        self.body() + u64::from(self.body_len)
    }

    /// Offset in the file of the first byte after the group.
    pub fn end(&self) -> u64 {
        self.table() + u64::from(self.table_len)
    }
}

/// Content of the INDEX frame.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Index {
    /// Number of the generation: 0 for the first, one more with each append.
    pub generation: u32,
    /// All models of the archive, in the order of their numbers.
    pub models: Vec<ModelRef>,
    /// Offset in the file of the MODEL frame of each embedded model, in the order of the models.
    pub embedded: Vec<u64>,
    /// All groups of the archive, in order.
    pub groups: Vec<GroupRecord>,
}

impl Index {
    /// Appends the content of the frame to `out`.
    pub fn write(&self, out: &mut Vec<u8>) {
        put_varint(out, self.generation.into());
        write_models(&self.models, out);
        self.embedded.iter().for_each(|&offset| put_varint(out, offset));
        put_varint(out, self.groups.len() as u64);
        let mut end = super::header::HEADER_LEN as u64;
        for group in &self.groups {
            put_varint(out, group.offset - end);
            for value in [
                group.head_len,
                group.body_len,
                group.table_len,
                group.raw_len,
                group.chunk_count,
                group.entry_count,
            ] {
                put_varint(out, value.into());
            }
            out.extend(group.crc.to_le_bytes());
            end = group.end();
        }
    }

    /// Reads the content of an INDEX frame that begins at offset `end` of the file, before which
    /// everything that it names lies. Fails with `Error::Corrupt` where a rule is broken.
    pub fn read(input: &mut Cursor<'_>, end: u64) -> Result<Self> {
        let generation = input.bounded_u32(u32::MAX, "the generation exceeds 32 bits")?;
        let models = read_models(input)?;
        let mut embedded = Vec::new();
        for _ in models.iter().filter(|model| model.embedded) {
            embedded.push(input.bounded(end, "a model lies beyond the index")?);
        }
        let mut groups = Vec::new();
        let mut at = super::header::HEADER_LEN as u64;
        for _ in 0..input.varint()? {
            let gap = input.bounded(end, "a group lies beyond the index")?;
            let mut field = |max: u32| input.bounded_u32(max, "a group's figures exceed the limits");
            let group = GroupRecord {
                offset: at + gap,
                head_len: field(limits::FRAME_LEN)?,
                body_len: field(u32::MAX)?,
                table_len: field(limits::FRAME_LEN)?,
                raw_len: field(limits::GROUP_LEN)?,
                chunk_count: field(limits::GROUP_CHUNKS)?,
                entry_count: field(limits::GROUP_ENTRIES)?,
                crc: input.u32()?,
            };
            at = group.end();
            let smallest = (2 * limits::FRAME_MIN, limits::FRAME_MIN);
            if group.head_len < smallest.0 || group.table_len < smallest.1 || at > end {
                return Err(input.corrupt("a group is shorter than its frames, or lies beyond the index"));
            }
            groups.push(group);
        }
        Ok(Self { generation, models, embedded, groups })
    }
}

/// The last 32 bytes of each generation.
///
/// | bytes | field |
/// | --- | --- |
/// | 4 | marker |
/// | 4 | `generation` |
/// | 8 | `index_len`: bytes of the INDEX frame, which ends where the trailer begins |
/// | 8 | `archive_len`: bytes up to and with this trailer |
/// | 4 | CRC-32 of all bytes before |
/// | 4 | end mark |
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trailer {
    /// Number of the generation, as in the index.
    pub generation: u32,
    /// Bytes of the INDEX frame, which ends where the trailer begins.
    pub index_len: u64,
    /// Bytes of the archive up to the end of this trailer.
    pub archive_len: u64,
}

impl Trailer {
    /// Appends the trailer to `out`.
    pub fn write(&self, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend(TRAILER_MARKER);
        out.extend(self.generation.to_le_bytes());
        out.extend(self.index_len.to_le_bytes());
        out.extend(self.archive_len.to_le_bytes());
        let crc = crc32fast::hash(&out[start..]);
        out.extend(crc.to_le_bytes());
        out.extend(TRAILER_END);
    }

    /// Reads the trailer from `data`, which stands at `offset` of the file. Fails with
    /// `Error::Truncated`, or with `Error::Corrupt` where this is no trailer or its figures do not
    /// fit `offset`.
    pub fn read(data: &[u8], offset: u64) -> Result<Self> {
        let corrupt = |rule| Error::Corrupt { offset, rule };
        let mut input = Cursor::at(data, offset);
        if input.array()? != TRAILER_MARKER {
            return Err(corrupt("no trailer at the end: the file is cut short, or bytes were appended"));
        }
        let trailer = Self { generation: input.u32()?, index_len: input.u64()?, archive_len: input.u64()? };
        if input.u32()? != crc32fast::hash(&data[..24]) || input.array()? != TRAILER_END {
            return Err(corrupt("the trailer's CRC differs"));
        }
        if trailer.archive_len != offset + TRAILER_LEN as u64 {
            return Err(corrupt("the archive's length is another: bytes are missing or were put in"));
        }
        if trailer.index_len > offset.min(limits::FRAME_LEN.into()) {
            return Err(corrupt("the index is longer than the file or the limit"));
        }
        Ok(trailer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_comes_back() {
        let group = GroupRecord {
            offset: 90,
            head_len: 100,
            body_len: 5000,
            table_len: 60,
            raw_len: 20000,
            chunk_count: 5,
            entry_count: 3,
            crc: 0x1234_5678,
        };
        let index = Index {
            generation: 1,
            models: vec![ModelRef { fingerprint: [1; 32], name: "m".into(), embedded: true }],
            embedded: vec![44],
            groups: vec![group.clone(), GroupRecord { offset: 5300, ..group }],
        };
        let mut bytes = Vec::new();
        index.write(&mut bytes);
        let mut input = Cursor::inside(&bytes, 0);
        assert_eq!(Index::read(&mut input, 20000).unwrap(), index);
        input.finish().unwrap();
        assert!(Index::read(&mut Cursor::inside(&bytes, 0), 10000).is_err());
        for cut in 0..bytes.len() {
            assert!(Index::read(&mut Cursor::inside(&bytes[..cut], 0), 20000).is_err());
        }
    }

    #[test]
    fn every_bit_flip_of_a_trailer_is_refused() {
        let mut bytes = Vec::new();
        let trailer = Trailer { generation: 3, index_len: 50, archive_len: 132 };
        trailer.write(&mut bytes);
        assert_eq!(bytes.len(), TRAILER_LEN);
        assert_eq!(Trailer::read(&bytes, 100).unwrap(), trailer);
        assert!(Trailer::read(&bytes, 101).is_err());
        for bit in (0..bytes.len() * 8).step_by(if cfg!(miri) { 7 } else { 1 }) {
            let mut bytes = bytes.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(Trailer::read(&bytes, 100).is_err(), "bit {bit}");
        }
    }
}
