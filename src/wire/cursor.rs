//! Reads and writes the primitive values of the format (spec/format.md, section 2).
//!
//! All integers are little-endian. A varint has seven bits in each byte, lowest first, and no more
//! bytes than it needs. A zigzag varint maps 0, -1, 1, -2 to 0, 1, 2, 3.

use crate::error::{Error, Result};

/// Reads values from bytes of an archive one after another, and knows where in the file they lie.
///
/// Every method that reads fails with `Error::Truncated` where the bytes end early in the file, and
/// with `Error::Corrupt` where they end early in a record or break a rule.
pub struct Cursor<'a> {
    data: &'a [u8],
    pos: usize,
    base: u64,
    /// Whether `data` stands in the file as it is. If not, it was unpacked from a frame at `base`.
    verbatim: bool,
    /// Bytes of memory that the values read may still take.
    left: u64,
    /// Bytes of memory that the values read may take in all.
    allowed: u64,
}

impl<'a> Cursor<'a> {
    /// A cursor over `data`, which stands in the file at offset `base`.
    pub fn at(data: &'a [u8], base: u64) -> Self {
        Self { data, pos: 0, base, verbatim: true, left: u64::MAX, allowed: u64::MAX }
    }

    /// A cursor over `data`, which was unpacked from the frame at offset `base`.
    pub fn inside(data: &'a [u8], base: u64) -> Self {
        Self { verbatim: false, ..Self::at(data, base) }
    }

    /// Limits the memory that values read may take to `bytes`. What takes memory is told with
    /// `takes`.
    pub fn allow(self, bytes: u64) -> Self {
        Self { left: bytes, allowed: bytes, ..self }
    }

    /// Counts `bytes` of memory for what was read. Fails with `Error::Limit` above what `allow`
    /// set.
    pub fn takes(&mut self, bytes: usize) -> Result<()> {
        let Some(left) = self.left.checked_sub(bytes as u64) else {
            let got = (self.allowed - self.left).saturating_add(bytes as u64);
            return Err(Error::Limit { what: "the memory for entries", got, max: self.allowed });
        };
        self.left = left;
        Ok(())
    }

    /// The place in the file of the next byte, or of the frame that holds it.
    pub fn offset(&self) -> u64 {
        if self.verbatim { self.base + self.pos as u64 } else { self.base }
    }

    /// Bytes read so far.
    pub fn position(&self) -> usize {
        self.pos
    }

    /// Bytes left to read.
    pub fn remaining(&self) -> usize {
        self.data.len() - self.pos
    }

    /// The error that says that `rule` is broken at this place.
    pub fn corrupt(&self, rule: &'static str) -> Error {
        Error::Corrupt { offset: self.offset(), rule }
    }

    /// Reads `len` bytes.
    pub fn bytes(&mut self, len: usize) -> Result<&'a [u8]> {
        if len > self.remaining() {
            return Err(self.corrupt("a record runs over the end of what holds it"));
        }
        let bytes = &self.data[self.pos..self.pos + len];
        self.pos += len;
        Ok(bytes)
    }

    /// Reads `N` bytes.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut array = [0; N];
        array.copy_from_slice(self.bytes(N)?);
        Ok(array)
    }

    /// Reads an unsigned integer of 8 bits.
    pub fn u8(&mut self) -> Result<u8> {
        Ok(self.array::<1>()?[0])
    }

    /// Reads an unsigned integer of 16 bits.
    pub fn u16(&mut self) -> Result<u16> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    /// Reads an unsigned integer of 32 bits.
    pub fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    /// Reads an unsigned integer of 64 bits.
    pub fn u64(&mut self) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// Reads a varint. One with more bytes than it needs is corrupt.
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

    /// Reads a zigzag varint.
    pub fn zigzag(&mut self) -> Result<i64> {
        let v = self.varint()?;
        Ok((v >> 1) as i64 ^ -((v & 1) as i64))
    }

    /// Reads a varint of at most `max`. A larger value is corrupt, and `rule` says why.
    pub fn bounded(&mut self, max: u64, rule: &'static str) -> Result<u64> {
        let value = self.varint()?;
        if value > max {
            return Err(self.corrupt(rule));
        }
        Ok(value)
    }

    /// Reads a varint of at most `max`, as `bounded` does, for values of 32 bits.
    pub fn bounded_u32(&mut self, max: u32, rule: &'static str) -> Result<u32> {
        Ok(self.bounded(u64::from(max), rule)? as u32)
    }

    /// Reads a varint of at most `max`, as `bounded` does, for the length of what follows.
    pub fn bounded_len(&mut self, max: usize, rule: &'static str) -> Result<usize> {
        Ok(self.bounded(max as u64, rule)? as usize)
    }

    /// Ends the reading of a record. Bytes that are left are corrupt.
    pub fn finish(self) -> Result<()> {
        if self.remaining() > 0 {
            return Err(self.corrupt("bytes are left at the end of a record"));
        }
        Ok(())
    }
}

/// Appends `value` to `out` as a varint.
pub fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Appends `value` to `out` as a zigzag varint.
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
