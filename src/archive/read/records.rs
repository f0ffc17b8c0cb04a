//! The records of an archive file: index, heads of groups, entries.

use super::file::ArchiveFile;
use crate::error::{Error, Result};
use crate::wire::entries::{Base, Entries};
use crate::wire::frame::{Frame, FrameKind};
use crate::wire::group::Group;
use crate::wire::header::{HEADER_LEN, Header};
use crate::wire::index::{GroupRecord, Index, TRAILER_LEN, Trailer};

/// The index that the last trailer names, and where it lies.
pub(crate) fn read_index(file: &ArchiveFile) -> Result<(Index, u64)> {
    let shortest = (HEADER_LEN + TRAILER_LEN) as u64;
    if file.len() < shortest {
        return Err(Error::Truncated { offset: file.len(), needed: shortest - file.len() });
    }
    let trailer_offset = file.len() - TRAILER_LEN as u64;
    let trailer = Trailer::read(&file.read(trailer_offset, TRAILER_LEN as u64)?, trailer_offset)?;
    let offset = trailer_offset - trailer.index_len;
    let data = file.read(offset, trailer.index_len)?;
    let frame = Frame::read(&data, offset)?;
    let mut input = frame.expect(FrameKind::Index, offset)?;
    let index = Index::read(&mut input, offset)?;
    input.finish()?;
    if frame.len != data.len() || index.generation != trailer.generation {
        return Err(Error::Corrupt { offset, rule: "index and trailer do not belong together" });
    }
    Ok((index, offset))
}

/// A group's own figures and its entries, held against what the index says.
pub(crate) fn read_head(
    file: &ArchiveFile,
    record: &GroupRecord,
    header: &Header,
    models: usize,
    base: Base,
    allowance: u64,
) -> Result<(Group, Entries)> {
    let offset = record.offset;
    let data = file.read(offset, record.head_len.into())?;
    let (group, crc, len) = read_group(&data, offset)?;
    let corrupt = |rule| Err(Error::Corrupt { offset, rule });
    let says = (group.raw_len, group.chunk_count, group.entry_count, group.body_len, crc);
    if says != (record.raw_len, record.chunk_count, record.entry_count, record.body_len, record.crc) {
        return corrupt("a group is not the one that the index names");
    }
    check_group(&group, header, models, offset)?;
    let (entries, rest) = read_entries(&data[len..], offset + len as u64, &group, base, allowance)?;
    if len + rest != data.len() {
        return corrupt("a group's frames do not fill its place");
    }
    Ok((group, entries))
}

/// The GROUP frame at the start of `data`, with its CRC and length.
pub(crate) fn read_group(data: &[u8], offset: u64) -> Result<(Group, u32, usize)> {
    let frame = Frame::read(data, offset)?;
    let mut input = frame.expect(FrameKind::Group, offset)?;
    let group = Group::read(&mut input)?;
    input.finish()?;
    Ok((group, frame.crc, frame.len))
}

/// The ENTRIES frame at the start of `data`, with its length.
pub(crate) fn read_entries(
    data: &[u8],
    offset: u64,
    group: &Group,
    base: Base,
    allowance: u64,
) -> Result<(Entries, usize)> {
    let frame = Frame::read(data, offset)?;
    let mut input = frame.expect(FrameKind::Entries, offset)?.allow(allowance);
    let entries = Entries::read(&mut input, base)?;
    input.finish()?;
    check_entries(&entries, group, offset)?;
    Ok((entries, frame.len))
}

/// What holds between a group and its entries.
pub(crate) fn check_entries(entries: &Entries, group: &Group, offset: u64) -> Result<()> {
    if entries.salt != group.salt || entries.entries.len() != group.entry_count as usize {
        return Err(Error::Corrupt { offset, rule: "entries belong to another group" });
    }
    if entries.first_raw > group.raw_len {
        return Err(Error::Corrupt { offset, rule: "a group's first file lies beyond it" });
    }
    Ok(())
}

/// What a group must keep to: the bounds of the header, and the `models` models that are listed before it.
pub(crate) fn check_group(group: &Group, header: &Header, models: usize, offset: u64) -> Result<()> {
    let corrupt = |rule| Err(Error::Corrupt { offset, rule });
    if group.chunk_size > header.chunk_size || group.raw_len > header.group_len {
        return corrupt("a group exceeds the bounds of the header");
    }
    if group.models.iter().any(|&model| usize::from(model) >= models) {
        return corrupt("a group names a model that no list before it does");
    }
    Ok(())
}
