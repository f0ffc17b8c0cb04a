//! Every system call fails or is the last one: a file under its final name is old or complete.
//!
//! `strace` injects errors and kills. Without it, and without root for small disks, tests say that
//! they are skipped.

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use common::{command, expect, noise, prose, put, s3a, snapshot};

/// Whether `strace` is installed and may trace.
fn has_strace() -> bool {
    let works = Command::new("strace").args(["-f", "-o", "/dev/null", "true"]).output();
    let works = works.is_ok_and(|output| output.status.success());
    if !works {
        eprintln!("skipped: there is no strace, or it may not trace");
    }
    works
}

/// Runs a command in which the `nth` call of this name has a fault.
fn injected(dir: &Path, args: &[&str], call: &str, fault: &str, nth: u32) -> Output {
    let mut run = Command::new("strace");
    run.args(["-f", "-qq", "-o", "/dev/null", "-e", &format!("trace={call}")]);
    run.args(["-e", &format!("inject={call}:{fault}:when={nth}")]);
    run.arg(env!("CARGO_BIN_EXE_s3a")).args(args).args(["-j", "1"]).current_dir(dir);
    run.env("S3A_MODEL", "none").output().unwrap()
}

/// How often a command makes a call.
fn count(dir: &Path, args: &[&str], call: &str) -> u32 {
    let mut run = Command::new("strace");
    run.args(["-f", "-qq", "-o", "calls", "-e", &format!("trace={call}")]);
    run.arg(env!("CARGO_BIN_EXE_s3a")).args(args).args(["-j", "1"]).current_dir(dir);
    let output = run.env("S3A_MODEL", "none").output().unwrap();
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    let calls = fs::read_to_string(dir.join("calls")).unwrap();
    fs::remove_file(dir.join("calls")).unwrap();
    calls.lines().filter(|line| line.contains(&format!("{call}("))).count() as u32
}

const CALLS: [&str; 5] = ["write", "fsync", "renameat", "renameat2", "ftruncate"];

fn contents(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let files = files.filter(|path| path.is_file() && !path.to_string_lossy().contains(".partial-"));
    files.map(|path| (path.clone(), fs::read(path).unwrap())).collect()
}

/// Runs a command that makes or replaces `result` with each of its calls killed, then failing.
fn every_call(dir: &Path, args: &[&str], result: &str) {
    let before = contents(dir);
    let reset = || {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_file() && !before.contains_key(&path) {
                fs::remove_file(path).unwrap();
            }
        }
        before.iter().for_each(|(path, bytes)| fs::write(path, bytes).unwrap());
    };
    let source = snapshot(&dir.join("tree"));
    let (mut cases, path) = (0, dir.join(result));
    for call in CALLS {
        let calls = count(dir, args, call);
        let after = contents(dir);
        reset();
        for nth in 1..=calls {
            for fault in ["signal=KILL", "error=EIO", "error=ENOSPC"] {
                let output = injected(dir, args, call, fault, nth);
                let said = String::from_utf8_lossy(&output.stderr).into_owned();
                let what = format!("{args:?}: {call} {nth} of {calls}, {fault}: {:?} {said}", output.status);
                let now = contents(dir);
                let found = now.get(&path);
                assert!(found == before.get(&path) || found == after.get(&path), "{what}");
                let others = |map: &BTreeMap<PathBuf, Vec<u8>>| {
                    map.iter()
                        .filter(|(other, _)| **other != path)
                        .map(|(p, b)| (p.clone(), b.clone()))
                        .collect::<Vec<_>>()
                };
                assert!(others(&now) == others(&before), "{what}");
                assert!(!said.contains("panicked"), "{what}");
                match fault {
                    "signal=KILL" => assert!(
                        output.status.signal() == Some(9) || output.status.code() == Some(137),
                        "{what}"
                    ),
                    // A message to the terminal may fail without harm; a success means that the
                    // result is there.
                    _ if output.status.success() => assert!(found == after.get(&path), "{what}"),
                    _ => {
                        assert_eq!(output.status.code(), Some(7), "{what}");
                        let left = fs::read_dir(dir).unwrap().filter(|entry| {
                            entry.as_ref().unwrap().file_name().to_string_lossy().contains(".partial-")
                        });
                        assert_eq!(left.count(), 0, "{what}");
                    }
                }
                cases += 1;
                reset();
            }
        }
    }
    assert!(source == snapshot(&dir.join("tree")), "a source was touched");
    println!("{args:?}: {cases} faults");
}

fn small() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    put(dir.path(), b"tree/a.txt", &prose(1, 50_000));
    put(dir.path(), b"tree/b.bin", &noise(2, 50_000));
    put(dir.path(), b"tree/sub/c.txt", &prose(3, 500));
    dir
}

#[test]
fn pack_with_any_call_failing_or_the_last() {
    if !has_strace() {
        return;
    }
    let dir = small();
    let pack = ["pack", "tree", "--chunk-size", "4k", "--group-size", "32k", "-q"];
    every_call(dir.path(), &[&pack[..], &["-o", "new.s3a"]].concat(), "new.s3a");
    fs::write(dir.path().join("old.s3a"), "what was there before").unwrap();
    every_call(dir.path(), &[&pack[..], &["-f", "-o", "old.s3a"]].concat(), "old.s3a");
}

#[test]
fn append_and_merge_with_any_call_failing_or_the_last() {
    if !has_strace() {
        return;
    }
    let dir = small();
    put(dir.path(), b"more/d.txt", &prose(4, 30_000));
    expect(&s3a(dir.path(), &["pack", "tree", "-o", "one.s3a"]), 0);
    expect(&s3a(dir.path(), &["pack", "more", "-o", "two.s3a"]), 0);
    every_call(dir.path(), &["append", "one.s3a", "-C", "more", "d.txt", "-q"], "one.s3a");
    every_call(dir.path(), &["merge", "one.s3a", "two.s3a", "-o", "both.s3a", "-q"], "both.s3a");
    every_call(dir.path(), &["unpack", "one.s3a", "--tar", "one.tar", "-q"], "one.tar");
}

#[test]
fn a_killed_unpack_leaves_whole_files_only() {
    let dir = tempfile::tempdir().unwrap();
    for i in 0..60u64 {
        put(dir.path(), format!("tree/{i}/prose").as_bytes(), &prose(i, 60_000));
        put(dir.path(), format!("tree/{i}/noise").as_bytes(), &noise(i, 9_000));
    }
    expect(&s3a(dir.path(), &["pack", "tree"]), 0);
    let mut partly = 0;
    for round in 0..10u64 {
        let mut run = command(dir.path())
            .args(["unpack", "tree.s3a", "-C", "out", "-q", "-j", "1"])
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(6 * round));
        let _ = run.kill();
        run.wait().unwrap();
        let mut found = 0;
        for i in 0..60u64 {
            for (name, content) in [("prose", prose(i, 60_000)), ("noise", noise(i, 9_000))] {
                if let Ok(bytes) = fs::read(dir.path().join(format!("out/{i}/{name}"))) {
                    assert!(bytes == content, "round {round}: {i}/{name}");
                    found += 1;
                }
            }
        }
        partly += usize::from(found > 0 && found < 120);
        // Again, over the files that are there.
        expect(&s3a(dir.path(), &["unpack", "tree.s3a", "-C", "out", "-f", "-q"]), 0);
        fs::remove_dir_all(dir.path().join("out")).unwrap();
    }
    println!("{partly} of 10 kills left a part");
}

#[test]
fn a_full_disk_costs_nothing_that_was_there() {
    let dir = small();
    put(dir.path(), b"big/noise", &noise(9, 3 << 20));
    expect(&s3a(dir.path(), &["pack", "tree", "-o", "small.s3a"]), 0);
    expect(&s3a(dir.path(), &["pack", "big"]), 0);
    let disk = dir.path().join("disk");
    fs::create_dir(&disk).unwrap();
    let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=1m", "tmpfs"]).arg(&disk).output();
    if !mounted.is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: a_full_disk_costs_nothing_that_was_there (mounting a small disk needs root)");
        return;
    }
    fs::copy(dir.path().join("small.s3a"), disk.join("here.s3a")).unwrap();
    let outputs: Vec<(Output, Vec<PathBuf>)> = [
        &["append", "disk/here.s3a", "big"][..],
        &["merge", "disk/here.s3a", "big.s3a", "-o", "disk/both.s3a"],
        &["unpack", "big.s3a", "--tar", "disk/big.tar"],
        &["pack", "big", "-o", "disk/here.s3a", "-f"],
        &["pack", "--tar", "disk/none.tar", "-o", "disk/x.s3a"],
    ]
    .iter()
    .map(|args| {
        let output = s3a(dir.path(), args);
        (output, fs::read_dir(&disk).unwrap().map(|entry| entry.unwrap().path()).collect())
    })
    .collect();
    let same = fs::read(disk.join("here.s3a")).unwrap() == fs::read(dir.path().join("small.s3a")).unwrap();
    assert!(Command::new("umount").arg(&disk).status().unwrap().success());
    assert!(same);
    for (output, left) in outputs {
        let said = expect(&output, 7);
        assert!(said.contains("disk/"), "{said}");
        assert_eq!(left, [disk.join("here.s3a")], "{said}");
    }
}
