//! From an archive to a tar stream.
//!
//! Members come in the order of the archive, in which the data are, so that each chunk is decoded
//! once. A damaged chunk ends the stream: what is missing cannot be marked in it. Folders come again
//! at the end, from below, so that readers which set times as they go get those right.

use std::io::Write;

use super::from_file::LOCKSTEP;
use super::plan::{ExtractOptions, ExtractSummary, Item, plan, wanted};
use crate::archive::observer::{Observer, Warning};
use crate::archive::path::cmp_paths;
use crate::archive::read::archive::Archive;
use crate::archive::read::chunk_cache::RecentChunks;
use crate::archive::tar::read::{Member, MemberKind};
use crate::archive::tar::write::TarWriter;
use crate::error::{Error, Result};
use crate::wire::entry::{ChunkId, Entry, Kind};

/// The path in errors of writing, for callers who know what `out` is called.
pub const STREAM: &str = "tar stream";

/// Raw bytes that are decoded ahead, and kept.
const AHEAD: u32 = 8 << 20;
const KEPT: usize = 48 << 20;

/// Bytes that are copied at a time.
const COPY: usize = 1 << 20;

/// Writes what `options` take of `archive` to `out`, which is given back. Owners, modes and
/// attributes are written as they are; who unpacks the stream decides what becomes of them.
pub fn extract_tar<W: Write>(
    archive: &Archive,
    out: W,
    options: &ExtractOptions,
    observer: &dyn Observer,
) -> Result<(W, ExtractSummary)> {
    observer.phase("checking the index", None);
    let items = plan(archive, options)?;
    let mut ahead = Ahead::new(archive, &items);
    let raw = ahead.ids.len() as u64 * u64::from(archive.header().chunk_size);
    observer.phase("writing tar", Some(raw));
    let failed = |e| Error::io(STREAM, e);
    let mut tar = TarWriter::new(out);
    let (mut summary, mut folders) = (ExtractSummary::default(), Vec::new());
    for item in &items {
        if observer.interrupted() {
            return Err(Error::Interrupted);
        }
        let first = item.link.map(|first| &items[first].path);
        let Some(mut member) = member(item.entry, &item.path, first.map(AsRef::as_ref)) else {
            observer.warning(Warning::new(&item.path[..], "left out: tar has no sockets"));
            continue;
        };
        if !options.restore.xattrs {
            member.xattrs.clear();
        }
        if !options.restore.owners {
            (member.uid, member.gid) = (0, 0);
        }
        tar.member(&member).map_err(failed)?;
        if let (Kind::File { extents, .. }, MemberKind::File) = (&item.entry.kind, &member.kind) {
            for extent in extents {
                ahead.copy(extent.raw_offset, extent.len, observer, &mut |part| {
                    tar.data(part).map_err(failed)
                })?;
            }
            summary.files += 1;
        }
        summary.entries += 1;
        observer.entry(&item.path);
        if item.entry.kind == Kind::Directory {
            folders.push(member);
        }
    }
    folders.sort_by(|a, b| cmp_paths(&b.path, &a.path));
    folders.iter().try_for_each(|folder| tar.member(folder)).map_err(failed)?;
    Ok((tar.finish().map_err(failed)?, summary))
}

/// An entry as tar has it; a file that was written before as a link to its first name.
fn member(entry: &Entry, path: &[u8], first: Option<&[u8]>) -> Option<Member> {
    let kind = match (&entry.kind, first) {
        (Kind::File { .. } | Kind::Hardlink { .. }, Some(first)) => {
            MemberKind::Hardlink { target: first.to_vec() }
        }
        (Kind::File { .. } | Kind::Hardlink { .. }, None) => MemberKind::File,
        (Kind::Directory, _) => MemberKind::Folder,
        (Kind::Symlink { target }, _) => MemberKind::Symlink { target: target.clone() },
        (Kind::Fifo, _) => MemberKind::Fifo,
        (Kind::CharDevice { major, minor }, _) => MemberKind::CharDevice { major: *major, minor: *minor },
        (Kind::BlockDevice { major, minor }, _) => MemberKind::BlockDevice { major: *major, minor: *minor },
        (Kind::Socket, _) => return None,
    };
    let (mut size, mut segments) = (0, None);
    if let (Kind::File { size: len, extents, .. }, MemberKind::File) = (&entry.kind, &kind) {
        size = *len;
        let parts: Vec<(u64, u64)> = extents.iter().map(|extent| (extent.file_offset, extent.len)).collect();
        let whole = parts.iter().map(|(_, len)| len).sum::<u64>() == size;
        segments = (!whole).then_some(parts);
    }
    Some(Member {
        path: path.to_vec(),
        kind,
        mode: entry.mode,
        uid: entry.uid,
        gid: entry.gid,
        mtime: entry.mtime,
        xattrs: entry.xattrs.clone(),
        has_acl: false,
        size,
        segments,
    })
}

/// Decodes the chunks that are wanted before they are, many together.
struct Ahead<'a> {
    archive: &'a Archive,
    ids: Vec<ChunkId>,
    /// Of `ids`, how many were decoded.
    done: usize,
    cache: RecentChunks,
}

impl<'a> Ahead<'a> {
    fn new(archive: &'a Archive, items: &[Item<'_>]) -> Self {
        Self { archive, ids: wanted(archive, items), done: 0, cache: RecentChunks::new(KEPT) }
    }

    /// Hands the raw bytes from `raw_offset` on to `put`.
    fn copy(
        &mut self,
        raw_offset: u64,
        len: u64,
        observer: &dyn Observer,
        put: &mut dyn FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        let mut buf = vec![0; usize::try_from(len).unwrap_or(COPY).min(COPY)];
        let (mut at, end) = (raw_offset, raw_offset + len);
        while at < end {
            if observer.interrupted() {
                return Err(Error::Interrupted);
            }
            let part = &mut buf[..usize::try_from(end - at).unwrap_or(COPY).min(COPY)];
            let last = self.archive.chunks_of(at, part.len() as u64).end;
            while self.ids.get(self.done).is_some_and(|id| id.0 < last) {
                let most = (AHEAD / self.archive.header().chunk_size).max(1) as usize;
                let batch = (LOCKSTEP * rayon::current_num_threads()).min(most);
                let batch = self.archive.together(self.ids.len() - self.done, batch);
                let ids = &self.ids[self.done..self.ids.len().min(self.done + batch)];
                let ids = self.archive.batches(ids, batch)[0];
                // What failed is asked for again, and fails where it is needed.
                drop(self.archive.read_chunks(ids, &self.cache));
                observer.advanced(ids.len() as u64 * u64::from(self.archive.header().chunk_size));
                self.done += ids.len();
            }
            self.archive.read_raw(at, part, &self.cache)?;
            put(part)?;
            at += part.len() as u64;
        }
        Ok(())
    }
}
