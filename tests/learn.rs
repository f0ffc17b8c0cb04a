//! Archives that have learned their data: they are smaller, everything that reads archives reads
//! them, and they are refused where the base is missing.
#![cfg(feature = "train")]

mod common;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;

use common::{assert_same, command, expect, noise, put, snapshot};

/// Records of a form that no model knows.
fn foreign(seed: u64, len: usize) -> Vec<u8> {
    const WORDS: [&str; 10] = ["qua", "zol", "ix", "wum", "ptu", "hrr", "yej", "vok", "njo", "dzi"];
    let word = |byte: u8| WORDS[usize::from(byte) % 10];
    let record = |bytes: &[u8; 4]| {
        let number = (u32::from(bytes[2]) << 8 | u32::from(bytes[3])) % 1000;
        format!("{}{}:{}-{};{number}\n", word(bytes[0]), bytes[0] % 100, word(bytes[1]), word(bytes[2]))
    };
    let text: String = noise(seed, len).as_chunks().0.iter().map(record).collect();
    text.as_bytes()[..len.min(text.len())].to_vec()
}

/// A directory with a tree, and archives of it: `plain.s3a`, and `learned.s3a` of the base
/// `base.safetensors`.
fn scene() -> &'static Path {
    static SCENE: OnceLock<tempfile::TempDir> = OnceLock::new();
    SCENE
        .get_or_init(|| {
            let folder = tempfile::tempdir().unwrap();
            let at = folder.path();
            for file in 0..8u64 {
                let name = format!("tree/part{}/text{file}.txt", file % 2);
                put(at, name.as_bytes(), &foreign(file, 45_000));
            }
            put(at, b"tree/noise.bin", &noise(1, 60_000));
            // A model that is in no binary: the one of the default level 4 under another name.
            let nano = fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/models/nano.safetensors")).unwrap();
            let (from, to) = (&br#"\"name\":\"nano\""#[..], &br#"\"name\":\"nemo\""#[..]);
            let place = nano.windows(from.len()).position(|window| window == from).unwrap();
            let renamed = [&nano[..place], to, &nano[place + from.len()..]].concat();
            put(at, b"base.safetensors", &renamed);
            expect(&pack(at, &["-o", "plain.s3a"]), 0);
            let said = expect(&pack(at, &["-o", "learned.s3a", "--learn=100k"]), 0);
            assert!(said.contains("learned: "), "{said}");
            folder
        })
        .path()
}

fn pack(at: &Path, more: &[&str]) -> std::process::Output {
    let args = ["pack", "tree", "-l4", "--no-check", "--read-time", "0", "--model", "./base.safetensors"];
    command(at).env("S3A_MODEL_PATH", at).args(args).args(more).output().unwrap()
}

/// Runs the command where the base can be found.
fn run(at: &Path, args: &[&str]) -> std::process::Output {
    command(at).env("S3A_MODEL_PATH", scene()).args(args).output().unwrap()
}

#[test]
fn what_learned_is_smaller_and_everything_reads_it() {
    let at = scene();
    let len = |name: &str| fs::metadata(at.join(name)).unwrap().len();
    assert!(len("learned.s3a") < len("plain.s3a") * 9 / 10, "{} {}", len("learned.s3a"), len("plain.s3a"));
    expect(&run(at, &["verify", "learned.s3a"]), 0);
    expect(&run(at, &["diff", "learned.s3a", "tree"]), 0);
    expect(&run(at, &["unpack", "learned.s3a", "-C", "out"]), 0);
    assert_same(&snapshot(&at.join("tree")), &snapshot(&at.join("out")));
    // Through a pipe, the delta comes before the chunks that need it.
    let mut piped = command(at);
    piped.env("S3A_MODEL_PATH", at).args(["unpack", "-", "-C", "piped"]);
    piped.stdin(fs::File::open(at.join("learned.s3a")).unwrap());
    expect(&piped.output().unwrap(), 0);
    assert_same(&snapshot(&at.join("tree")), &snapshot(&at.join("piped")));
    let info = run(at, &["info", "learned.s3a"]);
    assert!(String::from_utf8_lossy(&info.stdout).contains("nemo-learned"), "{info:?}");
}

#[test]
fn a_missing_base_is_named() {
    let at = scene();
    let alone = tempfile::tempdir().unwrap();
    fs::copy(at.join("learned.s3a"), alone.path().join("learned.s3a")).unwrap();
    let base = blake3::hash(&fs::read(at.join("base.safetensors")).unwrap()).to_hex().to_string();
    let output = common::s3a(alone.path(), &["cat", "learned.s3a", "part0/text0.txt"]);
    let said = expect(&output, 4);
    assert!(said.contains(&base), "{said}");
    // Chunks that no model codes can still be read.
    let output =
        common::s3a(alone.path(), &["cat", "learned.s3a", "noise.bin", "--offset", "20k", "--length", "9k"]);
    expect(&output, 0);
    assert!(output.stdout == noise(1, 60_000)[20 << 10..29 << 10]);
}

#[test]
fn an_archive_can_carry_the_base_too() {
    let at = scene();
    let alone = tempfile::tempdir().unwrap();
    let there = alone.path().join("whole.s3a");
    expect(&pack(at, &["-o", there.to_str().unwrap(), "--learn=100k", "--embed-model"]), 0);
    expect(&common::s3a(alone.path(), &["unpack", "whole.s3a", "-C", "out"]), 0);
    assert_same(&snapshot(&at.join("tree")), &snapshot(&alone.path().join("out")));
    // Salvage keeps both archive and delta.
    expect(&common::s3a(alone.path(), &["salvage", "whole.s3a", "-o", "saved.s3a"]), 0);
    expect(&common::s3a(alone.path(), &["verify", "saved.s3a"]), 0);
}

#[test]
fn the_same_options_give_the_same_bytes() {
    let at = scene();
    // The scene was packed by as many threads as there are.
    expect(&pack(at, &["-o", "again.s3a", "--learn=100k", "-j1"]), 0);
    assert!(fs::read(at.join("again.s3a")).unwrap() == fs::read(at.join("learned.s3a")).unwrap());
}

#[test]
fn appended_files_are_coded_with_what_was_learned_and_merge_keeps_each() {
    let at = scene();
    let own = tempfile::tempdir().unwrap();
    fs::copy(at.join("learned.s3a"), own.path().join("a.s3a")).unwrap();
    put(own.path(), b"more/text9.txt", &foreign(9, 45_000));
    expect(&run(own.path(), &["append", "a.s3a", "more"]), 0);
    let output = run(own.path(), &["cat", "a.s3a", "more/text9.txt"]);
    expect(&output, 0);
    assert!(output.stdout == foreign(9, 45_000));

    let model = at.join("base.safetensors");
    let model = model.to_str().unwrap();
    put(own.path(), b"other/deep/text.txt", &foreign(77, 150_000));
    let args = ["pack", "other", "-l4", "-o", "b.s3a", "--learn=60k", "--read-time", "0", "--model", model];
    let said = expect(&run(own.path(), &args), 0);
    assert!(said.contains("learned: "), "{said}");
    expect(&run(own.path(), &["merge", "-o", "both.s3a", "a.s3a", "b.s3a"]), 0);
    expect(&run(own.path(), &["verify", "both.s3a"]), 0);
    let output = run(own.path(), &["cat", "both.s3a", "deep/text.txt"]);
    assert!(output.stdout == foreign(77, 150_000), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn what_does_not_pay_is_left_out() {
    let folder = tempfile::tempdir().unwrap();
    put(folder.path(), b"tree/noise", &noise(3, 400_000));
    put(folder.path(), b"small/text", &foreign(1, 5000));
    for tree in ["tree", "small"] {
        let plain = ["pack", tree, "-o", "plain.s3a", "-f", "--model", "nano"];
        let learned = ["pack", tree, "-o", "learned.s3a", "-f", "--model", "nano", "--learn=8k"];
        expect(&common::s3a(folder.path(), &plain), 0);
        let said = expect(&common::s3a(folder.path(), &learned), 0);
        assert!(said.contains("does not pay"), "{said}");
        let read = |name: &str| fs::read(folder.path().join(name)).unwrap();
        assert!(read("plain.s3a") == read("learned.s3a"));
    }
    let said = expect(&common::s3a(folder.path(), &["pack", "tree", "-l3", "--learn", "-o", "x.s3a"]), 2);
    assert!(said.contains("no model to learn with"), "{said}");
    let said = expect(&common::s3a(folder.path(), &["pack", "tree", "--learn=soon", "-o", "x.s3a"]), 2);
    assert!(said.contains("neither tokens"), "{said}");
}

#[test]
fn the_independent_decoder_reads_what_learned() {
    if !Command::new("python3").arg("--version").output().is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: there is no python3");
        return;
    }
    let at = scene();
    let own = tempfile::tempdir().unwrap();
    put(own.path(), b"few/text.txt", &foreign(3, 700));
    // The first delta of the archive, used as a model file.
    let delta = carried(&at.join("learned.s3a"));
    fs::write(own.path().join("own.delta"), &delta).unwrap();
    let info = run(own.path(), &["model", "info", "./own.delta"]);
    let shown = String::from_utf8_lossy(&info.stdout);
    assert!(shown.contains("changes     head: ") && shown.contains("base        "), "{info:?}");
    let args = ["pack", "few", "-o", "few.s3a", "--model", "./own.delta", "--read-time", "0"];
    expect(&run(own.path(), &args), 0);
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/spec/reference/s3a_decode.py");
    let output = Command::new("python3")
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .current_dir(own.path())
        .args([script, "few.s3a", "out", "--model", at.join("base.safetensors").to_str().unwrap()])
        .output()
        .unwrap();
    expect(&output, 0);
    assert!(fs::read(own.path().join("out/text.txt")).unwrap() == foreign(3, 700));
}

/// The delta that an archive carries.
fn carried(archive: &Path) -> Vec<u8> {
    let options = s3a::archive::OpenOptions { max_entries: None, max_metadata: None };
    let archive = s3a::archive::Archive::open(archive, &options).unwrap();
    archive.embedded_model(0).unwrap().unwrap()
}

#[test]
fn an_interrupted_run_goes_on_with_what_it_learned() {
    let own = tempfile::tempdir().unwrap();
    let at = own.path();
    for file in 0..8u64 {
        put(at, format!("tree/text{file}.txt").as_bytes(), &foreign(file, 60_000));
    }
    let args = [
        "pack",
        "tree",
        "-o",
        "a.s3a",
        "--model",
        "nano",
        "--learn=100k",
        "--read-time",
        "0",
        "--group-size",
        "32k",
    ];
    let mut child = command(at).args(args).spawn().unwrap();
    // The run is stopped once groups are written; a run that ends before that is fine as well.
    let begun = || {
        let names = fs::read_dir(at).unwrap().map(|entry| entry.unwrap());
        names.into_iter().any(|entry| {
            entry.file_name().to_string_lossy().contains("a.s3a.") && entry.metadata().unwrap().len() > 60_000
        })
    };
    while !begun() && child.try_wait().unwrap().is_none() {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let _ =
        rustix::process::kill_process(rustix::process::Pid::from_child(&child), rustix::process::Signal::INT);
    let ended = child.wait().unwrap();
    if ended.code() == Some(130) {
        let again: Vec<&str> = args.iter().copied().chain(["--resume"]).collect();
        let said = expect(&command(at).args(again).output().unwrap(), 0);
        assert!(said.contains("going on with what the interrupted run has learned"), "{said}");
    }
    expect(&common::s3a(at, &["verify", "a.s3a"]), 0);
    expect(&common::s3a(at, &["diff", "a.s3a", "tree"]), 0);
}
