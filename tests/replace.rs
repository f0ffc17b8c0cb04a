//! What unpacking replaces if it is told to, and what it leaves alone even though an archive has an
//! entry of the same name.

mod common;

use std::fs;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Output, Stdio};

use common::{command, expect, noise, prose, put, s3a};

/// A directory with the archive `t.s3a`, which has a file, another name of the file, and more
/// entries.
fn packed() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    put(dir.path(), b"t/file", &noise(1, 40_000));
    fs::hard_link(dir.path().join("t/file"), dir.path().join("t/name")).unwrap();
    put(dir.path(), b"t/more", &noise(2, 40_000));
    std::os::unix::fs::symlink("file", dir.path().join("t/symlink")).unwrap();
    expect(&s3a(dir.path(), &["pack", "t", "-q", "--group-size", "16k", "--chunk-size", "4k"]), 0);
    dir
}

/// Damages the archive in the bytes of `t/file`.
fn damage(dir: &Path) {
    let mut bytes = fs::read(dir.join("t.s3a")).unwrap();
    let at = bytes.windows(64).position(|part| *part == noise(1, 64)[..]).unwrap();
    bytes[at + 9] ^= 1;
    fs::write(dir.join("t.s3a"), bytes).unwrap();
}

fn from_pipe(dir: &Path, archive: &[u8], args: &[&str]) -> Output {
    let mut child = command(dir)
        .args(["unpack", "-"])
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let _ = child.stdin.take().unwrap().write_all(archive);
    child.wait_with_output().unwrap()
}

#[test]
fn a_name_of_a_lost_file_is_not_made_one_of_a_stranger() {
    let dir = packed();
    let dir = dir.path();
    damage(dir);
    put(dir, b"out/file", b"mine");
    put(dir, b"out/name", b"mine, too");
    let said = expect(&s3a(dir, &["unpack", "t.s3a", "-f", "-C", "out"]), 3);
    assert!(said.contains("name: not unpacked"), "{said}");
    assert_eq!(fs::read(dir.join("out/file")).unwrap(), b"mine");
    assert_eq!(fs::read(dir.join("out/name")).unwrap(), b"mine, too");
    assert!(fs::read(dir.join("out/more")).unwrap() == noise(2, 40_000));

    // From a pipe that ends early.
    put(dir, b"piped/file", b"mine");
    let archive = fs::read(dir.join("t.s3a")).unwrap();
    expect(&from_pipe(dir, &archive[..archive.len() / 4], &["-f", "-C", "piped"]), 3);
    assert_eq!(fs::read(dir.join("piped/file")).unwrap(), b"mine");
    assert!(!dir.join("piped/name").exists());
}

#[test]
fn what_is_unpacked_again_takes_the_place_of_what_is_there() {
    let dir = packed();
    let dir = dir.path();
    put(dir, b"out/file", b"mine");
    put(dir, b"out/symlink", b"no link");
    for _ in 0..2 {
        expect(&s3a(dir, &["unpack", "t.s3a", "-f", "-C", "out"]), 0);
        let inode = |name: &str| fs::metadata(dir.join("out").join(name)).unwrap().ino();
        assert_eq!((inode("file"), inode("file")), (inode("name"), inode("symlink")));
        let mut names: Vec<_> =
            fs::read_dir(dir.join("out")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["file", "more", "name", "symlink"]);
    }
    // A directory that is not empty stays.
    for name in ["symlink", "name"] {
        fs::remove_file(dir.join("out").join(name)).unwrap();
        put(dir, format!("out/{name}/kept").as_bytes(), b"kept");
        expect(&s3a(dir, &["unpack", "t.s3a", "-f", "-C", "out"]), 11);
        assert_eq!(fs::read(dir.join("out").join(name).join("kept")).unwrap(), b"kept");
        fs::remove_dir_all(dir.join("out").join(name)).unwrap();
    }
}

#[test]
fn a_folder_that_only_its_files_imply_can_be_named() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    put(dir, b"t/d/x", &prose(1, 100));
    let made =
        std::process::Command::new("tar").args(["-cf", "d.tar", "-C", "t", "d/x"]).current_dir(dir).status();
    if !made.is_ok_and(|status| status.success()) {
        eprintln!("skipped: there is no tar");
        return;
    }
    expect(&s3a(dir, &["pack", "--tar", "d.tar", "-o", "d.s3a"]), 0);
    expect(&s3a(dir, &["unpack", "d.s3a", "d", "-C", "out"]), 0);
    let archive = fs::read(dir.join("d.s3a")).unwrap();
    expect(&from_pipe(dir, &archive, &["d", "-C", "piped"]), 0);
    for folder in ["out", "piped"] {
        assert!(fs::read(dir.join(folder).join("d/x")).unwrap() == prose(1, 100));
    }
    expect(&s3a(dir, &["unpack", "d.s3a", "e", "-C", "out"]), 2);
    assert!(expect(&from_pipe(dir, &archive, &["e", "-C", "other"]), 2).contains("e is not in the archive"));
}

#[test]
fn salvage_goes_on_behind_a_group_that_is_lost() {
    let dir = packed();
    let dir = dir.path();
    let mut bytes = fs::read(dir.join("t.s3a")).unwrap();
    let marker = [&s3a::wire::frame::MARKER[..], &[3]].concat();
    let groups: Vec<usize> =
        bytes.windows(5).enumerate().filter(|(_, five)| *five == marker).map(|(at, _)| at).collect();
    assert!(groups.len() > 3, "{groups:?}");
    bytes[groups[1]..groups[2]].fill(0);
    fs::write(dir.join("t.s3a"), bytes).unwrap();
    let said = expect(&s3a(dir, &["salvage", "t.s3a", "-C", "out"]), 1);
    assert!(said.contains("file: not unpacked"), "{said}");
    assert!(fs::read(dir.join("out/more")).unwrap() == noise(2, 40_000));
    assert!(!dir.join("out/file").exists() && !dir.join("out/name").exists());
}
