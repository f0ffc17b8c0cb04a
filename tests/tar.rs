//! tar streams go in and out; GNU tar and Python's tarfile are the other side, where they are
//! installed.

mod common;

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::path::Path;
use std::process::{Command, Stdio};

use common::{assert_same, command, expect, noise, prose, put, s3a, snapshot};
use rustix::fs::{CWD, Mode, XattrFlags};
use s3a::archive::tar::{Member, MemberKind, TarWriter};

fn make_tree(root: &Path) {
    put(root, b"plain.txt", &prose(1, 40_000));
    put(root, b"empty", b"");
    put(root, b"sub/noise", &noise(2, 700));
    put(root, b"sub/copy", &prose(1, 40_000));
    put(root, b"new\nline \x1b\t", b"odd");
    put(root, b"not-utf8-\xff\xfe", b"odd 2");
    let deep = [vec![b'd'; 120], vec![b'e'; 120], vec![b'f'; 200]].join(&b'/');
    put(root, &deep, b"deep");
    symlink([&"x"; 40].map(|_| "long/").concat(), root.join("long link")).unwrap();
    symlink("plain.txt", root.join("link")).unwrap();
    fs::hard_link(root.join("sub/noise"), root.join("hard")).unwrap();
    fs::create_dir(root.join("nothing")).unwrap();
    rustix::fs::mknodat(CWD, root.join("fifo"), rustix::fs::FileType::Fifo, Mode::from_raw_mode(0o640), 0)
        .unwrap();
    let sparse = File::create(root.join("sparse")).unwrap();
    sparse.set_len(64 << 20).unwrap();
    sparse.write_all_at(b"an island", 10 << 20).unwrap();
    sparse.write_all_at(&noise(6, 10_000), 33 << 20).unwrap();
    File::create(root.join("hole")).unwrap().set_len(3 << 20).unwrap();
    for (key, value) in [("user.tag", &b"a\n=b\0\xff"[..]), ("user.none", b"")] {
        let _ = rustix::fs::setxattr(root.join("plain.txt"), key, value, XattrFlags::empty());
    }
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::lchown(root.join("plain.txt"), Some(12_345), Some(4_000_000_000)).unwrap();
    }
    let early = std::time::UNIX_EPOCH - std::time::Duration::new(5, 1);
    File::open(root.join("sub/copy")).unwrap().set_modified(early).unwrap();
}

fn has(program: &str) -> bool {
    let found = Command::new(program).arg("--version").output().is_ok_and(|output| output.status.success());
    if !found {
        eprintln!("not tested with {program}, which is not there");
    }
    found
}

fn run(program: &mut Command) {
    let output = program.output().unwrap();
    assert!(output.status.success(), "{program:?}: {}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_tree_goes_through_tar_and_comes_back_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let tree = dir.path().join("tree");
    make_tree(&tree);
    let before = snapshot(&tree);
    expect(&s3a(dir.path(), &["pack", "tree", "--special", "--chunk-size", "4k", "--group-size", "16k"]), 0);
    expect(&s3a(dir.path(), &["unpack", "tree.s3a", "--tar", "out.tar"]), 0);
    let piped = s3a(dir.path(), &["unpack", "tree.s3a", "--tar", "-"]);
    expect(&piped, 0);
    assert!(piped.stdout == fs::read(dir.path().join("out.tar")).unwrap());
    // The tar stream stores holes as holes.
    assert!(piped.stdout.len() < 300_000, "{}", piped.stdout.len());

    // Back through this program, from a file and from a pipe.
    expect(&s3a(dir.path(), &["pack", "--tar", "out.tar", "--special", "-o", "back.s3a"]), 0);
    let from_pipe = command(dir.path())
        .args(["pack", "--tar", "-", "--special", "-o", "-"])
        .stdin(File::open(dir.path().join("out.tar")).unwrap())
        .output()
        .unwrap();
    expect(&from_pipe, 0);
    assert!(from_pipe.stdout == fs::read(dir.path().join("back.s3a")).unwrap());
    expect(&s3a(dir.path(), &["unpack", "back.s3a", "-C", "back"]), 0);
    assert_same(&before, &snapshot(&dir.path().join("back")));
    assert!(fs::metadata(dir.path().join("back/sparse")).unwrap().blocks() * 512 < 4 << 20);

    // GNU tar reads it, and writes every one of its formats.
    if !has("tar") {
        return;
    }
    fs::create_dir(dir.path().join("gnu")).unwrap();
    run(Command::new("tar")
        .args(["--xattrs", "--xattrs-include=*", "-xpf", "out.tar", "-C", "gnu"])
        .current_dir(dir.path()));
    assert_same(&before, &snapshot(&dir.path().join("gnu")));
    assert!(fs::metadata(dir.path().join("gnu/sparse")).unwrap().blocks() * 512 < 4 << 20);
    for (format, sparse) in
        [("posix", "1.0"), ("posix", "0.1"), ("posix", "0.0"), ("gnu", "0.0"), ("posix", "")]
    {
        let mut tar = Command::new("tar");
        tar.arg(format!("--format={format}")).args(["--xattrs", "--xattrs-include=user.*"]);
        if !sparse.is_empty() {
            tar.args(["-S", &format!("--sparse-version={sparse}")]);
        }
        run(tar.args(["-cf", "gnu.tar", "-C", "tree", "."]).current_dir(dir.path()));
        // 4,096 chunks of zeros where the format has no holes, at 23 bytes each.
        let pack = ["pack", "-f", "--tar", "gnu.tar", "--special", "--chunk-size", "16k", "-o", "gnu.s3a"];
        expect(&s3a(dir.path(), &pack), 0);
        expect(&s3a(dir.path(), &["unpack", "gnu.s3a", "-C", "from-gnu"]), 0);
        let mut found = snapshot(&dir.path().join("from-gnu"));
        if format == "gnu" {
            // The format has whole seconds and no attributes.
            for (path, object) in &mut found {
                object.mtime = before[path].mtime;
                object.xattrs.clone_from(&before[path].xattrs);
            }
        }
        assert_same(&before, &found);
        let size = fs::metadata(dir.path().join("gnu.s3a")).unwrap().len();
        assert!(size < 150_000, "{format} {sparse}: {size}");
        fs::remove_dir_all(dir.path().join("from-gnu")).unwrap();
    }
}

#[test]
fn python_reads_and_writes_the_same() {
    if !has("python3") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    make_tree(&dir.path().join("tree"));
    for name in ["sparse", "hole"] {
        fs::remove_file(dir.path().join("tree").join(name)).unwrap();
    }
    let _ = rustix::fs::removexattr(dir.path().join("tree/plain.txt"), "user.tag");
    let _ = rustix::fs::removexattr(dir.path().join("tree/plain.txt"), "user.none");
    let before = snapshot(&dir.path().join("tree"));
    expect(&s3a(dir.path(), &["pack", "tree", "--special"]), 0);
    expect(&s3a(dir.path(), &["unpack", "tree.s3a", "--tar", "out.tar"]), 0);
    let script = "import tarfile\n\
        t = tarfile.open('out.tar', errors='surrogateescape')\n\
        t.extractall('python', filter='fully_trusted')\n\
        for name, f in ('u', tarfile.USTAR_FORMAT), ('p', tarfile.PAX_FORMAT), ('g', tarfile.GNU_FORMAT):\n\
        \x20   o = tarfile.open(name + '.tar', 'w', format=f, encoding='utf-8', errors='surrogateescape')\n\
        \x20   try: o.add('tree', '.', filter=None if name != 'u' else lambda m: None if len(m.name) > 90 or len(m.linkname) > 90 or m.gid > 9999 or m.mtime < 0 else m)\n\
        \x20   except ValueError as e: print(name, e)\n\
        \x20   o.close()\n";
    run(Command::new("python3").args(["-c", script]).current_dir(dir.path()));
    let mut found = snapshot(&dir.path().join("python"));
    for (path, object) in &mut found {
        // Python sets times as floats.
        object.mtime = before[path].mtime;
    }
    assert_same(&before, &found);
    for name in ["p", "g", "u"] {
        let tar = format!("{name}.tar");
        expect(&s3a(dir.path(), &["pack", "-f", "--tar", &tar, "--special", "-o", "x.s3a"]), 0);
        expect(&s3a(dir.path(), &["unpack", "x.s3a", "-C", name]), 0);
        let found = snapshot(&dir.path().join(name));
        assert!(found.len() > 9, "{name}: {:?}", found.keys());
        for (path, object) in &found {
            assert_eq!(
                (object.content, object.mode),
                (before[path].content, before[path].mode),
                "{name} {path:?}"
            );
        }
    }
}

#[test]
fn the_last_of_a_path_counts_where_that_can_be_known() {
    let dir = tempfile::tempdir().unwrap();
    let member = |path: &str, size: u64| Member { path: path.into(), mode: 0o644, size, ..Member::default() };
    let folder = |path: &str| Member { kind: MemberKind::Folder, mode: 0o755, ..member(path, 0) };
    let mut tar = TarWriter::new(Vec::new());
    for (member, data) in [
        (folder("d"), &b""[..]),
        (member("d/f", 3), b"old"),
        (member("e", 1), b"e"),
        (folder("d"), b""),
        (member("d/f", 5), b"newer"),
        (member("../outside", 1), b"x"),
    ] {
        tar.member(&member).unwrap();
        tar.data(data).unwrap();
    }
    let bytes = tar.finish().unwrap();
    fs::write(dir.path().join("twice.tar"), &bytes).unwrap();
    let said = expect(&s3a(dir.path(), &["pack", "--tar", "twice.tar", "-o", "a.s3a"]), 1);
    assert!(said.contains("outside") && said.contains("left out"), "{said}");
    let out = s3a(dir.path(), &["cat", "a.s3a", "d/f"]);
    assert_eq!(out.stdout, b"newer");
    let mut pack = command(dir.path())
        .args(["pack", "--tar", "-", "-o", "b.s3a"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let _ = pack.stdin.take().unwrap().write_all(&bytes);
    let said = expect(&pack.wait_with_output().unwrap(), 2);
    assert!(said.contains("d/f"), "{said}");
    assert!(!dir.path().join("b.s3a").exists());
}

#[test]
fn selections_hold_for_streams_too() {
    let dir = tempfile::tempdir().unwrap();
    make_tree(&dir.path().join("tree"));
    expect(&s3a(dir.path(), &["pack", "tree", "--special"]), 0);
    let flags = ["unpack", "tree.s3a", "--tar", "part.tar", "--strip-components", "1", "sub"];
    expect(&s3a(dir.path(), &flags), 0);
    expect(
        &s3a(dir.path(), &["pack", "--tar", "part.tar", "-o", "part.s3a", "--exclude", "copy", "--no-owner"]),
        0,
    );
    let listed = String::from_utf8(s3a(dir.path(), &["ls", "-l", "part.s3a"]).stdout).unwrap();
    assert_eq!(listed.lines().count(), 1, "{listed}");
    assert!(listed.contains("    0     0") && listed.contains("noise"), "{listed}");
}

#[test]
fn damaged_streams_and_archives_are_errors() {
    let dir = tempfile::tempdir().unwrap();
    make_tree(&dir.path().join("tree"));
    expect(&s3a(dir.path(), &["pack", "tree", "--special", "--read-time", "0"]), 0);
    expect(&s3a(dir.path(), &["unpack", "tree.s3a", "--tar", "out.tar"]), 0);
    let tar = fs::read(dir.path().join("out.tar")).unwrap();
    fs::write(dir.path().join("cut.tar"), &tar[..30_000]).unwrap();
    let mut flipped = tar.clone();
    flipped[10] ^= 1;
    fs::write(dir.path().join("flipped.tar"), flipped).unwrap();
    fs::write(dir.path().join("text.tar"), prose(1, 2000)).unwrap();
    for name in ["cut.tar", "flipped.tar", "text.tar"] {
        let said = expect(&s3a(dir.path(), &["pack", "--tar", name, "-o", "x.s3a"]), 7);
        assert!(said.contains(name) && said.contains("byte"), "{said}");
        assert!(!dir.path().join("x.s3a").exists());
    }
    expect(&s3a(dir.path(), &["unpack", "tree.s3a", "--tar", "out.tar"]), 11);
    let mut hurt = fs::read(dir.path().join("tree.s3a")).unwrap();
    let at = hurt.windows(32).position(|w| w == &noise(2, 700)[100..132]).unwrap();
    hurt[at] ^= 1;
    fs::write(dir.path().join("hurt.s3a"), hurt).unwrap();
    expect(&s3a(dir.path(), &["unpack", "hurt.s3a", "--tar", "hurt.tar"]), 3);
    assert!(!dir.path().join("hurt.tar").exists());
}

#[test]
fn links_to_symlinks_and_to_links_are_kept() {
    let mut tar = TarWriter::new(Vec::new());
    let link = |to: &str| MemberKind::Hardlink { target: to.into() };
    let symlink = MemberKind::Symlink { target: "file".into() };
    tar.member(&Member { path: b"file".to_vec(), size: 3, ..Member::default() }).unwrap();
    tar.data(b"abc").unwrap();
    for (path, kind) in [("s1", symlink), ("s2", link("s1")), ("b", link("file")), ("c", link("b"))] {
        tar.member(&Member { path: path.into(), kind, ..Member::default() }).unwrap();
    }
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("a.tar"), tar.finish().unwrap()).unwrap();
    expect(&s3a(dir.path(), &["pack", "--tar", "a.tar", "-o", "a.s3a"]), 0);
    expect(&s3a(dir.path(), &["unpack", "a.s3a", "-C", "out"]), 0);
    let at = |name: &str| dir.path().join("out").join(name);
    for name in ["s1", "s2"] {
        assert_eq!(fs::read_link(at(name)).unwrap(), Path::new("file"));
    }
    for name in ["b", "c"] {
        assert_eq!(fs::metadata(at(name)).unwrap().ino(), fs::metadata(at("file")).unwrap().ino());
    }

    // Objects other than files are not replaced by a file, even where files may be replaced.
    rustix::fs::mkfifoat(CWD, dir.path().join("fifo"), Mode::RWXU).unwrap();
    let said = expect(&s3a(dir.path(), &["unpack", "a.s3a", "--tar", "fifo", "-f"]), 2);
    assert!(said.contains("is not replaced"), "{said}");
    expect(&s3a(dir.path(), &["unpack", "a.s3a", "--to-stdout", "--max-size", "8"]), 6);
    expect(&s3a(dir.path(), &["unpack", "a.s3a", "--to-stdout", "--max-size", "9"]), 0);
}

/// A header and its data, as old and simple programs write them.
fn ustar(name: &str, kind: u8, link: &str, size: usize, data: &[u8]) -> Vec<u8> {
    let mut header = [0; 512];
    header[..name.len()].copy_from_slice(name.as_bytes());
    header[100..107].copy_from_slice(b"0000644");
    header[124..135].copy_from_slice(format!("{size:011o}").as_bytes());
    header[136..147].copy_from_slice(b"00000000001");
    header[148..156].fill(b' ');
    header[156] = kind;
    header[157..157 + link.len()].copy_from_slice(link.as_bytes());
    header[257..265].copy_from_slice(b"ustar\x0000");
    let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
    header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    let padding = vec![0; data.len().next_multiple_of(512) - data.len()];
    [&header[..], data, &padding[..]].concat()
}

#[test]
fn links_and_folders_have_no_data_whatever_size_they_tell() {
    let dir = tempfile::tempdir().unwrap();
    let tar = [
        ustar("f", b'0', "", 700, &[b'a'; 700]),
        ustar("g", b'1', "f", 700, &[]),
        ustar("z", b'0', "", 1, b"z"),
        ustar("d", b'5', "", 4096, &[]),
        ustar("y", b'0', "", 1, b"y"),
        vec![0; 1024],
    ];
    fs::write(dir.path().join("t.tar"), tar.concat()).unwrap();
    expect(&s3a(dir.path(), &["pack", "--tar", "t.tar", "-o", "t.s3a"]), 0);
    expect(&s3a(dir.path(), &["unpack", "t.s3a", "-C", "out"]), 0);
    let read = |name: &str| fs::read(dir.path().join("out").join(name)).unwrap();
    assert_eq!((read("f"), read("g")), (vec![b'a'; 700], vec![b'a'; 700]));
    assert_eq!((read("z"), read("y")), (b"z".to_vec(), b"y".to_vec()));
    assert!(dir.path().join("out/d").is_dir());
}
