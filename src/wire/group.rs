//! What a group is, and where its chunks lie (spec/format.md, sections 6 and 9).
//!
//! A group is a GROUP frame, an ENTRIES frame, a DICTIONARY frame if it needs one, the frames of
//! its chunks and a TABLE frame. Nothing in it depends on where the group stands, so that groups
//! can be copied into other archives.

use super::cursor::{Cursor, put_varint};
use super::limits;
use crate::error::Result;

/// Content of a GROUP frame. The TABLE frame repeats it, so that one of the two frames may be lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Ties the parts of the group together: the first 4 bytes of the BLAKE3 of the group's raw
    /// bytes and entries.
    pub salt: u32,
    /// Raw bytes of all chunks of the group.
    pub raw_len: u32,
    /// Raw bytes of a full chunk, at most the header's; blocks may be longer.
    pub chunk_size: u32,
    /// How many chunks the group has.
    pub chunk_count: u32,
    /// How many entries the group has.
    pub entry_count: u32,
    /// Bytes of the DICTIONARY frame; 0 if there is none.
    pub dictionary_len: u32,
    /// Bytes of the DICTIONARY frame and of all chunk frames.
    pub body_len: u32,
    /// The models that chunks of this group name, each by its number in the archive.
    pub models: Vec<u8>,
}

impl Group {
    /// Appends the content of the frame to `out`.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.extend(self.salt.to_le_bytes());
        let (lens, counts) = ([self.dictionary_len, self.body_len], [self.chunk_count, self.entry_count]);
        for value in [self.raw_len, self.chunk_size].into_iter().chain(counts).chain(lens) {
            put_varint(out, value.into());
        }
        put_varint(out, self.models.len() as u64);
        out.extend_from_slice(&self.models);
    }

    /// Reads the content of the frame. Fails with `Error::Corrupt` where counts and lengths
    /// contradict each other.
    pub fn read(input: &mut Cursor<'_>) -> Result<Self> {
        let salt = input.u32()?;
        let raw_len = input.bounded_u32(limits::GROUP_LEN, "a group is longer than the limit")?;
        let chunk_size =
            input.bounded_u32(limits::CHUNK_SIZE_MAX, "a group's chunk size exceeds the limit")?;
        let chunk_count = input.bounded_u32(limits::GROUP_CHUNKS, "a group has too many chunks")?;
        let entry_count = input.bounded_u32(limits::GROUP_ENTRIES, "a group has too many entries")?;
        let most = limits::DICTIONARY_LEN + (super::frame::HEAD_MAX + 4) as u32;
        let dictionary_len = input.bounded_u32(most, "a group's dictionary is longer than the limit")?;
        let body_len = input.bounded_u32(u32::MAX, "a group's chunks are longer than the limit")?;
        let count = input.bounded_len(limits::MODELS, "a group names too many models")?;
        let models = input.bytes(count)?.to_vec();
        let group =
            Self { salt, raw_len, chunk_size, chunk_count, entry_count, dictionary_len, body_len, models };
        if chunk_size < limits::CHUNK_SIZE_MIN {
            return Err(input.corrupt("a group's chunk size is below the limit"));
        }
        // Each chunk has at least one raw byte, and at most those of the longest block.
        let most = u64::from(chunk_count) * u64::from(limits::CHUNK_SIZE_MAX);
        if raw_len < chunk_count || u64::from(raw_len) > most {
            return Err(input.corrupt("a group's length does not fit its chunks"));
        }
        // A chunk frame has at least two bytes of head and its checks; beyond the raw bytes it
        // takes at most a head and the checks.
        let most = u64::from(raw_len)
            + u64::from(chunk_count) * (super::chunk::HEAD_MAX + super::chunk::CHECKS_LEN) as u64;
        let chunks = body_len.checked_sub(dictionary_len).map(u64::from);
        if chunks.is_none_or(|len| len < u64::from(chunk_count) * 10 || len > most) {
            return Err(input.corrupt("a group's stored length does not fit its chunks"));
        }
        Ok(group)
    }
}

/// Content of a TABLE frame: the length of each chunk, in its frame and raw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// The content of the GROUP frame again.
    pub group: Group,
    /// Bytes of each chunk's frame.
    pub frame_lens: Vec<u32>,
    /// Raw bytes of each chunk.
    pub raw_lens: Vec<u32>,
}

impl Table {
    /// The raw lengths of a group whose chunks are all full but the last; `None` if its figures do
    /// not fit that.
    fn full_chunks(group: &Group) -> Option<Vec<u32>> {
        let mut left = group.raw_len;
        let mut lens = Vec::new();
        for _ in 0..group.chunk_count {
            let len = left.min(group.chunk_size);
            lens.push(len);
            left -= len;
        }
        (left == 0 && !lens.contains(&0)).then_some(lens)
    }

    /// The least frame length, and the number of bits that the greatest length less the least one
    /// needs.
    fn packing(frame_lens: &[u32]) -> (u32, u32) {
        let min = frame_lens.iter().copied().min().unwrap_or(0);
        let max = frame_lens.iter().copied().max().unwrap_or(0);
        (min, u32::BITS - (max - min).leading_zeros())
    }

    /// Appends the content of the frame to `out`.
    pub fn write(&self, out: &mut Vec<u8>) {
        self.group.write(out);
        let (min, width) = Self::packing(&self.frame_lens);
        put_varint(out, min.into());
        out.push(width as u8);
        let (mut bits, mut filled) = (0u64, 0);
        for len in &self.frame_lens {
            bits |= u64::from(len - min) << filled;
            filled += width;
            while filled >= 8 {
                out.push(bits as u8);
                bits >>= 8;
                filled -= 8;
            }
        }
        if filled > 0 {
            out.push(bits as u8);
        }
        let listed = Self::full_chunks(&self.group).as_ref() != Some(&self.raw_lens);
        out.push(listed.into());
        if listed {
            for run in self.raw_lens.chunk_by(|a, b| a == b) {
                put_varint(out, run.len() as u64);
                put_varint(out, run[0].into());
            }
        }
    }

    /// Reads the content of the frame. Fails with `Error::Corrupt` where the lengths do not add up
    /// to the figures of the group.
    pub fn read(input: &mut Cursor<'_>) -> Result<Self> {
        let group = Group::read(input)?;
        let min = input.bounded(u64::from(group.body_len), "a chunk frame is longer than its group")?;
        let width = u32::from(input.u8()?);
        if width > 24 {
            return Err(input.corrupt("a table has more than 24 bits a chunk"));
        }
        let packed = input.bytes((group.chunk_count as usize * width as usize).div_ceil(8))?;
        let mut frame_lens = Vec::new();
        let (mut bits, mut filled, mut bytes) = (0u64, 0, packed.iter());
        for _ in 0..group.chunk_count {
            while filled < width {
                bits |= u64::from(bytes.next().copied().unwrap_or(0)) << filled;
                filled += 8;
            }
            let len = u32::try_from(min + (bits & ((1 << width) - 1)));
            frame_lens.push(len.map_err(|_| input.corrupt("a chunk frame is longer than its group"))?);
            bits >>= width;
            filled -= width;
        }
        if bits != 0 {
            return Err(input.corrupt("a table has bits left over"));
        }
        if Self::packing(&frame_lens) != (min as u32, width) {
            return Err(input.corrupt("a table is not packed as it is to be"));
        }
        let sum: u64 = frame_lens.iter().map(|&len| u64::from(len)).sum();
        if sum + u64::from(group.dictionary_len) != u64::from(group.body_len) {
            return Err(input.corrupt("a table's lengths do not add up to its group's"));
        }
        let raw_lens = match input.u8()? {
            0 => Self::full_chunks(&group).ok_or_else(|| input.corrupt("a table lacks its raw lengths"))?,
            1 => {
                let lens = Self::read_raw_lens(input, &group)?;
                if Self::full_chunks(&group).as_ref() == Some(&lens) {
                    return Err(input.corrupt("a table lists raw lengths that need no list"));
                }
                lens
            }
            _ => return Err(input.corrupt("a table has unknown flags")),
        };
        Ok(Self { group, frame_lens, raw_lens })
    }

    fn read_raw_lens(input: &mut Cursor<'_>, group: &Group) -> Result<Vec<u32>> {
        let mut lens = Vec::new();
        while lens.len() < group.chunk_count as usize {
            let left = group.chunk_count - lens.len() as u32;
            let count = input.bounded_u32(left, "a table lists more chunks than its group has")?;
            let len =
                input.bounded_u32(limits::CHUNK_SIZE_MAX, "a chunk is longer than the longest block")?;
            if count == 0 || lens.last() == Some(&len) {
                return Err(input.corrupt("a table's raw lengths are not listed as they are to be"));
            }
            lens.extend(std::iter::repeat_n(len, count as usize));
        }
        let sum: u64 = lens.iter().map(|&len| u64::from(len)).sum();
        if sum != u64::from(group.raw_len) || lens.contains(&0) {
            return Err(input.corrupt("a table's raw lengths do not add up to its group's"));
        }
        Ok(lens)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(raw_lens: Vec<u32>, frame_lens: Vec<u32>) -> Table {
        let group = Group {
            salt: 0xdead_beef,
            raw_len: raw_lens.iter().sum(),
            chunk_size: 4096,
            chunk_count: raw_lens.len() as u32,
            entry_count: 12,
            dictionary_len: 100,
            body_len: frame_lens.iter().sum::<u32>() + 100,
            models: vec![0, 7],
        };
        Table { group, frame_lens, raw_lens }
    }

    #[test]
    fn tables_come_back() {
        for table in [
            table(vec![], vec![]),
            table(vec![17], vec![28]),
            table(vec![4096, 4096, 100], vec![1000, 1000, 1000]),
            table(vec![4096; 1000], (0..1000).map(|i| 500 + i * 7 % 3000).collect()),
            table(vec![4096, 5, 4096], vec![4106, 16, 10]),
            table(vec![4096, 4096, 1 << 20, 7, 7, 7], vec![4106, 16, 300_000, 10, 10, 10]),
        ] {
            let mut bytes = Vec::new();
            table.write(&mut bytes);
            let mut input = Cursor::inside(&bytes, 0);
            assert_eq!(Table::read(&mut input).unwrap(), table);
            input.finish().unwrap();
            for cut in 0..bytes.len() {
                assert!(Table::read(&mut Cursor::inside(&bytes[..cut], 0)).is_err());
            }
        }
    }

    #[test]
    fn tables_have_one_form() {
        let table = table(vec![4096, 100], vec![20, 20]);
        for (form, sound) in [
            (&[20, 0, 0][..], true),
            (&[0, 5, 0x94, 2, 0], false),
            (&[20, 1, 0, 0], false),
            (&[20, 0, 1, 1, 0x80, 0x20, 1, 100], false),
        ] {
            let mut bytes = Vec::new();
            table.group.write(&mut bytes);
            bytes.extend(form);
            assert_eq!(Table::read(&mut Cursor::inside(&bytes, 0)).is_ok(), sound, "{form:?}");
        }
    }

    #[test]
    fn a_table_costs_less_than_two_bytes_a_chunk() {
        let table = table(vec![4096; 1024], (0..1024).map(|i| 10 + i * 4).collect());
        let mut bytes = Vec::new();
        table.write(&mut bytes);
        assert!(bytes.len() < 1024 * 2 - 400, "{}", bytes.len());
    }

    #[test]
    fn groups_whose_figures_do_not_fit_are_refused() {
        let good = table(vec![4096, 100], vec![1000, 50]).group;
        for bad in [
            Group { raw_len: (2 << 20) + 1, ..good.clone() },
            Group { raw_len: 1, ..good.clone() },
            Group { chunk_count: 0, ..good.clone() },
            Group { chunk_size: 512, ..good.clone() },
            Group { body_len: 119, ..good.clone() },
            Group { dictionary_len: 1131, ..good.clone() },
            Group { dictionary_len: u32::MAX, ..good.clone() },
            Group { body_len: u32::MAX, ..good.clone() },
        ] {
            let mut bytes = Vec::new();
            bad.write(&mut bytes);
            assert!(Group::read(&mut Cursor::inside(&bytes, 0)).is_err(), "{bad:?}");
        }
    }
}
