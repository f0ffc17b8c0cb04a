//! The walk itself: folders to entries with everything that the system knows of them.
//!
//! Folders are opened beneath their root and never through a symlink, so a tree that changes
//! under the walk cannot lead it elsewhere. At most `OPEN_FOLDERS` are held open, whatever the
//! depth.

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{self, AtFlags, Dir, FileType, Mode, OFlags, Stat};

use super::found::{Found, Root, ScanOptions};
use crate::archive::observer::{Observer, Remedy, Warning};
use crate::archive::os::{is_exhausted, xattr};
use crate::archive::path::{join, split};
use crate::archive::selection::Choice;
use crate::error::{Error, Result};
use crate::wire::entry::{Entry, Kind, Timestamp};
use crate::wire::limits;

/// How many folders are held open on the way down; those above are opened again on the way back.
const OPEN_FOLDERS: usize = 64;

/// Bytes of one block as `st_blocks` counts them.
const BLOCK: u64 = 512;

/// Appends what it finds under `roots` to `entries`.
pub(crate) struct Walker<'a> {
    pub roots: &'a [Root],
    pub entries: &'a mut Vec<Found>,
    pub options: &'a ScanOptions,
    pub observer: &'a dyn Observer,
}

/// A folder on the way down.
struct Frame {
    /// Closed while the walk is far below.
    fd: Option<OwnedFd>,
    path: Vec<u8>,
    names: std::vec::IntoIter<Vec<u8>>,
    /// Position of its own entry.
    entry: usize,
    /// Everything below it is included.
    inside: bool,
}

impl Walker<'_> {
    /// Adds the folder that a root opens, alone.
    pub fn push_root(&mut self, root: u32, path: &[u8]) -> Result<()> {
        let folder = &self.roots[root as usize].folder;
        let at = folder.folder(b"").map_err(|e| Error::io(folder.path(), e.into()))?;
        let stat = fs::fstat(&at).map_err(|e| Error::io(folder.path(), e.into()))?;
        self.push(root, path.to_vec(), &stat, &at, b".")
    }

    /// Adds one object below a root, alone.
    pub fn push_at(&mut self, root: u32, path: &[u8]) -> Result<()> {
        let from = &self.roots[root as usize];
        let below = from.below(path);
        let io =
            |e: rustix::io::Errno| Error::io(from.folder.path().join(OsStr::from_bytes(below)), e.into());
        let (folder, name) = split(below);
        let at = from.folder.folder(folder).map_err(io)?;
        let stat = fs::statat(&at, name, AtFlags::SYMLINK_NOFOLLOW).map_err(io)?;
        self.push(root, path.to_vec(), &stat, &at, name)
    }

    /// Adds the folder that `path` is in a root, and everything below it.
    pub fn walk(&mut self, root: u32, path: &[u8]) -> Result<()> {
        if self.roots[root as usize].below(path).is_empty() {
            self.push_root(root, path)?;
        } else {
            self.push_at(root, path)?;
        }
        let folder = &self.roots[root as usize].folder;
        let (top, names) =
            list(&self.roots[root as usize], path).map_err(|e| Error::io(folder.path(), e.into()))?;
        let stat = fs::fstat(&top).map_err(|e| Error::io(folder.path(), e.into()))?;
        let (device, entry) = (inode(&stat).0, self.entries.len() - 1);
        self.settle(entry, &top)?;
        let inside = !self.options.selection.has_includes();
        let mut frames =
            vec![Frame { fd: Some(top), path: path.to_vec(), names: names.into_iter(), entry, inside }];
        while let Some(frame) = frames.last_mut() {
            if self.observer.interrupted() {
                return Err(Error::Interrupted);
            }
            let Some(name) = frame.names.next() else {
                let (entry, inside) = (frame.entry, frame.inside);
                frames.pop();
                if !inside && !frames.is_empty() && entry + 1 == self.entries.len() {
                    // Only looked through for includes, and nothing was found below it.
                    self.entries.pop();
                }
                continue;
            };
            let Some((path, entry, inside)) = self.visit(root, frame, &name, device)? else { continue };
            match list(&self.roots[root as usize], &path) {
                Ok((fd, names)) => {
                    self.settle(entry, &fd)?;
                    if let Some(far) = frames.len().checked_sub(OPEN_FOLDERS) {
                        frames[far].fd = None;
                    }
                    frames.push(Frame { fd: Some(fd), path, names: names.into_iter(), entry, inside });
                }
                Err(e) => self.warn(path, "what is in this folder is left out", e)?,
            }
        }
        Ok(())
    }

    /// Adds the object `name` of a folder. Gives its path and position, and whether everything
    /// below it is included, if it is to be entered.
    fn visit(
        &mut self,
        root: u32,
        frame: &mut Frame,
        name: &[u8],
        device: u64,
    ) -> Result<Option<(Vec<u8>, usize, bool)>> {
        let path = join(&frame.path, name);
        if path.len() > limits::PATH_LEN {
            let what = format_args!("left out: its path is longer than {} bytes", limits::PATH_LEN);
            self.observer.warning(Warning::new(path, what));
            return Ok(None);
        }
        let fd = match frame.fd.take() {
            Some(fd) => Ok(fd),
            None => {
                let from = &self.roots[root as usize];
                from.folder.folder(from.below(&frame.path))
            }
        };
        let found = fd.and_then(|fd| {
            let at = frame.fd.insert(fd);
            Ok((fs::statat(&*at, name, AtFlags::SYMLINK_NOFOLLOW)?, at))
        });
        let (stat, at) = match found {
            Ok(found) => found,
            Err(e) => return self.warn(path, "left out", e).map(|()| None),
        };
        let is_dir = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        let choice = self.options.selection.choose(&path, is_dir, frame.inside);
        if choice == Choice::Exclude || self.options.skip.contains(&inode(&stat)) {
            return Ok(None);
        }
        self.push(root, path.clone(), &stat, at, name)?;
        let enter = is_dir && !(self.options.one_file_system && inode(&stat).0 != device);
        Ok(enter.then(|| (path, self.entries.len() - 1, choice == Choice::Include)))
    }

    /// Holds the entry of a folder against what was opened under its name: should that be another folder by now, it is
    /// taken as it is.
    fn settle(&mut self, entry: usize, opened: &OwnedFd) -> Result<()> {
        let Some(found) = self.entries.get(entry) else { return Ok(()) };
        let path = found.entry.path.clone();
        let stat = match fs::fstat(opened) {
            Ok(stat) if inode(&stat) == found.object => return Ok(()),
            Ok(stat) => stat,
            Err(e) => return self.warn(path, "left as it was", e),
        };
        let root = found.root;
        self.push(root, path.clone(), &stat, opened, b".")?;
        if let Some(now) = self.entries.pop() {
            self.entries[entry] = now;
        }
        self.observer.warning(Warning::new(path, "was replaced meanwhile; what is there now is packed"));
        Ok(())
    }

    /// Adds the object `name` in the folder `at`, unless it is of a kind that is left out.
    fn push(&mut self, root: u32, path: Vec<u8>, stat: &Stat, at: &OwnedFd, name: &[u8]) -> Result<()> {
        let Some(kind) = self.kind(&path, stat, at, name)? else { return Ok(()) };
        let is_file = matches!(kind, Kind::File { .. });
        let mut xattrs = Vec::new();
        if self.options.xattrs && !(is_file && self.options.files_later) {
            match xattr::read(at, name) {
                Ok(found) => xattrs = found,
                Err(e) => self.warn(path.clone(), "its extended attributes are left out", e)?,
            }
        }
        let (mode, uid, gid, mtime) = (0, 0, 0, Timestamp::default());
        let mut entry = Entry { path, kind, mode, uid, gid, mtime, xattrs };
        describe(&mut entry, stat, self.options.owners, self.options.latest_mtime);
        self.entries.push(Found { entry, root, object: inode(stat) });
        Ok(())
    }

    fn kind(&self, path: &[u8], stat: &Stat, at: &OwnedFd, name: &[u8]) -> Result<Option<Kind>> {
        let (major, minor) = (fs::major(stat.st_rdev), fs::minor(stat.st_rdev));
        let (kind, what) = match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => return Ok(Some(Kind::Directory)),
            FileType::RegularFile => {
                return Ok(Some(Kind::File {
                    size: u64::try_from(stat.st_size).unwrap_or(0),
                    extents: Vec::new(),
                    hash: [0; 16],
                }));
            }
            FileType::Symlink => {
                return match fs::readlinkat(at, name, Vec::new()) {
                    Ok(target) => Ok(Some(Kind::Symlink { target: target.into_bytes() })),
                    Err(e) => self.warn(path.to_vec(), "left out", e).map(|()| None),
                };
            }
            FileType::Fifo => (Kind::Fifo, "a FIFO"),
            FileType::Socket => (Kind::Socket, "a socket"),
            FileType::CharacterDevice => (Kind::CharDevice { major, minor }, "a character device"),
            FileType::BlockDevice => (Kind::BlockDevice { major, minor }, "a block device"),
            FileType::Unknown => {
                self.observer.warning(Warning::new(path, "left out: of an unknown kind"));
                return Ok(None);
            }
        };
        if !self.options.special {
            let warning = Warning::new(path, format_args!("left out: {what}"));
            self.observer.warning(warning.with(Remedy::PackSpecial));
            return Ok(None);
        }
        Ok(Some(kind))
    }

    /// Tells what an object costs that cannot be looked at. An error where any other would fare alike.
    fn warn(&self, path: Vec<u8>, what: &str, error: rustix::io::Errno) -> Result<()> {
        let error = std::io::Error::from(error);
        if is_exhausted(&error) {
            return Err(Error::io(OsStr::from_bytes(&path), error));
        }
        self.observer.warning(Warning::new(path, format_args!("{what}: {error}")));
        Ok(())
    }
}

/// Puts into an entry what is known of its object.
pub(crate) fn describe(entry: &mut Entry, stat: &Stat, owners: bool, latest_mtime: Option<i64>) {
    let mtime =
        Timestamp { secs: wide(stat.st_mtime), nanos: u32::try_from(stat.st_mtime_nsec).unwrap_or(0) };
    let late = latest_mtime.filter(|&latest| mtime.secs >= latest);
    entry.mtime = late.map_or(mtime, |secs| Timestamp { secs, nanos: 0 });
    entry.mode = (stat.st_mode & 0o7777) as u16;
    (entry.uid, entry.gid) = if owners { (stat.st_uid, stat.st_gid) } else { (0, 0) };
}

/// Whether a file has fewer blocks than its size needs.
pub(crate) fn may_have_holes(stat: &Stat) -> bool {
    let size = u64::try_from(stat.st_size).unwrap_or(0);
    u64::try_from(stat.st_blocks).unwrap_or(0).saturating_mul(BLOCK) < size
}

/// Opens a folder and reads the names in it, sorted.
fn list(root: &Root, path: &[u8]) -> rustix::io::Result<(OwnedFd, Vec<Vec<u8>>)> {
    let fd = root.folder.open(root.below(path), OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())?;
    let mut names = Vec::new();
    for entry in Dir::read_from(&fd)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(name.to_vec());
        }
    }
    names.sort_unstable();
    Ok((fd, names))
}

/// Device and inode, which together name a file system object. Widths differ between systems.
#[allow(clippy::unnecessary_cast)]
pub(crate) fn inode(stat: &Stat) -> (u64, u64) {
    (stat.st_dev as u64, stat.st_ino as u64)
}

#[allow(clippy::unnecessary_cast)]
fn wide(secs: impl Into<i64>) -> i64 {
    secs.into()
}
