//! Finds what is to be packed, in an order that depends on the tree alone.
//!
//! Entries come depth first, siblings sorted by the bytes of their names, every folder before what
//! is below it. Nothing here reads file contents: a `File` has its size, no extents and a zero
//! hash; hardlinks are files whose `object` is the same. What cannot be looked at becomes a warning and is left out.

use std::collections::{HashMap, HashSet};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{self, AtFlags, CWD, FileType, Mode, OFlags};

use super::found::{Found, Root, ScanOptions};
use super::walk::Walker;
use crate::archive::observer::{Observer, Warning};
use crate::archive::os::beneath::Beneath;
use crate::archive::os::is_exhausted;
use crate::archive::path::{cmp_paths, escape, join, split};
use crate::archive::selection::Choice;
use crate::error::{Error, Result};
use crate::wire::entry::Kind;

/// Everything that was found.
#[derive(Debug, Default)]
pub struct Tree {
    pub entries: Vec<Found>,
    pub(crate) roots: Vec<Root>,
}

impl Tree {
    /// Scans `sources`, relative to `base` or else to the current folder. A single folder becomes
    /// the archive's root and a single file is known by its name; several sources keep the paths
    /// they were given by, without leading `/` and `..`, together with the folders on them.
    pub fn scan(
        sources: &[PathBuf],
        base: Option<&Path>,
        options: &ScanOptions,
        observer: &dyn Observer,
    ) -> Result<Self> {
        let mut tree = Self::default();
        let base = base.unwrap_or(Path::new(""));
        if let ([source], false) = (sources, options.as_given) {
            tree.add_only(&base.join(source), options, observer)?;
            return Ok(tree);
        }
        let mut named = Named::default();
        for source in sources {
            match tree.add_named(base, source, &mut named, options, observer) {
                Err(Error::Io { path, source: e }) if options.lenient && !is_exhausted(&e) => {
                    observer
                        .warning(Warning::new(path.as_os_str().as_bytes(), format_args!("left out: {e}")));
                }
                other => other?,
            }
        }
        tree.entries.sort_by(|a, b| cmp_paths(&a.entry.path, &b.entry.path));
        tree.check_twice()?;
        tree.entries.dedup_by(|b, a| a.entry.path == b.entry.path);
        Ok(tree)
    }

    /// What sources bring under one path must be one object, or folders, which come together.
    fn check_twice(&self) -> Result<()> {
        let both = |a: &Found, b: &Found| {
            a.object == b.object || (a.entry.kind == Kind::Directory && b.entry.kind == Kind::Directory)
        };
        for pair in self.entries.windows(2) {
            if pair[0].entry.path == pair[1].entry.path && !both(&pair[0], &pair[1]) {
                let path = escape(&pair[0].entry.path);
                return Err(Error::Usage(format!(
                    "two different objects would both become {path} in the archive"
                )));
            }
        }
        Ok(())
    }

    /// Sum of the sizes of all files.
    pub fn bytes(&self) -> u64 {
        let size = |found: &Found| if let Kind::File { size, .. } = found.entry.kind { size } else { 0 };
        self.entries.iter().map(size).sum()
    }

    /// Opens the content of a file that was found.
    pub fn open(&self, found: &Found) -> std::io::Result<OwnedFd> {
        let root = self.roots.get(found.root as usize).ok_or(std::io::ErrorKind::NotFound)?;
        // NONBLOCK: should a FIFO have taken the file's place, opening it must not wait.
        let flags = OFlags::RDONLY | OFlags::NOCTTY | OFlags::NONBLOCK;
        Ok(root.folder.open(root.below(&found.entry.path), flags, Mode::empty())?)
    }

    fn add_only(&mut self, path: &Path, options: &ScanOptions, observer: &dyn Observer) -> Result<()> {
        let stat = fs::statat(CWD, path, AtFlags::empty())
            .or_else(|_| fs::statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW))
            .map_err(|e| Error::io(path, e.into()))?;
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            if !options.recurse {
                let root = self.add_root(path, b"")?;
                return self.walker(options, observer).push_root(root, b"");
            }
            return self.add_folder(path, b"", options, observer);
        }
        let name = path.file_name().map(|n| n.as_bytes().to_vec()).unwrap_or_default();
        self.add_file(path, &name, options, observer)
    }

    /// Adds a source by the path it was given by, with the folders on it.
    fn add_named(
        &mut self,
        base: &Path,
        source: &Path,
        named: &mut Named,
        options: &ScanOptions,
        observer: &dyn Observer,
    ) -> Result<()> {
        let (start, name) = archive_name(source);
        let path = base.join(source);
        let start = base.join(start);
        let at = match named.roots.get(&start) {
            Some(&at) => at,
            None => {
                let at =
                    self.add_root(if start.as_os_str().is_empty() { Path::new(".") } else { &start }, b"")?;
                named.roots.insert(start, at);
                at
            }
        };
        let stat =
            fs::statat(CWD, &path, AtFlags::SYMLINK_NOFOLLOW).map_err(|e| Error::io(&path, e.into()))?;
        let is_dir = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        let excluded = options.selection.choose(&name, is_dir, false) == Choice::Exclude;
        if excluded || (!is_dir && !options.selection.takes(&name, false)) {
            return Ok(());
        }
        // Where the path leads through a symlink, what it is in is opened by the path that was given.
        let folder = split(&name).0;
        if !name.is_empty() && self.roots[at as usize].folder.folder(folder).is_err() {
            return self.add_linked(&path, &name, is_dir, options, observer);
        }
        let mut above = folder;
        while !above.is_empty() && named.folders.insert(above.to_vec()) {
            self.walker(options, observer).push_at(at, above)?;
            above = split(above).0;
        }
        let mut walker = self.walker(options, observer);
        match is_dir {
            true if options.recurse => walker.walk(at, &name),
            true if name.is_empty() => walker.push_root(at, b""),
            _ => walker.push_at(at, &name),
        }
    }

    fn add_linked(
        &mut self,
        path: &Path,
        name: &[u8],
        is_dir: bool,
        options: &ScanOptions,
        observer: &dyn Observer,
    ) -> Result<()> {
        let (mut folder, mut at) = (split(name).0, path.parent());
        while let Some(real) = at.filter(|_| !folder.is_empty()) {
            let root = self.add_root(real, folder)?;
            self.walker(options, observer).push_root(root, folder)?;
            (folder, at) = (split(folder).0, real.parent());
        }
        if is_dir && options.recurse {
            self.add_folder(path, name, options, observer)
        } else if is_dir {
            let root = self.add_root(path, name)?;
            self.walker(options, observer).push_root(root, name)
        } else {
            self.add_file(path, name, options, observer)
        }
    }

    fn add_folder(
        &mut self,
        path: &Path,
        name: &[u8],
        options: &ScanOptions,
        observer: &dyn Observer,
    ) -> Result<()> {
        let root = self.add_root(path, name)?;
        self.walker(options, observer).walk(root, name)
    }

    fn add_file(
        &mut self,
        path: &Path,
        name: &[u8],
        options: &ScanOptions,
        observer: &dyn Observer,
    ) -> Result<()> {
        let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let root = self.add_root(folder, split(name).0)?;
        self.walker(options, observer).push_at(root, name)
    }

    fn add_root(&mut self, folder: &Path, prefix: &[u8]) -> Result<u32> {
        let folder = Beneath::open_root(folder).map_err(|e| Error::io(folder, e))?;
        self.roots.push(Root { folder, prefix: prefix.to_vec() });
        u32::try_from(self.roots.len() - 1).map_err(|_| Error::Usage("too many sources".into()))
    }

    fn walker<'a>(&'a mut self, options: &'a ScanOptions, observer: &'a dyn Observer) -> Walker<'a> {
        Walker { roots: &self.roots, entries: &mut self.entries, options, observer }
    }
}

/// What is known of sources that keep their paths.
#[derive(Default)]
struct Named {
    /// Roots by the path they were opened by.
    roots: HashMap<PathBuf, u32>,
    /// Folders that were added because they lead to a source.
    folders: HashSet<Vec<u8>>,
}

/// The path in the archive of a source that keeps its own: what it was given by, from the last `..`
/// on. And the part of the path before that.
fn archive_name(given: &Path) -> (PathBuf, Vec<u8>) {
    let (mut start, mut name, mut passed) = (PathBuf::new(), Vec::new(), PathBuf::new());
    for component in given.components() {
        passed.push(component);
        match component {
            Component::Normal(part) => name = join(&name, part.as_bytes()),
            Component::CurDir => {}
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => {
                name.clear();
                start.clone_from(&passed);
            }
        }
    }
    (start, name)
}
