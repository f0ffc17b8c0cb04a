//! The bytes of an archive as they come, with a look ahead.

use std::io::{ErrorKind, Read};

use super::file::{block_end, is_lost};
use crate::error::{Error, Result};
use crate::wire::cursor::Cursor;
use crate::wire::frame::{Frame, FrameHead, HEAD_MAX};

const PIECE: usize = 64 << 10;

pub(crate) struct Source<R> {
    input: R,
    /// What was read and not yet taken begins at `pos`.
    buf: Vec<u8>,
    pos: usize,
    /// Offset of the next byte to be taken.
    offset: u64,
    ended: bool,
}

impl<R: Read> Source<R> {
    pub fn new(input: R) -> Self {
        Self { input, buf: Vec::new(), pos: 0, offset: 0, ended: false }
    }

    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Reads until `len` bytes are there or the input ends; grows only by what comes.
    fn fill(&mut self, len: usize) -> Result<()> {
        while self.buf.len() - self.pos < len && !self.ended {
            if self.pos > PIECE {
                self.buf.drain(..self.pos);
                self.pos = 0;
            }
            let start = self.buf.len();
            self.buf.resize(start + PIECE, 0);
            let got = match self.input.read(&mut self.buf[start..]) {
                Err(e) if e.kind() == ErrorKind::Interrupted => {
                    self.buf.truncate(start);
                    continue;
                }
                other => other,
            };
            self.buf.truncate(start + *got.as_ref().unwrap_or(&0));
            let offset = self.offset + (self.buf.len() - self.pos) as u64;
            self.ended = got.map_err(|e| unreadable(offset, e))? == 0;
        }
        Ok(())
    }

    /// The next `len` bytes, fewer only at the end of the input.
    pub fn peek(&mut self, len: usize) -> Result<&[u8]> {
        self.fill(len)?;
        let end = self.buf.len().min(self.pos + len);
        Ok(&self.buf[self.pos..end])
    }

    /// Takes exactly `len` bytes.
    pub fn take(&mut self, len: usize) -> Result<Vec<u8>> {
        let got = self.peek(len)?;
        if got.len() < len {
            let (have, needed) = (got.len() as u64, (len - got.len()) as u64);
            return Err(Error::Truncated { offset: self.offset + have, needed });
        }
        let bytes = got.to_vec();
        self.pos += len;
        self.offset += len as u64;
        Ok(bytes)
    }

    /// Takes the next frame.
    pub fn frame(&mut self) -> Result<Frame> {
        let offset = self.offset;
        let start = self.peek(HEAD_MAX)?;
        if start.len() < HEAD_MAX {
            return Err(Error::Truncated {
                offset: offset + start.len() as u64,
                needed: (HEAD_MAX - start.len()) as u64,
            });
        }
        let head = FrameHead::read(&mut Cursor::at(start, offset))?;
        let bytes = self.take(head.frame_len())?;
        Frame::read(&bytes, offset)
    }
}

/// An input of which bytes cannot be read is a damaged archive; others cannot be read at all.
fn unreadable(offset: u64, source: std::io::Error) -> Error {
    match is_lost(&source) {
        true => Error::Unreadable { offset, len: block_end(offset) - offset, source },
        false => Error::io("input", source),
    }
}
