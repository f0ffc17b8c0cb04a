//! Names of an archive, and folders in which they are resolved without ever leaving them.
//!
//! A path is checked twice: `check` looks at its bytes before anything is written, and `Beneath`
//! lets the kernel resolve it under an open folder (`openat2` with RESOLVE_BENEATH and
//! RESOLVE_NO_SYMLINKS, else component by component with O_NOFOLLOW). Paths longer than PATH_MAX
//! are resolved in pieces.

use std::fmt::Write as _;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{self, CWD, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

/// The longest name of one component, as Linux file systems have it.
pub const NAME_MAX: usize = 255;

/// What is opened at once; below PATH_MAX (4,096) with room to spare.
const PIECE_MAX: usize = 3800;

/// How often a resolution is repeated that the kernel gave up because of concurrent renames.
const RETRIES: usize = 16;

/// Checks the bytes of an entry's path. The empty path is the root and passes.
pub fn check(path: &[u8]) -> Result<(), &'static str> {
    if path.is_empty() {
        return Ok(());
    }
    if path[0] == b'/' {
        return Err("its path is absolute");
    }
    for component in path.split(|&b| b == b'/') {
        check_name(component)?;
    }
    Ok(())
}

/// Checks the bytes of one component of a path.
pub fn check_name(name: &[u8]) -> Result<(), &'static str> {
    match name {
        b"" => Err("its path has an empty component"),
        b"." | b".." => Err("its path has a '.' or '..' component"),
        _ if name.len() > NAME_MAX => Err("its path has a name of more than 255 bytes"),
        _ if name.contains(&0) => Err("its path holds a NUL byte"),
        _ if name.contains(&b'/') => Err("its name holds a slash"),
        _ => Ok(()),
    }
}

/// Splits a path into the folder and the name in it.
pub fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|&b| b == b'/') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (b"", path),
    }
}

/// Joins a folder and a name below it; either may be empty.
pub fn join(folder: &[u8], name: &[u8]) -> Vec<u8> {
    let mut path = Vec::with_capacity(folder.len() + 1 + name.len());
    path.extend_from_slice(folder);
    if !folder.is_empty() && !name.is_empty() {
        path.push(b'/');
    }
    path.extend_from_slice(name);
    path
}

/// A path as a terminal may show it: control characters, bidirectional overrides and bytes that
/// are not UTF-8 become escapes, everything else stays.
pub fn escape(path: &[u8]) -> String {
    let mut out = String::with_capacity(path.len());
    for part in path.utf8_chunks() {
        for c in part.valid().chars() {
            let hidden = matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}');
            match c {
                '\\' => out.push_str("\\\\"),
                '\n' => out.push_str("\\n"),
                '\t' => out.push_str("\\t"),
                '\r' => out.push_str("\\r"),
                _ if c.is_control() && (c as u32) < 0x100 => {
                    let _ = write!(out, "\\x{:02x}", c as u32);
                }
                _ if c.is_control() || hidden => {
                    let _ = write!(out, "\\u{{{:x}}}", c as u32);
                }
                _ => out.push(c),
            }
        }
        for byte in part.invalid() {
            let _ = write!(out, "\\x{byte:02x}");
        }
    }
    out
}

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

const FOLDER: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// What `openat2` would do, one component at a time. O_PATH with O_NOFOLLOW and O_DIRECTORY
/// refuses a symlink, and the path holds no `..`.
fn step_by_step(at: BorrowedFd<'_>, path: &[u8], flags: OFlags, mode: Mode) -> rustix::io::Result<OwnedFd> {
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

    #[test]
    fn paths_that_could_leave_the_folder_are_refused() {
        for bad in ["/a", "..", "a/..", "a/../b", ".", "a//b", "a/", "a\0b", "./a"] {
            assert!(check(bad.as_bytes()).is_err(), "{bad:?}");
        }
        assert!(check(&[b'a'; 256]).is_err());
        for good in [&b""[..], b"a", b"a/b", b"..a", b"...", b"\xff\n", &[b'a'; 255]] {
            assert!(check(good).is_ok(), "{good:?}");
        }
    }

    #[test]
    fn control_characters_and_wild_bytes_are_escaped() {
        assert_eq!(escape("caf\u{e9}/\u{1b}[31m\n".as_bytes()), "caf\u{e9}/\\x1b[31m\\n");
        assert_eq!(escape(b"a\xff\\b\x9b"), "a\\xff\\\\b\\x9b");
        assert_eq!(escape("x\u{202e}gpj".as_bytes()), "x\\u{202e}gpj");
    }

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
