//! A new file that appears under its name only when it is complete and on disk.
//!
//! It is written as `.NAME.partial-TAG-*` in the folder of its name (exclusive, mode 0600), synced,
//! renamed, and the folder synced. Dropped before that, it is removed, unless it is kept for a run
//! that goes on with it: the tag says for which. A lock on the file tells that a run is at work.

use std::fs::{File, Metadata};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::{self, AtFlags, CWD, Dir, FlockOperation, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use crate::error::{Error, Result};

/// How much of a long name the partial file's name keeps, so that it stays below 255 bytes.
const NAME_KEPT: usize = 200;

/// Bytes that are copied at a time.
const COPY: usize = 1 << 20;

/// Digits of a tag that count.
const TAG_KEPT: usize = 16;

/// A file being written.
#[derive(Debug)]
pub struct Partial {
    path: PathBuf,
    folder: OwnedFd,
    name: Vec<u8>,
    partial: Vec<u8>,
    replace: bool,
    done: bool,
}

/// What the names of all partial files of `name` begin with.
fn stem(name: &[u8]) -> Vec<u8> {
    [b".", &name[..name.len().min(NAME_KEPT)], b".partial-"].concat()
}

/// Device and inode of each partial file that runs for `path` have left, or are writing.
pub fn left_by_runs(path: &Path) -> Vec<(u64, u64)> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let (Some(name), Ok(entries)) = (path.file_name(), std::fs::read_dir(folder)) else { return Vec::new() };
    let stem = stem(name.as_bytes());
    let partial = entries.flatten().filter(|entry| entry.file_name().as_bytes().starts_with(&stem));
    partial.filter_map(|entry| entry.metadata().ok()).map(|found| (found.dev(), found.ino())).collect()
}

impl Partial {
    /// Begins a file that is to become `path`. Without `replace`, `path` must not exist, now or at
    /// the end. `tag` is made of digits and letters, and says of what kind the content is.
    pub fn create(path: &Path, replace: bool, tag: &str) -> Result<(Self, File)> {
        let mut this = Self::new(path, replace)?;
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut salt = std::process::id();
        salt ^= SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.subsec_nanos());
        loop {
            this.partial = [&this.prefix(tag)[..], format!("{salt:08x}").as_bytes()].concat();
            match fs::openat(&this.folder, &this.partial, flags, Mode::RUSR | Mode::WUSR) {
                Ok(fd) => {
                    // Only other runs ask for the lock; a file system without locks has none to ask.
                    let _ = fs::flock(&fd, FlockOperation::NonBlockingLockExclusive);
                    this.done = false;
                    return Ok((this, File::from(fd)));
                }
                Err(Errno::EXIST) => salt = salt.wrapping_add(0x9e37_79b9),
                Err(e) => return Err(Error::io(path, e.into())),
            }
        }
    }

    /// The longest file that a run for `path` with this tag has left, and that no run works on.
    pub fn find(path: &Path, replace: bool, tag: &str) -> Result<Option<(Self, File)>> {
        let mut this = Self::new(path, replace)?;
        let prefix = this.prefix(tag);
        let mut best: Option<(Vec<u8>, File, u64)> = None;
        for entry in Dir::read_from(&this.folder).map_err(|e| Error::io(path, e.into()))? {
            let entry = entry.map_err(|e| Error::io(path, e.into()))?;
            let name = entry.file_name().to_bytes();
            if !name.starts_with(&prefix) {
                continue;
            }
            let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            let Ok(fd) = fs::openat(&this.folder, name, flags, Mode::empty()) else { continue };
            let ours = fs::fstat(&fd).is_ok_and(|stat| {
                fs::FileType::from_raw_mode(stat.st_mode) == fs::FileType::RegularFile
                    && stat.st_nlink == 1
                    && stat.st_uid == rustix::process::geteuid().as_raw()
            });
            if !ours || fs::flock(&fd, FlockOperation::NonBlockingLockExclusive) == Err(Errno::WOULDBLOCK) {
                continue;
            }
            let file = File::from(fd);
            let len = file.metadata().map_or(0, |metadata| metadata.len());
            if best.as_ref().is_none_or(|(_, _, most)| len > *most) {
                best = Some((name.to_vec(), file, len));
            }
        }
        Ok(best.map(|(name, file, _)| {
            (this.partial, this.done) = (name, false);
            (this, file)
        }))
    }

    /// The folder and name of a file to be, after a look at what is there.
    fn new(path: &Path, replace: bool) -> Result<Self> {
        let name = path
            .file_name()
            .ok_or_else(|| Error::Usage(format!("{} does not name a file", path.display())))?;
        let at = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let folder = fs::openat(CWD, at, OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|e| Error::io(at, e.into()))?;
        let name = name.as_bytes().to_vec();
        match fs::statat(&folder, &name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) if fs::FileType::from_raw_mode(stat.st_mode) == fs::FileType::Directory => {
                return Err(Error::Usage(format!("{} is a folder", path.display())));
            }
            Ok(stat)
                if !matches!(
                    fs::FileType::from_raw_mode(stat.st_mode),
                    fs::FileType::RegularFile | fs::FileType::Symlink
                ) =>
            {
                let what = "is a device, a pipe or a socket, and is not replaced by a file";
                return Err(Error::Usage(format!("{} {what}", path.display())));
            }
            Ok(_) if !replace => return Err(Error::Exists(path.to_owned())),
            Ok(_) | Err(Errno::NOENT) => {}
            Err(e) => return Err(Error::io(path, e.into())),
        }
        // There is nothing to remove yet.
        Ok(Self { path: path.to_owned(), folder, name, partial: Vec::new(), replace, done: true })
    }

    fn prefix(&self, tag: &str) -> Vec<u8> {
        let tag = &tag.as_bytes()[..tag.len().min(TAG_KEPT)];
        [&stem(&self.name)[..], tag, b"-"].concat()
    }

    /// Where the file lies as long as it is not complete.
    pub fn path(&self) -> PathBuf {
        self.path.with_file_name(std::ffi::OsStr::from_bytes(&self.partial))
    }

    /// Leaves the file as it is, and tells where.
    pub fn keep(mut self) -> PathBuf {
        self.done = true;
        self.path()
    }

    /// Puts the file, which is complete, under its name. It has the mode of the file that it replaces, if it does. When
    /// this returns it survives a power cut.
    pub fn commit(self, file: &File) -> Result<()> {
        let replaced = match fs::statat(&self.folder, &self.name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(found) if fs::FileType::from_raw_mode(found.st_mode) == fs::FileType::RegularFile => {
                Some(found.st_mode & 0o777)
            }
            _ => None,
        };
        let mode = replaced.filter(|_| self.replace).unwrap_or(0o666 & !umask());
        self.commit_with_mode(file, mode)
    }

    /// The same for a file that takes the place of one with this mode.
    pub fn commit_with_mode(mut self, file: &File, mode: u32) -> Result<()> {
        let io = |e: Errno| Error::io(&self.path, e.into());
        fs::fchmod(file, Mode::from_raw_mode(mode & 0o777)).map_err(io)?;
        fs::fsync(file).map_err(io)?;
        if self.replace {
            fs::renameat(&self.folder, &self.partial, &self.folder, &self.name).map_err(io)?;
        } else {
            rename_new(&self.folder, &self.partial, &self.folder, &self.name).map_err(|e| match e {
                Errno::EXIST => Error::Exists(self.path.clone()),
                e => io(e),
            })?;
        }
        fs::fsync(&self.folder).map_err(io)?;
        self.done = true;
        Ok(())
    }

    /// The same for a file that goes on from the one at its path, whose bytes it begins with; `found` is what was
    /// known of that when it was read. A file with several names keeps them: the rest is added to it in its place, while
    /// the whole file lies beside it for as long as the file is not complete.
    ///
    /// # Errors
    /// `Changed` if the file at the path is another by now, or has other content; it stays as it is.
    pub fn commit_after(self, file: &File, found: &Metadata) -> Result<()> {
        let io = |e: Errno| Error::io(&self.path, e.into());
        fs::fchmod(file, Mode::from_raw_mode(found.mode() & 0o777)).map_err(io)?;
        fs::fsync(file).map_err(io)?;
        let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        // To be told of it is all that is needed, but for a file that is written to.
        let known = match fs::statat(&self.folder, &self.name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(now) => now.st_nlink,
            Err(Errno::NOENT) => return Err(Error::Changed(self.path.clone())),
            Err(e) => return Err(io(e)),
        };
        let access = if known > 1 { OFlags::RDWR } else { OFlags::PATH };
        let now = match fs::openat(&self.folder, &self.name, flags | access, Mode::empty()) {
            Ok(fd) => File::from(fd),
            Err(Errno::NOENT | Errno::LOOP) => return Err(Error::Changed(self.path.clone())),
            Err(e) => return Err(io(e)),
        };
        let named = |e| Error::io(&self.path, e);
        let metadata = now.metadata().map_err(named)?;
        let what = |of: &Metadata| (of.dev(), of.ino(), of.len(), of.mtime(), of.mtime_nsec());
        if what(&metadata) != what(found) {
            return Err(Error::Changed(self.path.clone()));
        }
        if known == 1 {
            fs::renameat(&self.folder, &self.partial, &self.folder, &self.name).map_err(io)?;
            fs::fsync(&self.folder).map_err(io)?;
            let mut this = self;
            this.done = true;
            return Ok(());
        }
        if let Err(e) = add_rest(file, &now, found.len()) {
            let _ = now.set_len(found.len()).and_then(|()| now.sync_all());
            return Err(named(e));
        }
        Ok(())
    }
}

/// Writes all bytes of `from` from `at` on to the same place of `to`.
fn add_rest(from: &File, to: &File, mut at: u64) -> std::io::Result<()> {
    let mut buf = vec![0; COPY];
    loop {
        match from.read_at(&mut buf, at) {
            Ok(0) => return to.sync_all(),
            Ok(len) => {
                to.write_all_at(&buf[..len], at)?;
                at += len as u64;
            }
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if !self.done {
            let _ = fs::unlinkat(&self.folder, &self.partial, AtFlags::empty());
        }
    }
}

/// Renames without replacing anything. Where the file system cannot promise that (`EINVAL`), a
/// hardlink does, and where there are no hardlinks either, a look beforehand has to do.
pub(crate) fn rename_new(from: &OwnedFd, old: &[u8], to: &OwnedFd, new: &[u8]) -> rustix::io::Result<()> {
    match fs::renameat_with(from, old, to, new, RenameFlags::NOREPLACE) {
        Err(Errno::INVAL | Errno::NOSYS) => {}
        other => return other,
    }
    match fs::linkat(from, old, to, new, AtFlags::empty()) {
        Ok(()) => return fs::unlinkat(from, old, AtFlags::empty()),
        Err(Errno::EXIST) => return Err(Errno::EXIST),
        Err(_) => {}
    }
    match fs::statat(to, new, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(_) => Err(Errno::EXIST),
        Err(Errno::NOENT) => fs::renameat(from, old, to, new),
        Err(e) => Err(e),
    }
}

/// The process's umask, read without changing it; 0o077 where the system does not tell.
pub(crate) fn umask() -> u32 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let field = status.lines().find_map(|line| line.strip_prefix("Umask:"));
    field.and_then(|octal| u32::from_str_radix(octal.trim(), 8).ok()).unwrap_or(0o077)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_appears_when_it_is_committed_and_leaves_nothing_when_it_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.s3a");
        let (partial, mut file) = Partial::create(&path, false, "0").unwrap();
        file.write_all(b"abc").unwrap();
        assert_eq!(names(dir.path()).len(), 1);
        assert!(!path.exists());
        partial.commit(&file).unwrap();
        assert_eq!(names(dir.path()), ["x.s3a"]);
        assert!(matches!(Partial::create(&path, false, "0"), Err(Error::Exists(_))));
        drop(Partial::create(&path, true, "0").unwrap());
        assert_eq!(std::fs::read(&path).unwrap(), b"abc");
        assert_eq!(names(dir.path()), ["x.s3a"]);
    }

    #[test]
    fn a_file_that_is_kept_is_found_by_its_tag_unless_a_run_works_on_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.s3a");
        let (partial, mut file) = Partial::create(&path, false, "cafe").unwrap();
        file.write_all(b"abc").unwrap();
        assert!(Partial::find(&path, false, "cafe").unwrap().is_none());
        let kept = partial.keep();
        drop(file);
        assert_eq!(std::fs::read(&kept).unwrap(), b"abc");
        assert!(Partial::find(&path, false, "beef").unwrap().is_none());
        let (partial, file) = Partial::find(&path, false, "cafe").unwrap().unwrap();
        partial.commit(&file).unwrap();
        assert_eq!(names(dir.path()), ["x.s3a"]);
    }

    #[test]
    fn a_file_that_came_meanwhile_is_not_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("n".repeat(255));
        let (partial, file) = Partial::create(&path, false, "0").unwrap();
        std::fs::write(&path, "other").unwrap();
        assert!(matches!(partial.commit(&file), Err(Error::Exists(_))));
        assert_eq!(std::fs::read(&path).unwrap(), b"other");
        assert_eq!(names(dir.path()).len(), 1);
    }
}
