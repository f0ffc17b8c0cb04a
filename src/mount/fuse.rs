//! Adapts a volume to fuser; nothing is decided here.
//!
//! An archive never changes, so the kernel may keep what it was told for ever: entries, also of
//! names that do not exist, attributes, listings, symlinks, pages. Handlers end quickly; a read
//! that has to decode takes its reply along to the pool. A handler that panics loses its reply,
//! and a lost reply is EIO, so no reader hangs and no loop ends.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{
    AccessFlags, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo,
    InitFlags, KernelConfig, LockOwner, OpenAccMode, OpenFlags, ReplyAttr, ReplyData, ReplyDirectory,
    ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyLseek, ReplyOpen, ReplyStatfs, ReplyXattr, Request,
};

use super::content;
use super::content::{Bytes, STORAGE, Seek};
use super::fault::Fault;
use super::options::MountOptions;
use super::view::{Attr, FileKind, Ino};
use super::volume::Volume;
use crate::wire::entry::Timestamp;

/// How long the kernel may keep what it was told, in effect for ever.
const TTL: Duration = Duration::from_secs(365 * 24 * 3600);

/// Requests that the kernel may have under way in the background, read-ahead above all.
const MAX_BACKGROUND: u16 = 256;

/// Block size of `stat` and `statfs`.
const BLOCK: u32 = 4096;

const SEEK_DATA: i32 = 3;
const SEEK_HOLE: i32 = 4;

/// A volume as fuser drives it.
pub struct Fuse {
    volume: Arc<Volume>,
    uid: Option<u32>,
    gid: Option<u32>,
    /// The kernel needs no answer to opendir and then keeps listings.
    skip_opendir: bool,
    /// Told when the session has ended.
    ended: Sender<()>,
}

impl Fuse {
    /// Adapts `volume`; `ended` hears when the kernel has let go of it.
    pub fn new(volume: Arc<Volume>, options: &MountOptions, ended: Sender<()>) -> Self {
        Self { volume, uid: options.uid, gid: options.gid, skip_opendir: false, ended }
    }

    fn attr(&self, ino: Ino) -> Result<FileAttr, Fault> {
        let attr = self.volume.view().attr(ino)?;
        Ok(self.file_attr(&attr))
    }

    fn file_attr(&self, attr: &Attr) -> FileAttr {
        let mtime = system_time(attr.mtime);
        let (major, minor) = attr.device;
        FileAttr {
            ino: INodeNo(attr.ino.0),
            size: attr.size,
            blocks: attr.blocks,
            atime: mtime,
            mtime,
            ctime: mtime,
            crtime: mtime,
            kind: file_type(attr.kind),
            perm: attr.mode,
            nlink: attr.links,
            uid: self.uid.unwrap_or(attr.uid),
            gid: self.gid.unwrap_or(attr.gid),
            // The kernel's encoding of a device number in 32 bits.
            rdev: (minor & 0xff) | (major << 8) | ((minor & !0xff) << 12),
            blksize: BLOCK,
            flags: 0,
        }
    }

    fn xattr(&self, ino: Ino, name: &[u8]) -> Result<Vec<u8>, Fault> {
        let view = self.volume.view();
        if let Some((_, value)) = view.xattrs(ino)?.iter().find(|(packed, _)| packed == name) {
            return Ok(value.clone());
        }
        content::storage(view, ino, name.strip_prefix(STORAGE).ok_or(Fault::NoAttribute)?)
    }

    fn xattr_names(&self, ino: Ino) -> Result<Vec<u8>, Fault> {
        let names = self.volume.view().xattrs(ino)?.iter().map(|(name, _)| &name[..]);
        Ok(names.flat_map(|name| name.iter().copied().chain([0])).collect())
    }
}

impl Filesystem for Fuse {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> io::Result<()> {
        let acl = if self.volume.view().has_acls() { InitFlags::FUSE_POSIX_ACL } else { InitFlags::empty() };
        let wanted = InitFlags::FUSE_DO_READDIRPLUS
            | InitFlags::FUSE_PARALLEL_DIROPS
            | InitFlags::FUSE_CACHE_SYMLINKS
            | InitFlags::FUSE_EXPLICIT_INVAL_DATA
            | InitFlags::FUSE_NO_OPENDIR_SUPPORT
            | InitFlags::FUSE_EXPORT_SUPPORT
            | acl;
        // What an older kernel lacks is done without.
        for flag in wanted.iter() {
            let _ = config.add_capabilities(flag);
        }
        let _ = config.set_max_background(MAX_BACKGROUND);
        self.skip_opendir = config.capabilities().contains(InitFlags::FUSE_NO_OPENDIR_SUPPORT);
        Ok(())
    }

    fn destroy(&mut self) {
        // Nobody may be listening any more.
        let _ = self.ended.send(());
    }

    fn lookup(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        guard(|| {
            let found = self.volume.view().lookup(Ino(parent.0), name.as_bytes());
            match found.and_then(|ino| self.attr(ino)) {
                Ok(attr) => reply.entry(&TTL, &attr, Generation(0)),
                // Inode 0 tells the kernel to keep that there is no such name.
                Err(Fault::NoEntry) => reply.entry(&TTL, &nothing(), Generation(0)),
                Err(fault) => reply.error(errno(&fault)),
            }
        });
    }

    fn getattr(&self, _req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        guard(|| match self.attr(Ino(ino.0)) {
            Ok(attr) => reply.attr(&TTL, &attr),
            Err(fault) => reply.error(errno(&fault)),
        });
    }

    fn readlink(&self, _req: &Request, ino: INodeNo, reply: ReplyData) {
        guard(|| match self.volume.view().readlink(Ino(ino.0)) {
            Ok(target) => reply.data(target),
            Err(fault) => reply.error(errno(&fault)),
        });
    }

    fn open(&self, _req: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        guard(|| {
            let opened = match flags.acc_mode() {
                OpenAccMode::O_RDONLY => self.volume.open(Ino(ino.0)),
                OpenAccMode::O_WRONLY | OpenAccMode::O_RDWR => Err(Fault::ReadOnly),
            };
            match opened {
                Ok(handle) => {
                    reply.opened(FileHandle(handle), FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_NOFLUSH)
                }
                Err(fault) => reply.error(errno(&fault)),
            }
        });
    }

    fn read(
        &self,
        _req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        guard(|| {
            let (volume, ino) = (&self.volume, Ino(ino.0));
            let plan = match volume.plan(ino, offset, size as usize) {
                Ok(plan) => plan,
                Err(fault) => return reply.error(errno(&fault)),
            };
            match volume.kept(&plan) {
                Some(bytes) => answer(reply, bytes),
                None => {
                    let bytes = volume.fetch(plan);
                    volume.pool().spawn(async move { answer(reply, bytes.await) });
                }
            }
            volume.look_ahead(ino, fh.0, offset, u64::from(size));
        });
    }

    fn release(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        guard(|| {
            self.volume.release(fh.0);
            reply.ok();
        });
    }

    fn flush(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _lock_owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        reply.ok();
    }

    fn opendir(&self, _req: &Request, _ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        if self.skip_opendir {
            reply.error(Errno::ENOSYS);
        } else {
            reply.opened(FileHandle(0), FopenFlags::FOPEN_CACHE_DIR | FopenFlags::FOPEN_KEEP_CACHE);
        }
    }

    fn readdir(&self, _req: &Request, ino: INodeNo, _fh: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        guard(|| {
            let entries = match self.volume.view().list(Ino(ino.0), offset) {
                Ok(entries) => entries,
                Err(fault) => return reply.error(errno(&fault)),
            };
            for entry in entries {
                let full = reply.add(
                    INodeNo(entry.ino.0),
                    entry.next,
                    file_type(entry.kind),
                    OsStr::from_bytes(entry.name),
                );
                if full {
                    break;
                }
            }
            reply.ok();
        });
    }

    fn readdirplus(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        guard(|| {
            let entries = match self.volume.view().list(Ino(ino.0), offset) {
                Ok(entries) => entries,
                Err(fault) => return reply.error(errno(&fault)),
            };
            for entry in entries {
                let attr = match self.attr(entry.ino) {
                    Ok(attr) => attr,
                    Err(fault) => return reply.error(errno(&fault)),
                };
                let name = OsStr::from_bytes(entry.name);
                if reply.add(attr.ino, entry.next, name, &TTL, &attr, Generation(0)) {
                    break;
                }
            }
            reply.ok();
        });
    }

    fn statfs(&self, _req: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        let totals = self.volume.view().totals();
        reply.statfs(totals.bytes.div_ceil(u64::from(BLOCK)), 0, 0, totals.nodes, 0, BLOCK, 255, BLOCK);
    }

    fn getxattr(&self, _req: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        guard(|| answer_xattr(reply, size, self.xattr(Ino(ino.0), name.as_bytes())));
    }

    fn listxattr(&self, _req: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        guard(|| answer_xattr(reply, size, self.xattr_names(Ino(ino.0))));
    }

    fn access(&self, _req: &Request, _ino: INodeNo, _mask: AccessFlags, reply: ReplyEmpty) {
        // The kernel checks by mode and owner itself (`default_permissions`).
        reply.ok();
    }

    fn lseek(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        guard(|| {
            let what = match whence {
                SEEK_DATA => Seek::Data,
                SEEK_HOLE => Seek::Hole,
                _ => return reply.error(Errno::EINVAL),
            };
            let found = u64::try_from(offset).map_err(|_| Fault::BeyondData);
            match found.and_then(|offset| content::seek(self.volume.view(), Ino(ino.0), offset, what)) {
                Ok(found) => reply.offset(i64::try_from(found).unwrap_or(i64::MAX)),
                Err(fault) => reply.error(errno(&fault)),
            }
        });
    }
}

/// Runs a handler; one that panics drops its reply, which sends EIO.
fn guard(handler: impl FnOnce()) {
    let _ = catch_unwind(AssertUnwindSafe(handler));
}

fn answer(reply: ReplyData, bytes: Result<Bytes, Fault>) {
    match bytes {
        Ok(bytes) => reply.data(&bytes),
        Err(fault) => reply.error(errno(&fault)),
    }
}

/// `size` is the room that the caller has; 0 asks how much is needed.
fn answer_xattr(reply: ReplyXattr, size: u32, value: Result<Vec<u8>, Fault>) {
    match value {
        Ok(value) if size == 0 => reply.size(value.len() as u32),
        Ok(value) if value.len() > size as usize => reply.error(Errno::ERANGE),
        Ok(value) => reply.data(&value),
        Err(fault) => reply.error(errno(&fault)),
    }
}

fn errno(fault: &Fault) -> Errno {
    Errno::from_i32(fault.errno().raw_os_error())
}

fn file_type(kind: FileKind) -> FileType {
    match kind {
        FileKind::Directory => FileType::Directory,
        FileKind::File => FileType::RegularFile,
        FileKind::Symlink => FileType::Symlink,
        FileKind::Fifo => FileType::NamedPipe,
        FileKind::Socket => FileType::Socket,
        FileKind::CharDevice => FileType::CharDevice,
        FileKind::BlockDevice => FileType::BlockDevice,
    }
}

/// The time; one beyond what the system can tell becomes 1970.
fn system_time(time: Timestamp) -> SystemTime {
    let whole = Duration::from_secs(time.secs.unsigned_abs());
    let second = if time.secs < 0 { UNIX_EPOCH.checked_sub(whole) } else { UNIX_EPOCH.checked_add(whole) };
    second
        .and_then(|second| second.checked_add(Duration::from_nanos(u64::from(time.nanos))))
        .unwrap_or(UNIX_EPOCH)
}

/// The attributes of a name that does not exist.
fn nothing() -> FileAttr {
    FileAttr {
        ino: INodeNo(0),
        size: 0,
        blocks: 0,
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind: FileType::RegularFile,
        perm: 0,
        nlink: 0,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 0,
        flags: 0,
    }
}
