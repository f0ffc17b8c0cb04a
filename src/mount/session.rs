//! A mount while it lives: from fuser's session to its end.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::Arc;
use std::thread::available_parallelism;

use fuser::{BackgroundSession, Config, MountOption, Session, SessionACL};

use super::fuse::Fuse;
use super::options::MountOptions;
use super::point;
use super::source::Source;
use super::volume::Volume;
use crate::error::{Error, Result};

/// Why a mount ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The kernel has let go of it.
    Unmounted,
    /// This process is to let go of it.
    Asked,
}

/// A mounted archive. Dropping it unmounts.
pub struct Mounted {
    /// `None` once it was let go of.
    session: Option<BackgroundSession>,
    target: PathBuf,
    ended: Receiver<End>,
    /// Wakes `wait`, as the end of the session does.
    wake: Sender<End>,
}

impl Mounted {
    /// Mounts an archive at `target`, whose full path this is. It answers when this returns.
    pub fn start(source: Arc<dyn Source>, target: &Path, options: &MountOptions) -> Result<Self> {
        let target = point::check(target, options.nonempty)?;
        let volume = Volume::new(source, options)?;
        let (wake, ended) = channel();
        let fuse = Fuse::new(volume, options, wake.clone());
        let session = Session::new(fuse, &target, &config(options)).and_then(Session::spawn);
        let session = session.map_err(|error| failed(&target, error))?;
        Ok(Self { session: Some(session), target, ended, wake })
    }

    /// What ends `wait`.
    pub fn waker(&self) -> Sender<End> {
        self.wake.clone()
    }

    /// Waits until someone else unmounted it or the waker was used; then unmounts if need be.
    pub fn wait(mut self) -> Result<()> {
        // Receiving cannot fail, since `self` holds a sender.
        let end = self.ended.recv().unwrap_or(End::Asked);
        self.end(end)
    }

    /// Unmounts. What still uses it gets errors once this process has ended.
    pub fn unmount(mut self) -> Result<()> {
        self.end(self.ended.try_recv().unwrap_or(End::Asked))
    }

    fn end(&mut self, end: End) -> Result<()> {
        let Some(session) = self.session.take() else { return Ok(()) };
        if end == End::Unmounted {
            // Already unmounted. fuser 0.18 would unmount the path again, and by now that may be
            // another mount; so its handle is leaked: one file descriptor that leads nowhere.
            std::mem::forget(session);
            return Ok(());
        }
        match session.umount_and_join() {
            Ok(()) => Ok(()),
            // In use: out of sight at once, gone with the last that uses it or with this process.
            Err(_) => point::release(&self.target, true),
        }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // Nobody is left to be told.
        let _ = self.end(self.ended.try_recv().unwrap_or(End::Asked));
    }
}

fn config(options: &MountOptions) -> Config {
    let name = options.fsname.clone().unwrap_or_else(|| "s3a".to_owned());
    // fusermount takes options joined by commas; mount(2), which root uses, takes the name apart.
    let name = if rustix::process::geteuid().is_root() { name } else { name.replace('\\', "\\\\").replace(',', "\\,") };
    let mut config = Config::default();
    config.mount_options = vec![
        MountOption::RO,
        MountOption::NoSuid,
        MountOption::NoDev,
        MountOption::NoAtime,
        MountOption::DefaultPermissions,
        MountOption::FSName(name),
        // fuser hands `Subtype` to fusermount only; this way mount(2) gets it too.
        MountOption::CUSTOM("subtype=s3a".to_owned()),
    ];
    config.mount_options.extend(options.noexec.then_some(MountOption::NoExec));
    config.mount_options.extend(options.auto_unmount.then_some(MountOption::AutoUnmount));
    config.acl = if options.allow_other { SessionACL::All } else { SessionACL::Owner };
    // Handlers never decode, so a few threads answer all that is kept.
    config.n_threads = Some(available_parallelism().map_or(2, usize::from).clamp(2, 4));
    config
}

/// Says what to do about a mount that the system refused.
fn failed(target: &Path, error: io::Error) -> Error {
    let hint = if !Path::new("/dev/fuse").exists() {
        "/dev/fuse is missing; load it with `modprobe fuse`, or give it to the container with `--device /dev/fuse`"
    } else if error.kind() == io::ErrorKind::NotFound {
        "only root can mount without fusermount3; install the package fuse3"
    } else if error.kind() == io::ErrorKind::PermissionDenied {
        "the system does not allow it; `allow_other` needs `user_allow_other` in /etc/fuse.conf, a container needs SYS_ADMIN"
    } else {
        return Error::io(target, error);
    };
    Error::io(target, io::Error::new(error.kind(), format!("{error}: {hint}")))
}
