//! Everything that goes into an archive comes out again, with all the properties that the system
//! stores.

mod common;

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Stdio;

use common::{assert_same, command, expect, noise, path, prose, put, s3a, snapshot};
use rustix::fs::{CWD, Mode, Timespec, Timestamps, XattrFlags};

/// A tree with an object of every kind and with unusual names.
fn make_tree(root: &Path) {
    fs::create_dir(root).unwrap();
    put(root, b"plain.txt", &prose(1, 40_000));
    put(root, b"src/one.rs", &prose(2, 5_000));
    put(root, b"src/two.rs", &prose(3, 100));
    put(root, b"copy/one.rs", &prose(2, 5_000));
    put(root, b"big/noise.bin", &noise(4, 700_000));
    put(root, b"big/prose.txt", &prose(5, 3_000_000));
    put(root, b"big/prose-again.txt", &prose(5, 3_000_000));
    put(root, b"empty", b"");
    fs::create_dir_all(root.join("empty-folder/inner")).unwrap();
    put(root, b"new\nline\t\x1b[31m", b"odd name");
    put(root, b"not-utf8-\xff\xfe", b"odd name 2");
    put(root, &[b'n'; 255], b"longest name");
    put(root, b" leading and trailing ", b"blanks");
    put(root, b"-f", b"like a flag");
    put(root, b"back\\slash", b"x");
    put(root, b".hidden/...", b"dots");
    symlink("plain.txt", root.join("link")).unwrap();
    symlink("/nowhere/../at all", root.join("dangling")).unwrap();
    symlink(".", root.join("src/loop")).unwrap();
    fs::hard_link(root.join("src/one.rs"), root.join("hard-a")).unwrap();
    fs::hard_link(root.join("src/one.rs"), root.join("zz-hard")).unwrap();
    fs::hard_link(root.join("empty"), root.join("hard-empty")).unwrap();
    let sparse = File::create(root.join("sparse")).unwrap();
    sparse.set_len(64 << 20).unwrap();
    sparse.write_all_at(b"an island", 10 << 20).unwrap();
    sparse.write_all_at(&noise(6, 10_000), 33 << 20).unwrap();
    File::create(root.join("hole-only")).unwrap().set_len(1 << 20).unwrap();
    for (at, mode) in [0o000, 0o400, 0o644, 0o755, 0o777, 0o640].into_iter().enumerate() {
        let file = root.join(format!("mode-{at}"));
        fs::write(&file, format!("mode {mode:o}")).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
    }
    let tag =
        rustix::fs::setxattr(root.join("plain.txt"), "user.tag", b"value\0with nul", XattrFlags::empty());
    if tag.is_err() {
        eprintln!("this file system has no extended attributes; they are not tested");
    }
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::lchown(root.join("plain.txt"), Some(12_345), Some(4_000_000_000)).unwrap();
        std::os::unix::fs::lchown(root.join("link"), Some(7), Some(8)).unwrap();
    }
    let long_ago = |secs, nanos| Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: 0 },
        last_modification: Timespec { tv_sec: secs, tv_nsec: nanos },
    };
    for (name, secs, nanos) in [
        ("plain.txt", 1_234_567_890, 123_456_789),
        ("link", 99, 1),
        ("mode-2", -5, 999_999_999),
        ("src", 1_000_000_000, 42),
    ] {
        rustix::fs::utimensat(
            CWD,
            root.join(name),
            &long_ago(secs, nanos),
            rustix::fs::AtFlags::SYMLINK_NOFOLLOW,
        )
        .unwrap();
    }
    fs::set_permissions(root.join("empty-folder"), fs::Permissions::from_mode(0o555)).unwrap();
    fs::set_permissions(root.join("src"), fs::Permissions::from_mode(0o750)).unwrap();
}

#[test]
fn a_tree_with_everything_in_it_comes_back_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let tree = dir.path().join("tree");
    make_tree(&tree);
    let before = snapshot(&tree);
    expect(&s3a(dir.path(), &["pack", "tree"]), 0);
    assert_same(&before, &snapshot(&tree));

    expect(&s3a(dir.path(), &["unpack", "-C", "out", "tree.s3a"]), 0);
    assert_same(&before, &snapshot(&dir.path().join("out")));
    let blocks = fs::metadata(dir.path().join("out/sparse")).unwrap().blocks();
    assert!(blocks * 512 < 4 << 20, "holes came back as {blocks} blocks");
    expect(&s3a(dir.path(), &["verify", "tree.s3a"]), 0);

    // Once more through a pipe, with other chunks.
    let mut pack = command(dir.path())
        .args(["pack", "tree", "-o", "-", "--chunk-size", "4k"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let unpack = command(dir.path())
        .args(["unpack", "-", "-C", "piped"])
        .stdin(pack.stdout.take().unwrap())
        .output()
        .unwrap();
    expect(&unpack, 0);
    assert!(pack.wait().unwrap().success());
    assert_same(&before, &snapshot(&dir.path().join("piped")));
}

#[test]
fn the_same_tree_gives_the_same_bytes_for_any_number_of_threads() {
    let dir = tempfile::tempdir().unwrap();
    make_tree(&dir.path().join("tree"));
    for (name, threads) in [("a.s3a", "1"), ("b.s3a", "2"), ("c.s3a", "7")] {
        expect(&s3a(dir.path(), &["pack", "tree", "-o", name, "-j", threads]), 0);
    }
    let bytes = fs::read(dir.path().join("a.s3a")).unwrap();
    assert!(bytes == fs::read(dir.path().join("b.s3a")).unwrap());
    assert!(bytes == fs::read(dir.path().join("c.s3a")).unwrap());
    let piped = s3a(dir.path(), &["pack", "tree", "-o", "-"]);
    assert!(bytes == piped.stdout, "standard output holds other bytes");
}

#[test]
fn equal_files_cost_their_bytes_once() {
    let dir = tempfile::tempdir().unwrap();
    put(dir.path(), b"once/a", &noise(1, 300_000));
    for name in [&b"often/a"[..], b"often/b", b"often/c/d"] {
        put(dir.path(), name, &noise(1, 300_000));
    }
    let size = |tree: &str| {
        expect(&s3a(dir.path(), &["pack", tree]), 0);
        fs::metadata(dir.path().join(format!("{tree}.s3a"))).unwrap().len()
    };
    let once = size("once");
    assert!(size("often") < once + 1_000);
    expect(&s3a(dir.path(), &["unpack", "often.s3a", "-C", "out"]), 0);
    assert_same(&snapshot(&dir.path().join("often")), &snapshot(&dir.path().join("out")));
}

#[test]
fn paths_longer_than_the_system_opens_at_once_come_back() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("deep")).unwrap();
    let mut at =
        rustix::fs::openat(CWD, dir.path().join("deep"), rustix::fs::OFlags::PATH, Mode::empty()).unwrap();
    let name = "d".repeat(150);
    for _ in 0..40 {
        rustix::fs::mkdirat(&at, &name, Mode::RWXU).unwrap();
        at = rustix::fs::openat(&at, &name, rustix::fs::OFlags::PATH, Mode::empty()).unwrap();
    }
    let flags = rustix::fs::OFlags::CREATE | rustix::fs::OFlags::WRONLY;
    let file = rustix::fs::openat(&at, "bottom", flags, Mode::RUSR | Mode::WUSR).unwrap();
    File::from(file).write_all(b"far down").unwrap();
    expect(&s3a(dir.path(), &["pack", "deep"]), 0);
    expect(&s3a(dir.path(), &["unpack", "deep.s3a", "-C", "out"]), 0);
    assert_same(&snapshot(&dir.path().join("deep")), &snapshot(&dir.path().join("out")));
    expect(&s3a(dir.path(), &["unpack", "-C", "piped", "-"].map(String::from)), 3);
}

#[test]
fn selections_and_stripped_components_unpack_a_part() {
    let dir = tempfile::tempdir().unwrap();
    make_tree(&dir.path().join("tree"));
    expect(&s3a(dir.path(), &["pack", "tree", "--exclude", "big/", "--exclude", "*.txt"]), 0);
    let unpack = |target, more: &[&str]| {
        let args =
            [&["unpack", "tree.s3a", "-C", target, "--strip-components", "1", "--include", "*.rs"], more]
                .concat();
        s3a(dir.path(), &args)
    };
    // Both files `one.rs` would get the same name, which is noticed before anything is written.
    let said = expect(&unpack("both", &[]), 5);
    assert!(said.contains("one.rs"), "{said}");
    assert!(!dir.path().join("both").exists());
    expect(&unpack("out", &["--exclude", "/copy"]), 0);
    let names: Vec<_> = snapshot(&dir.path().join("out")).into_keys().collect();
    assert_eq!(names, [b"".to_vec(), b"one.rs".to_vec(), b"two.rs".to_vec()]);
    let listed = String::from_utf8(s3a(dir.path(), &["ls", "tree.s3a"]).stdout).unwrap();
    assert!(!listed.contains("big") && !listed.contains(".txt"), "{listed}");
}

#[test]
fn a_hardlink_whose_file_is_left_out_brings_the_content() {
    let dir = tempfile::tempdir().unwrap();
    make_tree(&dir.path().join("tree"));
    expect(&s3a(dir.path(), &["pack", "tree"]), 0);
    expect(&s3a(dir.path(), &["unpack", "tree.s3a", "-C", "out", "zz-hard", "src/one.rs"]), 0);
    assert_eq!(fs::read(dir.path().join("out/zz-hard")).unwrap(), prose(2, 5_000));
    let one = fs::metadata(dir.path().join("out/src/one.rs")).unwrap();
    assert_eq!(one.ino(), fs::metadata(dir.path().join("out/zz-hard")).unwrap().ino());
    expect(&s3a(dir.path(), &["unpack", "tree.s3a", "-C", "lone", "zz-hard"]), 0);
    assert_eq!(fs::read(dir.path().join("lone/zz-hard")).unwrap(), prose(2, 5_000));
}

#[test]
fn several_sources_keep_their_paths_and_a_single_file_its_name() {
    let dir = tempfile::tempdir().unwrap();
    put(dir.path(), b"a/b/c.txt", b"c");
    put(dir.path(), b"a/b/d.txt", b"d");
    put(dir.path(), b"e.txt", b"e");
    expect(&s3a(dir.path(), &["pack", "e.txt", "a/b/c.txt", "./a/b", "-o", "many.s3a"]), 0);
    let listed = s3a(dir.path(), &["ls", "many.s3a"]);
    expect(&listed, 0);
    assert_eq!(String::from_utf8(listed.stdout).unwrap(), "a\na/b\na/b/c.txt\na/b/d.txt\ne.txt\n");
    fs::create_dir(dir.path().join("elsewhere")).unwrap();
    expect(&s3a(&dir.path().join("elsewhere"), &["unpack", "../many.s3a"]), 0);
    assert_eq!(fs::read(dir.path().join("elsewhere/a/b/d.txt")).unwrap(), b"d");
    expect(&s3a(dir.path(), &["pack", "e.txt"]), 0);
    expect(&s3a(&dir.path().join("elsewhere"), &["unpack", "../e.txt.s3a", "-f"]), 0);
    assert_eq!(fs::read(dir.path().join("elsewhere/e.txt")).unwrap(), b"e");
}

#[test]
fn special_objects_are_packed_when_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let tree = dir.path().join("tree");
    fs::create_dir(&tree).unwrap();
    rustix::fs::mknodat(CWD, tree.join("fifo"), rustix::fs::FileType::Fifo, Mode::from_raw_mode(0o640), 0)
        .unwrap();
    let said = expect(&s3a(dir.path(), &["pack", "tree"]), 1);
    assert!(said.contains("fifo") && said.contains("--special"), "{said}");
    expect(&s3a(dir.path(), &["pack", "tree", "--special", "-f"]), 0);
    expect(&s3a(dir.path(), &["unpack", "tree.s3a", "-C", "out"]), 0);
    assert_same(&snapshot(&tree), &snapshot(&dir.path().join("out")));
}

#[test]
fn contents_are_written_to_standard_output() {
    let dir = tempfile::tempdir().unwrap();
    make_tree(&dir.path().join("tree"));
    expect(&s3a(dir.path(), &["pack", "tree"]), 0);
    let out = s3a(dir.path(), &["cat", "tree.s3a", "big/prose.txt", "src/two.rs"]);
    expect(&out, 0);
    assert!(out.stdout == [prose(5, 3_000_000), prose(3, 100)].concat());
    let out =
        s3a(dir.path(), &["cat", "tree.s3a", "big/noise.bin", "--offset", "100000", "--length", "70000"]);
    assert!(out.stdout == noise(4, 700_000)[100_000..170_000]);
    let out = s3a(dir.path(), &["unpack", "tree.s3a", "--to-stdout", "hard-a"]);
    assert!(out.stdout == prose(2, 5_000));
    let out = s3a(dir.path(), &["cat", "tree.s3a", "sparse", "--offset", "10m", "--length", "12"]);
    assert_eq!(out.stdout, b"an island\0\0\0");
    assert!(path(dir.path(), b"tree.s3a").exists());
}

#[test]
fn the_default_model_packs_and_unpacks_a_small_tree() {
    let dir = tempfile::tempdir().unwrap();
    put(dir.path(), b"tree/a.txt", &prose(1, 20_000));
    put(dir.path(), b"tree/b.bin", &noise(2, 5_000));
    expect(&s3a(dir.path(), &["pack", "tree", "--model", "default", "--embed-model"]), 0);
    expect(&s3a(dir.path(), &["unpack", "tree.s3a", "-C", "out"]), 0);
    assert_same(&snapshot(&dir.path().join("tree")), &snapshot(&dir.path().join("out")));
    let info = s3a(dir.path(), &["info", "--json", "tree.s3a"]).stdout;
    let info: serde_json::Value = serde_json::from_slice(&info).unwrap();
    assert_eq!(info["models"][0]["embedded"], true);
    let unpack = command(dir.path())
        .args(["unpack", "-", "-C", "piped"])
        .stdin(File::open(dir.path().join("tree.s3a")).unwrap())
        .output();
    expect(&unpack.unwrap(), 0);
    assert_same(&snapshot(&dir.path().join("tree")), &snapshot(&dir.path().join("piped")));
}

#[test]
fn a_terabyte_of_holes_costs_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let tree = dir.path().join("tree");
    fs::create_dir(&tree).unwrap();
    let sparse = File::create(tree.join("sparse")).unwrap();
    if sparse.set_len(1 << 40).is_err() {
        eprintln!("skipped: a_terabyte_of_holes_costs_nothing (this file system has no files of that size)");
        return;
    }
    for (at, text) in [(0, "head"), (1 << 39, "middle"), ((1 << 40) - 4, "tail")] {
        sparse.write_all_at(text.as_bytes(), at).unwrap();
    }
    File::create(tree.join("hole")).unwrap().set_len(1 << 39).unwrap();
    expect(&s3a(dir.path(), &["pack", "tree"]), 0);
    let len = fs::metadata(dir.path().join("tree.s3a")).unwrap().len();
    assert!(len < 2_000, "{len}");
    expect(&s3a(dir.path(), &["verify", "tree.s3a"]), 0);
    expect(&s3a(dir.path(), &["unpack", "tree.s3a", "-C", "out"]), 0);
    let piped = command(dir.path())
        .args(["unpack", "-", "-C", "piped"])
        .stdin(File::open(dir.path().join("tree.s3a")).unwrap())
        .output()
        .unwrap();
    expect(&piped, 0);
    for folder in ["tree", "out", "piped"] {
        expect(&s3a(dir.path(), &["diff", "tree.s3a", folder]), 0);
        let found = fs::metadata(dir.path().join(folder).join("sparse")).unwrap();
        assert!(
            found.len() == 1 << 40 && found.blocks() * 512 < 1 << 20,
            "{folder}: {} blocks",
            found.blocks()
        );
    }
    let middle = ["cat", "tree.s3a", "sparse", "--offset", "512g", "--length", "8"];
    assert_eq!(s3a(dir.path(), &middle).stdout, b"middle\0\0");
}

#[test]
fn a_list_of_paths_says_what_is_packed() {
    let dir = tempfile::tempdir().unwrap();
    put(dir.path(), b"tree/a/b/c.txt", b"c");
    put(dir.path(), b"tree/a/d.txt", b"d");
    put(dir.path(), b"tree/e/f", b"f");
    put(dir.path(), b"tree/odd\nname", b"odd");
    symlink("a", dir.path().join("tree/link")).unwrap();
    let pack = |list: &[u8], flags: &[&str]| {
        fs::write(dir.path().join("list"), list).unwrap();
        let args = [&["pack", "-f", "-C", "tree", "-o", "x.s3a", "--files-from", "-"], flags].concat();
        let run = command(dir.path()).args(args).stdin(File::open(dir.path().join("list")).unwrap()).output();
        let run = run.unwrap();
        let listed = s3a(dir.path(), &["ls", "x.s3a"]).stdout;
        (run, String::from_utf8(listed).unwrap())
    };
    let (run, listed) = pack(b"a/b\ne/f\n./a/b/c.txt\n", &[]);
    expect(&run, 0);
    assert_eq!(listed, "a\na/b\na/b/c.txt\ne\ne/f\n");
    // A list as find writes it: with directories, which must not be searched once more.
    let (run, listed) = pack(b"odd\nname\0a\0a/d.txt\0", &["-0", "--no-recursion"]);
    expect(&run, 0);
    assert_eq!(listed, "a\na/d.txt\nodd\\nname\n");
    // A path through a symbolic link is packed under the path that was given; a missing path is a
    // warning.
    let (run, listed) = pack(b"link/b/c.txt\nmissing\n", &[]);
    let said = expect(&run, 1);
    assert!(said.contains("missing"), "{said}");
    assert_eq!(listed, "link\nlink/b\nlink/b/c.txt\n");
    let (run, listed) = pack(b"../tree/e\n", &["--exclude", "f", "--no-owner"]);
    expect(&run, 0);
    assert_eq!(listed, "tree\ntree/e\n");
    expect(&s3a(dir.path(), &["pack", "-o", "y.s3a", "-0"]), 2);
}

#[test]
fn more_sources_than_files_may_be_open() {
    let dir = tempfile::tempdir().unwrap();
    let mut list = String::new();
    for i in 0..3000 {
        put(dir.path(), format!("tree/{}/{i}", i % 50).as_bytes(), b"x");
        list += &format!("{}/{i}\n", i % 50);
    }
    fs::write(dir.path().join("list"), list).unwrap();
    let script = format!(
        "ulimit -n 128; exec {} pack --model none -C tree --files-from list -o x.s3a",
        env!("CARGO_BIN_EXE_s3a")
    );
    let output =
        std::process::Command::new("sh").args(["-c", &script]).current_dir(dir.path()).output().unwrap();
    expect(&output, 0);
    let listed = s3a(dir.path(), &["ls", "x.s3a"]).stdout;
    assert_eq!(listed.iter().filter(|byte| **byte == b'\n').count(), 3050);
}
