//! Writes a tar stream in pax format: plain headers, and extended ones where those do not do.

use std::io::{self, Write};

use super::header::{BLOCK, checksums, field};
use super::read::{Member, MemberKind};
use super::{number, sparse};

/// Streams are filled up to a multiple of this, as tape drives once wanted it.
const RECORD: u64 = 20 * BLOCK as u64;

/// Name of the headers that extend others; only readers that do not know them make files of it.
const EXTENDED_NAME: &[u8] = b"././@PaxHeader";

pub struct TarWriter<W> {
    out: W,
    offset: u64,
}

impl<W: Write> TarWriter<W> {
    pub fn new(out: W) -> Self {
        Self { out, offset: 0 }
    }

    /// Writes the headers of a member, after which its data are due: of a sparse file, that of its
    /// segments.
    pub fn member(&mut self, member: &Member) -> io::Result<()> {
        self.pad()?;
        let mut header = [0; BLOCK];
        let mut records = Vec::new();
        let path = match (&member.kind, member.path.is_empty()) {
            (MemberKind::Folder, true) => b"./".to_vec(),
            (MemberKind::Folder, false) => [&member.path[..], b"/"].concat(),
            _ => member.path.clone(),
        };
        let map = member.segments.as_deref().map(|segments| map_of(segments, member.size));
        let data_len = match (&member.kind, &map) {
            (MemberKind::File, Some((map, segments))) => {
                records.extend([
                    (&b"GNU.sparse.major"[..], b"1".to_vec()),
                    (b"GNU.sparse.minor", b"0".to_vec()),
                    (b"GNU.sparse.name", path.clone()),
                    (b"GNU.sparse.realsize", member.size.to_string().into_bytes()),
                ]);
                map.len() as u64 + segments
            }
            (MemberKind::File, None) => member.size,
            _ => 0,
        };
        set_path(&mut header, &path, &mut records);
        let (letter, link, device) = match &member.kind {
            MemberKind::File => (b'0', None, (0, 0)),
            MemberKind::Hardlink { target } => (b'1', Some(target), (0, 0)),
            MemberKind::Symlink { target } => (b'2', Some(target), (0, 0)),
            MemberKind::CharDevice { major, minor } => (b'3', None, (*major, *minor)),
            MemberKind::BlockDevice { major, minor } => (b'4', None, (*major, *minor)),
            MemberKind::Folder => (b'5', None, (0, 0)),
            MemberKind::Fifo => (b'6', None, (0, 0)),
            MemberKind::Unknown(_) => return Err(io::ErrorKind::InvalidInput.into()),
        };
        header[field::KIND] = letter;
        if let Some(link) = link {
            let len = link.len().min(field::LINK.len());
            header[field::LINK][..len].copy_from_slice(&link[..len]);
            if len < link.len() {
                records.push((b"linkpath", link.clone()));
            }
        }
        let mut decimal = |key: &'static [u8], range, value: u64| {
            if !number::write(&mut header[range], value) {
                records.push((key, value.to_string().into_bytes()));
            }
        };
        decimal(b"size", field::SIZE, data_len);
        decimal(b"uid", field::UID, member.uid.into());
        decimal(b"gid", field::GID, member.gid.into());
        let secs = u64::try_from(member.mtime.secs).unwrap_or(u64::MAX);
        if !number::write(&mut header[field::MTIME], secs) || member.mtime.nanos > 0 {
            records.push((b"mtime", number::time_text(member.mtime).into_bytes()));
        }
        number::write(&mut header[field::MODE], member.mode.into());
        let fits = number::write(&mut header[field::MAJOR], device.0.into())
            & number::write(&mut header[field::MINOR], device.1.into());
        if !fits {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a device number is too large for tar"));
        }
        let xattrs: Vec<(Vec<u8>, &[u8])> = member
            .xattrs
            .iter()
            .map(|(key, value)| ([b"SCHILY.xattr.".to_vec(), number::escape(key)].concat(), &value[..]))
            .collect();
        let mut content = Vec::new();
        if records.iter().any(|(_, value)| std::str::from_utf8(value).is_err()) {
            write_record(b"hdrcharset", b"BINARY", &mut content);
        }
        records.iter().for_each(|(key, value)| write_record(key, value, &mut content));
        xattrs.iter().for_each(|(key, value)| write_record(key, value, &mut content));
        if !content.is_empty() {
            let mut extended = [0; BLOCK];
            extended[..EXTENDED_NAME.len()].copy_from_slice(EXTENDED_NAME);
            extended[field::KIND] = b'x';
            number::write(&mut extended[field::SIZE], content.len() as u64);
            number::write(&mut extended[field::MODE], 0o644);
            self.header(extended)?;
            self.data(&content)?;
            self.pad()?;
        }
        self.header(header)?;
        match map {
            Some((map, _)) if member.kind == MemberKind::File => self.data(&map),
            _ => Ok(()),
        }
    }

    fn header(&mut self, mut header: [u8; BLOCK]) -> io::Result<()> {
        header[field::MAGIC].copy_from_slice(b"ustar\x0000");
        let sum = checksums(&header).0;
        header[field::CHECKSUM].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        self.data(&header)
    }

    /// Writes data of the member at hand.
    pub fn data(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.out.write_all(bytes)?;
        self.offset += bytes.len() as u64;
        Ok(())
    }

    fn pad(&mut self) -> io::Result<()> {
        self.fill(BLOCK as u64)
    }

    fn fill(&mut self, unit: u64) -> io::Result<()> {
        let len = self.offset.next_multiple_of(unit) - self.offset;
        self.data(&[0; RECORD as usize][..len as usize])
    }

    /// Writes the end and flushes; gives `out` back.
    pub fn finish(mut self) -> io::Result<W> {
        self.pad()?;
        self.data(&[0; 2 * BLOCK])?;
        self.fill(RECORD)?;
        self.out.flush()?;
        Ok(self.out)
    }
}

/// The map of a sparse file in whole blocks, and the length of its data. A file that ends in a hole
/// has an empty part at its end, as GNU has it.
fn map_of(segments: &[(u64, u64)], size: u64) -> (Vec<u8>, u64) {
    let mut parts = segments.to_vec();
    if parts.last().is_none_or(|(offset, len)| offset + len < size) {
        parts.push((size, 0));
    }
    let mut map = sparse::write_lines(&parts);
    map.resize(map.len().next_multiple_of(BLOCK), 0);
    (map, segments.iter().map(|(_, len)| len).sum())
}

/// Puts a path into the header, in two parts if need be, and into a record if that does not do.
fn set_path(header: &mut [u8; BLOCK], path: &[u8], records: &mut Vec<(&'static [u8], Vec<u8>)>) {
    let (name, prefix) = (field::NAME.len(), field::PREFIX.len());
    let split = (path.len() > name).then(|| {
        (0..path.len().min(prefix + 1)).rev().find(|&at| path[at] == b'/' && path.len() - at - 1 <= name)
    });
    match split {
        None => header[field::NAME][..path.len()].copy_from_slice(path),
        Some(Some(at)) if at > 0 && at + 1 < path.len() => {
            header[field::PREFIX][..at].copy_from_slice(&path[..at]);
            header[field::NAME][..path.len() - at - 1].copy_from_slice(&path[at + 1..]);
        }
        Some(_) => {
            header[field::NAME].copy_from_slice(&path[..name]);
            records.push((b"path", path.to_vec()));
        }
    }
}

/// A record tells its own length, which counts the digits of that.
fn write_record(key: &[u8], value: &[u8], out: &mut Vec<u8>) {
    let rest = key.len() + value.len() + 3;
    let mut len = rest + 1;
    while len != rest + len.to_string().len() {
        len = rest + len.to_string().len();
    }
    out.extend_from_slice(format!("{len} ").as_bytes());
    out.extend_from_slice(key);
    out.push(b'=');
    out.extend_from_slice(value);
    out.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_count_their_own_digits() {
        for len in [0, 1, 80, 90, 91, 92, 985, 990, 9990] {
            let mut out = Vec::new();
            write_record(b"k", &vec![b'v'; len], &mut out);
            let text = String::from_utf8(out.clone()).unwrap();
            assert_eq!(text.split(' ').next().unwrap().parse::<usize>().unwrap(), out.len());
        }
    }
}
