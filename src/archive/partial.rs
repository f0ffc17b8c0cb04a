//! A new file that appears under its name only when it is complete and on disk.
//!
//! It is written as `.NAME.partial-*` in the folder of its name (exclusive, mode 0600), synced,
//! renamed, and the folder synced. Dropped before that, it is removed.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::{self, AtFlags, CWD, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use crate::error::{Error, Result};

/// How much of a long name the partial file's name keeps, so that it stays below 255 bytes.
const NAME_KEPT: usize = 200;

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

impl Partial {
    /// Begins a file that is to become `path`. Without `replace`, `path` must not exist, now or at
    /// the end.
    pub fn create(path: &Path, replace: bool) -> Result<(Self, File)> {
        let name = path
            .file_name()
            .ok_or_else(|| Error::Usage(format!("{} does not name a file", path.display())))?;
        let at = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let io = |e: Errno| Error::io(path, e.into());
        let folder = fs::openat(CWD, at, OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|e| Error::io(at, e.into()))?;
        let name = name.as_bytes().to_vec();
        match fs::statat(&folder, &name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) if fs::FileType::from_raw_mode(stat.st_mode) == fs::FileType::Directory => {
                return Err(Error::Usage(format!("{} is a folder", path.display())));
            }
            Ok(_) if !replace => return Err(Error::Exists(path.to_owned())),
            Ok(_) | Err(Errno::NOENT) => {}
            Err(e) => return Err(io(e)),
        }
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut salt = u64::from(std::process::id()) << 32;
        salt ^= SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.subsec_nanos().into());
        loop {
            let mut partial = vec![b'.'];
            partial.extend_from_slice(&name[..name.len().min(NAME_KEPT)]);
            partial.extend_from_slice(format!(".partial-{salt:016x}").as_bytes());
            match fs::openat(&folder, &partial, flags, Mode::RUSR | Mode::WUSR) {
                Ok(fd) => {
                    let path = path.to_owned();
                    return Ok((Self { path, folder, name, partial, replace, done: false }, File::from(fd)));
                }
                Err(Errno::EXIST) => salt = salt.wrapping_add(0x9e37_79b9),
                Err(e) => return Err(io(e)),
            }
        }
    }

    /// Puts the file, which is complete, under its name. When this returns it survives a power cut.
    pub fn commit(mut self, file: &File) -> Result<()> {
        let io = |e: Errno| Error::io(&self.path, e.into());
        fs::fchmod(file, Mode::from_raw_mode(0o666 & !umask())).map_err(io)?;
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
pub(super) fn rename_new(from: &OwnedFd, old: &[u8], to: &OwnedFd, new: &[u8]) -> rustix::io::Result<()> {
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
pub(super) fn umask() -> u32 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let field = status.lines().find_map(|line| line.strip_prefix("Umask:"));
    field.and_then(|octal| u32::from_str_radix(octal.trim(), 8).ok()).unwrap_or(0o077)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

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
        let (partial, mut file) = Partial::create(&path, false).unwrap();
        file.write_all(b"abc").unwrap();
        assert_eq!(names(dir.path()).len(), 1);
        assert!(!path.exists());
        partial.commit(&file).unwrap();
        assert_eq!(names(dir.path()), ["x.s3a"]);
        assert!(matches!(Partial::create(&path, false), Err(Error::Exists(_))));
        drop(Partial::create(&path, true).unwrap());
        assert_eq!(std::fs::read(&path).unwrap(), b"abc");
        assert_eq!(names(dir.path()), ["x.s3a"]);
    }

    #[test]
    fn a_file_that_came_meanwhile_is_not_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("n".repeat(255));
        let (partial, file) = Partial::create(&path, false).unwrap();
        std::fs::write(&path, "other").unwrap();
        assert!(matches!(partial.commit(&file), Err(Error::Exists(_))));
        assert_eq!(std::fs::read(&path).unwrap(), b"other");
        assert_eq!(names(dir.path()).len(), 1);
    }
}
