//! Unpacking and appending preserve what is there, and restore what can be restored, whatever the
//! file system does.

mod common;

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::{assert_same, command, expect, noise, prose, put, s3a, snapshot};

/// A directory `tree`, its archive, and `more` to append.
fn packed() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    put(dir.path(), b"tree/a.txt", &prose(1, 50_000));
    put(dir.path(), b"tree/b.bin", &noise(2, 90_000));
    put(dir.path(), b"more/c.txt", &prose(3, 70_000));
    put(dir.path(), b"other/d.txt", &prose(4, 30_000));
    expect(&s3a(dir.path(), &["pack", "tree"]), 0);
    dir
}

/// Appends `more`, and calls `meanwhile` after the archive was opened and before it is replaced.
fn append_while(dir: &Path, meanwhile: impl FnOnce()) -> std::process::Output {
    let mut run = command(dir);
    run.args(["append", "tree.s3a", "--files-from", "-"]);
    let mut run = run.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // The archive is open and locked before the list is read.
    let (start, inode) = (Instant::now(), fs::metadata(dir.join("tree.s3a")).unwrap().ino());
    let opened = || {
        let held = fs::read_dir(format!("/proc/{}/fd", run.id())).unwrap().flatten();
        held.filter_map(|fd| fs::metadata(fd.path()).ok()).any(|found| found.ino() == inode)
    };
    while !opened() {
        assert!(start.elapsed() < Duration::from_secs(20), "the archive was not opened");
        std::thread::sleep(Duration::from_millis(5));
    }
    std::thread::sleep(Duration::from_millis(100));
    meanwhile();
    run.stdin.take().unwrap().write_all(b"more\n").unwrap();
    run.wait_with_output().unwrap()
}

#[test]
fn append_does_not_take_the_place_of_an_archive_that_came_meanwhile() {
    let dir = packed();
    let dir = dir.path();
    let archive = dir.join("tree.s3a");
    let left = || {
        let names = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.contains(".partial-")).count()
    };
    let output = append_while(dir, || {
        expect(&s3a(dir, &["pack", "other", "-f", "-o", "tree.s3a"]), 0);
    });
    let said = expect(&output, 7);
    assert!(said.contains("replaced or changed meanwhile"), "{said}");
    let listed = String::from_utf8(s3a(dir, &["ls", "tree.s3a"]).stdout).unwrap();
    assert_eq!(listed, ".\nd.txt\n");

    // The archive was written to in place: the copied bytes may be neither the old nor the new.
    let new = fs::read(&archive).unwrap();
    let output =
        append_while(dir, || File::options().append(true).open(&archive).unwrap().write_all(b"?").unwrap());
    expect(&output, 7);
    assert_eq!(fs::metadata(&archive).unwrap().len(), new.len() as u64 + 1);
    fs::write(&archive, &new).unwrap();

    // An archive that was removed meanwhile is not put back.
    expect(&append_while(dir, || fs::remove_file(&archive).unwrap()), 7);
    assert!(!archive.exists());
    fs::write(&archive, &new).unwrap();
    expect(&append_while(dir, || ()), 0);
    expect(&s3a(dir, &["verify", "tree.s3a"]), 0);
    assert!(fs::read(&archive).unwrap().starts_with(&new) && left() == 0);
}

#[test]
fn append_keeps_the_archives_attributes_and_names() {
    let dir = packed();
    let dir = dir.path();
    let archive = dir.join("tree.s3a");
    let old = fs::read(&archive).unwrap();
    let has_xattrs =
        rustix::fs::setxattr(&archive, "user.note", b"keep", rustix::fs::XattrFlags::empty()).is_ok();
    fs::set_permissions(&archive, fs::Permissions::from_mode(0o640)).unwrap();
    let kept = |path: &Path| {
        assert_eq!(fs::metadata(path).unwrap().mode() & 0o7777, 0o640);
        if has_xattrs {
            let mut value = [0; 16];
            assert_eq!(rustix::fs::getxattr(path, "user.note", &mut value).unwrap(), 4);
            assert_eq!(&value[..4], b"keep");
        } else {
            eprintln!("not checked: this file system has no extended attributes");
        }
    };
    expect(&s3a(dir, &["append", "tree.s3a", "more"]), 0);
    kept(&archive);

    let grown = fs::read(&archive).unwrap();
    assert!(grown.starts_with(&old) && grown.len() > old.len());
    fs::create_dir(dir.join("backup")).unwrap();
    fs::hard_link(&archive, dir.join("backup/same.s3a")).unwrap();
    expect(&s3a(dir, &["append", "tree.s3a", "other"]), 0);
    let inode = |path: &Path| fs::metadata(path).unwrap().ino();
    assert_eq!(inode(&archive), inode(&dir.join("backup/same.s3a")));
    kept(&archive);
    let whole = fs::read(&archive).unwrap();
    assert!(whole.starts_with(&grown) && whole.len() > grown.len());
    expect(&s3a(dir, &["verify", "backup/same.s3a"]), 0);
    let partial = fs::read_dir(dir)
        .unwrap()
        .filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().contains(".partial-"));
    assert_eq!(partial.count(), 0);

    // A failed append leaves the archive as it was.
    put(dir, b"last/e", &noise(9, 50_000));
    if let Some(mut run) = strace("pwrite64", "error=ENOSPC", "1+") {
        run.args(["append", "tree.s3a", "last"]).current_dir(dir);
        expect(&run.output().unwrap(), 7);
        assert!(fs::read(&archive).unwrap() == whole);
        expect(&s3a(dir, &["verify", "tree.s3a"]), 0);
    }
}

/// The command with a failing system call; `None`, with a message, where there is no `strace`.
fn strace(call: &str, fault: &str, when: &str) -> Option<Command> {
    let works = Command::new("strace").args(["-f", "-o", "/dev/null", "true"]).output();
    if !works.is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: there is no strace, or it may not trace");
        return None;
    }
    let mut run = Command::new("strace");
    run.args(["-f", "-qq", "-o", "/dev/null", "-e", &format!("trace={call}")]);
    run.args(["-e", &format!("inject={call}:{fault}:when={when}")]);
    run.arg(env!("CARGO_BIN_EXE_s3a")).env("S3A_MODEL", "none");
    Some(run)
}

/// A tree in which each of two files has many names.
fn linked() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    put(dir.path(), b"tree/first", &prose(1, 30_000));
    let sparse = File::create(dir.path().join("tree/sparse")).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&sparse, b"data", 1 << 20).unwrap();
    sparse.set_len(2 << 20).unwrap();
    fs::set_permissions(dir.path().join("tree/first"), fs::Permissions::from_mode(0o604)).unwrap();
    sparse.set_modified(std::time::UNIX_EPOCH + Duration::from_secs(1_000_000_000)).unwrap();
    for i in 0..6 {
        fs::hard_link(dir.path().join("tree/first"), dir.path().join(format!("tree/z{i}"))).unwrap();
        fs::hard_link(dir.path().join("tree/sparse"), dir.path().join(format!("tree/zs{i}"))).unwrap();
    }
    expect(&s3a(dir.path(), &["pack", "tree"]), 0);
    dir
}

#[test]
fn names_that_cannot_be_links_become_copies() {
    let dir = linked();
    let dir = dir.path();
    let mut source = snapshot(&dir.join("tree"));
    // A file system without links, and one on which a file can have few.
    for (error, when, names) in [("EPERM", "1+", 1), ("EMLINK", "3+4", 4), ("EOPNOTSUPP", "2+2", 0)] {
        for from in ["tree.s3a", "-"] {
            let Some(mut run) = strace("linkat", &format!("error={error}"), when) else { return };
            run.args(["unpack", from, "-C", "out", "--max-size", "10m"]).current_dir(dir);
            run.stdin(File::open(dir.join("tree.s3a")).unwrap());
            let said = expect(&run.output().unwrap(), 1);
            assert!(said.contains("became copies"), "{said}");
            let mut out = snapshot(&dir.join("out"));
            let most = out.values().map(|object| object.nlink).max().unwrap();
            assert!(names == 0 || most <= names, "{error}: {most} names");
            assert!(
                from == "-" || fs::metadata(dir.join("out/zs5")).unwrap().blocks() < 1000,
                "a hole was filled"
            );
            for object in source.values_mut().chain(out.values_mut()) {
                object.nlink = 0;
                object.same_as = Vec::new();
            }
            if from == "-" {
                source.get_mut(&b""[..]).unwrap().mtime = out[&b""[..]].mtime;
            }
            assert_same(&source, &out);
            fs::remove_dir_all(dir.join("out")).unwrap();
        }
    }
    // Copies count as unpacked bytes.
    if let Some(mut run) = strace("linkat", "error=EPERM", "1+") {
        run.args(["unpack", "tree.s3a", "-C", "out", "--max-size", "100k"]).current_dir(dir);
        let said = expect(&run.output().unwrap(), 6);
        assert!(said.contains("--max-size"), "{said}");
    }
}

/// Many files, some of them large, and objects of every kind.
fn many() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for i in 0..40u64 {
        put(dir.path(), format!("tree/{}/{i}.bin", i % 5).as_bytes(), &noise(i, 20_000));
        put(dir.path(), format!("tree/{}/{i}.txt", i % 5).as_bytes(), &prose(i, 3_000));
    }
    for i in 0..3 {
        fs::hard_link(dir.path().join("tree/1/1.bin"), dir.path().join(format!("tree/link-{i}"))).unwrap();
    }
    std::os::unix::fs::symlink("1/1.bin", dir.path().join("tree/symlink")).unwrap();
    fs::set_permissions(dir.path().join("tree/2"), fs::Permissions::from_mode(0o750)).unwrap();
    expect(&s3a(dir.path(), &["pack", "tree", "--chunk-size", "4k", "--group-size", "64k"]), 0);
    dir
}

#[test]
fn what_is_there_is_not_decoded_again() {
    let dir = many();
    let dir = dir.path();
    let source = snapshot(&dir.join("tree"));
    let unpack = |archive: &str, from: &str| {
        let mut run = command(dir);
        run.args(["unpack", from, "-C", "out", "--skip-existing"])
            .stdin(File::open(dir.join(archive)).unwrap());
        run.output().unwrap()
    };
    expect(&s3a(dir, &["unpack", "tree.s3a", "-C", "out"]), 0);
    // As an interrupted run leaves the tree, with another name of a linked file and without the
    // first.
    for name in ["3/3.bin", "4/14.txt", "1/1.bin", "link-2", "symlink"] {
        fs::remove_file(dir.join("out").join(name)).unwrap();
    }
    fs::write(dir.join("out/.s3a-unpack-1"), "left over").unwrap();
    // The files that are there can no longer be decoded from the archive.
    let mut bytes = fs::read(dir.join("tree.s3a")).unwrap();
    for i in [1, 7, 12, 39] {
        let at = bytes.windows(16).position(|part| part == &noise(i, 16)[..]).unwrap();
        bytes[at] ^= 1;
    }
    fs::write(dir.join("damaged.s3a"), bytes).unwrap();
    expect(&s3a(dir, &["unpack", "damaged.s3a", "-C", "out"]), 11);
    let said = expect(&unpack("damaged.s3a", "damaged.s3a"), 0);
    assert!(said.contains("were there already"), "{said}");
    let unpacked = || {
        let mut out = snapshot(&dir.join("out"));
        out.remove(&b".s3a-unpack-1"[..]);
        out
    };
    assert_same(&source, &unpacked());
    // There is nothing to do; the same from a pipe.
    for from in ["damaged.s3a", "-"] {
        let archive = if from == "-" { "tree.s3a" } else { from };
        if from == "-" {
            for name in ["3/3.bin", "link-1", "symlink"] {
                fs::remove_file(dir.join("out").join(name)).unwrap();
            }
        }
        let said = expect(&unpack(archive, from), 0);
        assert!(said.contains("were there already"), "{said}");
        let mut out = unpacked();
        if from == "-" {
            // It is unknown whether this was made by an earlier run until all names have come.
            out.get_mut(&b""[..]).unwrap().mtime = source[&b""[..]].mtime;
        }
        assert_same(&source, &out);
    }

    // An object of another kind stays and is reported, and no name becomes a link to it.
    fs::remove_file(dir.join("out/1/1.bin")).unwrap();
    fs::write(dir.join("out/1/1.bin"), "mine").unwrap();
    for i in 0..3 {
        fs::remove_file(dir.join(format!("out/link-{i}"))).unwrap();
    }
    fs::remove_file(dir.join("out/symlink")).unwrap();
    fs::write(dir.join("out/symlink"), "mine too").unwrap();
    let said = expect(&unpack("tree.s3a", "tree.s3a"), 1);
    assert!(said.contains("1/1.bin: left as it is") && said.contains("symlink: left as it is"), "{said}");
    let read = |name: &str| fs::read(dir.join("out").join(name)).unwrap();
    assert!(read("1/1.bin") == b"mine" && read("symlink") == b"mine too");
    assert!(read("link-0") == noise(1, 20_000) && read("link-2") == noise(1, 20_000));

    // A directory with other things in it keeps its own properties.
    put(dir, b"mixed/own", b"own");
    fs::set_permissions(dir.join("mixed"), fs::Permissions::from_mode(0o711)).unwrap();
    expect(&s3a(dir, &["unpack", "tree.s3a", "-C", "mixed", "--skip-existing"]), 0);
    assert_eq!(fs::metadata(dir.join("mixed")).unwrap().mode() & 0o777, 0o711);
    for more in [&["--force"][..], &["--to-stdout"], &["--tar", "x.tar"]] {
        expect(&s3a(dir, &[&["unpack", "tree.s3a", "--skip-existing"], more].concat()), 2);
    }
}

#[test]
fn an_interrupted_unpack_keeps_what_is_complete_and_goes_on() {
    let dir = many();
    let dir = dir.path();
    let source = snapshot(&dir.join("tree"));
    let mut partly = 0;
    for round in 0..12u64 {
        // Into a directory with the archive's name, and into one that is named.
        let flags = if round % 2 == 0 { &["-C", "out"][..] } else { &[] };
        let run = |more: &[&str]| {
            let mut run = command(&dir.join("at"));
            run.args(["unpack", "../tree.s3a", "-j", "1"]).args(flags).args(more);
            run.stdout(Stdio::null()).stderr(Stdio::null());
            run
        };
        fs::create_dir(dir.join("at")).unwrap();
        let out = dir.join("at").join(if round % 2 == 0 { "out" } else { "tree" });
        let mut first = run(&[]).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(4 * round));
        let pid = rustix::process::Pid::from_child(&first);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::INT);
        let ended = first.wait().unwrap();
        let mut found = 0;
        for i in 0..40u64 {
            for (ending, content) in [("bin", noise(i, 20_000)), ("txt", prose(i, 3_000))] {
                if let Ok(bytes) = fs::read(out.join(format!("{}/{i}.{ending}", i % 5))) {
                    assert!(bytes == content, "round {round}");
                    found += 1;
                }
            }
        }
        partly += usize::from(found > 0 && found < 80);
        assert!(ended.code() != Some(0) || found == 80, "round {round}");
        assert_eq!(run(&["--skip-existing"]).status().unwrap().code(), Some(0), "round {round}");
        assert_same(&source, &snapshot(&out));
        fs::remove_dir_all(dir.join("at")).unwrap();
    }
    println!("{partly} of 12 interrupts left a part");
}

#[test]
fn folders_above_what_is_selected_have_their_properties() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    for name in ["home/.ssh/keys/id", "home/.ssh/config", "home/other/x", "home/top"] {
        put(dir, name.as_bytes(), name.as_bytes());
    }
    let old = std::time::UNIX_EPOCH + Duration::from_secs(1_234_567_890);
    for (name, mode) in
        [("home/.ssh/keys", 0o500), ("home/.ssh", 0o700), ("home/other", 0o711), ("home", 0o750)]
    {
        let folder = File::open(dir.join(name)).unwrap();
        folder.set_permissions(fs::Permissions::from_mode(mode)).unwrap();
        folder.set_modified(old).unwrap();
    }
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(dir.join("home/.ssh"), Some(1234), Some(1235)).unwrap();
    }
    let source = snapshot(&dir.join("home"));
    expect(&s3a(dir, &["pack", "home"]), 0);
    let check = |selects: &str| {
        let out = snapshot(&dir.join("out"));
        for (path, found) in &out {
            assert_eq!(found, &source[path], "{selects}: {}", String::from_utf8_lossy(path));
        }
        let due: Vec<&[u8]> = vec![b"", b".ssh", b".ssh/keys", b".ssh/keys/id"];
        assert_eq!(out.keys().collect::<Vec<_>>(), due, "{selects}");
        let removed = Command::new("rm").arg("-r").arg(dir.join("out")).status().unwrap();
        assert!(removed.success());
    };
    for selects in [&[".ssh/keys/id"][..], &["--include", "id"], &["--include", "/.ssh/keys/i*"]] {
        for from in ["home.s3a", "-"] {
            let mut run = command(dir);
            run.args(["unpack", from, "-C", "out"]).args(selects);
            expect(&run.stdin(File::open(dir.join("home.s3a")).unwrap()).output().unwrap(), 0);
            check(&format!("{selects:?} from {from}"));
        }
        expect(&s3a(dir, &[&["unpack", "home.s3a", "--tar", "some.tar", "-f"], selects].concat()), 0);
        fs::create_dir(dir.join("out")).unwrap();
        let tar =
            Command::new("tar").args(["-xpf", "some.tar", "-C", "out"]).current_dir(dir).output().unwrap();
        expect(&tar, 0);
        check(&format!("{selects:?} through tar"));
    }
    expect(&s3a(dir, &["salvage", "home.s3a", "-o", "some.s3a", "--include", "id"]), 0);
    expect(&s3a(dir, &["unpack", "some.s3a", "-C", "out"]), 0);
    check("salvage");

    // Components that are stripped are not restored, and a directory that is left out is not made.
    expect(&s3a(dir, &["unpack", "home.s3a", ".ssh/keys/id", "--strip-components", "1", "-C", "out"]), 0);
    let keys = fs::metadata(dir.join("out/keys")).unwrap();
    assert!(keys.mode() & 0o777 == 0o500 && keys.modified().unwrap() == old);
    assert_eq!(fs::read_dir(dir.join("out")).unwrap().count(), 1);
}

#[test]
fn properties_are_set_on_what_was_unpacked_and_on_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    std::os::unix::fs::symlink("nowhere", dir.join("link")).unwrap();
    fs::create_dir(dir.join("tree")).unwrap();
    std::os::unix::fs::symlink("nowhere", dir.join("tree/link")).unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, dir.join("tree/fifo"), rustix::fs::Mode::from_raw_mode(0o640))
        .unwrap();
    put(dir, b"tree/folder/file", b"file");
    for name in ["link", "fifo"] {
        let times = rustix::fs::Timestamps {
            last_access: rustix::fs::Timespec { tv_sec: 5, tv_nsec: 6 },
            last_modification: rustix::fs::Timespec { tv_sec: 1_000_000_000, tv_nsec: 7 },
        };
        let flags = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
        rustix::fs::utimensat(rustix::fs::CWD, dir.join("tree").join(name), &times, flags).unwrap();
    }
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::lchown(dir.join("tree/link"), Some(4321), Some(4322)).unwrap();
        std::os::unix::fs::lchown(dir.join("tree/fifo"), Some(4323), Some(4324)).unwrap();
    }
    // Root may set attributes of them, where the file system supports that.
    for name in ["link", "fifo", "folder"] {
        let path = dir.join("tree").join(name);
        let _ = rustix::fs::lsetxattr(path, "trusted.note", b"x", rustix::fs::XattrFlags::empty());
    }
    expect(&s3a(dir, &["pack", "tree", "--special"]), 0);
    expect(&s3a(dir, &["unpack", "tree.s3a", "-C", "out", "-p"]), 0);
    assert_same(&snapshot(&dir.join("tree")), &snapshot(&dir.join("out")));
    // No call that sets a property names its object by a path; all use a descriptor.
    let Some(_) = strace("linkat", "error=EPERM", "1+") else { return };
    let calls = "trace=fchownat,lchown,chown,fchmodat,chmod,utimensat,lsetxattr,setxattr,?fchmodat2";
    let mut run = Command::new("strace");
    run.args(["-f", "-qq", "-o", "calls", "-e", calls, env!("CARGO_BIN_EXE_s3a")]);
    run.args(["unpack", "tree.s3a", "-C", "again", "-p"]).current_dir(dir).env("S3A_MODEL", "none");
    expect(&run.output().unwrap(), 0);
    let calls = fs::read_to_string(dir.join("calls")).unwrap();
    assert!(calls.contains("utimensat("), "{calls}");
    let by_name = |path: &str| {
        let fd = path.strip_prefix("/proc/self/fd/");
        !path.is_empty() && !fd.is_some_and(|fd| fd.bytes().all(|byte| byte.is_ascii_digit()))
    };
    let named = calls.lines().filter(|line| line.split('"').nth(1).is_some_and(by_name));
    assert_eq!(named.collect::<Vec<_>>(), Vec::<&str>::new());
}
