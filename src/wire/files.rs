//! Sizes, extents and hashes of a group's files (spec/format.md, section 7.2).
//!
//! Most files are one extent that begins where the data of the file before end; such a file takes a
//! single zero. Raw offsets are stored as differences to that place.

use super::cursor::{Cursor, put_varint, put_zigzag};
use super::entry::{ContentHash, Entry, Extent, Kind, content_hash, hash_len};
use super::limits;
use crate::error::Result;

/// The form of a file without stored extents: an empty file has none, and another file has one of
/// its whole size at the expected raw offset.
const IN_SEQUENCE: u64 = 0;

/// What the columns of files are relative to.
pub struct FileColumns {
    /// Offset of the group's first byte in the raw stream of the archive.
    pub raw: u64,
    /// Offset in the group's raw bytes at which the data of the first file begin.
    pub first_raw: u32,
    /// Whether the last entry is a file whose hash comes with a later group.
    pub open: bool,
}

/// The content hash of a file without data; it is not stored.
pub fn empty_hash() -> ContentHash {
    content_hash(blake3::hash(&[]).as_bytes(), 0)
}

/// Follows the offset at which the data of the next file are expected.
struct Sequence {
    next: u64,
}

impl Sequence {
    fn new(columns: &FileColumns) -> Self {
        Self { next: columns.raw + u64::from(columns.first_raw) }
    }

    fn whole(&self, size: u64) -> Vec<Extent> {
        let extent = Extent { file_offset: 0, raw_offset: self.next, len: size };
        if size == 0 { Vec::new() } else { vec![extent] }
    }

    /// Moves behind the data of a file. Data that stand earlier in the raw stream move nothing.
    fn pass(&mut self, extents: &[Extent]) {
        for extent in extents {
            self.next = self.next.max(extent.raw_offset.saturating_add(extent.len));
        }
    }
}

fn files(entries: &[Entry]) -> impl Iterator<Item = (u64, &[Extent], &ContentHash)> {
    entries.iter().filter_map(|entry| match &entry.kind {
        Kind::File { size, extents, hash } => Some((*size, &extents[..], hash)),
        _ => None,
    })
}

/// Bytes of a file's data, without its holes.
fn data_len(extents: &[Extent]) -> u64 {
    extents.iter().fold(0, |sum, extent| sum.saturating_add(extent.len))
}

/// Appends sizes, extents and hashes of all files among `entries` to `out`.
pub fn write_files(entries: &[Entry], columns: &FileColumns, out: &mut Vec<u8>) {
    files(entries).for_each(|(size, _, _)| put_varint(out, size));
    let mut explicit = Vec::new();
    let mut sequence = Sequence::new(columns);
    for (size, extents, _) in files(entries) {
        if extents == sequence.whole(size) {
            put_varint(out, IN_SEQUENCE);
        } else {
            put_varint(out, extents.len() as u64 + 1);
            let (mut end, mut next) = (0, sequence.next);
            for extent in extents {
                // Only a forged archive has extents that overlap; a reader refuses what this gives.
                put_varint(&mut explicit, extent.file_offset.wrapping_sub(end));
                put_varint(&mut explicit, extent.len);
                put_zigzag(&mut explicit, extent.raw_offset.wrapping_sub(next) as i64);
                end = extent.file_offset + extent.len;
                next = extent.raw_offset + extent.len;
            }
        }
        sequence.pass(extents);
    }
    out.extend(explicit);
    let mut hashes: Vec<_> = files(entries).filter(|(_, extents, _)| !extents.is_empty()).collect();
    if columns.open {
        hashes.pop();
    }
    for (_, extents, hash) in hashes {
        out.extend_from_slice(&hash[..hash_len(data_len(extents))]);
    }
}

/// Reads sizes, extents and hashes into those of `entries` that are files. Fails with
/// `Error::Corrupt` where a rule is broken.
pub fn read_files(input: &mut Cursor<'_>, entries: &mut [Entry], columns: &FileColumns) -> Result<()> {
    let mut forms = Vec::new();
    let mut count = 0;
    for entry in &mut *entries {
        if let Kind::File { size, .. } = &mut entry.kind {
            *size = input.bounded(limits::RAW_LEN, "a file's size exceeds 63 bits")?;
            count += 1;
        }
    }
    for _ in 0..count {
        forms.push(input.varint()?);
    }
    let mut sequence = Sequence::new(columns);
    let mut forms = forms.into_iter();
    for entry in &mut *entries {
        if let Kind::File { size, extents, .. } = &mut entry.kind {
            *extents = match forms.next().unwrap_or(IN_SEQUENCE) {
                IN_SEQUENCE => sequence.whole(*size),
                more => read_extents(input, more - 1, *size, sequence.next)?,
            };
            sequence.pass(extents);
            if sequence.next > limits::RAW_LEN {
                return Err(input.corrupt("a file's data lies beyond 63 bits"));
            }
        }
    }
    read_hashes(input, entries, columns.open)
}

fn read_extents(input: &mut Cursor<'_>, count: u64, size: u64, mut next: u64) -> Result<Vec<Extent>> {
    // An extent has at least three bytes, which bounds what a false count can make the reader
    // allocate.
    let most = usize::try_from(count).unwrap_or(usize::MAX).min(input.remaining() / 3 + 1);
    input.takes(most.saturating_mul(size_of::<Extent>()))?;
    let mut extents = Vec::with_capacity(most);
    let mut end = 0u64;
    for _ in 0..count {
        let gap = input.bounded(size - end, "an extent lies beyond its file")?;
        let file_offset = end + gap;
        let len = input.bounded(size - file_offset, "an extent lies beyond its file")?;
        let raw_offset = next.checked_add_signed(input.zigzag()?).filter(|&at| at <= limits::RAW_LEN - len);
        let Some(raw_offset) = raw_offset.filter(|_| len > 0) else {
            return Err(input.corrupt("an extent is empty or lies outside the raw stream"));
        };
        extents.push(Extent { file_offset, raw_offset, len });
        end = file_offset + len;
        next = raw_offset + len;
    }
    Ok(extents)
}

fn read_hashes(input: &mut Cursor<'_>, entries: &mut [Entry], open: bool) -> Result<()> {
    let last = entries.len().wrapping_sub(1);
    let mut open_seen = false;
    for (i, entry) in entries.iter_mut().enumerate() {
        if let Kind::File { extents, hash, .. } = &mut entry.kind {
            if extents.is_empty() {
                *hash = empty_hash();
            } else if open && i == last {
                open_seen = true;
            } else {
                let kept = hash_len(data_len(extents));
                hash[..kept].copy_from_slice(input.bytes(kept)?);
            }
        }
    }
    if open && !open_seen {
        return Err(input.corrupt("a group leaves a file open, but its last entry is not one with data"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::entries::{Base, Entries};
    use crate::wire::entry::{EntryId, Timestamp};

    const BASE: Base = Base { entry: 40, raw: 1000 };

    fn entry(path: &str, kind: Kind) -> Entry {
        let mtime = Timestamp { secs: 1_700_000_000, nanos: 123_456_789 };
        Entry { path: path.into(), kind, mode: 0o644, uid: 1000, gid: 100, mtime, xattrs: vec![] }
    }

    fn file(path: &str, size: u64, extents: &[(u64, u64, u64)]) -> Entry {
        let extents: Vec<_> = extents
            .iter()
            .map(|&(file_offset, raw_offset, len)| Extent { file_offset, raw_offset, len })
            .collect();
        let hash = if extents.is_empty() {
            empty_hash()
        } else {
            content_hash(&[path.len() as u8; 32], data_len(&extents))
        };
        entry(path, Kind::File { size, extents, hash })
    }

    fn sample() -> Entries {
        let mut attributed = file("dir/b", 0, &[]);
        attributed.xattrs = vec![(b"user.a".to_vec(), b"1".to_vec()), (b"user.b".to_vec(), vec![])];
        attributed.mtime = Timestamp { secs: i64::MIN, nanos: 0 };
        Entries {
            salt: 9,
            ended: Some([4; 16]),
            open: false,
            first_raw: 50,
            entries: vec![
                entry("", Kind::Directory),
                entry("dir", Kind::Directory),
                file("dir/a", 100, &[(0, 1050, 100)]),
                attributed,
                file("dir/copy", 100, &[(0, 1050, 100)]),
                file("dir/early", 30, &[(0, 7, 30)]),
                file("dir/sparse", 1 << 40, &[(4096, 1150, 20), (1 << 30, 1170, 20)]),
                file("dir/hole", 1 << 20, &[]),
                file("dir/next", 10, &[(0, 1190, 10)]),
                file("dir/longer", 5000, &[(0, 1200, 2000), (3000, 3200, 2000)]),
                file("dir/long", 5000, &[(0, 5200, 4096)]),
                entry("dir/link", Kind::Symlink { target: b"../x\xff".to_vec() }),
                entry("dir/same", Kind::Hardlink { target: EntryId(42) }),
                entry("tty", Kind::CharDevice { major: 5, minor: 1 }),
                entry("disk", Kind::BlockDevice { major: 8, minor: u32::MAX }),
                entry("fifo", Kind::Fifo),
                entry("sock", Kind::Socket),
            ],
        }
    }

    fn written(frame: &Entries) -> Vec<u8> {
        let mut bytes = Vec::new();
        frame.write(BASE, &mut bytes);
        bytes
    }

    #[test]
    fn entries_of_every_kind_come_back() {
        let bytes = written(&sample());
        let mut input = Cursor::inside(&bytes, 0);
        assert_eq!(Entries::read(&mut input, BASE).unwrap(), sample());
        input.finish().unwrap();
    }

    #[test]
    fn short_files_have_short_hashes_and_near_times_few_bytes() {
        let entries = (0..100u32)
            .map(|i| {
                let mut entry = file(&format!("d/{i:02}"), 300, &[(0, 1050 + u64::from(i) * 300, 300)]);
                entry.mtime.nanos = 1000 * i + 1;
                entry
            })
            .collect();
        let bytes = written(&Entries { entries, ..sample() });
        // A hash of six bytes, a time of two, a size of two, and nine for the path and the rest.
        assert!(bytes.len() < 100 * 19 + 60, "{}", bytes.len());
    }

    #[test]
    fn an_open_file_has_no_hash_yet() {
        let mut open = Entries { open: true, ..sample() };
        open.entries.truncate(2);
        open.entries.push(file("big", 1 << 33, &[(0, 1050, 1 << 33)]));
        let read = Entries::read(&mut Cursor::inside(&written(&open), 0), BASE).unwrap();
        let Kind::File { hash, .. } = &mut open.entries[2].kind else { unreachable!() };
        *hash = [0; 16];
        assert_eq!(read, open);
    }

    #[test]
    fn groups_can_move() {
        let bytes = written(&sample());
        let moved = Base { entry: 140, raw: 51_000 };
        let read = Entries::read(&mut Cursor::inside(&bytes, 0), moved).unwrap();
        assert!(
            matches!(&read.entries[2].kind, Kind::File { extents, .. } if extents[0].raw_offset == 51_050)
        );
        assert!(
            matches!(&read.entries[5].kind, Kind::File { extents, .. } if extents[0].raw_offset == 50_007)
        );
        assert!(matches!(read.entries[12].kind, Kind::Hardlink { target: EntryId(142) }));
    }

    #[test]
    fn prefixes_and_flips_never_panic() {
        let bytes = written(&sample());
        // Miri takes a minute for all of them.
        let step = if cfg!(miri) { 41 } else { 1 };
        for cut in (0..bytes.len()).step_by(step) {
            assert!(Entries::read(&mut Cursor::inside(&bytes[..cut], 0), BASE).is_err());
        }
        for bit in (0..bytes.len() * 8).step_by(step) {
            let mut bytes = bytes.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let _ = Entries::read(&mut Cursor::inside(&bytes, 0), BASE);
        }
    }
}
