//! Puts owners, attributes, modes and times on objects that were unpacked, by their descriptors.
//!
//! The order matters: a change of owner clears set-user-ID bits and capabilities, attributes need
//! the mode that creation gave, and times come last. What cannot be restored is a warning.

use std::os::fd::OwnedFd;

use rustix::fs::{self, AtFlags, CWD, Gid, Mode, Timespec, Timestamps, UTIME_OMIT, Uid, XattrFlags};
use rustix::io::Errno;

use crate::archive::observer::{Observer, Warning};
use crate::archive::os::xattr;
use crate::wire::entry::{Entry, Kind, Timestamp};

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

    /// Sets everything on what is neither file nor folder, and was opened without being used (`O_PATH`). By its name
    /// it could be another thing by now: that of another user who may write in its folder.
    pub(crate) fn on_path(&self, fd: &OwnedFd, entry: &Entry, observer: &dyn Observer) {
        if self.owners {
            let (uid, gid) = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
            let owner = fs::chownat(fd, c"", Some(uid), Some(gid), AtFlags::EMPTY_PATH);
            report(owner, entry, "its owner", observer);
        }
        for (key, value) in self.xattrs_of(entry) {
            report(xattr::write_path(fd, key, value), entry, "an extended attribute", observer);
        }
        if !matches!(entry.kind, Kind::Symlink { .. }) {
            report(self.mode_on_path(fd, entry), entry, "its mode", observer);
        }
        let times = times(entry.mtime);
        let set = match fs::utimensat(fd, c"", &times, AtFlags::EMPTY_PATH) {
            // Kernels before 5.8.
            Err(Errno::INVAL | Errno::NOENT) => {
                fs::utimensat(CWD, &xattr::proc_path(fd)[..], &times, AtFlags::empty())
            }
            set => set,
        };
        report(set, entry, "its time", observer);
    }

    /// No call takes a mode and a descriptor that is not used.
    fn mode_on_path(&self, fd: &OwnedFd, entry: &Entry) -> rustix::io::Result<()> {
        fs::chmod(&xattr::proc_path(fd)[..], Mode::from_raw_mode(self.mode(entry).into()))
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
