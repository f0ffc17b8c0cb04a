//! Entries that a command line names, and their content on standard output.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::output::Out;
use crate::archive::observer::{Observer, Warning};
use crate::archive::path::escape;
use crate::archive::read::archive::Archive;
use crate::archive::read::chunk_cache::ChunkCache;
use crate::error::{Error, Result};
use crate::wire::entry::{EntryId, Kind};

/// A path as the user gives it, as archives have it.
pub(crate) fn clean(path: &Path) -> Vec<u8> {
    let bytes = path.as_os_str().as_bytes();
    let mut clean: Vec<u8> = Vec::with_capacity(bytes.len());
    for part in bytes.split(|&b| b == b'/').filter(|part| !part.is_empty() && *part != b".") {
        if !clean.is_empty() {
            clean.push(b'/');
        }
        clean.extend_from_slice(part);
    }
    clean
}

/// The entry that the user names.
pub(crate) fn find(archive: &Archive, path: &Path) -> Result<EntryId> {
    let name = escape(&clean(path));
    archive
        .lookup(&clean(path))
        .ok_or_else(|| Error::Usage(format!("{name} is not in the archive; `s3a ls` lists what is")))
}

/// Bytes that are read at first, to show something soon, and at most, so that many chunks are
/// decoded together.
pub(crate) const FIRST: usize = 64 << 10;

pub(crate) const READ: usize = 4 << 20;

/// Writes up to `len` bytes of a file from `offset` on.
///
/// # Errors
/// `BadContent` after all bytes were written, if these were the whole file and are not what was packed.
pub(crate) fn copy_out(
    archive: &Archive,
    id: EntryId,
    offset: u64,
    len: u64,
    cache: &dyn ChunkCache,
    out: &mut Out,
    observer: &dyn Observer,
) -> Result<()> {
    // As much at once as a device wants, if one takes part.
    let chunk_size = archive.header().chunk_size.max(1) as usize;
    let size = match archive.entry(id).map(|entry| &entry.kind) {
        Some(Kind::File { size, .. }) => len.min(size.saturating_sub(offset)),
        _ => len,
    };
    let chunks = usize::try_from(size).unwrap_or(0) / chunk_size;
    let read = archive.together(chunks, 0).saturating_mul(chunk_size).max(READ);
    let mut buf = vec![0; usize::try_from(size).unwrap_or(read).min(read)];
    let (mut at, mut left, mut most) = (offset, len, if read > READ { read } else { FIRST });
    let mut check = archive.content_check(id).filter(|_| offset == 0);
    while left > 0 {
        if observer.interrupted() {
            return Err(Error::Interrupted);
        }
        let want = usize::try_from(left).unwrap_or(read).min(most).min(buf.len());
        most = (most * 2).min(read);
        let got = archive.read_at(id, at, &mut buf[..want], cache)?;
        if got == 0 {
            break;
        }
        out.bytes(&buf[..got])?;
        if let Some(check) = &mut check {
            check.feed(&buf[..got]);
        }
        at = at.saturating_add(got as u64);
        left -= got as u64;
    }
    match check.and_then(|check| check.is_right()) {
        Some(false) => {
            let path = archive.entry(id).map(|entry| escape(&entry.path)).unwrap_or_default();
            Err(Error::BadContent { path })
        }
        _ => Ok(()),
    }
}

/// Lets work on many files go on after one whose content is not what was packed.
#[derive(Default)]
pub(crate) struct BadContents(Option<Error>);

impl BadContents {
    /// Notes such a file; other errors are passed on.
    pub fn note(&mut self, copied: Result<()>, observer: &dyn Observer) -> Result<()> {
        match (copied, &self.0) {
            (Err(Error::BadContent { path }), Some(_)) => {
                let what = "written, but its content is not what was packed";
                observer.warning(Warning { path: path.into_bytes(), what: what.to_owned(), remedy: None });
            }
            (Err(error @ Error::BadContent { .. }), None) => self.0 = Some(error),
            (other, _) => other?,
        }
        Ok(())
    }

    /// # Errors
    /// The first that was noted.
    pub fn finish(self) -> Result<()> {
        self.0.map_or(Ok(()), Err)
    }
}
