//! The states that ext4 itself leaves after a power cut. A file system in a file is mounted so that
//! it does not sync renamed files on its own (`noauto_da_alloc`), and is copied while commands
//! write to it; each copy is mounted, which replays its journal. `power_cut.rs` tests more states,
//! which it derives from recorded calls.
//!
//! The tests need root, loop devices and mkfs.ext4; without these, they say that they are skipped.

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use common::{command, expect, noise, prose, put, s3a};
use rustix::process::{Pid, Signal, kill_process};

/// Length of the file system.
const DISK: u64 = 24 << 20;
/// Copies that are made during each command.
const CUTS: u32 = 8;
/// Longer than the journal waits: names reach the disk, and data that were not synced do not.
const COMMIT: Duration = Duration::from_millis(1200);

fn run(program: &str, args: &[&str]) -> bool {
    let output = Command::new(program).args(args).output();
    output.is_ok_and(|output| output.status.success())
}

/// A mounted file system, which is unmounted on drop.
struct Mounted(PathBuf);

impl Mounted {
    fn new(disk: &Path, at: &Path) -> Option<Self> {
        fs::create_dir_all(at).unwrap();
        let options = "loop,noauto_da_alloc,commit=1";
        let done = run("mount", &["-t", "ext4", "-o", options, disk.to_str()?, at.to_str()?]);
        done.then(|| Self(at.to_owned()))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // The last reader may take a moment to close it.
        let start = Instant::now();
        while !run("umount", &[self.0.to_str().unwrap()]) && start.elapsed() < Duration::from_secs(10) {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// The content of the disk at one moment, in which nothing changed while it was read. `None` if it
/// never stops changing.
fn cut(disk: &Path) -> Option<Vec<u8>> {
    let mut before = fs::read(disk).unwrap();
    for _ in 0..100 {
        let now = fs::read(disk).unwrap();
        if now == before {
            return Some(now);
        }
        before = now;
    }
    None
}

/// A running command, which ends when this is dropped.
struct Working(Child);

impl Drop for Working {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Working {
    /// The content of the disk when the command has been stopped for this long; `None` if it has
    /// ended.
    fn cut(&mut self, disk: &Path, held: Duration) -> Option<Vec<u8>> {
        if self.0.try_wait().unwrap().is_some() {
            return None;
        }
        let pid = Pid::from_child(&self.0);
        kill_process(pid, Signal::STOP).unwrap();
        std::thread::sleep(held);
        let state = cut(disk);
        kill_process(pid, Signal::CONT).unwrap();
        state
    }
}

struct Bench {
    dir: PathBuf,
    disk: PathBuf,
}

impl Bench {
    /// Lets a command work on the file system, and cuts the power `CUTS` times meanwhile and once
    /// at its end.
    fn cuts(&self, args: &[&str]) -> Vec<Vec<u8>> {
        let mounted = Mounted::new(&self.disk, &self.dir.join("live")).unwrap();
        let clean = {
            // The time that the command takes, measured on a copy.
            let spare = self.dir.join("spare");
            fs::write(&spare, cut(&self.disk).unwrap()).unwrap();
            let other = Mounted::new(&spare, &self.dir.join("other")).unwrap();
            let start = Instant::now();
            expect(&s3a(&other.0, args), 0);
            start.elapsed()
        };
        let mut cuts = Vec::new();
        let mut working = Working(command(&mounted.0).args(args).spawn().unwrap());
        for number in 0..CUTS {
            std::thread::sleep(clean / (CUTS + 1));
            cuts.extend(working.cut(&self.disk, if number % 2 == 0 { COMMIT } else { Duration::ZERO }));
        }
        assert!(working.0.wait().unwrap().success());
        cuts.push(cut(&self.disk).unwrap());
        cuts
    }

    /// Looks at the state that a cut has left.
    fn after<T>(&self, state: &[u8], look: impl FnOnce(&Path) -> T) -> T {
        let copy = self.dir.join("copy");
        fs::write(&copy, state).unwrap();
        let mounted = Mounted::new(&copy, &self.dir.join("after")).expect("a copy cannot be mounted");
        look(&mounted.0)
    }

    /// Fails if an archive is neither the old one nor whole, or is not there though the command has
    /// ended; then runs again what was cut off. Returns how many cuts left a part of the new
    /// archive.
    fn check(&self, args: &[&str], name: &str, before: Option<&[u8]>) -> (usize, Vec<u8>) {
        let cuts = self.cuts(args);
        let whole = self.after(&cuts[cuts.len() - 1], |dir| {
            expect(&s3a(dir, &["verify", "-q", name]), 0);
            fs::read(dir.join(name)).unwrap()
        });
        let mut halves = 0;
        for (number, state) in cuts[..cuts.len() - 1].iter().enumerate() {
            self.after(state, |dir| {
                let found = fs::read(dir.join(name)).ok();
                if found.as_ref() == Some(&whole) {
                    return;
                }
                assert!(found.as_deref() == before, "{args:?}: after cut {number}, {name} is something else");
                let names = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name());
                let begun = names.into_iter().any(|name| name.to_string_lossy().contains(".partial-"));
                expect(&s3a(dir, args), 0);
                assert!(fs::read(dir.join(name)).unwrap() == whole, "{args:?}: cut {number} done again");
                halves += usize::from(begun);
            });
        }
        (halves, whole)
    }
}

#[test]
fn what_ext4_keeps_through_a_power_cut_is_whole_or_as_it_was() {
    let above = tempfile::tempdir().unwrap();
    let bench = Bench { dir: above.path().to_owned(), disk: above.path().join("disk") };
    fs::File::create(&bench.disk).unwrap().set_len(DISK).unwrap();
    let made = run("mkfs.ext4", &["-q", "-F", bench.disk.to_str().unwrap()]);
    if !made || Mounted::new(&bench.disk, &bench.dir.join("live")).is_none() {
        eprintln!(
            "skipped: what_ext4_keeps_through_a_power_cut_is_whole_or_as_it_was (no ext4 can be made or mounted here)"
        );
        return;
    }
    for i in 0..6 {
        put(&bench.dir, format!("tree/{i}.txt").as_bytes(), &prose(i, 100_000));
        put(&bench.dir, format!("tree/{i}.bin").as_bytes(), &noise(i, 200_000));
    }
    put(&bench.dir, b"more/late.bin", &noise(9, 600_000));
    let size = ["--group-size", "64k", "--chunk-size", "8k"];
    let pack = [&["pack", "../tree", "-q", "-o", "new.s3a", "--resume"][..], &size].concat();
    let (packed, whole) = bench.check(&pack, "new.s3a", None);
    let append = ["append", "new.s3a", "../more", "-q"];
    let (appended, whole) = bench.check(&append, "new.s3a", Some(&whole));
    let again = [&["pack", "../tree", "-q", "-o", "new.s3a", "-f", "--chunk-size", "4k"][..]].concat();
    let (replaced, _) = bench.check(&again, "new.s3a", Some(&whole));
    assert!(packed + appended + replaced > 0, "no cut fell into the work");
    println!(
        "power cuts on ext4: half done were {packed} of pack, {appended} of append, {replaced} of pack -f"
    );

    // The check is able to fail: a file that is replaced without a sync is neither old nor new
    // afterward.
    let state = {
        let live = Mounted::new(&bench.disk, &bench.dir.join("live")).unwrap();
        fs::write(live.0.join("careless.partial"), noise(1, 300_000)).unwrap();
        fs::rename(live.0.join("careless.partial"), live.0.join("new.s3a")).unwrap();
        std::thread::sleep(Duration::from_millis(2500));
        cut(&bench.disk).unwrap()
    };
    let found = bench.after(&state, |dir| fs::read(dir.join("new.s3a")).unwrap_or_default());
    let lost = found != noise(1, 300_000);
    println!("what was not synced was {}", if lost { "lost" } else { "not lost: this run shows little" });
}
