//! From folders to an archive: scan, order, read, write.
//!
//! The bytes written depend on the tree and the options alone. A file that cannot be opened is
//! left out with a warning; one that changes while it is read is packed as it was read, with a
//! warning too. Sources are only ever read.
//!
//! The same goes for what is added to an archive (`append`).

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::fs::File;
use std::io::{Seek, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, fstat};

use super::found::Found;
use super::order::{is_compressed, packing_order};
use super::scan::Tree;
use super::source_file::{Hashing, Length, SegmentReader, Sizes, hash, measure, segments};
use super::walk::{describe as describe_entry, inode, may_have_holes};
use super::{found, similar_order};
use crate::archive::observer::{Observer, Warning};
use crate::archive::os::{is_exhausted, xattr};
use crate::archive::path::{escape, extension, split};
use crate::archive::path_set::{Clash, Paths};
use crate::archive::read::archive::Archive;
use crate::archive::write::content::{Content, ContentWarning};
use crate::archive::write::options::{Stats, WriterOptions};
use crate::archive::write::resume::Previous;
use crate::archive::write::writer::Writer;
use crate::error::{Error, Result};
use crate::wire::entry::{ContentHash, EntryId, Kind, SHORT_DATA};

/// A tree that was looked at and can be written.
pub struct Packer {
    tree: Tree,
    order: Vec<u32>,
    owners: bool,
    xattrs: bool,
    latest_mtime: Option<i64>,
}

/// What makes an open file that one: device, inode and, where that is known, when it was made. A number alone may be
/// given to another file once the first is gone.
type Identity = ((u64, u64), Option<(i64, u32)>);

/// What is known of the files that were written so far.
#[derive(Default)]
struct Written {
    by_identity: HashMap<Identity, EntryId>,
    by_content: HashMap<(u64, [u8; 32]), EntryId>,
    /// Files of earlier generations, of which the archive has half a hash. Those with a short one are left
    /// out: two contents with the same can be made.
    earlier: HashMap<(u64, ContentHash), EntryId>,
    earlier_sizes: HashSet<u64>,
}

impl Written {
    /// A file with this content.
    fn find(&self, size: u64, digest: [u8; 32]) -> Option<EntryId> {
        let mut half = [0; 16];
        half.copy_from_slice(&digest[..16]);
        self.by_content.get(&(size, digest)).or_else(|| self.earlier.get(&(size, half))).copied()
    }
}

impl Packer {
    /// Looks at the sources; see `Tree::scan` for how they are named in the archive.
    pub fn scan(
        sources: &[PathBuf],
        base: Option<&Path>,
        options: &found::ScanOptions,
        observer: &dyn Observer,
    ) -> Result<Self> {
        observer.phase("scanning", None);
        let found::ScanOptions { owners, xattrs, latest_mtime, .. } = *options;
        let options = found::ScanOptions { files_later: true, ..options.clone() };
        let tree = Tree::scan(sources, base, &options, observer)?;
        let order = packing_order(&tree.entries);
        Ok(Self { tree, order, owners, xattrs, latest_mtime })
    }

    /// Brings files that are alike closer together, for which their beginnings are read.
    pub fn arrange(&mut self, observer: &dyn Observer) -> Result<()> {
        observer.phase("comparing", Some(self.bytes()));
        let (tree, entries) = (&self.tree, &self.tree.entries);
        let entry = |at: u32| entries.get(at as usize);
        let size = |at: u32| entry(at).map_or(0, |found| size_of(&found.entry.kind));
        // What has no content stands first, what is compressed already last; neither gains.
        let start = self.order.partition_point(|&at| size(at) == 0);
        let packed = |at: u32| entry(at).is_some_and(|found| is_compressed(split(&found.entry.path).1));
        let len = self.order[start..].partition_point(|&at| !packed(at));
        let open = |at: u32| entry(at).and_then(|found| tree.open(found).ok()).map(File::from);
        let kind = |at: u32| entry(at).map(|found| extension(split(&found.entry.path).1));
        let same = |a: u32, b: u32| match (kind(a), kind(b)) {
            (Some(a), Some(b)) => a.eq_ignore_ascii_case(b),
            _ => false,
        };
        similar_order::arrange(&mut self.order[start..start + len], size, same, open, observer)
    }

    /// About `max` bytes of the contents that are to be packed, in their order: all of them if they are no more,
    /// else stretches of `stretch` bytes, evenly spread. What cannot be read is left out, and so is what is
    /// compressed already.
    pub fn sample(&self, max: u64, stretch: u64) -> Vec<Vec<u8>> {
        let entries = self.order.iter().filter_map(|&at| self.tree.entries.get(at as usize));
        let files = entries
            .filter(|found| size_of(&found.entry.kind) > 0 && !is_compressed(split(&found.entry.path).1));
        let all: u64 = files.clone().map(|found| size_of(&found.entry.kind)).sum();
        let every = if all <= max { 1 } else { all.div_ceil(max.max(1)).max(2) };
        let (mut sample, mut now) = (Vec::new(), Vec::new());
        let mut at = 0;
        for found in files {
            let size = size_of(&found.entry.kind);
            let Ok(file) = self.tree.open(found).map(File::from) else { continue };
            let mut own = 0;
            while own < size {
                let number = at / stretch;
                let len = (stretch - at % stretch).min(size - own);
                if number.is_multiple_of(every) {
                    let mut bytes = vec![0; usize::try_from(len).unwrap_or(0)];
                    if std::os::unix::fs::FileExt::read_exact_at(&file, &mut bytes, own).is_ok() {
                        now.extend_from_slice(&bytes);
                    }
                }
                (own, at) = (own + len, at + len);
                if at.is_multiple_of(stretch) && !now.is_empty() {
                    sample.push(std::mem::take(&mut now));
                }
            }
        }
        sample.extend((!now.is_empty()).then_some(now));
        sample
    }

    /// Number of objects that were found.
    pub fn len(&self) -> usize {
        self.order.len()
    }

    /// Whether nothing was found.
    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// Sum of the sizes of all files.
    pub fn bytes(&self) -> u64 {
        let entries = self.order.iter().filter_map(|&at| self.tree.entries.get(at as usize));
        entries.map(|found| size_of(&found.entry.kind)).sum()
    }

    /// Leaves out what `archive` has already: folders, and with `skip` everything else too, of
    /// which the number is told. Without, a path that is there is an error.
    pub fn only_new(&mut self, archive: &Archive, skip: bool) -> Result<u64> {
        let mut paths = Paths::default();
        for entry in archive.entries() {
            paths.take(&entry.path, entry.kind == Kind::Directory);
        }
        let (mut order, mut skipped) = (Vec::new(), 0);
        for &at in &self.order {
            let Some(Found { entry, .. }) = self.tree.entries.get(at as usize) else { continue };
            match paths.clash(&entry.path, entry.kind == Kind::Directory) {
                Clash::None => order.push(at),
                Clash::SameFolder => {}
                Clash::Taken if skip => skipped += 1,
                Clash::Taken => {
                    return Err(Error::InArchive { path: escape(&entry.path) });
                }
            }
        }
        self.order = order;
        Ok(skipped)
    }

    /// Writes an archive to `out`, which is given back for syncing. What `previous` holds of the
    /// same archive is not coded again.
    pub fn write<W: Write>(
        self,
        out: W,
        options: WriterOptions,
        previous: Option<Previous>,
    ) -> Result<(W, Stats)> {
        let observer = options.observer.clone();
        self.write_all(Writer::resume(out, options, previous)?, Written::default(), &*observer)
    }

    /// Writes a generation of `archive` to `out`, which appends to its bytes. Files whose size and
    /// content hash a file of the archive has get the data of that.
    pub fn append<W: Write>(self, archive: &Archive, out: W, options: WriterOptions) -> Result<(W, Stats)> {
        let observer = options.observer.clone();
        let mut written = Written::default();
        for (id, entry) in (0..).map(EntryId).zip(archive.entries()) {
            match &entry.kind {
                Kind::File { size: size @ 1.., extents, hash } => {
                    let whole = extents.iter().map(|extent| extent.len).sum::<u64>() == *size;
                    if whole && *size >= SHORT_DATA {
                        written.earlier.insert((*size, *hash), id);
                        written.earlier_sizes.insert(*size);
                    }
                }
                _ => continue,
            }
        }
        self.write_all(Writer::append(out, archive, options)?, written, &*observer)
    }

    fn write_all<W: Write>(
        mut self,
        mut writer: Writer<W>,
        mut written: Written,
        observer: &dyn Observer,
    ) -> Result<(W, Stats)> {
        observer.phase("packing", Some(self.bytes()));
        let (sizes, mut bytes) = (Sizes::of(&self.tree.entries), Vec::new());
        for at in std::mem::take(&mut self.order) {
            if observer.interrupted() {
                return Err(Error::Interrupted);
            }
            let Some(found) = self.tree.entries.get(at as usize) else { continue };
            match found.entry.kind {
                Kind::File { .. } => {
                    self.write_file(&mut writer, found, &mut written, (&sizes, &mut bytes), observer)?
                }
                _ => {
                    writer.add(found.entry.clone(), Content::None)?;
                }
            }
            observer.entry(&found.entry.path);
            // Paths of a million entries need not be held twice, here and in the writer.
            if let Some(found) = self.tree.entries.get_mut(at as usize) {
                found.entry.path = Vec::new();
                found.entry.xattrs = Vec::new();
            }
        }
        writer.finish()
    }

    fn write_file<W: Write>(
        &self,
        writer: &mut Writer<W>,
        found: &Found,
        written: &mut Written,
        (sizes, bytes): (&Sizes, &mut Vec<u8>),
        observer: &dyn Observer,
    ) -> Result<()> {
        let mut entry = found.entry.clone();
        let path = entry.path.clone();
        let left_out = |e: std::io::Error| {
            if is_exhausted(&e) {
                return Err(Error::io(OsStr::from_bytes(&path), e));
            }
            observer.warning(Warning::new(&path[..], format_args!("left out: {e}")));
            Ok(())
        };
        let mut file = match self.tree.open(found) {
            Ok(fd) => File::from(fd),
            Err(e) => return left_out(e),
        };
        // What was known since the scan may be another file's by now: all that is packed comes from this one.
        let before = match fstat(&file) {
            Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile => stat,
            Ok(_) => return left_out(std::io::Error::other("it is no longer a file")),
            Err(e) => return left_out(e.into()),
        };
        if inode(&before) != found.object {
            let what = "was replaced meanwhile; what is there now is packed";
            observer.warning(Warning::new(&path[..], what));
        }
        describe_entry(&mut entry, &before, self.owners, self.latest_mtime);
        if self.xattrs {
            match xattr::read_open(&file) {
                Ok(xattrs) => entry.xattrs = xattrs,
                Err(e) if is_exhausted(&e.into()) => return left_out(e.into()),
                Err(e) => {
                    let what =
                        format_args!("its extended attributes are left out: {}", std::io::Error::from(e));
                    observer.warning(Warning::new(&path[..], what));
                }
            }
        }
        let identity = (before.st_nlink > 1).then(|| (inode(&before), born(&file)));
        if let Some(&target) = identity.as_ref().and_then(|identity| written.by_identity.get(identity)) {
            entry.kind = Kind::Hardlink { target };
            writer.add(entry, Content::None)?;
            return Ok(());
        }
        let told = u64::try_from(before.st_size).unwrap_or(0);
        let holes = may_have_holes(&before).then(|| segments(&file, told)).flatten();
        let holes = holes.filter(|segments| segments.iter().map(|(_, len)| len).sum::<u64>() < told);
        // To look for holes moves the place that is read from.
        if let Err(e) = file.rewind() {
            return left_out(e);
        }
        let length = match &holes {
            Some(_) => Length::Long(told),
            None => {
                let has_blocks = before.st_blocks > 0;
                match measure(&mut file, told, has_blocks, bytes, &|| observer.interrupted()) {
                    Ok(length) => length,
                    Err(e) => return left_out(e),
                }
            }
        };
        let size = match length {
            Length::Whole => bytes.len() as u64,
            Length::Long(size) => size,
        };
        let repeats = sizes.repeats(size) || written.earlier_sizes.contains(&size);
        entry.kind = Kind::File { size, extents: Vec::new(), hash: [0; 16] };
        let mut digest = None;
        let added = if size == 0 {
            writer.add(entry, Content::None)?
        } else if let Some(segments) = holes {
            let mut data = SegmentReader::new(&file, segments.clone());
            writer.add(entry, Content::Sparse { segments, data: &mut data })?
        } else if let Length::Whole = length {
            digest = repeats.then(|| *blake3::hash(bytes).as_bytes());
            let known = digest.and_then(|digest| written.find(size, digest));
            match known {
                Some(same) => writer.add(entry, Content::SameAs(same))?,
                None => writer.add(entry, Content::Data(&mut &bytes[..]))?,
            }
        } else if repeats {
            let known = match hash(&mut file, size) {
                Ok(digest) => written.find(size, digest),
                Err(e) => return left_out(e),
            };
            if let Some(same) = known {
                writer.add(entry, Content::SameAs(same))?
            } else {
                // Hashed again while it is written: only what was written may stand for others.
                let mut data = Hashing::new(&mut file);
                let added = writer.add(entry, Content::Data(&mut data))?;
                digest = added.warning.is_none().then(|| *data.hasher.finalize().as_bytes());
                added
            }
        } else {
            writer.add(entry, Content::Data(&mut file))?
        };
        if let Some(ContentWarning::Failed { source, .. }) = &added.warning
            && is_exhausted(source)
        {
            let source =
                source.raw_os_error().map_or(source.kind().into(), std::io::Error::from_raw_os_error);
            return left_out(source);
        }
        if let Some(digest) = digest {
            written.by_content.entry((size, digest)).or_insert(added.id);
        }
        if let Some(identity) = identity {
            written.by_identity.insert(identity, added.id);
        }
        let after = fstat(&file).ok();
        let changed = after.is_none_or(|after| {
            let is_later = (after.st_mtime, after.st_mtime_nsec) != (before.st_mtime, before.st_mtime_nsec);
            // Files that tell a wrong size are made as they are read, and may be new at any time.
            after.st_size != before.st_size || (is_later && size == told)
        });
        if let Some(what) = describe(added.warning.as_ref(), changed) {
            observer.warning(Warning::new(path, what));
        }
        Ok(())
    }
}

/// When a file was made, where the system tells.
#[cfg(target_os = "linux")]
fn born(file: &File) -> Option<(i64, u32)> {
    use rustix::fs::{AtFlags, StatxFlags, statx};

    let found = statx(file, c"", AtFlags::EMPTY_PATH, StatxFlags::BTIME).ok()?;
    let is_told = found.stx_mask & StatxFlags::BTIME.bits() != 0;
    is_told.then_some((found.stx_btime.tv_sec, found.stx_btime.tv_nsec))
}

#[cfg(not(target_os = "linux"))]
fn born(_: &File) -> Option<(i64, u32)> {
    None
}

fn size_of(kind: &Kind) -> u64 {
    if let Kind::File { size, .. } = kind { *size } else { 0 }
}

pub(crate) fn describe(warning: Option<&ContentWarning>, changed: bool) -> Option<String> {
    match warning {
        Some(ContentWarning::Shrunk { missing }) => {
            Some(format!("became shorter while it was read; {missing} zero bytes stand for its end"))
        }
        Some(ContentWarning::Grown) => Some("grew while it was read; what came late is not packed".into()),
        Some(ContentWarning::Failed { missing, source }) => {
            Some(format!("could not be read to its end ({source}); {missing} zero bytes stand for the rest"))
        }
        None if changed => Some("changed while it was read".into()),
        None => None,
    }
}
