//! Reads the content of files for packing: what lies between holes, and its hash.
//!
//! Equal files are found by size first; only where another file has the same size is a hash taken.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};

use rustix::fs::{SeekFrom as RawSeek, seek};
use rustix::io::Errno;

use super::found::Found;
use crate::archive::os::is_exhausted;
use crate::wire::entry::Kind;

/// How many sizes occur more than once, to tell which files can have an equal.
pub(crate) struct Sizes(HashMap<u64, bool>);

impl Sizes {
    pub fn of(entries: &[Found]) -> Self {
        let mut sizes = HashMap::new();
        for found in entries {
            if let Kind::File { size: size @ 1.., .. } = found.entry.kind {
                sizes.entry(size).and_modify(|again| *again = true).or_insert(false);
            }
        }
        Self(sizes)
    }

    /// Whether more than one file has this size.
    pub fn repeats(&self, size: u64) -> bool {
        self.0.get(&size).copied().unwrap_or(false)
    }
}

/// BLAKE3 of a file from its start, of about `size` bytes; the file is at its start again afterwards.
pub(crate) fn hash(file: &mut File, size: u64) -> io::Result<[u8; 32]> {
    let mut hasher = blake3::Hasher::new();
    // A million small files need not zero a large buffer each.
    let mut buf = vec![0; usize::try_from(size).unwrap_or(usize::MAX).clamp(1, 256 << 10)];
    loop {
        match file.read(&mut buf) {
            Ok(0) => break,
            Ok(len) => hasher.update(&buf[..len]),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(e),
        };
    }
    file.seek(SeekFrom::Start(0))?;
    Ok(*hasher.finalize().as_bytes())
}

/// Files of no more bytes are read before they are packed, so that it is known how many they have.
const WHOLE: u64 = 1 << 20;

/// How a file is to be packed.
pub(crate) enum Length {
    /// These are all its bytes.
    Whole,
    /// It has so many, and is at its start.
    Long(u64),
}

/// Finds out how many bytes a file has, which its size does not always tell: files of /proc have none by that, and
/// files of /sys a page. Fills `bytes` where they are few.
pub(crate) fn measure(
    file: &mut File,
    told: u64,
    has_blocks: bool,
    bytes: &mut Vec<u8>,
    interrupted: &dyn Fn() -> bool,
) -> io::Result<Length> {
    bytes.clear();
    if told > WHOLE && has_blocks {
        return Ok(Length::Long(told));
    }
    if told <= WHOLE {
        let read = (&mut *file).take(WHOLE + 1).read_to_end(bytes);
        match read {
            Ok(_) if bytes.len() as u64 <= WHOLE => return Ok(Length::Whole),
            // What a file has besides is told when it is read again.
            Err(e) if told == 0 || is_exhausted(&e) => return Err(e),
            Err(_) => {
                file.seek(SeekFrom::Start(0))?;
                return Ok(Length::Long(told));
            }
            Ok(_) => {}
        }
    }
    let mut len = bytes.len() as u64;
    let mut buf = vec![0; 256 << 10];
    while !interrupted() {
        match file.read(&mut buf) {
            Ok(0) => break,
            Ok(got) => len += got as u64,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) if len == 0 || is_exhausted(&e) => return Err(e),
            Err(_) => {
                len = len.max(told);
                break;
            }
        }
    }
    file.seek(SeekFrom::Start(0))?;
    Ok(Length::Long(len))
}

/// The parts of a file that are not holes, as (offset, length); `None` where the file system does
/// not tell.
pub(crate) fn segments(file: &File, size: u64) -> Option<Vec<(u64, u64)>> {
    let mut found = Vec::new();
    let mut at = 0;
    while at < size {
        let start = match seek(file, RawSeek::Data(at)) {
            Ok(start) => start,
            // From here on there are no data.
            Err(Errno::NXIO) => break,
            Err(_) => return None,
        };
        if start >= size {
            break;
        }
        let end = seek(file, RawSeek::Hole(start)).ok()?.min(size);
        if end <= start {
            return None;
        }
        found.push((start, end - start));
        at = end;
    }
    Some(found)
}

/// Yields the bytes of some segments of a file, one after the other.
pub(crate) struct SegmentReader<'a> {
    file: &'a File,
    segments: std::vec::IntoIter<(u64, u64)>,
    left: u64,
}

impl<'a> SegmentReader<'a> {
    pub fn new(file: &'a File, segments: Vec<(u64, u64)>) -> Self {
        Self { file, segments: segments.into_iter(), left: 0 }
    }
}

impl Read for SegmentReader<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        while self.left == 0 {
            let Some((start, len)) = self.segments.next() else { return Ok(0) };
            self.file.seek(SeekFrom::Start(start))?;
            self.left = len;
        }
        let want = usize::try_from(self.left).unwrap_or(usize::MAX).min(buf.len());
        let got = self.file.read(&mut buf[..want])?;
        if got == 0 && want > 0 {
            // The file shrank: what is missing now cannot be told apart from the next segment.
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.left -= got as u64;
        Ok(got)
    }
}

/// Passes bytes on and hashes them.
pub(crate) struct Hashing<R> {
    inner: R,
    pub hasher: blake3::Hasher,
}

impl<R> Hashing<R> {
    pub fn new(inner: R) -> Self {
        Self { inner, hasher: blake3::Hasher::new() }
    }
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let len = self.inner.read(buf)?;
        self.hasher.update(&buf[..len]);
        Ok(len)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::fs::FileExt;

    use super::*;

    #[test]
    fn segments_leave_out_holes_and_their_reader_yields_the_rest() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"head").unwrap();
        file.set_len(10 << 20).unwrap();
        file.write_all_at(b"middle", 4 << 20).unwrap();
        let segments = segments(&file, 10 << 20).unwrap();
        assert!(segments.iter().map(|s| s.1).sum::<u64>() < 1 << 20, "{segments:?}");
        let total: u64 = segments.iter().map(|s| s.1).sum();
        let mut bytes = Vec::new();
        SegmentReader::new(&file, segments.clone()).read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes.len() as u64, total);
        assert!(bytes.starts_with(b"head"));
        assert!(bytes.windows(6).any(|w| w == b"middle"));
    }

    #[test]
    fn a_hash_leaves_the_file_at_its_start() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"abc").unwrap();
        file.rewind().unwrap();
        assert_eq!(hash(&mut file, 3).unwrap(), *blake3::hash(b"abc").as_bytes());
        assert_eq!(file.stream_position().unwrap(), 0);
    }
}
