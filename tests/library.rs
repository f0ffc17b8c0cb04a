//! The library as a program uses it: the examples run, and a user who does not ask for a feature
//! does not pay for it.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// Runs an example. cargo builds examples with the tests if all of them are run; otherwise the
/// example is built here.
fn example(name: &str, args: &[&str], input: &[u8]) -> Output {
    static BUILT: std::sync::Once = std::sync::Once::new();
    BUILT.call_once(|| {
        let mut build = Command::new(env!("CARGO"));
        build.args(["build", "--offline", "--locked", "--examples"]).current_dir(env!("CARGO_MANIFEST_DIR"));
        assert!(build.status().unwrap().success());
    });
    let mut folder: PathBuf = std::env::current_exe().unwrap();
    folder.pop();
    if folder.ends_with("deps") {
        folder.pop();
    }
    let mut child = Command::new(folder.join("examples").join(name))
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| panic!("the example {name} does not run: {e}"));
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    let feed = std::thread::spawn(move || stdin.write_all(&input));
    let output = child.wait_with_output().unwrap();
    let _ = feed.join();
    output
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn the_examples_pack_read_and_stream() {
    let dir = tempfile::tempdir().unwrap();
    let (tree, archive) = (dir.path().join("tree"), dir.path().join("tree.s3a"));
    std::fs::create_dir(&tree).unwrap();
    std::fs::write(tree.join("a.txt"), "one two three four five six seven eight nine ten").unwrap();
    let packed = example("pack", &[text(&tree), text(&archive), "3"], b"");
    assert!(packed.status.success() && packed.stdout.starts_with(b"2 entries, 48 bytes to "), "{packed:?}");
    let read = example("random_read", &[text(&archive), "a.txt", "4", "3"], b"");
    assert_eq!((read.status.success(), &read.stdout[..]), (true, &b"two"[..]), "{read:?}");
    let beyond = example("random_read", &[text(&archive), "a.txt", "45", "100"], b"");
    assert_eq!(&beyond.stdout[..], b"ten");
    assert!(!example("random_read", &[text(&archive), "b.txt", "0", "1"], b"").status.success());
    let listed = example("stream", &[], &std::fs::read(&archive).unwrap());
    assert!(listed.stdout.ends_with(b"a.txt\n48 bytes\n"), "{listed:?}");
}

#[test]
fn the_example_that_writes_from_memory_makes_an_archive() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("numbers.s3a");
    let made = example("from_memory", &[], b"");
    assert!(made.status.success(), "{made:?}");
    std::fs::write(&file, made.stdout).unwrap();
    let archive = s3a::open(&file).unwrap();
    assert_eq!(archive.read_range("squares/7.txt", 0..99).unwrap(), b"7 times 7 is 49\n");
    s3a::unpack(&file, dir.path().join("out")).unwrap();
    assert_eq!(std::fs::read(dir.path().join("out/squares/9.txt")).unwrap(), b"9 times 9 is 81\n");
}

#[test]
fn levels_are_from_one_to_nine() {
    assert!(s3a::WriterOptions::level(0).is_err() && s3a::WriterOptions::level(10).is_err());
    assert_eq!(s3a::WriterOptions::level(1).unwrap().zstd_level, 3);
}

/// What a library user pays for without the features `cli` and `bundled-models`.
#[test]
fn a_library_without_the_command_brings_neither_its_parser_nor_models() {
    let tree = Command::new(env!("CARGO"))
        .args([
            "tree",
            "--offline",
            "--locked",
            "--edges",
            "normal",
            "--prefix",
            "none",
            "--no-default-features",
        ])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    let names = String::from_utf8(tree.stdout).unwrap();
    assert!(names.starts_with("s3a "), "{}", String::from_utf8_lossy(&tree.stderr));
    for absent in ["clap", "indicatif", "signal-hook", "candle-core", "fuser", "libloading"] {
        assert!(!names.lines().any(|line| line.split(' ').next() == Some(absent)), "{absent} is brought");
    }
}
