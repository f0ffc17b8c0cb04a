//! The mount as programs see it, with real FUSE. Each test says why it skips where it must.
#![cfg(feature = "mount")]

mod common;

use std::ffi::OsString;
use std::fs::{self, File};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use common::{assert_same, noise, prose, snapshot};

/// Time within which anything must answer.
const SOON: Duration = Duration::from_secs(20);

/// Whether this machine can mount.
fn fuse() -> bool {
    let able = Path::new("/dev/fuse").exists() && rustix::process::geteuid().is_root();
    if !able {
        println!("skipped: needs /dev/fuse and root");
    }
    able
}

/// Whether a program is at hand.
fn program(name: &str) -> bool {
    let found = Command::new(name).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok();
    if !found {
        println!("skipped: {name} is not installed");
    }
    found
}

fn s3a() -> Command {
    common::command(Path::new("/"))
}

fn run(command: &mut Command) -> Output {
    let output = command.output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}: {}\n{out}\n{err}", output.status);
    output
}

/// A temporary folder with a source tree, its archive and a mount point.
struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new(fill: impl FnOnce(&Path)) -> Self {
        let place = Self { dir: tempfile::tempdir().unwrap() };
        fs::create_dir(place.source()).unwrap();
        fs::create_dir(place.target()).unwrap();
        fill(&place.source());
        place
    }

    fn packed(fill: impl FnOnce(&Path), options: &[&str]) -> Self {
        let place = Self::new(fill);
        run(s3a().arg("pack").arg(place.source()).arg("-o").arg(place.archive()).args(["--model", "none"]).args(options));
        place
    }

    fn source(&self) -> PathBuf {
        self.dir.path().join("source")
    }

    fn archive(&self) -> PathBuf {
        self.dir.path().join("packed.s3a")
    }

    fn target(&self) -> PathBuf {
        self.dir.path().join("mnt")
    }

    /// Mounts in the foreground of a process of its own.
    fn mount(&self, options: &[&str]) -> Mounted {
        let mut command = s3a();
        command.args(["mount", "-f"]).arg(self.archive()).arg(self.target()).args(options);
        let daemon = command.stdin(Stdio::null()).spawn().unwrap();
        let mounted = Mounted { daemon, target: self.target() };
        wait_until("the mount", || is_mounted(&self.target()));
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
struct Mounted {
    daemon: Child,
    target: PathBuf,
}

impl Mounted {
    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.daemon), signal).unwrap();
    }

    /// Waits until the daemon has ended; its exit code.
    fn ended(mut self) -> Option<i32> {
        let mut status = None;
        wait_until("the end of the daemon", || {
            status = self.daemon.try_wait().unwrap();
            status.is_some()
        });
        status.and_then(|status| status.code())
    }

    /// A line of /proc/PID/status in KiB.
    fn memory(&self, line: &str) -> u64 {
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

fn is_mounted(target: &Path) -> bool {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    table.lines().any(|line| line.split(' ').nth(4) == target.to_str() && line.contains(" fuse.s3a "))
}

fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + SOON;
    while !done() {
        assert!(Instant::now() < end, "waited too long for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A tree with every kind of thing that an archive holds.
fn tree(root: &Path) {
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

#[test]
fn a_mounted_tree_equals_its_source_in_bytes_and_metadata() {
    if !fuse() {
        return;
    }
    let place = Place::packed(tree, &[]);
    // In the background; the mount answers as soon as the command is back.
    run(s3a().arg("mount").arg(place.archive()).arg(place.target()));
    assert!(fs::read_dir(place.target()).unwrap().count() > 5);
    run(Command::new("diff").args(["-r", "--no-dereference"]).arg(place.source()).arg(place.target()));
    assert_same(&snapshot(&place.source()), &snapshot(&place.target()));
    run(s3a().arg("umount").arg(place.target()));
    assert!(!is_mounted(&place.target()));
    assert_eq!(fs::read_dir(place.target()).unwrap().count(), 0);
}

#[test]
fn holes_of_sparse_files_are_found_and_cost_no_blocks() {
    if !fuse() {
        return;
    }
    let place = Place::packed(tree, &[]);
    let _mounted = place.mount(&[]);
    let file = File::open(place.target().join("sparse")).unwrap();
    assert!(file.metadata().unwrap().blocks() * 512 < 1 << 20);
    let data = rustix::fs::seek(&file, rustix::fs::SeekFrom::Data(0)).unwrap();
    assert!((1..=3 << 20).contains(&data), "{data}");
    assert_eq!(rustix::fs::seek(&file, rustix::fs::SeekFrom::Hole(0)).unwrap(), 0);
}

/// Reads at random; started as a process of its own by the test below.
#[test]
fn random_reader() {
    let Ok(work) = std::env::var("S3A_TEST_READER") else { return };
    let mut parts = work.split('|');
    let (source, target) = (parts.next().unwrap(), parts.next().unwrap());
    let mut seed: u64 = parts.next().unwrap().parse().unwrap();
    let names = ["text", "noise", "same", "sparse", "deep/linked", "deep/er/file299"];
    for _ in 0..400 {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let name = names[(seed >> 33) as usize % names.len()];
        let (ours, theirs) = (File::open(format!("{source}/{name}")).unwrap(), File::open(format!("{target}/{name}")).unwrap());
        let offset = (seed >> 20) % ours.metadata().unwrap().len();
        let mut expected = vec![0; (seed >> 45) as usize % 70_000];
        let mut got = expected.clone();
        let len = ours.read_at(&mut expected, offset).unwrap();
        assert_eq!(theirs.read_at(&mut got, offset).unwrap(), len, "{name} at {offset}");
        assert!(got == expected, "{name} at {offset}");
    }
}

#[test]
fn processes_that_read_at_random_at_once_get_the_right_bytes() {
    if !fuse() {
        return;
    }
    let place = Place::packed(tree, &["--chunk-size", "4k"]);
    // A cache of few chunks, so that readers evict each other's.
    let _mounted = place.mount(&["-o", "cachesize=20k,workers=3"]);
    let readers: Vec<Child> = (0..8)
        .map(|seed| {
            let work = format!("{}|{}|{seed}", place.source().display(), place.target().display());
            let mut reader = Command::new(std::env::current_exe().unwrap());
            reader.args(["--exact", "random_reader"]).env("S3A_TEST_READER", work).stdout(Stdio::null()).spawn().unwrap()
        })
        .collect();
    for mut reader in readers {
        assert!(reader.wait().unwrap().success());
    }
}

#[test]
fn a_database_in_an_archive_passes_its_integrity_check() {
    if !fuse() || !program("sqlite3") {
        return;
    }
    let make = |root: &Path| {
        let sql = "PRAGMA page_size=4096; CREATE TABLE t(a INTEGER PRIMARY KEY, b TEXT, c BLOB);
            WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 30000)
            INSERT INTO t SELECT i, 'row ' || (i * 7919 % 10007), randomblob(i % 50) FROM n; CREATE INDEX tb ON t(b);";
        run(Command::new("sqlite3").arg(root.join("data.db")).arg(sql));
    };
    let place = Place::packed(make, &[]);
    let _mounted = place.mount(&[]);
    let ask = |root: PathBuf, sql: &str| {
        let output = run(Command::new("sqlite3").arg("-readonly").arg(root.join("data.db")).arg(sql));
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(ask(place.target(), "PRAGMA integrity_check").trim(), "ok");
    let sum = "SELECT count(*), sum(length(c)), max(b) FROM t WHERE b > 'row 5'";
    assert_eq!(ask(place.target(), sum), ask(place.source(), sum));
}

#[test]
fn a_repository_in_an_archive_passes_git_fsck() {
    if !fuse() || !program("git") {
        return;
    }
    let git = |root: &Path, args: &[&str]| {
        let mut command = Command::new("git");
        command.arg("-C").arg(root).args(["-c", "safe.directory=*", "-c", "user.name=n", "-c", "user.email=e@x", "-c", "gc.auto=0"]);
        run(command.args(args).env("GIT_CONFIG_NOSYSTEM", "1"))
    };
    let place = Place::packed(
        |root| {
            git(root, &["init", "-q"]);
            for commit in 0..20u64 {
                for i in 0..5 {
                    fs::write(root.join(format!("f{i}")), prose(commit * i, 3000 + commit as usize * 100)).unwrap();
                }
                git(root, &["add", "."]);
                git(root, &["commit", "-q", "-m", "change"]);
                if commit == 12 {
                    git(root, &["repack", "-a", "-d", "-q"]);
                }
            }
        },
        &[],
    );
    let _mounted = place.mount(&[]);
    git(&place.target(), &["fsck", "--full", "--strict"]);
    let log = |root: &Path| git(root, &["log", "--format=%H", "-p"]).stdout;
    assert!(log(&place.target()) == log(&place.source()));
}

#[test]
fn a_damaged_chunk_gives_eio_on_exactly_its_range() {
    if !fuse() {
        return;
    }
    let place = Place::packed(|root| fs::write(root.join("noise"), noise(3, 400_000)).unwrap(), &["--chunk-size", "8k"]);
    let archive = s3a::archive::Archive::open(place.archive(), &Default::default()).unwrap();
    let damaged = s3a::archive::ChunkId(20);
    let chunk = archive.chunk(damaged).unwrap();
    let file = File::options().read(true).write(true).open(place.archive()).unwrap();
    let at = chunk.offset + u64::from(chunk.frame_len) / 2;
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 0x10], at).unwrap();

    let mounted = place.mount(&[]);
    let expected = fs::read(place.source().join("noise")).unwrap();
    let hit = chunk.raw_offset as usize..chunk.raw_offset as usize + chunk.raw_len as usize;
    assert_eq!(hit.len(), 8192);
    // Twice and in both directions, so that the kernel's own read-ahead is at work too.
    let pages: Vec<usize> = (0..expected.len()).step_by(4096).collect();
    for pages in [pages.clone(), pages.iter().rev().copied().collect(), pages] {
        let file = File::open(place.target().join("noise")).unwrap();
        for page in pages {
            let end = (page + 4096).min(expected.len());
            let mut got = vec![0; end - page];
            match file.read_at(&mut got, page as u64) {
                Ok(len) => {
                    assert_eq!(len, got.len(), "short at {page}");
                    assert!(got == expected[page..end], "wrong bytes at {page}");
                    assert!(end <= hit.start || page >= hit.end, "{page} is damaged");
                }
                Err(error) => {
                    assert_eq!(error.raw_os_error(), Some(5), "{error}");
                    assert!(page < hit.end && end > hit.start, "{page} is not damaged");
                }
            }
        }
    }
    assert!(fs::read(place.target().join("noise")).is_err());
    mounted.signal(Signal::TERM);
    assert_eq!(mounted.ended(), Some(0));
}

#[test]
fn signals_unmount_even_while_files_are_open() {
    if !fuse() {
        return;
    }
    let place = Place::packed(tree, &[]);
    for (signal, busy) in [(Signal::TERM, false), (Signal::INT, false), (Signal::HUP, false), (Signal::TERM, true)] {
        let mounted = place.mount(&[]);
        let open = busy.then(|| File::open(place.target().join("text")).unwrap());
        mounted.signal(signal);
        assert_eq!(mounted.ended(), Some(0));
        assert!(!is_mounted(&place.target()));
        if let Some(open) = open {
            assert!(open.read_at(&mut [0; 10], 500_000).is_err());
        }
    }
}

#[test]
fn an_unmount_from_outside_ends_the_daemon() {
    if !fuse() {
        return;
    }
    let place = Place::packed(tree, &[]);
    let mounted = place.mount(&[]);
    let open = File::open(place.target().join("text")).unwrap();
    let output = s3a().arg("umount").arg(place.target()).output().unwrap();
    assert_eq!(output.status.code(), Some(7));
    assert!(String::from_utf8_lossy(&output.stderr).contains("in use"));
    drop(open);
    run(s3a().arg("umount").arg(place.target()));
    assert_eq!(mounted.ended(), Some(0));
}

#[test]
fn readers_of_a_killed_daemon_get_errors_and_the_mount_can_be_cleared() {
    if !fuse() {
        return;
    }
    let place = Place::packed(tree, &["--chunk-size", "4k"]);
    let mounted = place.mount(&["-o", "cachesize=20k"]);
    let readers: Vec<_> = (0..8u64)
        .map(|seed| {
            let path = place.target().join(if seed % 2 == 0 { "text" } else { "noise" });
            std::thread::spawn(move || {
                // Never the same page twice, so that the kernel has to ask.
                let end = Instant::now() + SOON;
                let mut page = seed * 13;
                while Instant::now() < end {
                    page += 7;
                    let read = File::open(&path).and_then(|file| {
                        let _ = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed);
                        file.read_at(&mut [0; 4096], page * 4096 % 290_000)
                    });
                    if read.is_err() {
                        return true;
                    }
                }
                false
            })
        })
        .collect();
    std::thread::sleep(Duration::from_millis(300));
    mounted.signal(Signal::KILL);
    let killed = Instant::now();
    for reader in readers {
        assert!(reader.join().unwrap(), "a reader never saw an error");
    }
    assert!(killed.elapsed() < Duration::from_secs(5), "readers hung for {:?}", killed.elapsed());

    let output = s3a().arg("mount").arg(place.archive()).arg(place.target()).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("s3a umount"), "{output:?}");
    run(s3a().arg("umount").arg(place.target()));
    run(s3a().arg("mount").arg(place.archive()).arg(place.target()));
    assert_eq!(fs::read(place.target().join("empty")).unwrap(), b"");
    run(s3a().arg("umount").arg(place.target()));
}

#[test]
fn an_archive_that_is_cut_or_replaced_under_its_mount_does_no_harm() {
    if !fuse() {
        return;
    }
    let place = Place::packed(|root| fs::write(root.join("noise"), noise(4, 400_000)).unwrap(), &[]);
    let expected = fs::read(place.source().join("noise")).unwrap();
    let _mounted = place.mount(&[]);
    let file = File::open(place.target().join("noise")).unwrap();
    // Replaced: the mount keeps what it has opened.
    let kept = place.dir.path().join("kept");
    fs::rename(place.archive(), &kept).unwrap();
    fs::write(place.archive(), "another file").unwrap();
    let mut got = [0; 4096];
    file.read_exact_at(&mut got, 300_000 / 4096 * 4096).unwrap();
    assert!(got[..] == expected[300_000 / 4096 * 4096..][..4096]);
    // Cut: what is gone is an error.
    File::options().write(true).open(&kept).unwrap().set_len(1000).unwrap();
    assert_eq!(file.read_at(&mut got, 100 * 1024).unwrap_err().raw_os_error(), Some(5));
}

#[test]
fn an_archive_can_be_mounted_over_its_own_folder() {
    if !fuse() {
        return;
    }
    let place = Place::packed(tree, &[]);
    let inside = place.target().join("packed.s3a");
    fs::rename(place.archive(), &inside).unwrap();
    let refused = s3a().arg("mount").arg(&inside).arg(place.target()).output().unwrap();
    assert_eq!(refused.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("nonempty"));
    run(s3a().arg("mount").arg(&inside).arg(place.target()).args(["-o", "nonempty"]));
    run(Command::new("diff").args(["-r", "--no-dereference"]).arg(place.source()).arg(place.target()));
    run(s3a().arg("umount").arg(place.target()));
    assert!(inside.exists());
}

#[test]
fn impossible_mounts_say_why_and_leave_nothing() {
    if !fuse() {
        return;
    }
    let place = Place::packed(tree, &[]);
    let file = place.source().join("text");
    let missing = place.dir.path().join("missing");
    let (source, target) = (place.source(), place.target());
    let cases: [(&Path, &Path, &[&str], i32, &str); 6] = [
        (&place.archive(), &missing, &[], 2, "does not exist"),
        (&place.archive(), &file, &[], 2, "not a folder"),
        (&place.archive(), &source, &[], 2, "not empty"),
        (&place.archive(), &target, &["-o", "bogus"], 2, "bogus"),
        (&file, &target, &[], 3, "not an s3a archive"),
        (&missing, &target, &[], 7, "missing"),
    ];
    for (archive, target, options, code, words) in cases {
        let output = s3a().arg("mount").arg(archive).arg(target).args(options).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{said}");
        assert!(said.contains(words), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
        assert!(!is_mounted(target));
    }
    let _mounted = place.mount(&[]);
    let again = s3a().arg("mount").arg(place.archive()).arg(place.target()).output().unwrap();
    assert_eq!(again.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&again.stderr).contains("already"));
}

#[test]
fn df_attributes_owner_and_read_only_are_as_asked() {
    if !fuse() {
        return;
    }
    let place = Place::packed(tree, &[]);
    let mounted = place.mount(&["-o", "uid=1234,gid=5678,allow_other"]);
    let stat = rustix::fs::statvfs(place.target()).unwrap();
    let bytes = stat.f_blocks * stat.f_frsize;
    assert!((1_700_000..8_000_000).contains(&bytes), "{bytes}");
    assert_eq!((stat.f_bfree, stat.f_bavail), (0, 0));
    assert!(stat.f_files > 300);
    let shown = run(Command::new("df").arg("--output=source,fstype,used").arg(place.target())).stdout;
    let shown = String::from_utf8(shown).unwrap();
    assert!(shown.contains("fuse.s3a") && shown.contains("packed.s3a"), "{shown}");

    let text = place.target().join("text");
    let m = fs::metadata(&text).unwrap();
    assert_eq!((m.uid(), m.gid()), (1234, 5678));
    let ask = |name: &str| {
        let mut value = [0; 4096];
        let len = rustix::fs::getxattr(&text, name, &mut value[..]).unwrap();
        String::from_utf8(value[..len].to_vec()).unwrap()
    };
    let stored: u64 = ask("user.s3a.stored_size").parse().unwrap();
    assert!((100..700_000).contains(&stored), "{stored}");
    assert!(ask("user.s3a.chunks").contains('-'));
    assert!(ask("user.s3a.codecs").contains("zstd:"));
    assert!(rustix::fs::getxattr(&text, "user.other", &mut [0u8; 9][..]).is_err());
    assert_eq!(rustix::fs::listxattr(&text, &mut [0u8; 99][..]).unwrap(), 0);
    let refused = File::create(place.target().join("new")).unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ReadOnlyFilesystem);

    // Everything but cache and model is small.
    run(Command::new("sh").arg("-c").arg("cat $(find . -type f ! -name '*odd*') > /dev/null").current_dir(place.target()));
    println!("resident: {} KiB, peak {} KiB", mounted.memory("VmRSS"), mounted.memory("VmHWM"));
    assert!(mounted.memory("VmHWM") < 64 << 10);
}

#[test]
fn a_mount_of_many_files_answers_at_once() {
    if !fuse() {
        return;
    }
    let place = Place::packed(
        |root| {
            for folder in 0..100 {
                let folder = root.join(format!("folder{folder:03}"));
                fs::create_dir(&folder).unwrap();
                for file in 0..100 {
                    fs::write(folder.join(format!("{file:03}")), format!("{file}")).unwrap();
                }
            }
        },
        &[],
    );
    let start = Instant::now();
    run(s3a().arg("mount").arg(place.archive()).arg(place.target()));
    assert_eq!(fs::read_dir(place.target()).unwrap().count(), 100);
    println!("ls after {:?}", start.elapsed());
    assert!(start.elapsed() < Duration::from_secs(5));
    let start = Instant::now();
    assert_eq!(snapshot(&place.target()).len(), 10_101);
    println!("10,100 names, attributes and contents in {:?}", start.elapsed());
    run(Command::new("diff").arg("-r").arg(place.source()).arg(place.target()));
    run(s3a().arg("umount").arg(place.target()));
}
