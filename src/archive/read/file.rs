//! An archive as a file that is read with pread, by any number of threads.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::wire::cursor::Cursor;
use crate::wire::frame::{Frame, FrameHead, HEAD_MAX};

#[derive(Debug)]
pub(crate) struct ArchiveFile {
    file: File,
    /// For messages.
    name: PathBuf,
    len: u64,
}

impl ArchiveFile {
    pub fn new(file: File, name: &Path) -> Result<Self> {
        let metadata = file.metadata().map_err(|e| Error::io(name, e))?;
        if metadata.is_dir() {
            return Err(Error::NotAnArchive);
        }
        Ok(Self { file, name: name.to_owned(), len: metadata.len() })
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
        self.file.read_exact_at(&mut bytes, offset).map_err(|e| Error::io(&self.name, e))?;
        Ok(bytes)
    }

    /// The same, fewer at the end of the file.
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
