//! The entries of a group, in columns (spec/format.md, section 7).
//!
//! A path is stored as what differs from the path of the entry before, owners and times as
//! differences to the entry before: among entries of one directory, these are small. Files follow
//! in `files`. What only few entries have comes last.

use super::cursor::{Cursor, put_varint, put_zigzag};
use super::entry::{ContentHash, Entry, EntryId, Kind, Timestamp};
use super::files::{FileColumns, read_files, write_files};
use super::limits;
use crate::error::Result;

const ENDED: u8 = 1;
const OPEN: u8 = 2;

/// Numbers of a group's first entry and first raw byte in the archive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Base {
    /// Number of the group's first entry.
    pub entry: u32,
    /// Offset of the group's first byte in the raw stream of the archive.
    pub raw: u64,
}

/// Content of an ENTRIES frame.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entries {
    /// The salt of the group.
    pub salt: u32,
    /// Content hash of the file that an earlier group left open, if that file ends in this group.
    pub ended: Option<ContentHash>,
    /// Whether the last entry is a file that continues beyond this group; the file's hash comes
    /// later.
    pub open: bool,
    /// Offset in the group's raw bytes at which the data of the first file of this group begin.
    pub first_raw: u32,
    /// The entries, in the order of their numbers.
    pub entries: Vec<Entry>,
}

impl Entries {
    /// Appends the content of the frame to `out`, for a group that begins at `base`.
    pub fn write(&self, base: Base, out: &mut Vec<u8>) {
        out.extend(self.salt.to_le_bytes());
        out.push(if self.ended.is_some() { ENDED } else { 0 } | if self.open { OPEN } else { 0 });
        out.extend(self.ended.iter().flatten());
        put_varint(out, self.first_raw.into());
        put_varint(out, self.entries.len() as u64);
        write_paths(&self.entries, out);
        out.extend(self.entries.iter().map(|entry| kind_code(&entry.kind)));
        self.entries.iter().for_each(|entry| put_varint(out, entry.mode.into()));
        write_deltas(self.entries.iter().map(|entry| entry.uid.into()), out);
        write_deltas(self.entries.iter().map(|entry| entry.gid.into()), out);
        write_times(&self.entries, out);
        write_files(&self.entries, &self.columns(base), out);
        self.write_rare(base, out);
    }

    /// Reads the content of the frame of a group that begins at `base`. Fails with `Error::Corrupt`
    /// where a rule is broken, and with `Error::Limit` where the cursor allows too little memory.
    pub fn read(input: &mut Cursor<'_>, base: Base) -> Result<Self> {
        let salt = input.u32()?;
        let flags = input.u8()?;
        if flags & !(ENDED | OPEN) != 0 {
            return Err(input.corrupt("an entries frame has unknown flags"));
        }
        let ended = if flags & ENDED != 0 { Some(input.array()?) } else { None };
        let first_raw = input.bounded_u32(limits::GROUP_LEN, "a group's first file lies beyond it")?;
        let count = input.bounded_len(limits::GROUP_ENTRIES as usize, "a group has too many entries")?;
        let mut entries = read_paths(input, count)?;
        for entry in &mut entries {
            entry.kind = kind_of(input)?;
        }
        for entry in &mut entries {
            entry.mode = input.bounded_u32(0o7777, "a mode has more than twelve bits")? as u16;
        }
        let owner = "an owner exceeds 32 bits";
        read_deltas(input, &mut entries, |entry, id| {
            u32::try_from(id).map(|id| entry.uid = id).map_err(|_| owner)
        })?;
        read_deltas(input, &mut entries, |entry, id| {
            u32::try_from(id).map(|id| entry.gid = id).map_err(|_| owner)
        })?;
        read_times(input, &mut entries)?;
        let mut frame = Self { salt, ended, open: flags & OPEN != 0, first_raw, entries };
        let columns = frame.columns(base);
        read_files(input, &mut frame.entries, &columns)?;
        frame.read_rare(input, base)?;
        Ok(frame)
    }

    fn columns(&self, base: Base) -> FileColumns {
        FileColumns { raw: base.raw, first_raw: self.first_raw, open: self.open }
    }

    /// Writes link targets, devices and extended attributes.
    fn write_rare(&self, base: Base, out: &mut Vec<u8>) {
        for (id, entry) in (base.entry..).zip(&self.entries) {
            match &entry.kind {
                Kind::Symlink { target } => put_bytes(out, target),
                Kind::Hardlink { target } => put_varint(out, (id - target.0).into()),
                Kind::CharDevice { major, minor } | Kind::BlockDevice { major, minor } => {
                    put_varint(out, (*major).into());
                    put_varint(out, (*minor).into());
                }
                Kind::Directory | Kind::File { .. } | Kind::Fifo | Kind::Socket => {}
            }
        }
        let with_xattrs = || self.entries.iter().enumerate().filter(|(_, entry)| !entry.xattrs.is_empty());
        put_varint(out, with_xattrs().count() as u64);
        let mut before = 0;
        for (i, entry) in with_xattrs() {
            put_varint(out, (i - before) as u64);
            before = i;
            put_varint(out, entry.xattrs.len() as u64);
            for (name, value) in &entry.xattrs {
                put_bytes(out, name);
                put_bytes(out, value);
            }
        }
    }

    fn read_rare(&mut self, input: &mut Cursor<'_>, base: Base) -> Result<()> {
        for (id, entry) in (u64::from(base.entry)..).zip(&mut self.entries) {
            match &mut entry.kind {
                Kind::Symlink { target } => {
                    *target = get_bytes(input, limits::TARGET_LEN, "a link's target is too long")?;
                    if target.is_empty() || target.contains(&0) {
                        return Err(input.corrupt("a link's target is empty or holds a NUL byte"));
                    }
                }
                Kind::Hardlink { target } => {
                    let distance = input.bounded(id, "a hardlink's target lies before the first entry")?;
                    if distance == 0 {
                        return Err(input.corrupt("a hardlink is its own target"));
                    }
                    *target = EntryId((id - distance) as u32);
                }
                Kind::CharDevice { major, minor } | Kind::BlockDevice { major, minor } => {
                    *major = input.bounded_u32(u32::MAX, "a device number exceeds 32 bits")?;
                    *minor = input.bounded_u32(u32::MAX, "a device number exceeds 32 bits")?;
                }
                Kind::Directory | Kind::File { .. } | Kind::Fifo | Kind::Socket => {}
            }
        }
        let mut at = 0;
        for nth in 0..input.varint()? {
            let step = input.bounded_len(self.entries.len(), "attributes of an entry that is not there")?;
            at += step;
            if nth > 0 && step == 0 || at >= self.entries.len() {
                return Err(input.corrupt("attributes of an entry that is not there"));
            }
            let count = input.varint()?;
            if count == 0 {
                return Err(input.corrupt("an entry is listed with no attributes"));
            }
            let xattrs = &mut self.entries[at].xattrs;
            for _ in 0..count {
                let name = get_bytes(input, limits::XATTR_NAME, "an attribute's name is too long")?;
                let value = get_bytes(input, limits::XATTR_VALUE, "an attribute's value is too long")?;
                if name.is_empty()
                    || name.contains(&0)
                    || xattrs.last().is_some_and(|(last, _)| *last >= name)
                {
                    return Err(
                        input.corrupt("attributes are not sorted, or a name is empty or holds a NUL byte")
                    );
                }
                input.takes(name.len() + value.len() + 48)?;
                xattrs.push((name, value));
            }
        }
        Ok(())
    }
}

fn kind_code(kind: &Kind) -> u8 {
    match kind {
        Kind::Directory => 0,
        Kind::File { .. } => 1,
        Kind::Symlink { .. } => 2,
        Kind::Hardlink { .. } => 3,
        Kind::Fifo => 4,
        Kind::Socket => 5,
        Kind::CharDevice { .. } => 6,
        Kind::BlockDevice { .. } => 7,
    }
}

/// Reads the byte that tells an entry's kind; what belongs to the kind is read later.
fn kind_of(input: &mut Cursor<'_>) -> Result<Kind> {
    Ok(match input.u8()? {
        0 => Kind::Directory,
        1 => Kind::File { size: 0, extents: Vec::new(), hash: [0; 16] },
        2 => Kind::Symlink { target: Vec::new() },
        3 => Kind::Hardlink { target: EntryId(0) },
        4 => Kind::Fifo,
        5 => Kind::Socket,
        6 => Kind::CharDevice { major: 0, minor: 0 },
        7 => Kind::BlockDevice { major: 0, minor: 0 },
        _ => return Err(input.corrupt("an entry has an unknown kind")),
    })
}

fn write_paths(entries: &[Entry], out: &mut Vec<u8>) {
    let mut before: &[u8] = &[];
    let mut suffixes = Vec::new();
    for entry in entries {
        let shared = before.iter().zip(&entry.path).take_while(|(a, b)| a == b).count();
        put_varint(out, shared as u64);
        suffixes.push(&entry.path[shared..]);
        before = &entry.path;
    }
    suffixes.iter().for_each(|suffix| put_varint(out, suffix.len() as u64));
    suffixes.iter().for_each(|suffix| out.extend_from_slice(suffix));
}

/// Reads the paths. The entries returned have these and nothing else yet.
fn read_paths(input: &mut Cursor<'_>, count: usize) -> Result<Vec<Entry>> {
    let long = "a path is longer than the limit";
    let mut shared = Vec::new();
    for _ in 0..count {
        shared.push(input.bounded_len(limits::PATH_LEN, long)?);
    }
    let mut own = Vec::new();
    for _ in 0..count {
        own.push(input.bounded_len(limits::PATH_LEN, long)?);
    }
    let mut entries: Vec<Entry> = Vec::new();
    let mut total = 0;
    for (&shared, &own) in shared.iter().zip(&own) {
        let before = entries.last().map_or(&[][..], |entry| &entry.path);
        total += shared + own;
        if shared > before.len() || shared + own > limits::PATH_LEN || total > limits::GROUP_PATH_BYTES {
            return Err(input.corrupt("a path shares more than there is, or is too long"));
        }
        let path = [&before[..shared], input.bytes(own)?].concat();
        let (mode, uid, gid, mtime) = (0, 0, 0, Timestamp::default());
        entries.push(Entry { path, kind: Kind::Directory, mode, uid, gid, mtime, xattrs: Vec::new() });
    }
    Ok(entries)
}

fn write_deltas(values: impl Iterator<Item = i64>, out: &mut Vec<u8>) {
    let mut before = 0i64;
    for value in values {
        put_zigzag(out, value.wrapping_sub(before));
        before = value;
    }
}

fn read_deltas(
    input: &mut Cursor<'_>,
    entries: &mut [Entry],
    set: impl Fn(&mut Entry, i64) -> Result<(), &'static str>,
) -> Result<()> {
    let mut value = 0i64;
    for entry in entries {
        value = value.wrapping_add(input.zigzag()?);
        set(entry, value).map_err(|rule| input.corrupt(rule))?;
    }
    Ok(())
}

/// The time form that has seconds and nanoseconds in columns of their own.
const TIMES_APART: u8 = 0;
/// The time form that has nanoseconds since 1970 in one column.
const TIMES_JOINED: u8 = 1;
const SECOND: i64 = 1_000_000_000;

/// Writes the times of modification. Times of files that were written one after another differ by
/// few nanoseconds, so one column of nanoseconds is short; whole seconds, and times that do not fit
/// 64 bits of nanoseconds, are written in two columns.
fn write_times(entries: &[Entry], out: &mut Vec<u8>) {
    let joined = |entry: &Entry| {
        entry.mtime.secs.checked_mul(SECOND).and_then(|nanos| nanos.checked_add(entry.mtime.nanos.into()))
    };
    let broken = entries.iter().filter(|entry| entry.mtime.nanos != 0).count();
    let times: Option<Vec<i64>> =
        if broken * 2 > entries.len() { entries.iter().map(joined).collect() } else { None };
    if let Some(times) = times {
        out.push(TIMES_JOINED);
        write_deltas(times.into_iter(), out);
    } else {
        out.push(TIMES_APART);
        write_deltas(entries.iter().map(|entry| entry.mtime.secs), out);
        entries.iter().for_each(|entry| out.extend(entry.mtime.nanos.to_le_bytes()));
    }
}

fn read_times(input: &mut Cursor<'_>, entries: &mut [Entry]) -> Result<()> {
    match input.u8()? {
        TIMES_APART => {
            read_deltas(input, entries, |entry, secs| {
                entry.mtime.secs = secs;
                Ok(())
            })?;
            for entry in entries {
                entry.mtime.nanos = input.u32()?;
                if i64::from(entry.mtime.nanos) >= SECOND {
                    return Err(input.corrupt("a time has more than 999,999,999 nanoseconds"));
                }
            }
            Ok(())
        }
        TIMES_JOINED => read_deltas(input, entries, |entry, nanos| {
            let (secs, nanos) = (nanos.div_euclid(SECOND), nanos.rem_euclid(SECOND) as u32);
            entry.mtime = Timestamp { secs, nanos };
            Ok(())
        }),
        _ => Err(input.corrupt("times have an unknown form")),
    }
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn get_bytes(input: &mut Cursor<'_>, max: usize, rule: &'static str) -> Result<Vec<u8>> {
    let len = input.bounded_len(max, rule)?;
    Ok(input.bytes(len)?.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(times: &[(i64, u32)]) -> Vec<Entry> {
        let entry = |&(secs, nanos): &(i64, u32)| Entry {
            path: vec![],
            kind: Kind::Fifo,
            mode: 0,
            uid: 0,
            gid: 0,
            mtime: Timestamp { secs, nanos },
            xattrs: vec![],
        };
        times.iter().map(entry).collect()
    }

    #[test]
    fn times_come_back_in_either_form() {
        for (times, form) in [
            (&[][..], TIMES_APART),
            (&[(1_700_000_000, 0), (1_700_000_001, 0), (5, 7)], TIMES_APART),
            (&[(1_700_000_000, 5), (1_700_000_000, 999_999_999), (-1, 1), (0, 0)], TIMES_JOINED),
            (&[(i64::MAX, 999_999_999), (i64::MIN, 1)], TIMES_APART),
            (&[(9_223_372_036, 854_775_807), (-9_223_372_036, 1)], TIMES_JOINED),
            (&[(9_223_372_036, 854_775_808), (1, 1)], TIMES_APART),
        ] {
            let (entries, mut bytes) = (at(times), Vec::new());
            write_times(&entries, &mut bytes);
            assert_eq!(bytes[0], form, "{times:?}");
            let mut read = at(&vec![(0, 0); times.len()]);
            let mut input = Cursor::inside(&bytes, 0);
            read_times(&mut input, &mut read).unwrap();
            input.finish().unwrap();
            assert_eq!(read, entries);
        }
    }
}
