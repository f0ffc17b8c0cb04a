//! Paths resolved below an open directory, which they never leave.
//!
//! The kernel resolves them (`openat2` with RESOLVE_BENEATH and RESOLVE_NO_SYMLINKS); where it cannot,
//! they are resolved component by component with O_NOFOLLOW. Paths longer than PATH_MAX are resolved in pieces.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs;
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::archive::path::{check, split};

/// What is opened at once; below PATH_MAX (4,096) with room to spare.
pub(crate) const PIECE_MAX: usize = 3800;

/// How often a resolution is repeated that the kernel gave up because of concurrent renames.
pub(crate) const RETRIES: usize = 16;

/// An open folder; names given to it are resolved beneath it and through no symlink.
#[derive(Debug)]
pub struct Beneath {
    root: OwnedFd,
    path: PathBuf,
    /// Cleared when the kernel turns out not to have `openat2`.
    openat2: AtomicBool,
}

impl Beneath {
    /// Opens the folder at `path`, which the user names and is trusted with.
    pub fn open_root(path: &Path) -> std::io::Result<Self> {
        let root =
            fs::openat(CWD, path, OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        Ok(Self { root, path: path.to_owned(), openat2: AtomicBool::new(true) })
    }

    /// The path it was opened by, for messages.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The folder itself.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// Opens the object at `path`. A symlink anywhere on it, the last component included, is an error.
    pub fn open(&self, path: &[u8], flags: OFlags, mode: Mode) -> rustix::io::Result<OwnedFd> {
        if check(path).is_err() {
            return Err(Errno::INVAL);
        }
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut rest = path;
        let mut at: Option<OwnedFd> = None;
        while rest.len() > PIECE_MAX {
            let cut = rest[..PIECE_MAX].iter().rposition(|&b| b == b'/').ok_or(Errno::NAMETOOLONG)?;
            let step = self.resolve(
                at.as_ref().map_or(self.root.as_fd(), AsFd::as_fd),
                &rest[..cut],
                FOLDER,
                Mode::empty(),
            )?;
            at = Some(step);
            rest = &rest[cut + 1..];
        }
        self.resolve(at.as_ref().map_or(self.root.as_fd(), AsFd::as_fd), rest, flags, mode)
    }

    /// Opens a folder beneath it to create, stat or remove names in.
    pub fn folder(&self, path: &[u8]) -> rustix::io::Result<OwnedFd> {
        self.open(path, FOLDER, Mode::empty())
    }

    fn resolve(
        &self,
        at: BorrowedFd<'_>,
        path: &[u8],
        flags: OFlags,
        mode: Mode,
    ) -> rustix::io::Result<OwnedFd> {
        if path.is_empty() {
            return fs::openat(at, c".", flags & !OFlags::NOFOLLOW, mode);
        }
        if self.openat2.load(Ordering::Relaxed) {
            let how = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
            for _ in 0..RETRIES {
                match fs::openat2(at, path, flags, mode, how) {
                    Err(Errno::AGAIN) => {}
                    // Old kernels lack the call, old sandboxes forbid it.
                    Err(Errno::NOSYS | Errno::PERM) => {
                        self.openat2.store(false, Ordering::Relaxed);
                        break;
                    }
                    other => return other,
                }
            }
        }
        step_by_step(at, path, flags, mode)
    }
}

pub(crate) const FOLDER: OFlags =
    OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// What `openat2` would do, one component at a time. O_PATH with O_NOFOLLOW and O_DIRECTORY
/// refuses a symlink, and the path holds no `..`.
pub(crate) fn step_by_step(
    at: BorrowedFd<'_>,
    path: &[u8],
    flags: OFlags,
    mode: Mode,
) -> rustix::io::Result<OwnedFd> {
    let (folder, name) = split(path);
    let mut held: Option<OwnedFd> = None;
    if !folder.is_empty() {
        for component in folder.split(|&b| b == b'/') {
            let next = fs::openat(held.as_ref().map_or(at, AsFd::as_fd), component, FOLDER, Mode::empty())?;
            held = Some(next);
        }
    }
    fs::openat(held.as_ref().map_or(at, AsFd::as_fd), name, flags, mode)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::path::join;

    #[test]
    fn symlinks_are_not_followed_with_or_without_openat2() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("in/deep")).unwrap();
        std::fs::write(dir.path().join("in/deep/f"), "x").unwrap();
        std::os::unix::fs::symlink("deep", dir.path().join("in/link")).unwrap();
        std::os::unix::fs::symlink("deep/f", dir.path().join("in/flink")).unwrap();
        for openat2 in [true, false] {
            let beneath = Beneath::open_root(&dir.path().join("in")).unwrap();
            beneath.openat2.store(openat2, Ordering::Relaxed);
            assert!(beneath.open(b"deep/f", OFlags::RDONLY, Mode::empty()).is_ok());
            assert!(beneath.open(b"link/f", OFlags::RDONLY, Mode::empty()).is_err());
            assert!(beneath.open(b"flink", OFlags::RDONLY, Mode::empty()).is_err());
            assert!(beneath.folder(b"link").is_err());
            assert!(beneath.folder(b"deep").is_ok());
            assert!(beneath.folder(b"").is_ok());
            assert!(beneath.open(b"../in/deep/f", OFlags::RDONLY, Mode::empty()).is_err());
        }
    }

    #[test]
    fn paths_longer_than_path_max_are_resolved() {
        let dir = tempfile::tempdir().unwrap();
        let beneath = Beneath::open_root(dir.path()).unwrap();
        let name = [b'n'; 200];
        let mut path = Vec::new();
        for _ in 0..40 {
            let parent = beneath.folder(&path).unwrap();
            fs::mkdirat(&parent, &name[..], Mode::RWXU).unwrap();
            path = join(&path, &name);
        }
        assert!(path.len() > 8000);
        assert!(beneath.folder(&path).is_ok());
        beneath.openat2.store(false, Ordering::Relaxed);
        assert!(beneath.folder(&path).is_ok());
    }
}
