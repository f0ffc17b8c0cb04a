//! The first bytes of an archive (spec/format.md, section 3): 40 bytes.

use super::cursor::Cursor;
use super::limits;
use crate::error::{Error, Result};

/// The first bytes of every archive.
pub const MAGIC: [u8; 8] = *b"\x89S3A\r\n\x1a\n";
/// Bytes of a header.
pub const HEADER_LEN: usize = 40;
/// The major version of the format that this build writes, and the newest that it reads.
pub const MAJOR: u16 = 1;
/// The minor version of the format that this build writes.
pub const MINOR: u16 = 0;
/// Bits of the required features that this build knows; none are defined so far.
pub const KNOWN_FEATURES: u32 = 0;

/// What holds for the whole archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Major version of the format; a reader refuses every version that it does not know.
    pub major: u16,
    /// Minor version of the format; a reader accepts every one.
    pub minor: u16,
    /// Bits of features that a reader must know.
    pub required: u32,
    /// Bits of features that a reader may ignore.
    pub optional: u32,
    /// Raw bytes of a full chunk.
    pub chunk_size: u32,
    /// How deep references may chain: 0 for none.
    pub ref_depth: u8,
    /// How many chunks back a reference may reach.
    pub ref_window: u32,
    /// The most raw bytes of a group.
    pub group_len: u32,
}

impl Header {
    /// The header's bytes.
    pub fn write(&self) -> [u8; HEADER_LEN] {
        let mut out = Vec::with_capacity(HEADER_LEN);
        out.extend(MAGIC);
        out.extend(self.major.to_le_bytes());
        out.extend(self.minor.to_le_bytes());
        out.extend((HEADER_LEN as u16).to_le_bytes());
        out.extend([self.ref_depth, 0]);
        for word in [self.required, self.optional, self.chunk_size, self.ref_window, self.group_len] {
            out.extend(word.to_le_bytes());
        }
        out.extend(crc32fast::hash(&out).to_le_bytes());
        let mut header = [0; HEADER_LEN];
        header.copy_from_slice(&out);
        header
    }

    /// Reads the header from the first bytes of a file, of which there may be fewer than a header
    /// needs. Fails with `Error::NotAnArchive`, `Truncated`, `Corrupt`, `UnsupportedVersion` or
    /// `UnsupportedFeature`.
    pub fn read(data: &[u8]) -> Result<Self> {
        if !MAGIC.starts_with(&data[..data.len().min(MAGIC.len())]) || data.is_empty() {
            return Err(Error::NotAnArchive);
        }
        if data.len() < HEADER_LEN {
            return Err(Error::Truncated {
                offset: data.len() as u64,
                needed: (HEADER_LEN - data.len()) as u64,
            });
        }
        let mut input = Cursor::at(&data[..HEADER_LEN], 0);
        input.bytes(MAGIC.len())?;
        let (major, minor, header_len) = (input.u16()?, input.u16()?, input.u16()?);
        let crc = u32::from_le_bytes(Cursor::at(&data[HEADER_LEN - 4..], 36).array()?);
        let crc_differs = crc != crc32fast::hash(&data[..HEADER_LEN - 4]);
        // A header of another length belongs to another version, whose CRC lies elsewhere.
        if major != MAJOR && !(usize::from(header_len) == HEADER_LEN && crc_differs) {
            return Err(Error::UnsupportedVersion { got: major, max: MAJOR });
        }
        if crc_differs {
            return Err(Error::Corrupt { offset: 0, rule: "the header's CRC differs" });
        }
        let ref_depth = input.u8()?;
        let reserved = input.u8()?;
        let (required, optional) = (input.u32()?, input.u32()?);
        let (chunk_size, ref_window, group_len) = (input.u32()?, input.u32()?, input.u32()?);
        if required & !KNOWN_FEATURES != 0 {
            return Err(Error::UnsupportedFeature { bits: required & !KNOWN_FEATURES });
        }
        let header = Self { major, minor, required, optional, chunk_size, ref_depth, ref_window, group_len };
        if usize::from(header_len) != HEADER_LEN || reserved != 0 {
            return Err(Error::Corrupt { offset: 12, rule: "the header has another length" });
        }
        header.check().map_err(|rule| Error::Corrupt { offset: 14, rule })?;
        Ok(header)
    }

    /// Checks the bounds that the values must keep; an error is the rule that they break.
    pub fn check(&self) -> Result<(), &'static str> {
        if !(limits::CHUNK_SIZE_MIN..=limits::CHUNK_SIZE_MAX).contains(&self.chunk_size) {
            return Err("the chunk size is not within 4 KiB and 1 MiB");
        }
        if !(self.chunk_size..=limits::GROUP_LEN).contains(&self.group_len) {
            return Err("the group length is not within a chunk and 64 MiB");
        }
        if self.ref_depth > limits::REF_DEPTH {
            return Err("references chain deeper than 8");
        }
        if u64::from(self.ref_window) * u64::from(self.chunk_size) > limits::REF_BYTES {
            return Err("references reach back further than 64 MiB");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Header {
        Header {
            major: MAJOR,
            minor: MINOR,
            required: 0,
            optional: 0,
            chunk_size: 16 << 10,
            ref_depth: 2,
            ref_window: 2048,
            group_len: 16 << 20,
        }
    }

    #[test]
    fn a_header_comes_back() {
        assert_eq!(Header::read(&header().write()).unwrap(), header());
    }

    #[test]
    fn every_prefix_and_every_bit_flip_is_refused() {
        let bytes = header().write();
        for cut in 0..bytes.len() {
            assert!(Header::read(&bytes[..cut]).is_err());
        }
        for bit in (0..bytes.len() * 8).step_by(if cfg!(miri) { 7 } else { 1 }) {
            let mut bytes = bytes;
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(Header::read(&bytes).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn newer_versions_and_features_are_refused_by_name() {
        let newer = Header { major: 2, ..header() }.write();
        assert!(matches!(Header::read(&newer), Err(Error::UnsupportedVersion { got: 2, max: 1 })));
        let feature = Header { required: 4, ..header() }.write();
        assert!(matches!(Header::read(&feature), Err(Error::UnsupportedFeature { bits: 4 })));
        Header::read(&Header { minor: 9, optional: 5, ..header() }.write()).unwrap();
    }

    #[test]
    fn values_out_of_bounds_are_refused() {
        for bad in [
            Header { chunk_size: 4095, ..header() },
            Header { chunk_size: (1 << 20) + 1, ..header() },
            Header { ref_depth: 9, ..header() },
            Header { ref_window: u32::MAX, ..header() },
            Header { group_len: 100, ..header() },
        ] {
            assert!(matches!(Header::read(&bad.write()), Err(Error::Corrupt { .. })), "{bad:?}");
        }
    }
}
