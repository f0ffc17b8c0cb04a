//! Whatever an archive says, nothing outside the target directory is touched.
//!
//! The archives are made with the crate's own writer, which writes whatever it is given. A canary
//! tree beside the target must be unchanged after each attempt.

mod common;

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use common::{assert_same, command, expect, s3a, snapshot};
use s3a::archive::{Content, Entry, EntryId, Kind, Timestamp, Writer, WriterOptions};

/// An entry of an attack.
fn entry(path: &[u8], kind: Kind) -> Entry {
    Entry {
        path: path.to_vec(),
        kind,
        mode: 0o644,
        uid: 0,
        gid: 0,
        mtime: Timestamp::default(),
        xattrs: Vec::new(),
    }
}

fn folder(path: &[u8]) -> Entry {
    Entry { mode: 0o755, ..entry(path, Kind::Directory) }
}

fn file(path: &[u8]) -> Entry {
    entry(path, Kind::File { size: 4, extents: Vec::new(), hash: [0; 16] })
}

fn link(path: &[u8], target: &[u8]) -> Entry {
    entry(path, Kind::Symlink { target: target.to_vec() })
}

fn hard(path: &[u8], target: u32) -> Entry {
    entry(path, Kind::Hardlink { target: EntryId(target) })
}

/// Writes an archive; `false` where the writer itself refuses.
fn write(out: &Path, entries: Vec<Entry>) -> bool {
    let mut writer = Writer::create(File::create(out).unwrap(), WriterOptions::default()).unwrap();
    for entry in entries {
        let mut data = &b"evil"[..];
        let content =
            if matches!(entry.kind, Kind::File { .. }) { Content::Data(&mut data) } else { Content::None };
        if writer.add(entry, content).is_err() {
            return false;
        }
    }
    writer.finish().is_ok()
}

/// A place to attack: a target directory, and its surroundings, which must not change.
struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("canary/inner")).unwrap();
        fs::write(dir.path().join("canary/inner/file"), "alive").unwrap();
        fs::write(dir.path().join("canary/secret"), "alive too").unwrap();
        symlink("secret", dir.path().join("canary/link")).unwrap();
        fs::create_dir(dir.path().join("target")).unwrap();
        Self { dir }
    }

    fn target(&self) -> PathBuf {
        self.dir.path().join("target")
    }

    /// Unpacks from a file and from a pipe, and compares the canary and the surroundings.
    fn attack(&self, name: &str, entries: &[Entry], flags: &[&str]) -> Vec<Option<i32>> {
        let archive = self.dir.path().join("evil.s3a");
        if !write(&archive, entries.to_vec()) {
            return vec![Some(5)];
        }
        let before = self.around();
        let canary = snapshot(&self.dir.path().join("canary"));
        let mut codes = Vec::new();
        for piped in [false, true] {
            let mut unpack = command(self.dir.path());
            unpack.args(["unpack", "-C", "target"]).args(flags).arg(if piped { "-" } else { "evil.s3a" });
            if piped {
                unpack.stdin(Stdio::from(File::open(&archive).unwrap()));
            }
            let output = unpack.output().unwrap();
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(output.status.code().is_some_and(|code| code < 100), "{name}: {said}");
            assert!(!said.contains("panicked"), "{name}: {said}");
            assert!(!said.bytes().any(|b| b.is_ascii_control() && b != b'\n'), "{name}: {said:?}");
            assert_same(&canary, &snapshot(&self.dir.path().join("canary")));
            assert_eq!(before, self.around(), "{name}");
            codes.push(output.status.code());
        }
        codes
    }

    /// Names beside the target.
    fn around(&self) -> Vec<String> {
        let list = fs::read_dir(self.dir.path()).unwrap();
        let mut names: Vec<_> = list.map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }
}

#[test]
fn paths_that_lead_out_or_mean_nothing_are_refused() {
    let long = [b'a'; 256];
    let nested = [&b"a/"[..], &long].concat();
    let paths: Vec<&[u8]> = vec![
        b"..",
        b"../canary/secret",
        b"../new",
        b"a/../../new",
        b"a/..",
        b"a/../b",
        b"/tmp/s3a-hostile",
        b"/",
        b"//x",
        b"///",
        b".",
        b"./x",
        b"a/./b",
        b"a/.",
        b"a//b",
        b"a/",
        b"x/",
        b"/a",
        b"nul\0byte",
        b"\0",
        b"a/\0",
        b"../../../../../../etc/s3a-hostile",
        b"target/../../new",
        b"..\0",
        b".. /../x",
        b"canary/../../canary/secret",
        &long,
        &nested,
        b"a/../../canary/inner/file",
    ];
    for (number, path) in paths.iter().enumerate() {
        for kind in [file(path), folder(path), link(path, b"x")] {
            let place = Place::new();
            let name = format!("path {number} {:?}", String::from_utf8_lossy(path));
            for code in place.attack(&name, std::slice::from_ref(&kind), &[]) {
                assert!(matches!(code, Some(3 | 5)), "{name}: {code:?}");
            }
            assert_eq!(fs::read_dir(place.target()).unwrap().count(), 0, "{name}");
            place.attack(&name, &[folder(b"a"), kind], &["--force"]);
        }
    }
    println!("{} paths as file, folder and link, each in two ways", paths.len());
}

/// Names that look like a way out, an option, a pattern or a command to something, but are names:
/// each comes out under the target as it is, and is shown without steering a terminal.
#[test]
fn names_that_only_look_dangerous_stay_names() {
    let mut names: Vec<Vec<u8>> = [
        // Not the two dots that stand for the directory above.
        "...",
        "....",
        ".. ",
        " ..",
        "..\u{200b}",
        "\u{200b}..",
        "..\\",
        "..\\..\\x",
        "..%2f..%2fx",
        "%2e%2e",
        "..;",
        "..:",
        "\u{2025}",
        "\u{ff0e}\u{ff0e}",
        ".\u{301}.",
        "\u{2024}\u{2024}",
        "..\u{2215}x",
        "..\u{ff0f}x",
        // Characters that mean something in names on other systems.
        "a\\b",
        "C:",
        "C:\\x",
        "\\\\host\\share",
        "CON",
        "NUL",
        "aux.txt",
        "a.",
        "a ",
        "file:stream",
        "DESKT~1",
        // Blanks and line ends.
        " ",
        "  ",
        "\t",
        "\n",
        "\r",
        "\r\n",
        "a\nb",
        "\u{a0}",
        "\u{2028}",
        "\u{85}",
        // Options, patterns and commands.
        "-",
        "--",
        "-rf",
        "--help",
        "-C",
        "@file",
        "~",
        "~root",
        "$HOME",
        "${IFS}",
        "`id`",
        "$(id)",
        ";id",
        "|id",
        "a&b",
        ">x",
        "*",
        "?",
        "[a-z]",
        "{a,b}",
        "!x",
        "#",
        "\"",
        "'",
        "%s%n",
        "%00",
        // Characters that control terminals, or that terminals draw as something else.
        "\u{7f}",
        "\u{1}",
        "\u{1b}[2J",
        "\u{1b}]0;x\u{7}",
        "\u{9b}31m",
        "\u{202e}exe.txt",
        "\u{feff}a",
        "e\u{301}",
        "\u{e9}",
        "\u{fb00}",
        "\u{17f}",
        "\u{130}",
        "\u{1f4a9}",
        "a\u{34f}b",
        // Names with a meaning elsewhere.
        ".s3a",
        ".x.partial-0",
        "lost+found",
        ".git",
        ".ssh",
        ".bashrc",
        "a/...",
        "a/....b",
        "a/ /b",
    ]
    .iter()
    .map(|name| name.as_bytes().to_vec())
    .collect();
    // Bytes that are not UTF-8, an overlong dot and slash among them.
    names.extend(
        [&b"\xff"[..], b"\x80", b"\xc0\xae\xc0\xae", b"\xc0\xaf", b"\xe0\x80\xae", b"\xed\xa0\x80"]
            .map(<[u8]>::to_vec),
    );
    names.extend([b'a', b'.', b' ', 0xff].map(|byte| vec![byte; 255]));
    names.push([&b"d/".repeat(200)[..], b"deep"].concat());
    assert!(names.len() >= 80, "{}", names.len());
    for name in &names {
        let place = Place::new();
        let shown = String::from_utf8_lossy(name).into_owned();
        assert_eq!(place.attack(&shown, &[file(name)], &["--force", "-v"]), [Some(0), Some(0)], "{shown:?}");
        assert_eq!(fs::read(common::path(&place.target(), name)).unwrap(), b"evil", "{shown:?}");
        let first = name.split(|&byte| byte == b'/').next().unwrap();
        let made: Vec<_> =
            fs::read_dir(place.target()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(made.iter().map(|name| name.as_encoded_bytes()).collect::<Vec<_>>(), [first], "{shown:?}");
        let listed = expect_listed(&s3a(place.dir.path(), &["ls", "evil.s3a"]));
        assert!(!listed.trim_end_matches('\n').chars().any(char::is_control), "{shown:?}: {listed:?}");
    }
    println!("{} names", names.len());
}

fn expect_listed(output: &std::process::Output) -> String {
    expect(output, 0);
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[test]
fn contradictions_between_entries_are_refused() {
    let cases: Vec<(&str, Vec<Entry>)> = vec![
        ("file twice", vec![file(b"a"), file(b"a")]),
        ("folder twice", vec![folder(b"a"), folder(b"a")]),
        ("link, then file", vec![link(b"a", b"../canary/secret"), file(b"a")]),
        ("file, then link", vec![file(b"a"), link(b"a", b"../canary/secret")]),
        ("link, then folder", vec![link(b"a", b"../canary"), folder(b"a"), file(b"a/secret")]),
        ("link, then file through it", vec![link(b"a", b"../canary"), file(b"a/secret")]),
        ("link, then new file through it", vec![link(b"a", b"../canary"), file(b"a/new")]),
        ("link to root, then file through it", vec![link(b"a", b"/"), file(b"a/tmp/s3a-hostile")]),
        ("file through a link that comes later", vec![file(b"a/secret"), link(b"a", b"../canary")]),
        ("deep file through a link", vec![link(b"a", b".."), file(b"a/canary/inner/file")]),
        ("link through a link", vec![link(b"a", b".."), link(b"a/canary/new", b"x")]),
        ("folder through a link", vec![link(b"a", b".."), folder(b"a/new")]),
        ("file below a file", vec![file(b"a"), file(b"a/b")]),
        ("file below a file that comes later", vec![file(b"a/b"), file(b"a")]),
        ("root as a file", vec![file(b"")]),
        ("root as a link", vec![link(b"", b"../canary")]),
        ("root twice", vec![folder(b""), folder(b"")]),
        ("hardlink through a link", vec![link(b"a", b".."), file(b"f"), hard(b"a/canary/new", 1)]),
        ("hardlink over a link", vec![file(b"f"), link(b"a", b"../canary/secret"), hard(b"a", 0)]),
    ];
    let mut count = 0;
    for (name, entries) in cases {
        let place = Place::new();
        for code in place.attack(name, &entries, &[]) {
            assert!(matches!(code, Some(3 | 5)), "{name}: {code:?}");
        }
        Place::new().attack(name, &entries, &["--force"]);
        count += 1;
    }
    println!("{count} contradictions");
}

#[test]
fn links_that_are_planted_in_the_target_are_not_followed() {
    type Plant = fn(&Path);
    let plants: Vec<(&str, Plant)> = vec![
        ("link to the canary", |t| symlink("../canary", t.join("a")).unwrap()),
        ("link to a link", |t| {
            symlink("b", t.join("a")).unwrap();
            symlink("../canary", t.join("b")).unwrap();
        }),
        ("absolute link", |t| symlink(t.parent().unwrap().join("canary"), t.join("a")).unwrap()),
        ("link to itself", |t| symlink("a", t.join("a")).unwrap()),
        ("dangling link", |t| symlink("../new", t.join("a")).unwrap()),
        ("link to a file", |t| symlink("../canary/secret", t.join("a")).unwrap()),
        ("link within a folder", |t| {
            fs::create_dir(t.join("a")).unwrap();
            symlink("../../canary/secret", t.join("a/secret")).unwrap();
            symlink("../../canary/inner", t.join("a/inner")).unwrap();
        }),
        ("link through proc", |t| symlink("/proc/self/cwd/canary", t.join("a")).unwrap()),
    ];
    let attacks: Vec<Vec<Entry>> = vec![
        vec![file(b"a/secret")],
        vec![folder(b"a"), file(b"a/secret")],
        vec![folder(b"a"), folder(b"a/inner"), file(b"a/inner/file")],
        vec![file(b"a")],
        vec![link(b"a", b"elsewhere")],
        vec![file(b"f"), hard(b"a", 0)],
        vec![folder(b"a"), file(b"f"), hard(b"a/secret", 1)],
        vec![folder(b"a"), folder(b"a/inner")],
        vec![entry(b"a", Kind::Fifo)],
    ];
    println!("{} planted links under {} attacks, each in two ways", plants.len(), attacks.len());
    for (name, plant) in plants {
        for (number, entries) in attacks.iter().enumerate() {
            for flags in [&[][..], &["--force"]] {
                let place = Place::new();
                plant(&place.target());
                place.attack(&format!("{name}, attack {number}, {flags:?}"), entries, flags);
            }
        }
    }
}

#[test]
fn links_that_lead_out_are_made_but_not_followed() {
    let place = Place::new();
    let entries = [
        folder(b""),
        folder(b"d"),
        link(b"d/up", b"../../canary"),
        link(b"abs", b"/etc/passwd"),
        file(b"d/file"),
    ];
    assert_eq!(place.attack("links out", &entries, &["--force"]), [Some(0), Some(0)]);
    assert_eq!(fs::read_link(place.target().join("d/up")).unwrap(), Path::new("../../canary"));
    assert_eq!(fs::read(place.target().join("d/file")).unwrap(), b"evil");
}

#[test]
fn devices_are_refused_and_privileges_dropped() {
    for kind in [Kind::CharDevice { major: 1, minor: 3 }, Kind::BlockDevice { major: 7, minor: 0 }] {
        let place = Place::new();
        for code in place.attack("device", &[entry(b"dev", kind.clone())], &[]) {
            assert_eq!(code, Some(5));
        }
        assert_eq!(fs::read_dir(place.target()).unwrap().count(), 0);
    }
    let place = Place::new();
    let entries = [Entry { mode: 0o6755, ..file(b"suid") }, Entry { mode: 0o7777, ..folder(b"folder") }];
    assert_eq!(place.attack("suid", &entries, &["--force"]), [Some(0), Some(0)]);
    for name in ["suid", "folder"] {
        let mode = fs::metadata(place.target().join(name)).unwrap().mode();
        assert_eq!(mode & 0o6000, 0, "{name}: {mode:o}");
    }
    place.attack("suid wanted", &entries, &["--force", "-p"]);
    assert_eq!(fs::metadata(place.target().join("suid")).unwrap().mode() & 0o7777, 0o6755);
}

#[test]
fn names_are_escaped_wherever_they_are_shown() {
    let place = Place::new();
    let entries = [
        file(b"\x1b]0;owned\x07"),
        file(b"two\nlines"),
        file(b"\xffwild"),
        file("\u{202e}txt.exe".as_bytes()),
        link(b"l", b"\x1b[31m"),
    ];
    assert_eq!(place.attack("escapes", &entries, &["--force", "-v"]), [Some(0), Some(0)]);
    for args in [
        &["ls", "evil.s3a"][..],
        &["ls", "-l", "evil.s3a"],
        &["ls", "--json", "evil.s3a"],
        &["verify", "evil.s3a"],
    ] {
        let output = s3a(place.dir.path(), args);
        expect(&output, 0);
        let shown = String::from_utf8(output.stdout).unwrap();
        assert!(!shown.chars().any(|c| c.is_control() && c != '\n'), "{args:?}: {shown:?}");
    }
    let raw = s3a(place.dir.path(), &["ls", "-0", "evil.s3a"]).stdout;
    assert!(raw.split(|&b| b == 0).any(|name| name == b"two\nlines"));
}

#[test]
fn an_existing_file_is_refused_before_anything_is_written() {
    let place = Place::new();
    fs::write(place.target().join("z"), "mine").unwrap();
    let archive = place.dir.path().join("plain.s3a");
    assert!(write(&archive, vec![folder(b"sub"), file(b"a"), file(b"sub/b"), file(b"z")]));
    let said = expect(&s3a(place.dir.path(), &["unpack", "plain.s3a", "-C", "target"]), 11);
    assert!(said.contains("target/z") && said.contains("--force"), "{said}");
    assert_eq!(fs::read_dir(place.target()).unwrap().count(), 1);
    expect(&s3a(place.dir.path(), &["unpack", "plain.s3a", "-C", "target", "--force"]), 0);
    assert_eq!(fs::read(place.target().join("z")).unwrap(), b"evil");
    // A directory that is not empty is never replaced.
    fs::remove_file(place.target().join("z")).unwrap();
    fs::create_dir_all(place.target().join("z/precious")).unwrap();
    expect(&s3a(place.dir.path(), &["unpack", "plain.s3a", "-C", "target", "--force"]), 11);
    assert!(place.target().join("z/precious").exists());
}

#[test]
fn a_target_that_is_a_link_is_what_the_user_chose() {
    let place = Place::new();
    fs::create_dir(place.dir.path().join("real")).unwrap();
    symlink("real", place.dir.path().join("alias")).unwrap();
    assert!(write(&place.dir.path().join("plain.s3a"), vec![file(b"a")]));
    expect(&s3a(place.dir.path(), &["unpack", "plain.s3a", "-C", "alias"]), 0);
    assert_eq!(fs::read(place.dir.path().join("real/a")).unwrap(), b"evil");
    let mode = fs::metadata(place.dir.path().join("real/a")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o644);
}
