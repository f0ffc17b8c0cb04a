//! Odd tar streams: what GNU tar makes of them is what is packed, and what cannot be costs itself, with a warning.

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use common::{command, expect, noise, prose, put, s3a};
use s3a::archive::tar::{Member, MemberKind, TarWriter};
use s3a::wire::entry::Timestamp;

/// A header and its data.
fn header(change: impl Fn(&mut [u8; 512]), data: &[u8]) -> Vec<u8> {
    let mut header = [0; 512];
    header[100..107].copy_from_slice(b"0000644");
    header[108..115].copy_from_slice(b"0000000");
    header[116..123].copy_from_slice(b"0000000");
    header[124..135].copy_from_slice(format!("{:011o}", data.len()).as_bytes());
    header[136..147].copy_from_slice(b"00000000001");
    header[257..265].copy_from_slice(b"ustar\x0000");
    change(&mut header);
    header[148..156].fill(b' ');
    let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
    header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    let padding = vec![0; data.len().next_multiple_of(512) - data.len()];
    [&header[..], data, &padding[..]].concat()
}

fn named(name: &'static str, kind: u8) -> impl Fn(&mut [u8; 512]) {
    move |header| {
        header[..name.len()].copy_from_slice(name.as_bytes());
        header[156] = kind;
    }
}

fn file(name: &'static str, data: &[u8]) -> Vec<u8> {
    header(named(name, b'0'), data)
}

fn linked(name: &'static str, kind: u8, target: &'static str) -> impl Fn(&mut [u8; 512]) {
    move |header| {
        named(name, kind)(header);
        header[157..157 + target.len()].copy_from_slice(target.as_bytes());
    }
}

/// An extended header with these records.
fn pax(records: &[(&str, &str)]) -> Vec<u8> {
    let mut text = Vec::new();
    for (key, value) in records {
        let rest = format!(" {key}={value}\n");
        let len = (1..).find(|len: &usize| len.to_string().len() + rest.len() == *len).unwrap();
        text.extend(format!("{len}{rest}").bytes());
    }
    header(named("pax", b'x'), &text)
}

fn ended(parts: &[Vec<u8>]) -> Vec<u8> {
    [parts.concat(), vec![0; 1024]].concat()
}

fn from_pipe(dir: &Path, tar: &[u8], args: &[&str]) -> Output {
    let mut pack = command(dir);
    let pack = pack.args(["pack", "--tar", "-", "-f", "-o", "t.s3a"]).args(args);
    let mut pack = pack.stdin(Stdio::piped()).stderr(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let _ = pack.stdin.take().unwrap().write_all(tar);
    pack.wait_with_output().unwrap()
}

fn from_file(dir: &Path, tar: &[u8], args: &[&str]) -> Output {
    fs::write(dir.join("t.tar"), tar).unwrap();
    s3a(dir, &[&["pack", "--tar", "t.tar", "-f", "-o", "t.s3a"], args].concat())
}

/// What an archive has: paths, with the content of files, the target of symlinks, and nothing of the rest.
fn contents(dir: &Path) -> BTreeMap<String, String> {
    let out = dir.join("out");
    let _ = fs::remove_dir_all(&out);
    expect(&s3a(dir, &["unpack", "t.s3a", "-C", "out"]), 0);
    let found = tree(&out).into_iter().map(|(path, object)| (path, object.content));
    found.collect()
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Object {
    content: String,
    mode: u32,
    mtime: i64,
    /// The first path of the same file.
    same_as: String,
}

fn tree(root: &Path) -> BTreeMap<String, Object> {
    common::snapshot(root)
        .into_iter()
        .filter(|(path, _)| !path.is_empty())
        .map(|(path, object)| {
            let path = String::from_utf8(path).unwrap();
            let at = root.join(&path);
            let content = match object.mode & 0o170000 {
                0o100000 => String::from_utf8_lossy(&fs::read(&at).unwrap()).into_owned(),
                0o120000 => format!("-> {}", fs::read_link(&at).unwrap().display()),
                0o040000 => "/".into(),
                other => format!("{other:o}"),
            };
            let same_as = String::from_utf8(object.same_as).unwrap();
            (path, Object { content, mode: object.mode, mtime: object.mtime.0, same_as })
        })
        .collect()
}

fn has_tar() -> bool {
    let version = Command::new("tar").arg("--version").output();
    let is_gnu = version.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains("GNU tar"));
    if !is_gnu {
        eprintln!("skipped: there is no GNU tar");
    }
    is_gnu
}

/// Extracts a stream with GNU tar, and packs and unpacks it; both must be the same, and `false` if they may differ.
fn compare(dir: &Path, tar: &[u8], what: &str) -> bool {
    fs::write(dir.join("t.tar"), tar).unwrap();
    let gnu = dir.join("gnu");
    for folder in ["gnu", "out"] {
        let _ = fs::remove_dir_all(dir.join(folder));
    }
    fs::create_dir(&gnu).unwrap();
    let run = Command::new("tar").args(["-xpf", "t.tar", "-C", "gnu"]).current_dir(dir).output().unwrap();
    let lost = !run.status.success();
    let packed = s3a(dir, &["pack", "--tar", "t.tar", "-f", "-o", "t.s3a", "--special"]);
    let said = expect(&packed, i32::from(lost));
    expect(&s3a(dir, &["unpack", "t.s3a", "-C", "out", "--preserve-permissions"]), 0);
    let (mut expected, mut found) = (tree(&gnu), tree(&dir.join("out")));
    for objects in [&mut expected, &mut found] {
        for object in objects.values_mut() {
            match &object.content[..] {
                // Directories that no member names have the time at which they were made.
                "/" if object.mtime > 1_000_000 => (object.mtime, object.mode) = (0, 0),
                content if content.starts_with("->") => object.mtime = 0,
                _ => {}
            }
        }
    }
    // GNU tar forgets some, where there are symlinks that it makes in the end.
    for (path, object) in &mut found {
        if object.content == "/" && expected.get(path).is_some_and(|other| other.mtime == 0) {
            (object.mtime, object.mode) = (0, 0);
        }
    }
    let gnu_said = String::from_utf8_lossy(&run.stderr);
    if gnu_said.contains("Cannot hard link") {
        // Before such a link fails, GNU tar removes what is in its place or makes the directories above it.
        return false;
    }
    assert_eq!(found, expected, "{what}\ntar: {gnu_said}\ns3a: {said}");
    true
}

fn folder(path: &str, mode: u16, secs: i64) -> Member {
    let mtime = Timestamp { secs, nanos: 0 };
    Member { path: path.into(), kind: MemberKind::Folder, mode, mtime, ..Member::default() }
}

#[test]
fn what_gnu_tar_extracts_is_what_is_packed() {
    if !has_tar() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    const PATHS: [&str; 9] = ["a", "b", "c", "d", "d/x", "d/y", "d/e/z", "a/x", "b/e/z"];
    const TARGETS: [&str; 8] = ["a", "d", "d/e", "./d", "../d", "/d", "missing", "e"];
    let mut compared = 0;
    for round in 0..800 {
        let mut random = noise(round, 200).into_iter();
        let mut pick = |from: usize| usize::from(random.next().unwrap()) % from;
        let mut tar = TarWriter::new(Vec::new());
        let (mut story, mut files) = (Vec::new(), vec!["a"]);
        // GNU tar makes such links in the end, and takes a file for one that was given the number of its placeholder.
        let mut placeholders = Vec::new();
        let name = |path: &'static str| path.rsplit('/').next().unwrap();
        for number in 0..3 + pick(12) {
            let path = PATHS[pick(PATHS.len())];
            if placeholders.contains(&name(path)) {
                continue;
            }
            let mtime = Timestamp { secs: 1000 + number as i64, nanos: 0 };
            let base =
                Member { path: path.into(), mode: 0o600 + number as u16 % 8, mtime, ..Member::default() };
            let data = format!("{round}.{number}");
            let (member, data) = match pick(10) {
                0 | 1 => (folder(path, 0o700 + number as u16 % 8, 1000 + number as i64), ""),
                2..5 => {
                    let target = files[pick(files.len())];
                    if placeholders.contains(&name(target)) {
                        placeholders.push(name(path));
                    }
                    (Member { kind: MemberKind::Hardlink { target: target.into() }, ..base }, "")
                }
                5 | 6 => {
                    let target = TARGETS[pick(TARGETS.len())];
                    if target.starts_with(['/', '.']) && target != "./d" {
                        placeholders.push(name(path));
                    }
                    (Member { kind: MemberKind::Symlink { target: target.into() }, mode: 0o777, ..base }, "")
                }
                _ => (Member { size: data.len() as u64, ..base }, &data[..]),
            };
            story.push(format!("{path}: {:?}", member.kind));
            if member.kind != MemberKind::Folder {
                files.push(path);
            }
            tar.member(&member).unwrap();
            tar.data(data.as_bytes()).unwrap();
        }
        compared +=
            u32::from(compare(dir.path(), &tar.finish().unwrap(), &format!("round {round}: {story:#?}")));
    }
    assert!(compared > 150, "{compared}");
}

#[test]
fn links_are_what_their_targets_were() {
    if !has_tar() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    // A file that was packed twice is a link to itself the second time.
    put(dir, b"d/f", b"hi\n");
    fs::hard_link(dir.join("d/f"), dir.join("d/g")).unwrap();
    let made = Command::new("tar").args(["cf", "x.tar", "d", "d/f"]).current_dir(dir).status().unwrap();
    assert!(made.success());
    for output in [
        from_file(dir, &fs::read(dir.join("x.tar")).unwrap(), &[]),
        from_pipe(dir, &fs::read(dir.join("x.tar")).unwrap(), &[]),
    ] {
        expect(&output, 0);
        let found = contents(dir);
        assert_eq!(found.keys().collect::<Vec<_>>(), ["d", "d/f", "d/g"]);
        assert_eq!((&found["d/f"][..], &found["d/g"][..]), ("hi\n", "hi\n"));
        let inode = |name: &str| fs::metadata(dir.join("out").join(name)).unwrap().ino();
        assert_eq!(inode("d/f"), inode("d/g"));
    }
    // The target of a link is replaced later.
    let parts = [file("a", b"one"), header(linked("b", b'1', "a"), b""), file("a", b"two")];
    expect(&from_file(dir, &ended(&parts), &[]), 0);
    let found = contents(dir);
    assert_eq!((&found["a"][..], &found["b"][..]), ("two", "one"));
    // A stream that is read once cannot take back what it has packed.
    let said = expect(&from_pipe(dir, &ended(&parts), &[]), 2);
    assert!(said.contains("a takes the place of an earlier member"), "{said}");
    // What is not possible in any case costs itself there too.
    let parts = [
        file("a", b"one"),
        file("a/below", b"two"),
        header(named("d/", b'5'), b""),
        file("d/x", b"three"),
        file("d", b"four"),
        header(linked("l", b'2', "d"), b""),
        file("l/y", b"five"),
        header(linked("n", b'1', "nothing"), b""),
    ];
    for output in [from_file(dir, &ended(&parts), &[]), from_pipe(dir, &ended(&parts), &[])] {
        let said = expect(&output, 1);
        assert_eq!(said.matches("left out").count(), 3, "{said}");
        let found = contents(dir);
        assert_eq!(found.keys().collect::<Vec<_>>(), ["a", "d", "d/x", "d/y", "l"]);
        assert_eq!((&found["d/y"][..], &found["l"][..]), ("five", "-> d"));
    }
}

#[test]
fn the_last_of_a_directory_counts_and_a_pipe_says_where_it_cannot() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let mut tar = TarWriter::new(Vec::new());
    for member in
        [folder("d", 0o755, 10), folder("d/e", 0o755, 10), folder("d", 0o700, 20), folder("d/e", 0o755, 10)]
    {
        tar.member(&member).unwrap();
    }
    let tar = tar.finish().unwrap();
    let said = expect(&from_pipe(dir, &tar, &[]), 1);
    assert!(said.contains("d: comes again") && said.matches("comes again").count() == 1, "{said}");
    expect(&from_file(dir, &tar, &[]), 0);
    contents(dir);
    let found = fs::metadata(dir.join("out/d")).unwrap();
    assert_eq!((found.permissions().mode() & 0o777, found.mtime()), (0o700, 20));
}

#[test]
fn streams_that_follow_each_other_are_told_of_or_packed() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let tar = [ended(&[file("a", b"1")]), vec![0; 9216], ended(&[file("b", b"2")])].concat();
    type How = fn(&Path, &[u8], &[&str]) -> Output;
    for how in [from_pipe as How, from_file] {
        let said = expect(&how(dir, &tar, &[]), 1);
        assert!(said.contains("byte 11264") && said.contains("--ignore-zeros"), "{said}");
        assert_eq!(contents(dir).keys().collect::<Vec<_>>(), ["a"]);
        expect(&how(dir, &tar, &["--ignore-zeros"]), 0);
        assert_eq!(contents(dir).keys().collect::<Vec<_>>(), ["a", "b"]);
        expect(&how(dir, &tar, &["-i"]), 0);
        // Zeros at the end are none of it.
        expect(&how(dir, &[ended(&[file("a", b"1")]), vec![0; 100_000]].concat(), &[]), 0);
        expect(&how(dir, &[ended(&[file("a", b"1")]), vec![0; 1000]].concat(), &["-i"]), 0);
        // A stream without its mark may have lost members.
        let said = expect(&how(dir, &file("a", b"1"), &[]), 1);
        assert!(said.contains("may be cut short"), "{said}");
        expect(&how(dir, b"", &[]), 1);
    }
}

#[test]
fn an_odd_member_costs_itself() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let big = |at: std::ops::Range<usize>, first: u8| {
        move |header: &mut [u8; 512]| {
            named("odd", b'0')(header);
            header[at.clone()].fill(0xff);
            header[at.start] = first;
        }
    };
    let minus_two = |header: &mut [u8; 512]| {
        named("odd", b'0')(header);
        header[108..116].fill(0xff);
        header[115] = 0xfe;
    };
    let text = |at: std::ops::Range<usize>| {
        move |header: &mut [u8; 512]| {
            named("odd", b'0')(header);
            header[at.clone()].copy_from_slice(&b"what is this"[..at.len()]);
        }
    };
    let body = noise(1, 700);
    let pax_file = |records: &[(&str, &str)]| [pax(records), file("odd", &body)].concat();
    let long = "x/".repeat(40_000);
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("user of -2", header(minus_two, &body)),
        ("user above 2^32", header(big(108..116, 0x80), &body)),
        ("group above 2^32", header(big(116..124, 0x80), &body)),
        ("user in words", header(text(108..116), &body)),
        ("mode in words", header(text(100..108), &body)),
        ("time above 2^63", header(big(136..148, 0x80), &body)),
        ("time in words", header(text(136..148), &body)),
        ("device in words", {
            let device = |header: &mut [u8; 512]| {
                named("odd", b'3')(header);
                header[329..337].copy_from_slice(b"whatever");
            };
            header(device, b"")
        }),
        ("pax user above 2^32", pax_file(&[("uid", "4294967296")])),
        ("pax user above 2^64", pax_file(&[("uid", "99999999999999999999999")])),
        ("pax user below 0", pax_file(&[("uid", "-2")])),
        ("pax time above 2^63", pax_file(&[("mtime", "99999999999999999999.5")])),
        ("pax time in words", pax_file(&[("mtime", "yesterday"), ("path", "renamed")])),
        ("pax sparse map in words", pax_file(&[("GNU.sparse.map", "1,x"), ("GNU.sparse.size", "9")])),
        ("pax sparse map too long", pax_file(&[("GNU.sparse.map", "0,9000"), ("GNU.sparse.size", "9000")])),
        ("pax sparse map without size", pax_file(&[("GNU.sparse.map", "0,700")])),
        ("pax sparse major without map", pax_file(&[("GNU.sparse.major", "1"), ("GNU.sparse.size", "9")])),
        ("pax with no length", [header(named("pax", b'x'), b"path=z\n"), file("odd", &body)].concat()),
        ("label", header(named("odd label", b'V'), b"")),
        ("label with data", header(named("odd label", b'V'), &body)),
        ("rest of a volume", header(named("odd", b'M'), &body)),
        ("unknown kind", header(named("odd", b'Z'), &body)),
        ("unknown kind, control", header(named("odd", 1), &body)),
        ("link to nothing", header(linked("odd", b'2', ""), b"")),
        ("path too long", pax_file(&[("path", &long)])),
        ("name too long", pax_file(&[("path", &"x".repeat(300))])),
        (
            "target too long",
            [pax(&[("linkpath", &"x".repeat(70_000))]), header(named("odd", b'2'), b"")].concat(),
        ),
        ("path outside", header(named("../odd", b'0'), &body)),
        ("the root as a file", header(named(".", b'0'), &body)),
    ];
    type How = fn(&Path, &[u8], &[&str]) -> Output;
    for (what, odd) in cases {
        let tar = ended(&[file("before", b"1"), odd, file("behind", b"2")]);
        for how in [from_pipe as How, from_file] {
            let output = how(dir, &tar, &[]);
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.code(), Some(1), "{what}: {said}");
            assert_eq!(said.matches("warning: ").count(), 1, "{what}: {said}");
            assert!(said.contains("left out: "), "{what}: {said}");
            let found = contents(dir);
            assert_eq!(found.keys().collect::<Vec<_>>(), ["before", "behind"], "{what}");
            assert_eq!((&found["before"][..], &found["behind"][..]), ("1", "2"), "{what}");
        }
    }
}

#[test]
fn hardlinks_may_bring_their_content() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let body = prose(1, 900);
    let size = body.len().to_string();
    let sized = |header: &mut [u8; 512]| {
        linked("l", b'1', "f")(header);
        header[124..135].copy_from_slice(b"00000000000");
    };
    type How = fn(&Path, &[u8], &[&str]) -> Output;
    for how in [from_pipe as How, from_file] {
        for (what, link) in [
            ("size in the header", [pax(&[("atime", "1")]), header(linked("l", b'1', "f"), &body)].concat()),
            (
                "size in the extended header",
                [pax(&[("size", &size)]), header(sized, b""), body.clone(), vec![0; 124]].concat(),
            ),
        ] {
            let tar = ended(&[file("f", &body), link.clone(), file("behind", b"2")]);
            let output = how(dir, &tar, &[]);
            assert_eq!(output.status.code(), Some(0), "{what}: {}", String::from_utf8_lossy(&output.stderr));
            let found = contents(dir);
            assert_eq!(found.keys().collect::<Vec<_>>(), ["behind", "f", "l"], "{what}");
            let inode = |name: &str| fs::metadata(dir.join("out").join(name)).unwrap().ino();
            assert_eq!(inode("f"), inode("l"), "{what}");
            // Without its target it is a file.
            expect(&how(dir, &ended(&[link, file("behind", b"2")]), &[]), 0);
            let found = contents(dir);
            assert_eq!(found.keys().collect::<Vec<_>>(), ["behind", "l"], "{what}");
            assert!(found["l"].as_bytes() == body, "{what}");
        }
        // A size that is told without data, with and without an extended header.
        let told = |header: &mut [u8; 512]| {
            linked("l", b'1', "f")(header);
            header[124..135].copy_from_slice(b"00000001604");
        };
        for more in [vec![], pax(&[("atime", "1")])] {
            for behind in [file("behind", b"2"), vec![]] {
                let parts = [file("f", &body), more.clone(), header(told, b""), behind];
                expect(&how(dir, &ended(&parts), &[]), 0);
                assert!(contents(dir).contains_key("l"));
            }
        }
    }
}

#[test]
fn what_is_no_tar_stream_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    put(dir, b"d/f", &prose(1, 5000));
    expect(&s3a(dir, &["pack", "d"]), 0);
    let mut cases = vec![
        ("an s3a archive", fs::read(dir.join("d.s3a")).unwrap()),
        ("gzip -dc", [&b"\x1f\x8b\x08"[..], &noise(1, 30)].concat()),
        ("zip archive", [&b"PK\x03\x04"[..], &noise(1, 3000)].concat()),
    ];
    let tar = ended(&[file("f", &noise(1, 3000))]);
    for program in ["gzip", "bzip2", "xz", "zstd", "lz4", "lzip", "lzop"] {
        let run = Command::new(program).arg("-c").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let Ok(mut run) = run else { continue };
        let mut input = run.stdin.take().unwrap();
        let tar = tar.clone();
        let feed = std::thread::spawn(move || drop(input.write_all(&tar)));
        cases.push((program, run.wait_with_output().unwrap().stdout));
        feed.join().unwrap();
    }
    for (name, stream) in cases {
        for output in [from_file(dir, &stream, &[]), from_pipe(dir, &stream, &[])] {
            let said = expect(&output, 7);
            assert!(said.contains("no tar stream") && said.contains(name), "{name}: {said}");
        }
    }
}
