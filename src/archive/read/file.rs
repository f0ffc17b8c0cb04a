//! An archive as a file that is read with pread, or as bytes elsewhere, by any number of threads.
//!
//! Bytes that the system does not give, because a sector cannot be read or the file was cut since it was opened, are
//! damage of the archive, as bytes with another checksum are.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, ErrorKind};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::io::Errno;

use crate::archive::read_at::ReadAt;
use crate::error::{Error, Result};
use crate::wire::cursor::Cursor;
use crate::wire::frame::{Frame, FrameHead, HEAD_MAX};

/// Bytes that are read at once where larger reads fail: what a system caches, and a disk has in a sector at most.
const BLOCK: u64 = 4096;

/// What the system says of bytes that are lost on the medium, or of a medium or server that does not answer.
const LOST: [Errno; 8] = [
    Errno::IO,
    Errno::BADMSG,
    Errno::UCLEAN,
    Errno::NODATA,
    Errno::ILSEQ,
    Errno::REMOTEIO,
    Errno::TIMEDOUT,
    Errno::NXIO,
];

pub(crate) struct ArchiveFile {
    bytes: Bytes,
    /// For messages.
    name: PathBuf,
    len: u64,
}

enum Bytes {
    File(File),
    Elsewhere(Arc<dyn ReadAt>),
}

impl std::fmt::Debug for ArchiveFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ArchiveFile")
            .field("name", &self.name)
            .field("len", &self.len)
            .finish_non_exhaustive()
    }
}

impl ArchiveFile {
    pub fn new(file: File, name: &Path) -> Result<Self> {
        let metadata = file.metadata().map_err(|e| Error::io(name, e))?;
        if metadata.is_dir() {
            return Err(Error::NotAnArchive);
        }
        Ok(Self { bytes: Bytes::File(file), name: name.to_owned(), len: metadata.len() })
    }

    /// Bytes that are no file of this system.
    pub fn elsewhere(bytes: Arc<dyn ReadAt>, name: &Path) -> Self {
        let len = bytes.size();
        Self { bytes: Bytes::Elsewhere(bytes), name: name.to_owned(), len }
    }

    /// Tells which bytes will be read soon. The system reads files ahead by itself.
    pub fn expect(&self, ranges: &[Range<u64>]) {
        if let Bytes::Elsewhere(bytes) = &self.bytes {
            bytes.expect(ranges);
        }
    }

    /// Whether it is of use to tell what will be read.
    pub fn takes_hints(&self) -> bool {
        matches!(self.bytes, Bytes::Elsewhere(_))
    }

    pub fn len(&self) -> u64 {
        self.len
    }

    /// What it is called in messages.
    pub fn name(&self) -> &Path {
        &self.name
    }

    /// Exactly `len` bytes from `offset` on. What the file does not have is not allocated.
    pub fn read(&self, offset: u64, len: u64) -> Result<Vec<u8>> {
        let end = offset.saturating_add(len);
        if end > self.len {
            return Err(Error::Truncated { offset: self.len, needed: end - self.len });
        }
        let mut bytes = vec![0; len as usize];
        let file = match &self.bytes {
            Bytes::File(file) => file,
            Bytes::Elsewhere(elsewhere) => {
                return elsewhere.read_exact_at(&mut bytes, offset).map(|()| bytes);
            }
        };
        let Err((at, source)) = fill(file, &mut bytes, offset) else { return Ok(bytes) };
        Err(match source.kind() {
            ErrorKind::UnexpectedEof => Error::Truncated { offset: at, needed: end - at },
            _ if is_lost(&source) => {
                Error::Unreadable { offset: at, len: block_end(at).min(end) - at, source }
            }
            _ => Error::io(&self.name, source),
        })
    }

    /// The same, with zeros for bytes that cannot be read, which `unreadable` notes and which are not asked for again.
    pub fn read_around(&self, offset: u64, len: u64, unreadable: &mut Unreadable) -> Result<Vec<u8>> {
        let end = offset.saturating_add(len);
        if end > self.len {
            return Err(Error::Truncated { offset: self.len, needed: end - self.len });
        }
        let Bytes::File(file) = &self.bytes else { return self.read(offset, len) };
        let mut bytes = vec![0; len as usize];
        let mut at = offset;
        while at < end {
            let skipped = unreadable.end_at(at);
            if skipped > at {
                bytes[(at - offset) as usize..(skipped.min(end) - offset) as usize].fill(0);
                at = skipped;
                continue;
            }
            let next = unreadable.next(at).min(end);
            let part = &mut bytes[(at - offset) as usize..(next - offset) as usize];
            match fill(file, part, at) {
                Ok(()) => at = next,
                Err((bad, source)) if source.kind() == ErrorKind::UnexpectedEof => {
                    unreadable.note(bad..self.len, None);
                    at = bad;
                }
                Err((bad, source)) if is_lost(&source) => {
                    unreadable.note(bad..block_end(bad), source.raw_os_error());
                    at = bad;
                }
                Err((_, source)) => return Err(Error::io(&self.name, source)),
            }
        }
        Ok(bytes)
    }

    /// The bytes of a range, fewer at the end of the file.
    pub fn read_up_to(&self, offset: u64, len: u64) -> Result<Vec<u8>> {
        self.read(offset, len.min(self.len.saturating_sub(offset)))
    }

    /// The head of the frame that begins at `offset`.
    pub fn frame_head_at(&self, offset: u64) -> Result<FrameHead> {
        let start = self.read_up_to(offset, HEAD_MAX as u64)?;
        FrameHead::read(&mut Cursor::at(&start, offset))
    }

    /// The frame that begins at `offset`, however long.
    pub fn frame_at(&self, offset: u64) -> Result<Frame> {
        let len = self.frame_head_at(offset)?.frame_len();
        Frame::read(&self.read(offset, len as u64)?, offset)
    }
}

/// Fills `buf` from `offset` on, or tells where the first byte lies that cannot be read, and why. Where a read
/// fails, blocks are read one by one up to the one that does.
fn fill(file: &File, buf: &mut [u8], offset: u64) -> std::result::Result<(), (u64, io::Error)> {
    let (mut done, mut by_block) = (0, false);
    while done < buf.len() {
        let at = offset + done as u64;
        let rest = &mut buf[done..];
        let most = if by_block { (block_end(at) - at) as usize } else { rest.len() };
        let want = rest.len().min(most);
        match file.read_at(&mut rest[..want], at) {
            Ok(0) => return Err((at, ErrorKind::UnexpectedEof.into())),
            Ok(got) => done += got,
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) if is_lost(&e) && at + want as u64 > block_end(at) => by_block = true,
            Err(e) => return Err((at, e)),
        }
    }
    Ok(())
}

/// Where the block ends that the byte at `offset` lies in.
pub(crate) fn block_end(offset: u64) -> u64 {
    offset - offset % BLOCK + BLOCK
}

/// Whether bytes are lost on the medium, rather than not to be had at all.
pub(crate) fn is_lost(error: &io::Error) -> bool {
    error.raw_os_error().is_some_and(|code| LOST.contains(&Errno::from_raw_os_error(code)))
}

/// The bytes of a file that could not be read, by where they begin: where they end, and the system's reason. Without a
/// reason the file was cut there.
#[derive(Debug, Default)]
pub(crate) struct Unreadable(BTreeMap<u64, (u64, Option<i32>)>);

impl Unreadable {
    fn note(&mut self, bytes: Range<u64>, code: Option<i32>) {
        self.0.insert(bytes.start, (bytes.end, code));
    }

    /// Where the unreadable bytes end that begin at `at` or before, or `at`.
    fn end_at(&self, at: u64) -> u64 {
        self.0.range(..=at).next_back().map_or(at, |(_, (end, _))| at.max(*end))
    }

    /// Where unreadable bytes begin after `at`.
    fn next(&self, at: u64) -> u64 {
        self.0.range(at..).next().map_or(u64::MAX, |(start, _)| *start)
    }

    /// The first reason why bytes of this range could not be read.
    pub fn within(&self, range: Range<u64>) -> Option<Error> {
        let before = self.0.range(..range.start).next_back().filter(|(_, (end, _))| *end > range.start);
        let (&start, &(end, code)) = before.or_else(|| self.0.range(range.clone()).next())?;
        let (offset, end) = (start.max(range.start), end.min(range.end));
        Some(match code {
            Some(code) => {
                Error::Unreadable { offset, len: end - offset, source: io::Error::from_raw_os_error(code) }
            }
            None => Error::Truncated { offset, needed: range.end - offset },
        })
    }
}
