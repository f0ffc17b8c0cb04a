//! The process behind a mount.
//!
//! In the background, the command starts itself again with `MARK` in the environment and waits:
//! the second process opens the archive, mounts it, and writes `READY` into a pipe, which is its
//! standard output until then. If it fails it says why on the inherited standard error, and the
//! first process exits with its code. No process is forked by hand, so threads are no danger.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use rustix::fs::{Mode, OFlags};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::session::Mounted;
use crate::error::{Error, Result};

/// Holds the process number of the parent, so that no other process takes itself for the daemon.
const MARK: &str = "S3A_MOUNT_DAEMON_OF";

/// What the daemon sends when the mount answers.
const READY: &[u8] = b"ready";

/// Which process this is.
pub enum Launch {
    /// The one that is to mount; it tells `Ready` when it has.
    Here(Ready),
    /// The daemon was started by this one, which has nothing left to do: the code to exit with.
    /// The daemon has said what went wrong.
    Started { exit_code: u8 },
}

/// Whom to tell that the mount answers.
pub struct Ready {
    parent: Option<File>,
}

/// To be called first, before threads and files: in the background, starts the daemon and waits
/// until it is ready.
pub fn launch(foreground: bool) -> Result<Launch> {
    if foreground {
        return Ok(Launch::Here(Ready { parent: None }));
    }
    let parent = rustix::process::getppid().map(|pid| pid.as_raw_nonzero().to_string());
    if parent.is_some() && std::env::var(MARK).ok() == parent {
        become_daemon().map(Launch::Here).map_err(|error| Error::io("standard output", error))
    } else {
        start().map_err(|error| Error::io("daemon of the mount", error))
    }
}

fn start() -> io::Result<Launch> {
    let mut args = std::env::args_os();
    let name = args.next();
    // The link leads to this very program even if its file was replaced meanwhile.
    let mut command = Command::new("/proc/self/exe");
    command.arg0(name.as_deref().unwrap_or(OsStr::new("s3a"))).args(args);
    command.env(MARK, std::process::id().to_string()).stdin(Stdio::null()).stdout(Stdio::piped());
    let mut daemon = command.spawn()?;
    let mut said = Vec::new();
    if let Some(mut pipe) = daemon.stdout.take() {
        pipe.read_to_end(&mut said)?;
    }
    if said == READY {
        return Ok(Launch::Started { exit_code: 0 });
    }
    let status = daemon.wait()?;
    match status.code().map(u8::try_from) {
        Some(Ok(exit_code)) if exit_code != 0 => Ok(Launch::Started { exit_code }),
        _ => Err(io::Error::other(format!("it ended before the mount was ready ({status})"))),
    }
}

/// Leaves the terminal and keeps the pipe; what is printed goes to standard error from now on.
fn become_daemon() -> io::Result<Ready> {
    // Fails only for a process that leads a group already.
    let _ = rustix::process::setsid();
    let pipe = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdout(), 3)?;
    rustix::stdio::dup2_stdout(rustix::stdio::stderr())?;
    Ok(Ready { parent: Some(File::from(pipe)) })
}

impl Ready {
    /// Tells the parent, which then exits, and lets go of terminal and folder.
    fn tell(self) -> io::Result<()> {
        let Some(mut pipe) = self.parent else { return Ok(()) };
        // A working folder inside some mount would keep that busy.
        rustix::process::chdir("/")?;
        let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
        rustix::stdio::dup2_stdout(&null)?;
        rustix::stdio::dup2_stderr(&null)?;
        pipe.write_all(READY)
    }
}

/// Serves a mount until it is unmounted, from outside or by SIGINT, SIGTERM or SIGHUP.
pub fn serve(start: impl FnOnce() -> Result<Mounted>, ready: Ready) -> Result<()> {
    // Before the mount, so that no signal finds a mount without a handler.
    let mut signals =
        Signals::new([SIGINT, SIGTERM, SIGHUP]).map_err(|error| Error::io("signal handlers", error))?;
    let mounted = start()?;
    let waker = mounted.waker();
    std::thread::spawn(move || {
        for _ in signals.forever() {
            // The mount may have ended meanwhile.
            let _ = waker.send(());
        }
    });
    ready.tell().map_err(|error| Error::io("daemon of the mount", error))?;
    mounted.wait()
}
