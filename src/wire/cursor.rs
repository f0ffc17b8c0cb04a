//! Reads and writes the primitive values of the format (spec/format.md, section 2).
//!
//! All integers are little-endian. A varint has seven bits a byte, lowest first, and no more bytes
//! than it needs. A zigzag varint maps 0, -1, 1, -2 to 0, 1, 2, 3.

use crate::error::{Error, Result};

/// Walks over bytes of an archive, knowing where they lie in it.
pub struct Cursor<'a> {
    data: &'a [u8],
    pos: usize,
    base: u64,
    /// Whether `data` lies in the file as it is; if not, it was unpacked from a frame at `base`.
    verbatim: bool,
    /// Memory that what is read may still take, and could take in the beginning.
    left: u64,
    allowed: u64,
}

impl<'a> Cursor<'a> {
    /// `data` is what the file holds from `base` on.
    pub fn at(data: &'a [u8], base: u64) -> Self {
        Self { data, pos: 0, base, verbatim: true, left: u64::MAX, allowed: u64::MAX }
    }

    /// `data` was unpacked from the frame at `base`.
    pub fn inside(data: &'a [u8], base: u64) -> Self {
        Self { verbatim: false, ..Self::at(data, base) }
    }

    /// What is read may take so much memory, as far as it says so with `takes`.
    pub fn allow(self, bytes: u64) -> Self {
        Self { left: bytes, allowed: bytes, ..self }
    }

    /// What was read takes so many bytes of memory.
    pub fn takes(&mut self, bytes: usize) -> Result<()> {
        let Some(left) = self.left.checked_sub(bytes as u64) else {
            let got = (self.allowed - self.left).saturating_add(bytes as u64);
            return Err(Error::Limit { what: "the memory for entries", got, max: self.allowed });
        };
        self.left = left;
        Ok(())
    }

    /// Where in the file the next byte lies, or the frame that holds it.
    pub fn offset(&self) -> u64 {
        if self.verbatim { self.base + self.pos as u64 } else { self.base }
    }

    /// Bytes read so far.
    pub fn position(&self) -> usize {
        self.pos
    }

    pub fn remaining(&self) -> usize {
        self.data.len() - self.pos
    }

    /// The error that `rule` is broken here.
    pub fn corrupt(&self, rule: &'static str) -> Error {
        Error::Corrupt { offset: self.offset(), rule }
    }

    pub fn bytes(&mut self, len: usize) -> Result<&'a [u8]> {
        if len > self.remaining() {
            return Err(self.corrupt("a record runs over the end of what holds it"));
        }
        let bytes = &self.data[self.pos..self.pos + len];
        self.pos += len;
        Ok(bytes)
    }

    pub fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut array = [0; N];
        array.copy_from_slice(self.bytes(N)?);
        Ok(array)
    }

    pub fn u8(&mut self) -> Result<u8> {
        Ok(self.array::<1>()?[0])
    }

    pub fn u16(&mut self) -> Result<u16> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    pub fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub fn u64(&mut self) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    pub fn varint(&mut self) -> Result<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.u8()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                break;
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                if byte == 0 && shift > 0 {
                    return Err(self.corrupt("a varint has more bytes than it needs"));
                }
                return Ok(value);
            }
        }
        Err(self.corrupt("a varint exceeds 64 bits"))
    }

    pub fn zigzag(&mut self) -> Result<i64> {
        let v = self.varint()?;
        Ok((v >> 1) as i64 ^ -((v & 1) as i64))
    }

    /// A varint of at most `max`; `rule` says what is broken if it is more.
    pub fn bounded(&mut self, max: u64, rule: &'static str) -> Result<u64> {
        let value = self.varint()?;
        if value > max {
            return Err(self.corrupt(rule));
        }
        Ok(value)
    }

    /// The same for values that fit 32 bits.
    pub fn bounded_u32(&mut self, max: u32, rule: &'static str) -> Result<u32> {
        Ok(self.bounded(u64::from(max), rule)? as u32)
    }

    /// The same for lengths of what follows.
    pub fn bounded_len(&mut self, max: usize, rule: &'static str) -> Result<usize> {
        Ok(self.bounded(max as u64, rule)? as usize)
    }

    /// Nothing may be left.
    pub fn finish(self) -> Result<()> {
        if self.remaining() > 0 {
            return Err(self.corrupt("bytes are left at the end of a record"));
        }
        Ok(())
    }
}

pub fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

pub fn put_zigzag(out: &mut Vec<u8>, value: i64) {
    put_varint(out, ((value << 1) ^ (value >> 63)) as u64);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn varints_come_back() {
        for value in [0, 1, 127, 128, 300, 1 << 35, u64::MAX - 1, u64::MAX] {
            let mut bytes = Vec::new();
            put_varint(&mut bytes, value);
            let mut cursor = Cursor::at(&bytes, 0);
            assert_eq!(cursor.varint().unwrap(), value);
            cursor.finish().unwrap();
        }
    }

    #[test]
    fn zigzags_come_back() {
        for value in [0, -1, 1, 12345, -54321, i64::MAX, i64::MIN] {
            let mut bytes = Vec::new();
            put_zigzag(&mut bytes, value);
            assert_eq!(Cursor::at(&bytes, 0).zigzag().unwrap(), value);
        }
    }

    #[test]
    fn long_forms_and_overflows_are_refused() {
        for bytes in [&[0x80, 0x00][..], &[0xff, 0x80, 0x00], &[0xff; 11], &[0x80; 3]] {
            assert!(Cursor::at(bytes, 0).varint().is_err(), "{bytes:?}");
        }
        let mut over = [0xff; 10];
        over[9] = 0x02;
        assert!(Cursor::at(&over, 0).varint().is_err());
    }

    #[test]
    fn errors_know_where_they_are() {
        let mut cursor = Cursor::at(&[1, 2], 40);
        cursor.u8().unwrap();
        assert!(matches!(cursor.u32(), Err(Error::Corrupt { offset: 41, .. })));
        assert!(matches!(Cursor::inside(&[], 7).u8(), Err(Error::Corrupt { offset: 7, .. })));
    }
}
