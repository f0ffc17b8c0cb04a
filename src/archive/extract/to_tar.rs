//! From an archive to a tar stream.
//!
//! Members come in the order of the archive, in which the data are, so that each chunk is decoded
//! once. A damaged chunk ends the stream: what is missing cannot be marked in it. A file whose content has
//! another hash is told at the end. Folders come again
//! at the end, from below, so that readers which set times as they go get those right.

use std::io::Write;

use super::plan::{ExtractOptions, ExtractSummary, plan, wanted};
use crate::archive::observer::{Observer, Warning};
use crate::archive::path::{cmp_paths, escape};
use crate::archive::read::ahead::Ahead;
use crate::archive::read::archive::Archive;
use crate::archive::tar::read::{Member, MemberKind};
use crate::archive::tar::write::TarWriter;
use crate::error::{Error, Result};
use crate::wire::entry::{Entry, Kind, content_hash};

const BAD_CONTENT: &str = "written, but its content is not what was packed";

/// The path in errors of writing, for callers who know what `out` is called.
pub const STREAM: &str = "tar stream";

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
    let mut ahead = Ahead::new(archive, wanted(archive, &items));
    observer.phase("writing tar", Some(ahead.raw_len()));
    let failed = |e| Error::io(STREAM, e);
    let mut tar = TarWriter::new(out);
    let (mut summary, mut folders, mut failure) = (ExtractSummary::default(), Vec::new(), None);
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
        if let (Kind::File { extents, hash, .. }, MemberKind::File) = (&item.entry.kind, &member.kind) {
            let mut hasher = blake3::Hasher::new();
            for extent in extents {
                ahead.copy(extent.raw_offset, extent.len, observer, &mut |part| {
                    hasher.update(part);
                    tar.data(part).map_err(failed)
                })?;
            }
            if content_hash(hasher.finalize().as_bytes(), hasher.count()) != *hash {
                // It is in the stream by now: what follows is not lost for that.
                let error = Error::BadContent { path: escape(&item.entry.path) };
                observer.warning(Warning::new(&item.entry.path[..], BAD_CONTENT));
                failure.get_or_insert(error);
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
    let mut out = tar.finish().map_err(failed)?;
    match failure {
        None => Ok((out, summary)),
        Some(error) => {
            out.flush().map_err(failed)?;
            Err(error)
        }
    }
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
        odd: None,
    })
}
