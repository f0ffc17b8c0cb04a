//! What users see: differences, trees, manual pages, and every exit code of the README.

mod common;
mod sample;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Output;

use common::{expect, noise, prose, put, s3a};
use s3a::wire::header::{HEADER_LEN, Header};

fn lines(output: &Output) -> Vec<String> {
    String::from_utf8(output.stdout.clone()).unwrap().lines().map(str::to_owned).collect()
}

fn tree(root: &Path) {
    put(root, b"a.txt", &prose(1, 30_000));
    put(root, b"sub/b", &noise(2, 500));
    put(root, b"sub/deep/c", b"c");
    put(root, b"same size", b"12345");
    fs::hard_link(root.join("sub/b"), root.join("linked")).unwrap();
    symlink("a.txt", root.join("link")).unwrap();
    let sparse = fs::File::create(root.join("sparse")).unwrap();
    sparse.set_len(40 << 20).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&sparse, b"island", 20 << 20).unwrap();
}

#[test]
fn a_tree_that_was_packed_or_unpacked_does_not_differ() {
    let dir = tempfile::tempdir().unwrap();
    tree(&dir.path().join("tree"));
    expect(&s3a(dir.path(), &["pack", "tree"]), 0);
    for folder in ["tree", "out"] {
        let output = s3a(dir.path(), &["diff", "tree.s3a", folder]);
        if folder == "tree" {
            expect(&output, 0);
            assert!(output.stdout.is_empty());
            expect(&s3a(dir.path(), &["unpack", "tree.s3a", "-C", "out"]), 0);
        } else {
            expect(&output, 0);
        }
    }
    assert_eq!(s3a(dir.path(), &["diff", "--json", "tree.s3a", "out"]).stdout, b"[]\n");
}

#[test]
fn every_difference_is_named_once() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("tree");
    tree(&root);
    expect(&s3a(dir.path(), &["pack", "tree"]), 0);
    let times = |name: &str| fs::symlink_metadata(root.join(name)).unwrap().modified().unwrap();
    let before = times("same size");
    put(&root, b"same size", b"12346");
    fs::File::open(root.join("same size")).unwrap().set_modified(before).unwrap();
    fs::remove_dir_all(root.join("sub")).unwrap();
    put(&root, b"new/one", b"1");
    put(&root, b"new/two\n", b"2");
    fs::set_permissions(root.join("a.txt"), fs::Permissions::from_mode(0o600)).unwrap();
    fs::remove_file(root.join("link")).unwrap();
    put(&root, b"link", b"no link");
    // A byte where the hole was, which the content hash alone does not cover.
    let at = times("sparse");
    let sparse = fs::File::options().write(true).open(root.join("sparse")).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&sparse, b"x", 30 << 20).unwrap();
    sparse.set_modified(at).unwrap();
    let output = s3a(dir.path(), &["diff", "tree.s3a", "tree", "--no-times"]);
    expect(&output, 1);
    assert_eq!(
        lines(&output),
        [
            "a.txt: another mode",
            "link: another kind of object",
            "new: only in the folder",
            "same size: other content",
            "sparse: other content",
            "sub: only in the archive",
        ]
    );
    let output = s3a(
        dir.path(),
        &["diff", "tree.s3a", "tree", "--json", "--no-times", "--include", "same size", "--include", "new"],
    );
    expect(&output, 1);
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json.as_array().unwrap().len(), 2);
    assert_eq!((&json[1]["path"], &json[1]["differs"]), (&"same size".into(), &"content".into()));
    let output = s3a(dir.path(), &["diff", "tree.s3a", "tree"]);
    assert!(lines(&output).contains(&".: another time".to_owned()));
    expect(&s3a(dir.path(), &["diff", "tree.s3a", "missing"]), 7);
    expect(&s3a(dir.path(), &["diff", "tree.s3a", "tree.s3a"]), 2);
}

#[test]
fn an_archive_is_drawn_as_a_tree() {
    let dir = tempfile::tempdir().unwrap();
    tree(&dir.path().join("tree"));
    put(&dir.path().join("tree"), b"sub/\x1b[31m\n", b"x");
    expect(&s3a(dir.path(), &["pack", "tree"]), 0);
    let expected = "\
.
├── a.txt
├── link -> a.txt
├── linked
├── same size
├── sparse
└── sub
    ├── \\x1b[31m\\n
    ├── b -> linked
    └── deep
        └── c
";
    let shown = String::from_utf8(s3a(dir.path(), &["ls", "--tree", "tree.s3a"]).stdout).unwrap();
    assert_eq!(shown, expected);
    let part = s3a(dir.path(), &["ls", "--tree", "tree.s3a", "sub/deep"]);
    assert_eq!(String::from_utf8(part.stdout).unwrap(), ".\n└── sub\n    └── deep\n        └── c\n");
}

#[test]
fn every_command_has_a_page_and_every_shell_a_script() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("man")).unwrap();
    expect(&s3a(dir.path(), &["man", "-C", "man"]), 0);
    let help = String::from_utf8(s3a(dir.path(), &["--help"]).stdout).unwrap();
    let commands: Vec<&str> = help
        .lines()
        .skip_while(|line| *line != "Commands:")
        .skip(1)
        .take_while(|line| !line.is_empty())
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "))
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    assert!(commands.len() > 15, "{commands:?}");
    for name in commands.iter().filter(|name| **name != "help") {
        let page = fs::read_to_string(dir.path().join(format!("man/s3a-{name}.1"))).unwrap();
        assert!(page.contains(".SH NAME") && page.contains(".SH SYNOPSIS"), "{name}");
        let one = s3a(dir.path(), &["man", name]);
        expect(&one, 0);
        assert!(String::from_utf8(one.stdout).unwrap().contains(&format!("s3a\\-{name}")), "{name}");
    }
    assert!(fs::read_to_string(dir.path().join("man/s3a.1")).unwrap().contains("Exit codes"));
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = s3a(dir.path(), &["completions", shell]);
        expect(&script, 0);
        let script = String::from_utf8(script.stdout).unwrap();
        for name in &commands {
            assert!(script.contains(name), "{shell} does not know {name}");
        }
    }
    expect(&s3a(dir.path(), &["man", "bogus"]), 2);
}

/// Codes and meanings in the table of the README.
fn readme_codes() -> Vec<(i32, String)> {
    let readme = include_str!("../README.md");
    let section = readme.split("## Exit codes").nth(1).unwrap().split("\n## ").next().unwrap();
    let rows = section.lines().filter_map(|line| {
        let mut cells = line.trim_matches('|').split('|').map(str::trim);
        Some((cells.next()?.parse().ok()?, cells.next()?.to_owned()))
    });
    rows.collect()
}

/// Makes what the commands of the table below need.
fn prepare(dir: &Path) {
    tree(&dir.join("tree"));
    expect(&s3a(dir, &["pack", "tree"]), 0);
    let whole = fs::read(dir.join("tree.s3a")).unwrap();
    fs::write(dir.join("cut.s3a"), &whole[..whole.len() - 9]).unwrap();
    let header = Header::read(&whole).unwrap();
    let newer = Header { major: 2, ..header }.write();
    fs::write(dir.join("newer.s3a"), [&newer[..], &whole[HEADER_LEN..]].concat()).unwrap();
    // An archive coded with a model that only tests have.
    fs::write(dir.join("log.s3a"), sample::Sample::tiny().bytes).unwrap();
    put(dir, b"odd/fine", b"fine");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        dir.join("odd/fifo"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o600),
        0,
    )
    .unwrap();
    fs::write(dir.join("device.tar"), device_tar()).unwrap();
    expect(&s3a(dir, &["pack", "--tar", "device.tar", "--special", "-o", "device.s3a"]), 0);
}

fn device_tar() -> Vec<u8> {
    use s3a::archive::tar::{Member, MemberKind, TarWriter};
    let kind = MemberKind::CharDevice { major: 1, minor: 3 };
    let mut tar = TarWriter::new(Vec::new());
    tar.member(&Member { path: b"null".to_vec(), kind, mode: 0o666, ..Member::default() }).unwrap();
    tar.finish().unwrap()
}

#[test]
fn every_exit_code_of_the_readme_is_given() {
    let dir = tempfile::tempdir().unwrap();
    prepare(dir.path());
    let table: &[(i32, &[&str])] = &[
        (0, &["ls", "tree.s3a"]),
        (0, &["verify", "tree.s3a"]),
        (1, &["pack", "odd", "-o", "odd.s3a"]),
        (1, &["diff", "tree.s3a", "odd"]),
        (2, &["pack"]),
        (2, &["cat", "tree.s3a", "nothing"]),
        (2, &["merge", "tree.s3a", "tree.s3a", "-o", "x.s3a"]),
        (2, &["append", "tree.s3a", "-C", "tree", "a.txt"]),
        (3, &["ls", "cut.s3a"]),
        (3, &["append", "cut.s3a", "tree"]),
        (3, &["diff", "cut.s3a", "tree"]),
        (4, &["cat", "log.s3a", "c"]),
        (4, &["unpack", "log.s3a", "-C", "out"]),
        (5, &["unpack", "device.s3a", "-C", "out-2"]),
        (6, &["unpack", "tree.s3a", "-C", "out-3", "--max-size", "1k"]),
        (7, &["ls", "missing.s3a"]),
        (7, &["pack", "--tar", "tree.s3a", "-o", "x.s3a"]),
        (7, &["merge", "missing.s3a", "-o", "x.s3a"]),
        (8, &["ls", "newer.s3a"]),
        (11, &["pack", "tree"]),
        (11, &["merge", "tree.s3a", "-o", "log.s3a"]),
        (11, &["unpack", "tree.s3a", "--tar", "device.tar"]),
    ];
    let mut given: BTreeSet<i32> = BTreeSet::new();
    for (code, args) in table {
        let said = expect(&s3a(dir.path(), args), *code);
        assert!(said.is_empty() || said.contains("s3a"), "{said}");
        given.insert(*code);
    }
    // No command should ever show the first; `tests/cli.rs` and `tests/resume.rs` show the second.
    given.extend([70, 130]);
    let codes = readme_codes();
    assert_eq!(
        given.into_iter().collect::<Vec<_>>(),
        codes.iter().map(|(code, _)| *code).collect::<Vec<_>>()
    );
    let help = String::from_utf8(s3a(dir.path(), &["--help"]).stdout).unwrap();
    for (code, meaning) in codes {
        let words: Vec<&str> = meaning.split([',', ' ']).filter(|word| word.len() > 4).take(2).collect();
        assert!(
            help.contains(&code.to_string()) && words.iter().all(|word| help.contains(word)),
            "{code}: {meaning}"
        );
    }
}
