//! What is packed of a tree is what was there, also where the tree changes or tells sizes that are not so; and what the
//! flags of `pack` say.

mod common;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};

use common::{expect, noise, prose, put, s3a};
use s3a::archive::pack::found::ScanOptions;
use s3a::archive::pack::packer::Packer;
use s3a::archive::selection::Selection;
use s3a::{Kind, Observer, Warning, WriterOptions};

fn paths(dir: &Path, archive: &str) -> Vec<String> {
    let listed = s3a(dir, &["ls", archive]);
    expect(&listed, 0);
    String::from_utf8(listed.stdout).unwrap().lines().map(str::to_owned).collect()
}

/// Runs a line of the shell, in which `s3a` is the command.
fn shell(dir: &Path, line: &str) -> Output {
    let mut shell = Command::new("sh");
    let own = Path::new(env!("CARGO_BIN_EXE_s3a")).parent().unwrap().display();
    let path = format!("{own}:{}", std::env::var("PATH").unwrap_or_default());
    shell.args(["-c", line]).current_dir(dir).env("PATH", path);
    shell.env_remove("SOURCE_DATE_EPOCH").env("NO_COLOR", "1").env("S3A_MODEL", "none");
    shell.stdin(Stdio::null()).output().unwrap()
}

#[derive(Default)]
struct Heard(Mutex<Vec<Warning>>);

impl Observer for Heard {
    fn warning(&self, warning: Warning) {
        self.0.lock().unwrap().push(warning);
    }
}

/// Packs a tree to which something is done after it was looked at; gives the paths that were warned of.
fn packed_while(dir: &Path, meanwhile: impl FnOnce()) -> Vec<String> {
    let heard = Arc::new(Heard::default());
    let packer = Packer::scan(&[dir.join("t")], None, &ScanOptions::default(), &*heard).unwrap();
    meanwhile();
    let options = WriterOptions { observer: heard.clone(), ..WriterOptions::default() };
    packer.write(File::create(dir.join("t.s3a")).unwrap(), options, None).unwrap();
    let heard = heard.0.lock().unwrap();
    heard.iter().map(|warning| String::from_utf8(warning.path.clone()).unwrap()).collect()
}

#[test]
fn all_that_is_packed_of_a_file_is_of_the_one_that_was_read() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    put(dir, b"t/a", b"old");
    fs::hard_link(dir.join("t/a"), dir.join("t/b")).unwrap();
    fs::hard_link(dir.join("t/a"), dir.join("t/c")).unwrap();
    put(dir, b"t/single", b"old and alone");
    put(dir, b"t/calm", b"calm");
    fs::hard_link(dir.join("t/calm"), dir.join("t/calm2")).unwrap();
    let flags = rustix::fs::XattrFlags::empty();
    let has_xattrs = rustix::fs::setxattr(dir.join("t/single"), "user.of", b"old", flags).is_ok();
    let is_root = rustix::process::geteuid().is_root();
    let mut warned = packed_while(dir, || {
        for (name, content) in [("b", "new b"), ("single", "new and alone")] {
            let new = dir.join("t").join(format!("{name}.tmp"));
            fs::write(&new, content).unwrap();
            fs::set_permissions(&new, fs::Permissions::from_mode(0o640)).unwrap();
            if has_xattrs {
                rustix::fs::setxattr(&new, "user.of", content.as_bytes(), flags).unwrap();
            }
            if is_root {
                std::os::unix::fs::chown(&new, Some(1234), Some(2345)).unwrap();
            }
            fs::rename(&new, dir.join("t").join(name)).unwrap();
        }
    });
    warned.sort();
    assert_eq!(warned, ["b", "single"]);
    let archive = s3a::open(dir.join("t.s3a")).unwrap();
    let entry = |name: &str| archive.entry(archive.lookup(name.as_bytes()).unwrap()).unwrap().clone();
    for (name, content) in [
        ("a", "old"),
        ("b", "new b"),
        ("c", "old"),
        ("single", "new and alone"),
        ("calm", "calm"),
        ("calm2", "calm"),
    ] {
        assert_eq!(archive.read_range(name, 0..99).unwrap(), content.as_bytes(), "{name}");
    }
    // What was no longer a name of `a` is a file of its own; the others are hardlinks.
    let links =
        ["a", "b", "c", "calm", "calm2"].map(|name| matches!(entry(name).kind, Kind::Hardlink { .. }));
    assert_eq!(links, [false, false, true, false, true]);
    for (name, content) in [("b", "new b"), ("single", "new and alone")] {
        let found = entry(name);
        assert_eq!(found.mode, 0o640, "{name}");
        if has_xattrs {
            assert_eq!(found.xattrs, [(b"user.of".to_vec(), content.as_bytes().to_vec())], "{name}");
        }
        if is_root {
            assert_eq!((found.uid, found.gid), (1234, 2345), "{name}");
        }
    }
}

#[test]
fn a_file_that_takes_the_place_and_the_number_of_another_is_no_name_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    // The number of a file that is gone is given to the next on many file systems.
    for name in ["a", "b", "c", "d"] {
        put(dir, format!("t/{name}").as_bytes(), b"old");
    }
    fs::create_dir(dir.join("names")).unwrap();
    let meanwhile = || {
        for name in ["a", "b", "c", "d"] {
            let path = dir.join("t").join(name);
            fs::remove_file(&path).unwrap();
            fs::write(&path, format!("new {name}")).unwrap();
            fs::hard_link(&path, dir.join("names").join(name)).unwrap();
        }
    };
    packed_while(dir, meanwhile);
    let archive = s3a::open(dir.join("t.s3a")).unwrap();
    for name in ["a", "b", "c", "d"] {
        assert_eq!(archive.read_range(name, 0..99).unwrap(), format!("new {name}").as_bytes());
    }
}

#[test]
fn a_directory_that_is_replaced_while_it_is_looked_at_is_the_one_it_is_then() {
    // Packed under changes without end: what is in a directory goes with the mode of that.
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    for (name, mode, file) in [("one", 0o711, b"1"), ("two", 0o722, b"2")] {
        put(dir, format!("{name}/x/f").as_bytes(), file);
        fs::set_permissions(dir.join(name).join("x"), fs::Permissions::from_mode(mode)).unwrap();
    }
    fs::create_dir(dir.join("t")).unwrap();
    symlink("nowhere", dir.join("t/0")).unwrap();
    fs::rename(dir.join("one/x"), dir.join("t/x")).unwrap();
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let swapper = std::thread::spawn({
        let (stop, dir) = (stop.clone(), dir.to_owned());
        move || {
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                let flags = rustix::fs::RenameFlags::EXCHANGE;
                let (a, b) = (dir.join("t/x"), dir.join("two/x"));
                if rustix::fs::renameat_with(rustix::fs::CWD, a, rustix::fs::CWD, b, flags).is_err() {
                    return;
                }
            }
        }
    });
    for _ in 0..200 {
        packed_while(dir, || ());
        let archive = s3a::open(dir.join("t.s3a")).unwrap();
        let mode = archive.entry(archive.lookup(b"x").unwrap()).unwrap().mode;
        assert!(matches!(mode, 0o711 | 0o722));
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    swapper.join().unwrap();
}

#[test]
fn files_are_read_to_their_end_whatever_size_they_tell() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    // Sizes of zero, of a page, and of more than is read at once.
    let candidates = [
        "/proc/version",
        "/proc/filesystems",
        "/proc/sys/kernel/ostype",
        "/proc/kallsyms",
        "/sys/kernel/mm/transparent_hugepage/enabled",
        "/sys/devices/system/cpu/online",
        "/sys/kernel/uevent_seqnum",
    ];
    let read = |path: &str| fs::read(path).ok().filter(|bytes| !bytes.is_empty());
    let found: Vec<(&str, Vec<u8>)> =
        candidates.iter().filter_map(|path| Some((*path, read(path)?))).collect();
    if found.is_empty() {
        eprintln!("skipped: there is no /proc and no /sys");
        return;
    }
    let mut args = vec!["pack", "-o", "p.s3a"];
    args.extend(found.iter().map(|(path, _)| *path));
    put(dir, b"empty", b"");
    args.push("empty");
    expect(&s3a(dir, &args), 0);
    expect(&s3a(dir, &["verify", "p.s3a"]), 0);
    for (path, before) in found {
        let packed = s3a(dir, &["cat", "p.s3a", &path[1..]]);
        expect(&packed, 0);
        // What tells the state of the machine may change.
        assert!(packed.stdout == before || read(path).as_ref() == Some(&packed.stdout), "{path}");
    }
    // What has no size and cannot be read is left out, with a warning.
    if fs::metadata("/proc/self/mem").is_ok() {
        expect(&s3a(dir, &["pack", "/proc/self/mem", "empty", "-o", "m.s3a"]), 1);
        assert!(!paths(dir, "m.s3a").iter().any(|path| path.ends_with("mem")));
    }
}

#[test]
fn output_that_cannot_be_written_is_an_error_of_every_command() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    put(dir, b"t/f", &prose(1, 300_000));
    put(dir, b"u/g", &noise(2, 3000));
    expect(&s3a(dir, &["pack", "t"]), 0);
    expect(&s3a(dir, &["pack", "u"]), 0);
    expect(&s3a(dir, &["unpack", "t.s3a", "--tar", "t.tar"]), 0);
    let prints = [
        "pack t -o -",
        "pack --tar t.tar -o -",
        "merge t.s3a u.s3a -o -",
        "unpack t.s3a --to-stdout",
        "unpack t.s3a --tar -",
        "cat t.s3a f",
        "ls t.s3a",
        "ls --json t.s3a",
        "info t.s3a",
        "info --json t.s3a",
        "verify --json t.s3a",
        "diff t.s3a u",
        "completions bash",
        "man",
        "--help",
        "-h",
        "--version",
        "help",
        "help pack",
        "pack --help",
    ];
    for args in prints {
        for to in [">&-", ">/dev/full"] {
            if to == ">/dev/full" && !Path::new("/dev/full").exists() {
                continue;
            }
            let output = shell(dir, &format!("s3a {args} {to}"));
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.code(), Some(7), "{args} {to}: {said}");
            assert!(said.contains("s3a: "), "{args} {to}: {said}");
        }
        // A reader that goes away is its own matter.
        let closed = shell(dir, &format!("(s3a {args}; echo $? >code) | true"));
        assert!(closed.status.success());
        let code = fs::read_to_string(dir.join("code")).unwrap();
        let codes = match args.split(' ').next().unwrap() {
            // An archive that is not whole is a failure.
            "pack" | "merge" => &["0\n", "7\n"][..],
            "diff" => &["0\n", "1\n"],
            _ => &["0\n"],
        };
        assert!(codes.contains(&&code[..]), "{args}: {code}");
    }
    // A command that prints nothing needs none, nor one that reads nothing any input.
    expect(&shell(dir, "s3a pack t -o new.s3a >&- <&-"), 0);
    expect(&shell(dir, "s3a unpack new.s3a -C out >&- <&-"), 0);
    for args in ["pack --tar - -o x.s3a", "pack --files-from - -o x.s3a", "unpack - -C x"] {
        let said = expect(&shell(dir, &format!("s3a {args} <&-")), 7);
        assert!(said.contains("standard input"), "{args}: {said}");
        assert!(!dir.join("x.s3a").exists() && !dir.join("x").exists());
    }
    // Without a standard error, everything goes on.
    expect(&shell(dir, "s3a pack t -o quiet.s3a 2>&-"), 0);
    expect(&s3a(dir, &["verify", "quiet.s3a"]), 0);
}

/// Patterns, each in a few lines at most.
const PATTERNS: [&str; 128] = [
    "*.o",
    "a",
    "/a",
    "a/",
    "/a/",
    "a/b",
    "/a/b",
    "a/*",
    "a/**",
    "**/a",
    "**/b/c",
    "a/**/c",
    "a/**/b",
    "**",
    "/**",
    "*",
    "/*",
    "*/",
    "**/",
    "?",
    "??",
    "a?",
    "?/b",
    "*a*",
    "*.tar.*",
    "a*b",
    "a**b",
    "a/***/c",
    "***",
    "a/b**",
    "**b",
    "b**",
    "{x}",
    "x{1,2}",
    "{a,b}",
    "foo{",
    "foo}",
    "}",
    "{",
    "{}",
    "a,b",
    "[ab]",
    "[a-c]",
    "[!a]",
    "[^a]",
    "[!a-c]*",
    "[c-a]",
    "[!c-a]",
    "[a",
    "a[",
    "[",
    "[]",
    "[]]",
    "[!]",
    "[]a]",
    "[!]a]",
    "[a-]",
    "[-a]",
    "[a-c-e]",
    "[]-a]",
    "[--0]",
    "[\\]]",
    "[\\\\]",
    "[a\\-c]",
    "[\\a-\\c]",
    "[\\",
    "x[y",
    "[[:digit:]]",
    "[[:alpha:]]",
    "[![:alpha:]]",
    "[[:upper:]]*",
    "[[:digit:][:upper:]]",
    "*[[:space:]]*",
    "[[:punct:]]",
    "[[:bogus:]]",
    "[[:digit:]",
    "[[:digit]",
    "[[:]",
    "[[:]]",
    "[:digit:]",
    "[[.a.]]",
    "[[:xdigit:]][[:xdigit:]]",
    "\\",
    "a\\",
    "\\a",
    "\\\\",
    "a\\/b",
    "\\*",
    "\\?",
    "\\[a]",
    "\\!x",
    "!a",
    "\\#x",
    "#x",
    "*\n!a",
    "*\n!a/\n!*.o",
    "a/*\n!a/b",
    "a\n!a/b",
    "*.o\n!/a/*.o",
    "/*\n!/a",
    "a ",
    "a\\ ",
    "a \\ ",
    "  ",
    " a",
    "a b",
    "a\t",
    "\u{e4}",
    "?\u{e4}",
    "[\u{e4}]*",
    "[\u{e0}-\u{ef}]*",
    "??",
    "[!\u{e4}]",
    "*\u{e4}*",
    "/",
    "//",
    "//a",
    "a//b",
    "./a",
    "a/.",
    "../a",
    "!",
    "!!a",
    "!/a",
    "a/b/",
    "*/b",
    "/*/c",
    "**/*.o",
];

#[test]
fn patterns_are_those_of_git() {
    if !Command::new("git").arg("--version").output().is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: there is no git");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let names = [
        "a",
        "b",
        "c",
        "d.o",
        "x",
        "xa",
        "x1",
        "x{1,2}",
        "{x}",
        "{",
        "}",
        "{}",
        "foo{",
        "foo}",
        "a,b",
        "{a,b}",
        "-",
        "[",
        "]",
        "[a",
        "a[",
        "[a]",
        "!",
        "!x",
        "!a",
        "^",
        "#x",
        "\\",
        "a\\",
        "a\\b",
        "*",
        "?",
        "a ",
        " a",
        "a b",
        "a\t",
        "5",
        "A",
        "Az",
        "9F",
        ":",
        ".",
        "ab",
        "acb",
        "aXb",
        "\u{e4}",
        "\u{e4}b",
        "\u{f6}",
        "x.tar.gz",
        "[[:digit:]]",
        "5]",
        "[:]",
        "[]",
        "bogus:]",
        "d]",
        "b.o",
        "...",
        "a]",
        "x[y",
        "/",
    ];
    let run = |args: &[&str]| {
        let mut git = Command::new("git");
        git.args(args)
            .current_dir(dir)
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_CONFIG_SYSTEM", "/dev/null");
        assert!(git.output().unwrap().status.success());
    };
    run(&["init", "-q", "."]);
    let mut objects = Vec::new();
    let folders = ["", "a", "a/b", "a/x/b", "b", "b/a", "x/a/b"];
    for folder in folders {
        for name in names.iter().filter(|name| !matches!(**name, "." | "/")) {
            let path = if folder.is_empty() { (*name).to_owned() } else { format!("{folder}/{name}") };
            let at = dir.join(&path);
            fs::create_dir_all(at.parent().unwrap()).unwrap();
            let is_folder =
                folders.iter().any(|folder| *folder == path || folder.starts_with(&format!("{path}/")))
                    || matches!(*name, "c" | "{x}" | "5");
            if is_folder {
                fs::create_dir_all(&at).unwrap();
            } else {
                fs::write(&at, "").unwrap();
            }
            objects.push((path, is_folder));
        }
    }
    let input: Vec<u8> =
        objects.iter().flat_map(|(path, _)| [b"./", path.as_bytes(), b"\0"].concat()).collect();
    let mut wrong = Vec::new();
    for pattern in PATTERNS {
        fs::write(dir.join(".git/info/exclude"), format!("{pattern}\n")).unwrap();
        let mut git = Command::new("git");
        git.args(["-c", "core.excludesFile=/dev/null", "check-ignore", "--no-index", "-z", "--stdin"]);
        git.current_dir(dir).env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_SYSTEM", "/dev/null");
        let mut git = git.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut stdin = git.stdin.take().unwrap();
        let input = input.clone();
        let feed = std::thread::spawn(move || stdin.write_all(&input).unwrap());
        let output = git.wait_with_output().unwrap();
        feed.join().unwrap();
        let expected: BTreeSet<&[u8]> =
            output.stdout.split(|&b| b == 0).filter_map(|path| path.strip_prefix(b"./")).collect();
        let lines: Vec<&str> = pattern.lines().collect();
        let selection = Selection::new(&[], &lines).unwrap();
        let found: BTreeSet<&[u8]> = objects
            .iter()
            .filter(|(path, is_folder)| !selection.takes(path.as_bytes(), *is_folder))
            .map(|(path, _)| path.as_bytes())
            .collect();
        let show = |set: BTreeSet<&[u8]>| -> Vec<String> {
            set.into_iter().map(|path| String::from_utf8_lossy(path).into_owned()).collect()
        };
        let (more, less) = (&found - &expected, &expected - &found);
        if found != expected {
            wrong.push(format!("{pattern:?}: also {:?}, not {:?}", show(more), show(less)));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn files_of_patterns_may_begin_with_a_mark_and_end_lines_as_they_like() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    for name in ["a", "b", "{x}", "x", "keep"] {
        put(dir, format!("t/{name}").as_bytes(), name.as_bytes());
    }
    fs::write(dir.join("list"), "\u{feff}a\r\n{x}\r\n# comment\r\n\r\nb").unwrap();
    expect(&s3a(dir, &["pack", "t", "--exclude-from", "list"]), 0);
    assert_eq!(paths(dir, "t.s3a"), [".", "keep", "x"]);
    expect(&s3a(dir, &["pack", "t", "-f", "--exclude", "foo{", "--include", "{x}"]), 0);
    assert_eq!(paths(dir, "t.s3a"), [".", "{x}"]);
    // What can match nothing does nothing in a file, and is a slip on the command line.
    fs::write(dir.join("list"), "[d-a]\na[\n\\\n").unwrap();
    expect(&s3a(dir, &["pack", "t", "-f", "--exclude-from", "list"]), 0);
    assert_eq!(paths(dir, "t.s3a").len(), 6);
    for pattern in ["[c-a]", "a[", "\\", "/"] {
        for flag in ["--include", "--exclude"] {
            let said = expect(&s3a(dir, &["pack", "t", "-f", flag, pattern]), 2);
            assert!(said.contains("pattern ") && said.contains(&format!("{pattern:?}")), "{said}");
        }
    }
}

#[test]
fn each_flag_that_chooses_what_is_packed_does_what_it_says() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    put(dir, b"t/a", b"a");
    put(dir, b"t/sub/b", b"b");
    put(dir, b"u/c", b"c");
    symlink("t", dir.join("link")).unwrap();
    let mkfifo = rustix::fs::mkfifoat(rustix::fs::CWD, dir.join("t/fifo"), rustix::fs::Mode::RWXU);
    mkfifo.unwrap();
    let flags = rustix::fs::XattrFlags::empty();
    let has_xattrs = rustix::fs::setxattr(dir.join("t/a"), "user.tag", b"x", flags).is_ok();
    fs::write(dir.join("lines"), "t/a\nu\n").unwrap();
    fs::write(dir.join("nuls"), "t/a\0u\0").unwrap();
    fs::write(dir.join("patterns"), "sub\n").unwrap();
    let packed = |args: &[&str], code: i32| {
        expect(&s3a(dir, &[&["pack", "-f", "-o", "x.s3a"], args].concat()), code);
        paths(dir, "x.s3a")
    };
    let all = [".", "a", "sub", "sub/b"];
    assert_eq!(packed(&["t"], 1), all);
    assert_eq!(packed(&["t", "--special"], 0), [".", "a", "fifo", "sub", "sub/b"]);
    for source in ["t", "./t/", "link"] {
        assert_eq!(packed(&[source, "--no-recursion"], 0), ["."], "{source}");
    }
    assert_eq!(packed(&["t", "u", "--no-recursion"], 0), ["t", "u"]);
    assert_eq!(packed(&["-C", "t", "sub", "--no-recursion"], 0), ["."]);
    assert_eq!(packed(&["-C", "t", "a", "sub", "--no-recursion"], 0), ["a", "sub"]);
    assert_eq!(packed(&["--files-from", "lines"], 0), ["t", "t/a", "u", "u/c"]);
    assert_eq!(packed(&["--files-from", "lines", "--no-recursion"], 0), ["t", "t/a", "u"]);
    for null in ["-0", "--null"] {
        assert_eq!(packed(&["--files-from", "nuls", null], 0), ["t", "t/a", "u", "u/c"]);
    }
    assert_eq!(packed(&["t/a", "--no-recursion"], 0), ["a"]);
    for directory in ["-C", "--directory"] {
        assert_eq!(packed(&[directory, "u", "."], 0), [".", "c"]);
    }
    assert_eq!(packed(&["t", "--special", "--include", "b"], 0), [".", "sub", "sub/b"]);
    assert_eq!(packed(&["t", "--special", "--exclude", "sub"], 0), [".", "a", "fifo"]);
    assert_eq!(packed(&["t", "--special", "--exclude-from", "patterns"], 0), [".", "a", "fifo"]);
    let entry = |args: &[&str]| {
        packed(args, 0);
        let archive = s3a::open(dir.join("x.s3a")).unwrap();
        archive.entry(archive.lookup(b"a").unwrap()).unwrap().clone()
    };
    let found = fs::metadata(dir.join("t/a")).unwrap();
    for args in [&["t", "--special"][..], &["t", "--special", "--numeric-owner"]] {
        let entry = entry(args);
        assert_eq!((entry.uid, entry.gid), (found.uid(), found.gid()));
        assert_eq!(entry.xattrs.len(), usize::from(has_xattrs));
    }
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(dir.join("t/a"), Some(77), Some(88)).unwrap();
        assert_eq!(entry(&["t", "--special"]).uid, 77);
    }
    let plain = entry(&["t", "--special", "--no-owner", "--no-xattrs"]);
    assert_eq!((plain.uid, plain.gid, plain.xattrs.len()), (0, 0, 0));
    // The same for `append`.
    expect(&s3a(dir, &["pack", "u", "-f", "-o", "x.s3a"]), 0);
    expect(&s3a(dir, &["append", "x.s3a", "t", "--no-recursion"]), 0);
    assert_eq!(paths(dir, "x.s3a"), [".", "c", "t"]);
    expect(&s3a(dir, &["append", "x.s3a", "--skip-existing", "--special", "--exclude", "sub", "t"]), 0);
    assert_eq!(paths(dir, "x.s3a"), [".", "c", "t", "t/a", "t/fifo"]);
    // Another file system below is entered, or not.
    let disk = dir.join("t/sub");
    let mounted = Command::new("mount").args(["-t", "tmpfs", "tmpfs"]).arg(&disk).output();
    if !mounted.is_ok_and(|output| output.status.success()) {
        eprintln!("not tested: --one-file-system (mounting needs root)");
        return;
    }
    fs::write(disk.join("far"), "far").unwrap();
    let entered = packed(&["t", "--special"], 0);
    let stayed = ["-x", "--one-file-system"].map(|flag| packed(&["t", "--special", flag], 0));
    assert!(Command::new("umount").arg(&disk).status().unwrap().success());
    assert_eq!(entered, [".", "a", "fifo", "sub", "sub/far"]);
    assert_eq!(stayed, [[".", "a", "fifo", "sub"], [".", "a", "fifo", "sub"]]);
}

#[test]
fn an_archive_that_is_replaced_keeps_its_mode() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    put(dir, b"t/f", b"f");
    put(dir, b"u/g", b"g");
    let mode = |name: &str| fs::metadata(dir.join(name)).unwrap().mode() & 0o7777;
    let set =
        |name: &str, mode| fs::set_permissions(dir.join(name), fs::Permissions::from_mode(mode)).unwrap();
    expect(&shell(dir, "umask 022; s3a pack t; s3a pack u; s3a unpack t.s3a --tar t.tar"), 0);
    assert_eq!((mode("t.s3a"), mode("t.tar")), (0o644, 0o644));
    for line in [
        "s3a pack t -f",
        "s3a pack --tar t.tar -f -o t.s3a",
        "s3a merge u.s3a -f -o t.s3a",
        "s3a salvage u.s3a -f -o t.s3a",
        "s3a append t.s3a t --special",
    ] {
        for wanted in [0o600, 0o664] {
            if !line.contains("append") {
                set("t.s3a", wanted);
            } else if mode("t.s3a") != wanted {
                expect(&s3a(dir, &["pack", "u", "-f", "-o", "t.s3a"]), 0);
                set("t.s3a", wanted);
            }
            expect(&shell(dir, &format!("umask 027; {line}")), 0);
            assert_eq!(mode("t.s3a"), wanted, "{line}");
        }
    }
    set("t.tar", 0o600);
    expect(&s3a(dir, &["unpack", "t.s3a", "--tar", "t.tar", "-f"]), 0);
    assert_eq!(mode("t.tar"), 0o600);
}

#[test]
fn a_symlink_as_output_stays_one() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    put(dir, b"t/f", b"f");
    put(dir, b"u/g", b"g");
    fs::create_dir_all(dir.join("far/away")).unwrap();
    expect(&s3a(dir, &["pack", "t"]), 0);
    expect(&s3a(dir, &["pack", "t", "-o", "far/away/real.s3a"]), 0);
    symlink("away/real.s3a", dir.join("far/middle.s3a")).unwrap();
    symlink("far/middle.s3a", dir.join("link.s3a")).unwrap();
    symlink("far/none.s3a", dir.join("dangling.s3a")).unwrap();
    symlink("loop.s3a", dir.join("loop.s3a")).unwrap();
    for args in [
        &["pack", "u", "-o", "link.s3a"][..],
        &["merge", "t.s3a", "-o", "link.s3a"],
        &["salvage", "t.s3a", "-o", "link.s3a"],
        &["unpack", "t.s3a", "--tar", "link.s3a"],
        &["pack", "u", "-o", "dangling.s3a"],
    ] {
        let before = fs::read(dir.join("far/away/real.s3a")).unwrap();
        expect(&s3a(dir, args), 11);
        assert!(fs::read(dir.join("far/away/real.s3a")).unwrap() == before);
        expect(&s3a(dir, &[args, &["-f"]].concat()), 0);
        let links = ["link.s3a", "far/middle.s3a", "dangling.s3a"];
        assert!(links.iter().all(|name| dir.join(name).is_symlink()), "{args:?}");
        assert!(!dir.join("far/away/real.s3a").is_symlink());
        let changed = fs::read(dir.join("far/away/real.s3a")).unwrap() != before;
        assert!(changed || args.contains(&"dangling.s3a"), "{args:?}");
    }
    assert_eq!(paths(dir, "far/none.s3a"), [".", "g"]);
    expect(&s3a(dir, &["pack", "u", "-f", "-o", "link.s3a"]), 0);
    expect(&s3a(dir, &["append", "link.s3a", "t"]), 0);
    assert!(dir.join("link.s3a").is_symlink() && dir.join("far/middle.s3a").is_symlink());
    assert_eq!(paths(dir, "far/away/real.s3a"), [".", "g", "t", "t/f"]);
    let output = s3a(dir, &["pack", "u", "-f", "-o", "loop.s3a"]);
    assert!(matches!(output.status.code(), Some(0 | 7)));
    // What a link leads to is not packed into itself.
    expect(&s3a(dir, &["pack", ".", "-f", "-o", "link.s3a"]), 0);
    assert!(!paths(dir, "link.s3a").contains(&"far/away/real.s3a".to_owned()));
    // A link to a pipe is written to as one.
    expect(&shell(dir, "s3a pack u -o /dev/stdout | cat >piped.s3a"), 0);
    assert_eq!(paths(dir, "piped.s3a"), [".", "g"]);
}

#[test]
fn a_process_without_descriptors_or_memory_does_not_leave_out_what_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let deep: PathBuf = (0..40).map(|depth| format!("d{depth}")).collect();
    fs::create_dir_all(dir.join("t").join(&deep)).unwrap();
    fs::write(dir.join("t").join(&deep).join("f"), "deep").unwrap();
    symlink("f", dir.join("t").join("link")).unwrap();
    put(dir, b"t/g", &noise(1, 5000));
    let said = expect(&shell(dir, "ulimit -n 24; s3a pack t -j 1"), 7);
    assert!(said.contains("Too many open files"), "{said}");
    assert!(!dir.join("t.s3a").exists());
    expect(&shell(dir, "ulimit -n 256; s3a pack t -j 1"), 0);
    expect(&s3a(dir, &["unpack", "t.s3a", "-C", "out"]), 0);
    assert_eq!(fs::read(dir.join("out").join(&deep).join("f")).unwrap(), b"deep");

    let works = Command::new("strace").args(["-f", "-o", "/dev/null", "true"]).output();
    if !works.is_ok_and(|output| output.status.success()) {
        eprintln!("not tested: calls that fail (there is no strace, or it may not trace)");
        return;
    }
    fs::write(dir.join("list"), "t\n").unwrap();
    let mut failed = 0;
    for (call, error) in [
        ("openat2", "EMFILE"),
        ("openat2", "ENFILE"),
        ("openat2", "ENOMEM"),
        ("getdents64", "ENOMEM"),
        ("readlinkat", "ENOMEM"),
        ("llistxattr", "ENOMEM"),
        ("flistxattr", "ENOMEM"),
    ] {
        for source in [&["t"][..], &["--files-from", "list"]] {
            for nth in [1, 2, 5, 42] {
                let mut run = Command::new("strace");
                run.args(["-f", "-qq", "-o", "/dev/null", "-e", &format!("trace={call}")]);
                run.args(["-e", &format!("inject={call}:error={error}:when={nth}")]);
                run.arg(env!("CARGO_BIN_EXE_s3a"))
                    .args(["pack", "-f", "-o", "x.s3a", "-j", "1"])
                    .args(source);
                let output = run.current_dir(dir).env("S3A_MODEL", "none").output().unwrap();
                let said = String::from_utf8_lossy(&output.stderr);
                assert!(matches!(output.status.code(), Some(0 | 7)), "{call} {error} {nth}: {said}");
                failed += u32::from(output.status.code() == Some(7));
            }
        }
    }
    assert!(failed > 10, "{failed}");
}
