//! The folder that is unpacked into, and the making of objects in it.
//!
//! Every name is resolved beneath the folder and through no symlink. Files are written under a
//! temporary name and renamed. Folders get their modes and times when everything is in them.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::{self, AtFlags, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::metadata::Restore;
use crate::archive::observer::{Observer, Warning};
use crate::archive::os::beneath::Beneath;
use crate::archive::os::partial_file::{rename_new, umask};
use crate::archive::os::xattr;
use crate::archive::pack::source_file::segments;
use crate::archive::path::{cmp_paths, join, split};
use crate::error::{Error, Result};
use crate::wire::entry::{Entry, Kind, Timestamp};

/// What temporary names begin with.
const TEMP: &[u8] = b".s3a-unpack-";

/// What is at a path already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum There {
    Nothing,
    /// An object of the entry's kind, and of its size.
    Same,
    Other,
}

/// Bytes that are copied at a time.
const COPY: usize = 1 << 20;

/// An open target folder.
pub(crate) struct Target<'a> {
    folder: Beneath,
    /// It was made for this archive, so it is empty.
    pub fresh: bool,
    /// It gets the root's metadata.
    takes_root: bool,
    replace: bool,
    restore: Restore,
    observer: &'a dyn Observer,
    /// The folder used last, which the next object most likely goes to as well.
    last: Option<(Vec<u8>, OwnedFd)>,
    /// Folders whose metadata is still to be set, each with what it is: the root needs no identity.
    folders: Vec<(Vec<u8>, Entry, Option<Identity>)>,
    /// Makes temporary names differ.
    serial: u64,
    copies: Copies,
    /// Whom new files belong to, once it was asked for.
    uid: Option<u32>,
}

/// What tells one object from all others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Identity {
    device: u64,
    inode: u64,
}

impl Identity {
    fn of(found: &fs::Stat) -> Self {
        Self { device: found.st_dev, inode: found.st_ino }
    }
}

const SWAPPED: &str = "its owner, mode and time are not restored: another object took its place meanwhile";

/// Names of files that could not be made links.
#[derive(Default)]
struct Copies {
    count: u64,
    /// For a file that takes no more links, by its path: the copy whose names the next ones become.
    stand_ins: HashMap<Vec<u8>, Vec<u8>>,
    /// Bytes that all files together hold by now, and may.
    bytes: u64,
    max: u64,
}

/// A file under its temporary name.
#[derive(Debug)]
pub(crate) struct Temp {
    folder: Vec<u8>,
    name: Vec<u8>,
}

impl<'a> Target<'a> {
    /// Opens the folder at `path`, or makes it, with the folders above it.
    pub fn open(path: &Path, replace: bool, restore: Restore, observer: &'a dyn Observer) -> Result<Self> {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        let fresh = match std::fs::metadata(path) {
            Ok(found) if found.is_dir() => false,
            Ok(_) => return Err(Error::Usage(format!("{} is not a folder", path.display()))),
            Err(_) => {
                std::fs::create_dir_all(path).map_err(|e| Error::io(path, e))?;
                true
            }
        };
        let folder = Beneath::open_root(path).map_err(|e| Error::io(path, e))?;
        let serial = u64::from(std::process::id()) << 32;
        let takes_root = fresh;
        let (last, folders, copies) = (None, Vec::new(), Copies::default());
        Ok(Self {
            folder,
            fresh,
            takes_root,
            replace,
            restore,
            observer,
            last,
            folders,
            serial,
            copies,
            uid: None,
        })
    }

    /// How many bytes of files are unpacked, and how many may be: what is copied counts, too.
    pub fn bound(&mut self, bytes: u64, max: u64) {
        (self.copies.bytes, self.copies.max) = (bytes, max);
    }

    /// Takes the folder for one that an earlier run has made, if there is nothing in it but what the archive brings.
    pub fn adopt(&mut self, names: &HashSet<&[u8]>) {
        let found =
            self.folder.open(b"", OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).and_then(Dir::new);
        let Ok(found) = found else { return };
        let mut own = true;
        for entry in found {
            let Ok(entry) = entry else { return };
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." && !name.starts_with(TEMP) {
                own &= names.contains(name);
            }
        }
        self.takes_root |= own;
    }

    /// What is there in place of an entry, of whose content `entry` tells.
    pub fn there(&mut self, path: &[u8], entry: &Entry) -> There {
        let (folder, name) = split(path);
        let Ok(at) = self.folder.folder(folder) else { return There::Nothing };
        let Ok(found) = fs::statat(&at, name, AtFlags::SYMLINK_NOFOLLOW) else { return There::Nothing };
        let kind = FileType::from_raw_mode(found.st_mode);
        let same = match &entry.kind {
            Kind::File { size, .. } => {
                kind == FileType::RegularFile && found.st_size.cast_unsigned() == *size
            }
            Kind::Hardlink { .. } => kind == FileType::RegularFile,
            Kind::Directory => kind == FileType::Directory,
            Kind::Symlink { .. } => kind == FileType::Symlink,
            Kind::Fifo => kind == FileType::Fifo,
            Kind::Socket => kind == FileType::Socket,
            Kind::CharDevice { .. } => kind == FileType::CharacterDevice,
            Kind::BlockDevice { .. } => kind == FileType::BlockDevice,
        };
        if same { There::Same } else { There::Other }
    }

    /// Fails if something is in the way of an entry that is no folder.
    pub fn check_free(&mut self, path: &[u8]) -> Result<()> {
        let (folder, name) = split(path);
        let at = match self.folder.folder(folder) {
            Ok(at) => at,
            // Nothing is there yet; or something that is no folder, of which making it will tell.
            Err(_) => return Ok(()),
        };
        match fs::statat(&at, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(_) => Ok(()),
            Ok(found) if self.replace && FileType::from_raw_mode(found.st_mode) != FileType::Directory => {
                Ok(())
            }
            Ok(_) => Err(Error::Exists(self.display(path))),
        }
    }

    /// Makes a folder, or takes one that is there.
    pub fn make_folder(&mut self, path: &[u8], entry: &Entry) -> Result<()> {
        if path.is_empty() {
            if self.takes_root {
                self.folders.push((Vec::new(), entry.clone(), None));
            }
            return Ok(());
        }
        let (is_new, found) = self.make_folder_at(path, Mode::RWXU)?;
        if is_new && !self.is_own(found.st_uid) {
            self.observer.warning(Warning::new(&entry.path[..], SWAPPED));
            return Ok(());
        }
        let meta = Entry { kind: Kind::Directory, ..entry.clone() };
        self.folders.push((path.to_vec(), meta, Some(Identity::of(&found))));
        Ok(())
    }

    /// Tells whether it was made, and what is there now.
    fn make_folder_at(&mut self, path: &[u8], mode: Mode) -> Result<(bool, fs::Stat)> {
        let (at, name) = self.parent(path)?;
        let stat = |this: &Self| {
            let found = fs::statat(&at, name, AtFlags::SYMLINK_NOFOLLOW).map_err(|e| this.io(path, e))?;
            Ok((FileType::from_raw_mode(found.st_mode) == FileType::Directory, found))
        };
        let mut is_new = true;
        match fs::mkdirat(&at, name, mode) {
            Ok(()) => {}
            Err(Errno::EXIST) => {
                let (is_folder, _) = stat(self)?;
                is_new = !is_folder;
                if !is_folder && self.replace {
                    fs::unlinkat(&at, name, AtFlags::empty()).map_err(|e| self.io(path, e))?;
                    fs::mkdirat(&at, name, mode).map_err(|e| self.io(path, e))?;
                }
            }
            Err(e) => return Err(self.io(path, e)),
        }
        let (is_folder, found) = stat(self)?;
        if !is_folder {
            return Err(Error::Exists(self.display(path)));
        }
        self.keep(path, at);
        Ok((is_new, found))
    }

    /// Makes a symlink, FIFO, socket or device.
    pub fn make_other(&mut self, path: &[u8], entry: &Entry) -> Result<()> {
        let (at, name) = self.parent(path)?;
        let make = |name: &[u8]| match &entry.kind {
            Kind::Symlink { target } => fs::symlinkat(&target[..], &at, name),
            Kind::Fifo => fs::mknodat(&at, name, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0),
            Kind::Socket => fs::mknodat(&at, name, FileType::Socket, Mode::RUSR | Mode::WUSR, 0),
            Kind::CharDevice { major, minor } => fs::mknodat(
                &at,
                name,
                FileType::CharacterDevice,
                Mode::RUSR | Mode::WUSR,
                fs::makedev(*major, *minor),
            ),
            Kind::BlockDevice { major, minor } => fs::mknodat(
                &at,
                name,
                FileType::BlockDevice,
                Mode::RUSR | Mode::WUSR,
                fs::makedev(*major, *minor),
            ),
            Kind::Directory | Kind::File { .. } | Kind::Hardlink { .. } => Err(Errno::INVAL),
        };
        match self.make_new(path, &at, name, make) {
            Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::PermissionDenied => {
                self.observer.warning(Warning::new(&entry.path[..], format_args!("not unpacked: {source}")));
            }
            made => {
                made?;
                match self.made(&at, name, entry) {
                    Some(fd) => self.restore.on_path(&fd, entry, self.observer),
                    None => self.observer.warning(Warning::new(&entry.path[..], SWAPPED)),
                }
            }
        }
        self.keep(path, at);
        Ok(())
    }

    /// Opens what was just made, if it is what was made: no call makes one of these and gives its descriptor.
    fn made(&mut self, at: &OwnedFd, name: &[u8], entry: &Entry) -> Option<OwnedFd> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = fs::openat(at, name, flags, Mode::empty()).ok()?;
        let found = fs::fstat(&fd).ok()?;
        let kind = FileType::from_raw_mode(found.st_mode);
        let same = match &entry.kind {
            Kind::Symlink { target } => {
                kind == FileType::Symlink
                    && fs::readlinkat(&fd, c"", Vec::new()).is_ok_and(|found| found.as_bytes() == &target[..])
            }
            Kind::Fifo => kind == FileType::Fifo,
            Kind::Socket => kind == FileType::Socket,
            Kind::CharDevice { major, minor } => {
                kind == FileType::CharacterDevice && found.st_rdev == fs::makedev(*major, *minor)
            }
            Kind::BlockDevice { major, minor } => {
                kind == FileType::BlockDevice && found.st_rdev == fs::makedev(*major, *minor)
            }
            Kind::Directory | Kind::File { .. } | Kind::Hardlink { .. } => false,
        };
        (same && found.st_nlink == 1 && self.is_own(found.st_uid)).then_some(fd)
    }

    /// Whether what this process makes belongs to this user: its own, or the one that the file system gives all files.
    fn is_own(&mut self, uid: u32) -> bool {
        uid == rustix::process::geteuid().as_raw() || self.uid_of_new() == Some(uid)
    }

    fn uid_of_new(&mut self) -> Option<u32> {
        if self.uid.is_none() {
            let at = self.folder.folder(b"").ok()?;
            let name = self.temp_name();
            let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let fd = fs::openat(&at, &name, flags, Mode::RUSR | Mode::WUSR).ok()?;
            let _ = fs::unlinkat(&at, &name, AtFlags::empty());
            self.uid = fs::fstat(&fd).ok().map(|found| found.st_uid);
        }
        self.uid
    }

    /// Makes `path` another name of the file that was unpacked as `target`, or of a copy that stands in for it.
    pub fn make_link(&mut self, path: &[u8], target: &[u8]) -> Result<()> {
        let stand_in = self.copies.stand_ins.get(target).cloned();
        let target = stand_in.as_deref().unwrap_or(target);
        let (from, old) = split(target);
        let from = self.folder.folder(from).map_err(|e| self.io(target, e))?;
        let (at, name) = self.parent(path)?;
        self.make_new(path, &at, name, |name| fs::linkat(&from, old, &at, name, AtFlags::empty()))?;
        self.keep(path, at);
        Ok(())
    }

    /// Makes `path` a copy of the file that was unpacked as `target`, with all its properties.
    pub fn make_copy(&mut self, path: &[u8], target: &[u8]) -> Result<()> {
        let source = self.open_file(target)?;
        let found = fs::fstat(&source).map_err(|e| self.io(target, e))?;
        let size = found.st_size.cast_unsigned();
        let data = segments(&source, size).unwrap_or_else(|| vec![(0, size)]);
        let bytes = data.iter().fold(self.copies.bytes, |sum, (_, len)| sum.saturating_add(*len));
        if bytes > self.copies.max {
            return Err(Error::TooLarge { bytes, max: self.copies.max });
        }
        let entry = Entry {
            path: path.to_vec(),
            kind: Kind::File { size, extents: Vec::new(), hash: [0; 16] },
            mode: (found.st_mode & 0o7777) as u16,
            uid: found.st_uid,
            gid: found.st_gid,
            mtime: Timestamp { secs: found.st_mtime, nanos: found.st_mtime_nsec as u32 },
            xattrs: xattr::read_open(&source).unwrap_or_default(),
        };
        let (temp, file) = self.begin_file(path)?;
        let copied = copy_data(&source, &file, &data, size, self.observer).map_err(|e| match e.kind() {
            std::io::ErrorKind::Interrupted => Error::Interrupted,
            _ => Error::io(self.display(path), e),
        });
        if let Err(e) = copied.and_then(|()| self.commit_file(&temp, file, path, &entry)) {
            self.discard(&temp);
            return Err(e);
        }
        self.copies.bytes = bytes;
        self.copies.count += 1;
        self.copies.stand_ins.insert(target.to_vec(), path.to_vec());
        Ok(())
    }

    /// Makes something under a name that nothing has yet, or that may be taken over; what has it stays until the
    /// new thing is there.
    fn make_new(
        &mut self,
        path: &[u8],
        at: &OwnedFd,
        name: &[u8],
        make: impl Fn(&[u8]) -> rustix::io::Result<()>,
    ) -> Result<()> {
        match make(name) {
            Err(Errno::EXIST) if self.replace => {
                let temp = loop {
                    let temp = self.temp_name();
                    match make(&temp) {
                        Ok(()) => break temp,
                        Err(Errno::EXIST) => {}
                        Err(e) => return Err(self.io(path, e)),
                    }
                };
                let renamed = fs::renameat(at, &temp, at, name);
                // It is still there if that failed, or if both are names of one file.
                let _ = fs::unlinkat(at, &temp, AtFlags::empty());
                match renamed {
                    Err(Errno::ISDIR) => Err(Error::Exists(self.display(path))),
                    renamed => renamed.map_err(|e| self.io(path, e)),
                }
            }
            Err(Errno::EXIST) => Err(Error::Exists(self.display(path))),
            made => made.map_err(|e| self.io(path, e)),
        }
    }

    fn temp_name(&mut self) -> Vec<u8> {
        self.serial = self.serial.wrapping_add(1);
        [TEMP, format!("{:x}", self.serial).as_bytes()].concat()
    }

    /// Begins a file that is to become `path`.
    pub fn begin_file(&mut self, path: &[u8]) -> Result<(Temp, File)> {
        let (at, _) = self.parent(path)?;
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        loop {
            let name = self.temp_name();
            match fs::openat(&at, &name, flags, Mode::RUSR | Mode::WUSR) {
                Ok(fd) => {
                    self.keep(path, at);
                    return Ok((Temp { folder: split(path).0.to_vec(), name }, File::from(fd)));
                }
                Err(Errno::EXIST) => {}
                Err(e) => return Err(self.io(path, e)),
            }
        }
    }

    /// Opens a file again that was begun and closed meanwhile.
    pub fn reopen(&self, temp: &Temp) -> Result<File> {
        let path = join(&temp.folder, &temp.name);
        self.folder.open(&path, OFlags::RDWR, Mode::empty()).map(File::from).map_err(|e| self.io(&path, e))
    }

    /// Opens a file that was unpacked, to read it.
    pub fn open_file(&self, path: &[u8]) -> Result<File> {
        let file = self.folder.open(path, OFlags::RDONLY | OFlags::NONBLOCK, Mode::empty());
        file.map(File::from).map_err(|e| self.io(path, e))
    }

    /// Gives a complete file its metadata and its name.
    pub fn commit_file(&mut self, temp: &Temp, file: File, path: &[u8], entry: &Entry) -> Result<()> {
        let fd = OwnedFd::from(file);
        self.restore.on_open(&fd, entry, self.observer);
        let (at, name) = self.parent(path)?;
        let renamed = if self.replace {
            fs::renameat(&at, &temp.name, &at, name)
        } else {
            rename_new(&at, &temp.name, &at, name)
        };
        match renamed {
            Ok(()) => {}
            Err(Errno::EXIST | Errno::ISDIR) => return Err(Error::Exists(self.display(path))),
            Err(e) => return Err(self.io(path, e)),
        }
        self.keep(path, at);
        Ok(())
    }

    /// Removes a file that will not be completed.
    pub fn discard(&self, temp: &Temp) {
        if let Ok(at) = self.folder.folder(&temp.folder) {
            let _ = fs::unlinkat(&at, &temp.name, AtFlags::empty());
        }
    }

    /// Sets modes and times of the folders, the deepest first.
    pub fn finish(mut self) {
        if self.copies.count > 0 {
            let what = format_args!(
                "{} further names of files became copies: the file system takes no more links, or none",
                self.copies.count
            );
            self.observer.warning(Warning::new(Vec::new(), what));
        }
        self.folders.sort_by(|a, b| cmp_paths(&a.0, &b.0));
        while let Some((path, entry, identity)) = self.folders.pop() {
            let opened = self.folder.open(&path, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty());
            let found = opened.and_then(|fd| Ok((Identity::of(&fs::fstat(&fd)?), fd)));
            match found {
                Ok((found, _)) if identity.is_some_and(|identity| identity != found) => {
                    self.observer.warning(Warning::new(path, SWAPPED));
                }
                Ok((_, fd)) => self.restore.on_open(&fd, &entry, self.observer),
                Err(e) => {
                    let e = std::io::Error::from(e);
                    self.observer
                        .warning(Warning::new(path, format_args!("its mode and time are not restored: {e}")));
                }
            }
        }
    }

    /// The open folder that `path` lies in, and the name in it. Folders that no entry brought are
    /// made as any program makes them.
    fn parent<'p>(&mut self, path: &'p [u8]) -> Result<(OwnedFd, &'p [u8])> {
        let (folder, name) = split(path);
        if let Some((_, fd)) = self.last.take_if(|(last, _)| last == folder) {
            return Ok((fd, name));
        }
        match self.folder.folder(folder) {
            Ok(fd) => Ok((fd, name)),
            Err(Errno::NOENT) => {
                let ends = folder.iter().enumerate().filter(|(_, b)| **b == b'/').map(|(at, _)| at);
                for end in ends.chain([folder.len()]) {
                    if self.folder.folder(&folder[..end]).is_err() {
                        self.make_folder_at(&folder[..end], Mode::from_raw_mode(0o777 & !umask()))?;
                    }
                }
                let fd = self.folder.folder(folder).map_err(|e| self.io(path, e))?;
                Ok((fd, name))
            }
            Err(Errno::LOOP | Errno::NOTDIR) => Err(Error::Exists(self.display(folder))),
            Err(e) => Err(self.io(path, e)),
        }
    }

    fn keep(&mut self, path: &[u8], fd: OwnedFd) {
        self.last = Some((split(path).0.to_vec(), fd));
    }

    /// The path of an object in the target, for messages.
    pub fn display(&self, path: &[u8]) -> PathBuf {
        self.folder.path().join(std::ffi::OsStr::from_bytes(path))
    }

    fn io(&self, path: &[u8], errno: Errno) -> Error {
        Error::io(self.display(path), errno.into())
    }
}

/// Copies the parts of a file that are no holes. `Interrupted` is what the user asked for.
fn copy_data(
    from: &File,
    to: &File,
    data: &[(u64, u64)],
    size: u64,
    observer: &dyn Observer,
) -> std::io::Result<()> {
    let mut buf = vec![0; usize::try_from(size).unwrap_or(COPY).min(COPY)];
    for &(start, len) in data {
        let (mut at, end) = (start, start + len);
        while at < end {
            if observer.interrupted() {
                return Err(std::io::ErrorKind::Interrupted.into());
            }
            let part = &mut buf[..usize::try_from(end - at).unwrap_or(COPY).min(COPY)];
            from.read_exact_at(part, at)?;
            to.write_all_at(part, at)?;
            at += part.len() as u64;
        }
    }
    to.set_len(size)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::sync::Mutex;

    use super::*;

    #[derive(Default)]
    struct Heard(Mutex<Vec<String>>);

    impl Observer for Heard {
        fn warning(&self, warning: Warning) {
            self.0.lock().unwrap().push(warning.to_string());
        }
    }

    fn entry(path: &str, kind: Kind) -> Entry {
        let mtime = Timestamp { secs: 1_000_000_000, nanos: 0 };
        Entry { path: path.into(), kind, mode: 0o777, uid: 0, gid: 0, mtime, xattrs: Vec::new() }
    }

    #[test]
    fn what_took_the_place_of_something_unpacked_keeps_its_properties() {
        let dir = tempfile::tempdir().unwrap();
        let heard = Heard::default();
        let restore = Restore { owners: false, privileges: false, xattrs: true };
        let mut target = Target::open(dir.path(), false, restore, &heard).unwrap();
        for name in ["kept", "swapped"] {
            target.make_folder(name.as_bytes(), &entry(name, Kind::Directory)).unwrap();
        }
        let link = entry("link", Kind::Symlink { target: b"x".to_vec() });
        target.make_other(b"link", &link).unwrap();
        let other = entry("link", Kind::Symlink { target: b"y".to_vec() });
        let (at, name) = target.parent(b"link").unwrap();
        assert!(target.made(&at, name, &link).is_some());
        assert!(
            target.made(&at, name, &other).is_none()
                && target.made(&at, name, &entry("", Kind::Fifo)).is_none()
        );
        let uid = rustix::process::geteuid().as_raw();
        assert!(target.is_own(uid) && !target.is_own(uid + 1));

        let path = |name: &str| dir.path().join(name);
        std::fs::rename(path("swapped"), path("away")).unwrap();
        std::fs::create_dir(path("swapped")).unwrap();
        std::fs::set_permissions(path("swapped"), std::fs::Permissions::from_mode(0o711)).unwrap();
        target.finish();
        let mode = |name: &str| std::fs::metadata(path(name)).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode("kept"), mode("swapped"), mode("away")), (0o777, 0o711, 0o700));
        let heard = heard.0.into_inner().unwrap();
        assert!(heard.len() == 1 && heard[0].starts_with("swapped: "), "{heard:?}");
    }
}
