//! Where a test mounts: a source tree, its archive, a mount point, and the process behind a mount.

use std::ffi::OsString;
use std::fs::{self, File};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::common::{self, noise, prose};

/// Time within which everything must answer.
pub const SOON: Duration = Duration::from_secs(20);

/// Whether this machine can mount.
pub fn fuse() -> bool {
    let able = Path::new("/dev/fuse").exists() && rustix::process::geteuid().is_root();
    if !able {
        println!("skipped: needs /dev/fuse and root");
    }
    able
}

/// Whether a program is installed.
pub fn program(name: &str) -> bool {
    let found =
        Command::new(name).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok();
    if !found {
        println!("skipped: {name} is not installed");
    }
    found
}

pub fn s3a() -> Command {
    common::command(Path::new("/"))
}

pub fn run(command: &mut Command) -> Output {
    let output = command.output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}: {}\n{out}\n{err}", output.status);
    output
}

/// A temporary directory with a source tree, its archive and a mount point.
pub struct Place {
    pub dir: tempfile::TempDir,
}

impl Place {
    pub fn new(fill: impl FnOnce(&Path)) -> Self {
        let place = Self { dir: tempfile::tempdir().unwrap() };
        fs::create_dir(place.source()).unwrap();
        fs::create_dir(place.target()).unwrap();
        fill(&place.source());
        place
    }

    pub fn packed(fill: impl FnOnce(&Path), options: &[&str]) -> Self {
        let place = Self::new(fill);
        run(s3a()
            .arg("pack")
            .arg(place.source())
            .arg("-o")
            .arg(place.archive())
            .args(["--model", "none"])
            .args(options));
        place
    }

    pub fn source(&self) -> PathBuf {
        self.dir.path().join("source")
    }

    pub fn archive(&self) -> PathBuf {
        self.dir.path().join("packed.s3a")
    }

    pub fn target(&self) -> PathBuf {
        self.dir.path().join("mnt")
    }

    /// Mounts in the foreground of a child process.
    pub fn mount(&self, options: &[&str]) -> Mounted {
        let mut command = s3a();
        self.mount_by(command.args(["mount", "-f"]).args(options), &self.target())
    }

    /// Mounts at `target` by a command that names neither archive nor directory yet.
    pub fn mount_by(&self, command: &mut Command, target: &Path) -> Mounted {
        let daemon = command.arg(self.archive()).arg(target).stdin(Stdio::null()).spawn().unwrap();
        let mounted = Mounted { daemon, target: target.to_owned() };
        wait_until("the mount", || is_mounted(target));
        mounted
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if is_mounted(&self.target()) {
            let _ = s3a().args(["umount", "--lazy"]).arg(self.target()).status();
        }
    }
}

/// A mount whose daemon is a child of this process.
pub struct Mounted {
    pub daemon: Child,
    pub target: PathBuf,
}

impl Mounted {
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.daemon), signal).unwrap();
    }

    /// Waits until the daemon has ended, and returns its exit code.
    pub fn ended(mut self) -> Option<i32> {
        let mut status = None;
        wait_until("the end of the daemon", || {
            status = self.daemon.try_wait().unwrap();
            status.is_some()
        });
        status.and_then(|status| status.code())
    }

    /// A line of /proc/PID/status, in KiB.
    pub fn memory(&self, line: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.daemon.id())).unwrap();
        let line = status.lines().find(|text| text.starts_with(line)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if matches!(self.daemon.try_wait(), Ok(None)) {
            self.signal(Signal::TERM);
            let _ = self.daemon.wait();
        }
        if is_mounted(&self.target) {
            let _ = s3a().args(["umount", "--lazy"]).arg(&self.target).status();
        }
    }
}

pub fn is_mounted(target: &Path) -> bool {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    table.lines().any(|line| line.split(' ').nth(4) == target.to_str() && line.contains(" fuse.s3a "))
}

pub fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + SOON;
    while !done() {
        assert!(Instant::now() < end, "waited too long for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A tree with every kind of object that an archive can hold.
pub fn tree(root: &Path) {
    fs::write(root.join("empty"), "").unwrap();
    fs::write(root.join("text"), prose(1, 700_000)).unwrap();
    fs::write(root.join("noise"), noise(2, 300_001)).unwrap();
    fs::write(root.join("same"), prose(1, 700_000)).unwrap();
    fs::create_dir_all(root.join("deep/er/and/deeper")).unwrap();
    fs::create_dir(root.join("nothing")).unwrap();
    for i in 0..300u64 {
        fs::write(root.join(format!("deep/er/file{i:03}")), prose(i, i as usize * 37)).unwrap();
    }
    fs::hard_link(root.join("noise"), root.join("deep/linked")).unwrap();
    symlink("../text", root.join("deep/to text")).unwrap();
    symlink("/nowhere/at all", root.join("dangling")).unwrap();
    let odd: OsString = OsString::from_vec(b"odd\xff\n\\name ".to_vec());
    fs::write(root.join(odd), "odd").unwrap();
    fs::write(root.join("n".repeat(255)), "long").unwrap();
    let sparse = File::create(root.join("sparse")).unwrap();
    sparse.set_len(5 << 20).unwrap();
    sparse.write_all_at(b"in the middle", 3 << 20).unwrap();
    fs::set_permissions(root.join("text"), fs::Permissions::from_mode(0o400)).unwrap();
    fs::set_permissions(root.join("nothing"), fs::Permissions::from_mode(0o1777)).unwrap();
}
