//! A mount while it lives: from fuser's session to its end.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::available_parallelism;
use std::time::Duration;

use fuser::{BackgroundSession, Config, MountOption, Session, SessionACL};

use super::fuse::Fuse;
use super::options::MountOptions;
use super::point;
use super::source::Source;
use super::volume::Volume;
use crate::error::{Error, Result};

/// How long the loops may take to end after an unmount.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// A mounted archive. Dropping it unmounts.
pub struct Mounted {
    /// `None` once it was let go of.
    session: Option<BackgroundSession>,
    target: PathBuf,
    /// Device number of the mount, by which it is told from others at the same place.
    device: u64,
    ended: Receiver<()>,
    /// Wakes `wait`, as the end of the session does.
    wake: Sender<()>,
}

impl Mounted {
    /// Mounts an archive at `target`. It answers when this returns.
    pub fn start(source: Arc<dyn Source>, target: &Path, options: &MountOptions) -> Result<Self> {
        if options.auto_unmount && !options.allow_other {
            return Err(Error::Usage("mount option auto_unmount needs allow_other too".to_owned()));
        }
        let target = point::check(target, options.nonempty)?;
        let volume = Volume::new(source, options)?;
        let (wake, ended) = channel();
        let fuse = Fuse::new(volume, options, wake.clone());
        let session = Session::new(fuse, &target, &config(options)).and_then(Session::spawn);
        let session = session.map_err(|error| failed(&target, error))?;
        let mut mounted = Self { session: Some(session), target, device: 0, ended, wake };
        mounted.device = device(&mounted.target).map_err(|error| Error::io(&mounted.target, error))?;
        Ok(mounted)
    }

    /// What ends `wait`.
    pub fn waker(&self) -> Sender<()> {
        self.wake.clone()
    }

    /// Waits until someone else unmounted it or the waker was used; then unmounts if need be.
    pub fn wait(mut self) -> Result<()> {
        // Cannot fail, since `self` holds a sender.
        let _ = self.ended.recv();
        self.end()
    }

    /// Unmounts. What still uses it keeps it, out of sight, until this process ends.
    pub fn unmount(mut self) -> Result<()> {
        self.end()
    }

    fn end(&mut self) -> Result<()> {
        let Some(session) = self.session.take() else { return Ok(()) };
        // When this is dropped, fuser 0.18 unmounts the path even if that was done before, and by
        // now it may be the place of another mount. So it is leaked: a thread handle, and a file
        // descriptor that leads nowhere.
        std::mem::forget(session);
        if !device(&self.target).is_ok_and(|now| now == self.device) {
            return Ok(());
        }
        if point::release(&self.target, false).is_err() {
            return point::release(&self.target, true);
        }
        // The loops end soon after; if they do not, the process ends without them.
        let _ = self.ended.recv_timeout(LAST_WORDS);
        Ok(())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // Nobody is left to be told.
        let _ = self.end();
    }
}

/// The number of the file system that is seen at a path.
fn device(path: &Path) -> io::Result<u64> {
    std::fs::metadata(path).map(|metadata| metadata.dev())
}

fn config(options: &MountOptions) -> Config {
    let name = options.fsname.clone().unwrap_or_else(|| "s3a".to_owned());
    // fusermount takes options joined by commas; mount(2), which root uses, takes the name apart.
    let name = if rustix::process::geteuid().is_root() {
        name
    } else {
        name.replace('\\', "\\\\").replace(',', "\\,")
    };
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
