//! Archives as a read-only file system, through FUSE.
//!
//! `view` and `content` are the file system without FUSE, `cache` and `prefetch` decide what is
//! decoded when, `volume` joins them; `fuse` and `session` adapt that to fuser, `daemon` and
//! `point` to processes and mount points. A read returns exactly the bytes that were packed or an
//! error, never fewer: the kernel would take a short answer for the end of the file.

pub(crate) mod cache;
#[cfg(test)]
mod cache_tests;
pub(crate) mod content;
pub(crate) mod daemon;
#[cfg(test)]
pub(crate) mod fake;
pub(crate) mod fault;
pub(crate) mod fuse;
pub(crate) mod names;
mod nodes;
pub(crate) mod options;
pub(crate) mod point;
pub(crate) mod pool;
pub(crate) mod prefetch;
pub(crate) mod session;
pub(crate) mod source;
pub(crate) mod sync;
pub(crate) mod view;
pub(crate) mod volume;

use std::path::Path;
use std::sync::Arc;

pub use daemon::{Launch, Ready, launch};
pub use options::MountOptions;
pub use session::Mounted;

use crate::archive::read::archive::Archive;
use crate::error::Result;

/// Mounts an archive at `target` and serves it until it is unmounted or SIGINT, SIGTERM or SIGHUP
/// arrives. `ready`, from `launch`, is told when the mount answers.
pub fn mount(archive: Archive, target: &Path, options: &MountOptions, ready: Ready) -> Result<()> {
    daemon::serve(|| start(archive, target, options), ready)
}

/// Mounts an archive at `target` from within this process; it is served until the value returned
/// is dropped.
pub fn start(archive: Archive, target: &Path, options: &MountOptions) -> Result<Mounted> {
    Mounted::start(Arc::new(archive), target, options)
}

/// Unmounts the archive at `target`, also one whose daemon has died. With `lazy`, what still uses
/// the mount keeps it until it is done.
pub fn umount(target: &Path, lazy: bool) -> Result<()> {
    point::unmount(target, lazy)
}
