//! The zstd dictionaries of groups: read when a chunk needs one, and cached.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};

use lru::LruCache;

use super::file::ArchiveFile;
use super::layout::GroupAt;
use crate::error::{Error, Result};
use crate::wire::frame::{Frame, FrameKind};
use crate::wire::zstd_raw::Dictionary;

/// Dictionaries that an open archive keeps.
const CACHED: NonZeroUsize = NonZeroUsize::new(32).unwrap();

/// The dictionary in a DICTIONARY frame.
pub(crate) fn read_dictionary(frame: &Frame, offset: u64) -> Result<Arc<Dictionary>> {
    let mut input = frame.expect(FrameKind::Dictionary, offset)?;
    let plain = input.bytes(input.remaining())?;
    let dictionary = Dictionary::new(plain).map(Arc::new);
    dictionary.ok_or(Error::Corrupt { offset, rule: "a dictionary is damaged" })
}

/// The dictionaries that were needed last, by where their frames lie.
pub(crate) struct Dictionaries(Mutex<LruCache<u64, Arc<Dictionary>>>);

impl Default for Dictionaries {
    fn default() -> Self {
        Self(Mutex::new(LruCache::new(CACHED)))
    }
}

impl Dictionaries {
    /// The dictionary of a group, if the group has one.
    pub fn of(&self, file: &ArchiveFile, group: &GroupAt) -> Result<Option<Arc<Dictionary>>> {
        let offset = group.record.body();
        if group.group.dictionary_len == 0 {
            return Ok(None);
        }
        // The lock is held while one is read: others most likely want the same.
        let mut cached = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(dictionary) = cached.get(&offset) {
            return Ok(Some(Arc::clone(dictionary)));
        }
        let data = file.read(offset, group.group.dictionary_len.into())?;
        let frame = Frame::read(&data, offset)?;
        if frame.len != data.len() {
            return Err(Error::Corrupt { offset, rule: "a dictionary has another length" });
        }
        let dictionary = read_dictionary(&frame, offset)?;
        cached.put(offset, Arc::clone(&dictionary));
        Ok(Some(dictionary))
    }
}
