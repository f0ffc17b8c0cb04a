//! What differs between an archive and a tree: contents by their hash.
//!
//! Data under 4 KiB have a hash of 48 bits, for which other data are found in seconds: where such a hash is equal, the
//! data are decoded, in the order of the archive, and compared by a whole hash.

use std::cmp::Ordering;
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::archive::observer::{Observer, Warning};
use crate::archive::pack::found;
use crate::archive::pack::found::Found;
use crate::archive::pack::scan::Tree;
use crate::archive::pack::source_file::segments;
use crate::archive::path::cmp_paths;
use crate::archive::read::ahead::{Ahead, in_order};
use crate::archive::read::archive::Archive;
use crate::archive::selection::Selection;
use crate::error::{Error, Result};
use crate::wire::entry::{ContentHash, Entry, Extent, Kind, content_hash, hash_len};

/// Bytes that are read at a time.
const PIECE: usize = 1 << 20;

/// What is compared.
#[derive(Clone, Debug)]
pub struct DiffOptions {
    pub selection: Selection,
    pub owners: bool,
    pub times: bool,
    pub xattrs: bool,
}

/// In what an object differs. Of what is on one side only, that which is below it is not told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    OnlyInArchive,
    OnlyInTree,
    Kind,
    Size,
    Content,
    Target,
    Device,
    Mode,
    Owner,
    Time,
    Xattrs,
}

/// Compares `archive`, whose models are set, with the folder `tree`, and reports each difference in the order of a
/// walk, but last those that only decoding shows; a file that cannot be read is a warning. Tells how many differences
/// there are.
pub fn diff(
    archive: &Archive,
    tree: &Path,
    options: &DiffOptions,
    observer: &dyn Observer,
    report: &mut dyn FnMut(&[u8], What) -> Result<()>,
) -> Result<u64> {
    let scan = found::ScanOptions {
        selection: options.selection.clone(),
        special: true,
        xattrs: options.xattrs,
        ..found::ScanOptions::default()
    };
    observer.phase("scanning", None);
    let tree = Tree::scan(&[PathBuf::from(tree)], None, &scan, observer)?;
    let selected = |entry: &&Entry| options.selection.takes(&entry.path, entry.kind == Kind::Directory);
    let mut packed: Vec<&Entry> = archive.entries().iter().filter(selected).collect();
    packed.sort_by(|a, b| cmp_paths(&a.path, &b.path));
    observer.phase("comparing", Some(tree.bytes()));

    let mut count = 0;
    let mut tell = |path: &[u8], what| {
        count += 1;
        report(path, what)
    };
    let (mut packed, mut found) = (packed.into_iter().peekable(), tree.entries.iter().peekable());
    // The folder that one side lacks: what is below it lacks there too.
    let mut missing: Option<&[u8]> = None;
    let mut unsure = Vec::new();
    let below = |path: &[u8], missing: Option<&[u8]>| {
        missing.is_some_and(|top| path.strip_prefix(top).is_some_and(|rest| rest.starts_with(b"/")))
    };
    loop {
        if observer.interrupted() {
            return Err(Error::Interrupted);
        }
        let order = match (packed.peek(), found.peek()) {
            (None, None) => break,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(entry), Some(found)) => cmp_paths(&entry.path, &found.entry.path),
        };
        let (path, what) = match order {
            Ordering::Less => (packed.next().map(|entry| &entry.path), What::OnlyInArchive),
            Ordering::Greater => (found.next().map(|found| &found.entry.path), What::OnlyInTree),
            Ordering::Equal => {
                if let (Some(entry), Some(found)) = (packed.next(), found.next()) {
                    unsure.extend(compare(archive, entry, &tree, found, options, observer, &mut tell)?);
                }
                continue;
            }
        };
        let Some(path) = path else { continue };
        // A folder that entries only imply is there on both sides.
        let implied =
            what == What::OnlyInTree && packed.peek().is_some_and(|next| below(&next.path, Some(path)));
        if !below(path, missing) && !implied && !(path.is_empty()) {
            tell(path, what)?;
            missing = Some(path);
        }
    }
    decode(archive, unsure, observer, &mut |path| tell(path, What::Content))?;
    Ok(count)
}

/// A file whose data have too short a hash in the archive.
struct Unsure<'a> {
    path: &'a [u8],
    extents: &'a [Extent],
    /// The BLAKE3 of the data in the tree.
    found: [u8; 32],
}

/// Decodes the data of files, and tells those whose hash is another than in the tree.
fn decode(
    archive: &Archive,
    mut files: Vec<Unsure<'_>>,
    observer: &dyn Observer,
    tell: &mut dyn FnMut(&[u8]) -> Result<()>,
) -> Result<()> {
    let first = |file: &Unsure<'_>| file.extents.first().map_or(0, |extent| extent.raw_offset);
    files.sort_by_key(first);
    let mut chunks: Vec<Range<u32>> = Vec::new();
    for extent in files.iter().flat_map(|file| file.extents) {
        chunks.push(archive.chunks_of(extent.raw_offset, extent.len));
    }
    let mut ahead = Ahead::new(archive, in_order(chunks));
    observer.phase("decoding short files", Some(ahead.raw_len()));
    for file in files {
        let mut hasher = blake3::Hasher::new();
        let decoded = file.extents.iter().try_for_each(|extent| {
            ahead.copy(extent.raw_offset, extent.len, observer, &mut |part| {
                hasher.update(part);
                Ok(())
            })
        });
        match decoded {
            Ok(()) if *hasher.finalize().as_bytes() == file.found => {}
            Ok(()) => tell(file.path)?,
            Err(e) if e.is_damage() || matches!(e, Error::ModelMissing { .. }) => {
                observer.warning(Warning::new(file.path, format_args!("not compared: {e}")));
            }
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// Compares two objects; gives a file of which more than its hash in the archive has to be compared.
fn compare<'a>(
    archive: &'a Archive,
    entry: &'a Entry,
    tree: &Tree,
    found: &Found,
    options: &DiffOptions,
    observer: &dyn Observer,
    tell: &mut dyn FnMut(&[u8], What) -> Result<()>,
) -> Result<Option<Unsure<'a>>> {
    let path = &entry.path[..];
    let mut unsure = None;
    // All names of a file have its content and properties.
    let file = match &entry.kind {
        Kind::Hardlink { target } => archive.entry(*target).unwrap_or(entry),
        _ => entry,
    };
    match (&file.kind, &found.entry.kind) {
        (Kind::File { size, extents, hash }, Kind::File { size: now, .. }) => {
            if size != now {
                tell(path, What::Size)?;
            } else {
                match same_content(tree, found, *size, extents, hash) {
                    Ok(Some(found)) if data_len(extents) > 0 && hash_len(data_len(extents)) < hash.len() => {
                        unsure = Some(Unsure { path, extents, found });
                    }
                    Ok(Some(_)) => {}
                    Ok(None) => tell(path, What::Content)?,
                    Err(e) => observer.warning(Warning::new(path, format_args!("not compared: {e}"))),
                }
            }
            observer.advanced(*now);
        }
        (Kind::Symlink { target }, Kind::Symlink { target: now }) if target != now => {
            tell(path, What::Target)?
        }
        (Kind::CharDevice { .. }, Kind::CharDevice { .. })
        | (Kind::BlockDevice { .. }, Kind::BlockDevice { .. })
            if file.kind != found.entry.kind =>
        {
            tell(path, What::Device)?
        }
        (kind, now) if std::mem::discriminant(kind) != std::mem::discriminant(now) => {
            tell(path, What::Kind)?;
            return Ok(None);
        }
        _ => {}
    }
    let now = &found.entry;
    if file.mode != now.mode && !matches!(now.kind, Kind::Symlink { .. }) {
        tell(path, What::Mode)?;
    }
    if options.owners && (file.uid, file.gid) != (now.uid, now.gid) {
        tell(path, What::Owner)?;
    }
    if options.times && file.mtime != now.mtime {
        tell(path, What::Time)?;
    }
    if options.xattrs && file.xattrs != now.xattrs {
        tell(path, What::Xattrs)?;
    }
    Ok(unsure)
}

/// The BLAKE3 of a file's data, if they have this hash and nothing but zeros lies elsewhere.
fn same_content(
    tree: &Tree,
    found: &Found,
    size: u64,
    extents: &[Extent],
    hash: &ContentHash,
) -> std::io::Result<Option<[u8; 32]>> {
    let file = File::from(tree.open(found)?);
    let mut hasher = blake3::Hasher::new();
    let mut end = 0;
    for extent in extents {
        if !is_zero(&file, end, extent.file_offset)? {
            return Ok(None);
        }
        each_piece(&file, extent.file_offset, extent.file_offset + extent.len, &mut |piece| {
            hasher.update(piece);
            true
        })?;
        end = extent.file_offset + extent.len;
    }
    let digest = *hasher.finalize().as_bytes();
    let same = is_zero(&file, end, size)? && content_hash(&digest, hasher.count()) == *hash;
    Ok(same.then_some(digest))
}

/// Bytes of a file that are no holes.
fn data_len(extents: &[Extent]) -> u64 {
    extents.iter().fold(0, |sum, extent| sum.saturating_add(extent.len))
}

/// Whether a part of a file holds zeros only; holes are known to.
fn is_zero(file: &File, start: u64, end: u64) -> std::io::Result<bool> {
    if start == end {
        return Ok(true);
    }
    let data = segments(file, end).unwrap_or_else(|| vec![(0, end)]);
    for (at, len) in data {
        let (from, to) = (at.max(start), (at + len).min(end));
        if from < to && !each_piece(file, from, to, &mut |piece| piece.iter().all(|&byte| byte == 0))? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Reads a part of a file as long as `take` wants more; tells whether it wanted all.
fn each_piece(
    file: &File,
    start: u64,
    end: u64,
    take: &mut dyn FnMut(&[u8]) -> bool,
) -> std::io::Result<bool> {
    let mut buf = vec![0; usize::try_from(end - start).unwrap_or(PIECE).min(PIECE)];
    let mut at = start;
    while at < end {
        let piece = &mut buf[..usize::try_from(end - at).unwrap_or(PIECE).min(PIECE)];
        file.read_exact_at(piece, at)?;
        if !take(piece) {
            return Ok(false);
        }
        at += piece.len() as u64;
    }
    Ok(true)
}
