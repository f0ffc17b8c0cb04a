//! Reads an archive in order, from a pipe.

use std::io::Read;
use std::sync::Arc;

use super::entry::ContentHash;
use super::{ChunkId, Entry, EntryId, OpenOptions};
use crate::codec::Models;
use crate::error::Result;
use crate::wire::header::Header;
use crate::wire::models::ModelRef;

/// What comes next in the stream.
#[derive(Debug)]
pub enum Event {
    /// A new entry. An extent may lie before the data of this group: it is then the content of an
    /// earlier file, which `StreamReader::owner` names. The hash of a file that goes on beyond
    /// its group is zero here and comes with `FileEnd`.
    Entry(EntryId, Entry),
    /// The file that was left open by an earlier group ends in this one; comes before the data.
    FileEnd { id: EntryId, hash: ContentHash },
    /// The next bytes of the raw stream, checked.
    Data { chunk: ChunkId, raw_offset: u64, bytes: Arc<[u8]> },
}

pub struct StreamReader<R: Read> {
    input: R,
}

impl<R: Read> StreamReader<R> {
    /// Reads the header and the models frames.
    pub fn open(input: R, options: &OpenOptions) -> Result<Self> { let _ = options; Ok(Self { input }) }

    pub fn header(&self) -> &Header { let _ = &self.input; todo!() }

    pub fn models(&self) -> &[ModelRef] { todo!() }

    /// The file of model `index`, if the archive carries it.
    pub fn embedded_model(&self, index: u8) -> Option<&[u8]> { let _ = index; todo!() }

    pub fn set_models(&mut self, models: Models) { let _ = models; todo!() }

    /// The next event; `None` after the trailer at the end of the stream.
    pub fn next_event(&mut self) -> Result<Option<Event>> { todo!() }

    /// The earlier file that brought the raw bytes at `raw_offset`, and where in it they lie.
    pub fn owner(&self, raw_offset: u64) -> Option<(EntryId, u64)> { let _ = raw_offset; todo!() }
}
