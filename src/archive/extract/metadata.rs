//! Puts owners, attributes, modes and times on objects that were unpacked.
//!
//! The order matters: a change of owner clears set-user-ID bits and capabilities, attributes need
//! the mode that creation gave, and times come last. What cannot be restored is a warning.

use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;

use rustix::fs::{self, AtFlags, Gid, Mode, OFlags, Timespec, Timestamps, UTIME_OMIT, Uid, XattrFlags};
use rustix::io::Errno;

use crate::archive::observer::{Observer, Warning};
use crate::archive::os::xattr;
use crate::wire::entry::{Entry, Timestamp};

/// Set-user-ID and set-group-ID.
const PRIVILEGED_BITS: u16 = 0o6000;

/// What is restored besides contents, modes and times.
#[derive(Clone, Copy, Debug)]
pub struct Restore {
    /// Owner and group.
    pub owners: bool,
    /// Set-user-ID and set-group-ID bits, capabilities and the like.
    pub privileges: bool,
    /// Extended attributes.
    pub xattrs: bool,
}

impl Restore {
    /// The mode that `entry` is to get.
    pub fn mode(&self, entry: &Entry) -> u16 {
        if self.privileges { entry.mode & 0o7777 } else { entry.mode & 0o7777 & !PRIVILEGED_BITS }
    }

    /// Sets everything on an open file or folder.
    pub(crate) fn on_open(&self, fd: &OwnedFd, entry: &Entry, observer: &dyn Observer) {
        if self.owners {
            let owner = fs::fchown(fd, Some(Uid::from_raw(entry.uid)), Some(Gid::from_raw(entry.gid)));
            report(owner, entry, "its owner", observer);
        }
        for (key, value) in self.xattrs_of(entry) {
            report(
                fs::fsetxattr(fd, key, value, XattrFlags::empty()),
                entry,
                "an extended attribute",
                observer,
            );
        }
        report(fs::fchmod(fd, Mode::from_raw_mode(self.mode(entry).into())), entry, "its mode", observer);
        report(fs::futimens(fd, &times(entry.mtime)), entry, "its time", observer);
    }

    /// Sets everything on what is called `name` in a folder and is no file and no folder.
    pub(crate) fn on_name(
        &self,
        at: &OwnedFd,
        name: &[u8],
        entry: &Entry,
        is_symlink: bool,
        observer: &dyn Observer,
    ) {
        if self.owners {
            let (uid, gid) = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
            let owner = fs::chownat(at, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW);
            report(owner, entry, "its owner", observer);
        }
        for (key, value) in self.xattrs_of(entry) {
            report(xattr::write(at, name, key, value), entry, "an extended attribute", observer);
        }
        if !is_symlink {
            report(self.mode_on_name(at, name, entry), entry, "its mode", observer);
        }
        let set = fs::utimensat(at, name, &times(entry.mtime), AtFlags::SYMLINK_NOFOLLOW);
        report(set, entry, "its time", observer);
    }

    /// `fchmodat` follows symlinks, so the object is opened without being used and changed through
    /// that.
    fn mode_on_name(&self, at: &OwnedFd, name: &[u8], entry: &Entry) -> rustix::io::Result<()> {
        let fd = fs::openat(at, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
        let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
        let mode = std::fs::Permissions::from_mode(self.mode(entry).into());
        std::fs::set_permissions(path, mode).map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::IO))
    }

    fn xattrs_of<'a>(&self, entry: &'a Entry) -> impl Iterator<Item = (&'a [u8], &'a [u8])> + use<'a> {
        let Self { xattrs, privileges, .. } = *self;
        let wanted =
            entry.xattrs.iter().filter(move |(key, _)| xattrs && (privileges || !xattr::is_privilege(key)));
        wanted.map(|(key, value)| (key.as_slice(), value.as_slice()))
    }
}

fn times(mtime: Timestamp) -> Timestamps {
    Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: mtime.secs, tv_nsec: mtime.nanos.into() },
    }
}

fn report(result: rustix::io::Result<()>, entry: &Entry, what: &str, observer: &dyn Observer) {
    if let Err(e) = result {
        let e = std::io::Error::from(e);
        observer.warning(Warning::new(&entry.path[..], format_args!("{what} is not restored: {e}")));
    }
}
