//! Mount points: whether a folder can become one, what is mounted there, and letting go of it.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::mount::UnmountFlags;

use crate::error::{Error, Result};

/// What the table of mounts calls an s3a mount.
const FS_TYPE: &[u8] = b"fuse.s3a";

/// Checks that an archive can be mounted at `target`; returns its full path.
pub fn check(target: &Path, nonempty: bool) -> Result<PathBuf> {
    let metadata = match std::fs::metadata(target) {
        Ok(metadata) => metadata,
        Err(error) if is_stale(&error) => return Err(stale(target)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(usage(target, "does not exist; create the folder first"));
        }
        Err(error) => return Err(Error::io(target, error)),
    };
    if !metadata.is_dir() {
        return Err(usage(target, "is not a folder; an archive is mounted on one"));
    }
    let full = target.canonicalize().map_err(|error| Error::io(target, error))?;
    if mounted_type(&full)?.is_some_and(|kind| kind.as_bytes() == FS_TYPE) {
        return Err(usage(target, "already has an archive mounted; `s3a umount` it first"));
    }
    if !nonempty {
        let mut entries = std::fs::read_dir(&full).map_err(|error| Error::io(target, error))?;
        if entries.next().is_some() {
            return Err(usage(target, "is not empty; `-o nonempty` mounts over what is in it"));
        }
    }
    Ok(full)
}

fn usage(target: &Path, what: &str) -> Error {
    Error::Usage(format!("mount point {} {what}", target.display()))
}

/// The daemon behind a mount has died.
fn stale(target: &Path) -> Error {
    let target = target.display();
    Error::Usage(format!(
        "mount point {target} is left over from a daemon that died; clear it with `s3a umount {target}`"
    ))
}

fn is_stale(error: &io::Error) -> bool {
    [Errno::NOTCONN, Errno::CONNABORTED]
        .iter()
        .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

/// Unmounts the archive at `target`; also one whose daemon has died. With `lazy`, what still uses
/// it keeps it and nobody else sees it any more.
pub fn unmount(target: &Path, lazy: bool) -> Result<()> {
    let full = resolve(target)?;
    match mounted_type(&full)? {
        Some(kind) if kind.as_bytes() == FS_TYPE => release(&full, lazy),
        Some(kind) => Err(usage(target, &format!("holds {}, not an archive", kind.display()))),
        None => Err(usage(target, "has nothing mounted")),
    }
}

/// How long a mount that is in use is waited for.
const PATIENCE: Duration = Duration::from_secs(6);

/// Unmounts whatever is at `full`, as root directly, else through fusermount.
pub fn release(full: &Path, lazy: bool) -> Result<()> {
    let flags = UnmountFlags::NOFOLLOW | if lazy { UnmountFlags::DETACH } else { UnmountFlags::empty() };
    // What a reader held is given back a moment after it has ended.
    let deadline = Instant::now() + PATIENCE;
    let mut outcome = rustix::mount::unmount(full, flags);
    while outcome == Err(Errno::BUSY) && Instant::now() < deadline {
        std::thread::sleep(PATIENCE / 20);
        outcome = rustix::mount::unmount(full, flags);
    }
    match outcome {
        Ok(()) => Ok(()),
        Err(Errno::PERM) => fusermount(full, lazy),
        Err(Errno::BUSY) => Err(busy(full)),
        Err(errno) => Err(Error::io(full, errno.into())),
    }
}

fn busy(full: &Path) -> Error {
    let what = "is in use; close what uses it, or unmount it lazily";
    Error::io(full, io::Error::new(io::ErrorKind::ResourceBusy, what))
}

fn fusermount(full: &Path, lazy: bool) -> Result<()> {
    for program in ["fusermount3", "fusermount"] {
        let mut command = Command::new(program);
        command
            .arg("-u")
            .args(lazy.then_some("-z"))
            .arg("--")
            .arg(full)
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        match command.output() {
            Ok(output) if output.status.success() => return Ok(()),
            Ok(output) => {
                let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
                return Err(if said.contains("busy") {
                    busy(full)
                } else {
                    Error::io(full, io::Error::other(said))
                });
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(Error::io(program, error)),
        }
    }
    let what = "only root may unmount without fusermount3; install the package fuse3";
    Err(Error::io(full, io::Error::new(io::ErrorKind::PermissionDenied, what)))
}

/// The full path of a mount point, also of one that cannot be looked at.
fn resolve(target: &Path) -> Result<PathBuf> {
    match target.canonicalize() {
        Ok(full) => Ok(full),
        Err(error) if is_stale(&error) => {
            let parent = match target.parent() {
                Some(parent) if !parent.as_os_str().is_empty() => parent,
                _ => Path::new("."),
            };
            let parent = parent.canonicalize().map_err(|error| Error::io(target, error))?;
            Ok(target.file_name().map_or(parent.clone(), |name| parent.join(name)))
        }
        Err(error) => Err(Error::io(target, error)),
    }
}

/// The type of the file system that is mounted last at exactly this path.
fn mounted_type(full: &Path) -> Result<Option<OsString>> {
    const TABLE: &str = "/proc/self/mountinfo";
    let table = std::fs::read(TABLE).map_err(|error| Error::io(TABLE, error))?;
    Ok(type_in(&table, full.as_os_str()))
}

/// A line is `id parent major:minor root POINT options [optional...] - TYPE source options`.
fn type_in(table: &[u8], point: &OsStr) -> Option<OsString> {
    let mut found = None;
    for line in table.split(|&b| b == b'\n') {
        let mut fields = line.split(|&b| b == b' ');
        if fields.nth(4).map(unescape).as_deref() == Some(point.as_bytes()) {
            found = fields
                .skip_while(|field| *field != b"-")
                .nth(1)
                .map(|kind| OsString::from_vec(unescape(kind)));
        }
    }
    found
}

/// Resolves `\ooo`, by which the kernel writes blanks and backslashes.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, tail)) = rest.split_first() {
        let octal = tail
            .get(..3)
            .filter(|digits| byte == b'\\' && digits.iter().all(|digit| (b'0'..=b'7').contains(digit)));
        match octal {
            Some(digits) => {
                out.push(
                    digits.iter().fold(0u8, |value, digit| value.wrapping_mul(8).wrapping_add(digit - b'0')),
                );
                rest = &tail[3..];
            }
            None => {
                out.push(byte);
                rest = tail;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_mount_at_a_path_counts_whatever_its_name() {
        let table = b"22 1 8:1 / / rw - ext4 /dev/sda rw\n\
            90 22 0:50 / /mnt/a\\040b\\134c ro shared:1 master:2 - fuse.s3a /x.s3a ro\n\
            91 22 0:51 / /mnt/d rw - fuse.s3a s rw\n92 91 0:52 / /mnt/d rw - tmpfs t rw\n";
        assert_eq!(type_in(table, OsStr::new("/mnt/a b\\c")), Some("fuse.s3a".into()));
        assert_eq!(type_in(table, OsStr::new("/mnt/d")), Some("tmpfs".into()));
        assert_eq!(type_in(table, OsStr::new("/mnt")), None);
    }

    #[test]
    fn folders_that_cannot_be_mount_points_are_refused_with_a_remedy() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, "x").unwrap();
        for (target, word) in
            [(dir.path().join("missing"), "create"), (file, "not a folder"), (dir.path().into(), "nonempty")]
        {
            let error = check(&target, false).unwrap_err();
            assert!(matches!(error, Error::Usage(_)));
            assert!(error.to_string().contains(word), "{error}");
        }
        assert!(check(dir.path(), true).is_ok());
        assert!(matches!(unmount(dir.path(), false), Err(Error::Usage(_))));
    }
}
