//! Bytes of an archive that cannot be read cost the content that lies there and nothing else; bytes
//! that read as something else are reported.

mod common;
mod forge;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use common::{assert_same, command, expect, noise, prose, put, s3a, snapshot};
use s3a::archive::Kind;
use s3a::wire::entry::content_hash;

/// A library that makes reads of one file fail. In the file with inode `S3A_BAD_INO`, the bytes
/// from `S3A_BAD_FROM` to `S3A_BAD_TO` cannot be read, or the file ends at `S3A_BAD_END`, before
/// its length. With `S3A_BAD_SHORT`, a read that begins before the bad bytes ends there, as with a
/// cached file; otherwise it fails as a whole, as without a cache.
const PRELOADED: &str = r#"
#define _GNU_SOURCE
#include <errno.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static long number(const char *name, long otherwise) {
    const char *text = getenv(name);
    return text ? atol(text) : otherwise;
}

static long bad_read(int fd, void *bytes, size_t len, long at) {
    struct stat found;
    if (fstat(fd, &found) == 0 && (long)found.st_ino == number("S3A_BAD_INO", -1)) {
        long from = number("S3A_BAD_FROM", 0), to = number("S3A_BAD_TO", 0), end = number("S3A_BAD_END", -1);
        if (end >= 0 && at + (long)len > end) {
            if (at >= end) return 0;
            len = end - at;
        }
        if (at < to && at + (long)len > from) {
            if (!getenv("S3A_BAD_SHORT") || at >= from) { errno = EIO; return -1; }
            len = from - at;
        }
    }
    return syscall(SYS_pread64, fd, bytes, len, at);
}

ssize_t pread64(int fd, void *bytes, size_t len, off_t at) { return bad_read(fd, bytes, len, at); }
ssize_t pread(int fd, void *bytes, size_t len, off_t at) { return bad_read(fd, bytes, len, at); }
"#;

const BLOCK: usize = 4096;

/// The library with the reads above, built once; `None`, with a message, where there is no
/// compiler.
fn preloaded() -> Option<&'static Path> {
    static BUILT: OnceLock<Option<(tempfile::TempDir, PathBuf)>> = OnceLock::new();
    let built = BUILT.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        let (source, library) = (dir.path().join("reads.c"), dir.path().join("reads.so"));
        fs::write(&source, PRELOADED).unwrap();
        let built = Command::new("cc").args(["-shared", "-fPIC", "-o"]).args([&library, &source]).output();
        if !built.is_ok_and(|output| output.status.success()) {
            eprintln!("skipped: there is no compiler of C to build the reads that fail");
            return None;
        }
        Some((dir, library))
    });
    built.as_ref().map(|(_, library)| library.as_path())
}

/// What is bad about `bad.s3a` while a command runs.
#[derive(Clone, Copy, Debug)]
enum Bad {
    /// These bytes cannot be read; if `short`, reads end before them.
    Bytes { from: usize, to: usize, short: bool },
    /// The file ends here, though it was longer when it was opened.
    End(usize),
}

fn run(dir: &Path, library: &Path, bad: Bad, args: &[&str]) -> Output {
    let mut run = command(dir);
    run.args(args).env("LD_PRELOAD", library);
    run.env("S3A_BAD_INO", fs::metadata(dir.join("bad.s3a")).unwrap().ino().to_string());
    match bad {
        Bad::Bytes { from, to, short } => {
            run.env("S3A_BAD_FROM", from.to_string()).env("S3A_BAD_TO", to.to_string());
            if short {
                run.env("S3A_BAD_SHORT", "1");
            }
        }
        Bad::End(end) => {
            run.env("S3A_BAD_END", end.to_string());
        }
    }
    run.output().unwrap()
}

/// Files in several groups, each of several chunks and of a part of one.
fn packed(flags: &[&str]) -> (tempfile::TempDir, Vec<u8>) {
    let dir = tempfile::tempdir().unwrap();
    for i in 0..10u64 {
        put(dir.path(), format!("tree/{i}/noise").as_bytes(), &noise(i, 9_000));
        put(dir.path(), format!("tree/{i}/prose").as_bytes(), &prose(i, 20_000));
        put(dir.path(), format!("tree/{i}/short").as_bytes(), &noise(100 + i, 300));
    }
    let pack = ["pack", "tree", "-o", "good.s3a", "--chunk-size", "4k", "--group-size", "32k"];
    expect(&s3a(dir.path(), &[&pack[..], flags].concat()), 0);
    let good = fs::read(dir.path().join("good.s3a")).unwrap();
    (dir, good)
}

/// Each command treats bytes that cannot be read as it treats zeros in their place.
fn compare(dir: &Path, library: &Path, good: &[u8], bad: Bad) {
    let mut zeroed = good.to_vec();
    match bad {
        Bad::Bytes { from, to, .. } => zeroed[from..to.min(good.len())].fill(0),
        Bad::End(end) => zeroed[end..].fill(0),
    }
    fs::write(dir.join("zeroed.s3a"), zeroed).unwrap();
    let both = |args: &[&str]| {
        let zeroed: Vec<&str> =
            args.iter().map(|&arg| if arg == "bad.s3a" { "zeroed.s3a" } else { arg }).collect();
        (run(dir, library, bad, args), s3a(dir, &zeroed))
    };
    let code = |output: &Output| output.status.code();
    let said = |output: &Output| String::from_utf8_lossy(&output.stderr).into_owned();

    for fast in [&["--fast"][..], &[]] {
        let (found, due) = both(&[&["verify", "bad.s3a", "--json"], fast].concat());
        assert_eq!(code(&found), code(&due), "{bad:?}: {}", said(&found));
        assert_eq!(code(&found), Some(3), "{bad:?}: {}", said(&found));
        let files = |output: &Output| {
            let report: Option<serde_json::Value> = serde_json::from_slice(&output.stdout).ok();
            report.map(|report| report["files"].clone())
        };
        assert_eq!(files(&found), files(&due), "{bad:?}");
        let told = [&found.stdout[..], &found.stderr].concat();
        let told = String::from_utf8_lossy(&told).into_owned();
        assert!(told.contains("cannot be read") || told.contains("cut short"), "{bad:?}: {told}");
    }
    for (args, salvages) in
        [(&["unpack", "bad.s3a", "-C", "out"][..], false), (&["salvage", "bad.s3a", "-C", "out"], true)]
    {
        let trees = ["bad.s3a", "zeroed.s3a"].map(|archive| {
            let args: Vec<&str> =
                args.iter().map(|&arg| if arg == "bad.s3a" { archive } else { arg }).collect();
            let output = if archive == "bad.s3a" { run(dir, library, bad, &args) } else { s3a(dir, &args) };
            assert!(matches!(code(&output), Some(0 | 1 | 3)), "{bad:?} {args:?}: {}", said(&output));
            let out = dir.join("out");
            let tree = out.exists().then(|| snapshot(&out));
            let _ = fs::remove_dir_all(out);
            (code(&output), tree)
        });
        let [(found, tree), (due, other)] = trees;
        assert_eq!(found, due, "{bad:?} {args:?}");
        assert_eq!(tree.is_some(), other.is_some(), "{bad:?} {args:?}");
        if let (Some(mut tree), Some(mut other)) = (tree, other) {
            // Directories that lost their entries have the current time.
            for object in
                tree.values_mut().chain(other.values_mut()).filter(|object| object.mode & 0o40000 != 0)
            {
                object.mtime = (0, 0);
            }
            assert!(!salvages || tree.len() > 5, "{bad:?}");
            assert_same(&tree, &other);
        }
    }
    let (found, due) = both(&["salvage", "bad.s3a", "-o", "new.s3a", "-f"]);
    assert_eq!(code(&found), code(&due), "{bad:?}: {}", said(&found));
    if code(&found) != Some(3) {
        expect(&s3a(dir, &["verify", "new.s3a"]), 0);
        fs::remove_file(dir.join("new.s3a")).unwrap();
    }
}

#[test]
fn a_sector_that_cannot_be_read_costs_what_a_zeroed_one_does() {
    let Some(library) = preloaded() else { return };
    for flags in [&[][..], &["-l", "2"]] {
        let (dir, good) = packed(flags);
        let dir = dir.path();
        fs::write(dir.join("bad.s3a"), &good).unwrap();
        for (nth, from) in (0..good.len()).step_by(BLOCK).enumerate() {
            let bad = Bad::Bytes { from, to: from + BLOCK, short: nth % 2 == 0 };
            compare(dir, library, &good, bad);
        }
        // Several bad places at once, across the end of a group.
        let from = good.len() / 2 / BLOCK * BLOCK;
        compare(dir, library, &good, Bad::Bytes { from, to: from + 5 * BLOCK, short: false });
    }
}

#[test]
fn an_archive_that_is_cut_while_it_is_read_costs_what_zeros_there_do() {
    let Some(library) = preloaded() else { return };
    let (dir, good) = packed(&[]);
    fs::write(dir.path().join("bad.s3a"), &good).unwrap();
    for end in (0..good.len()).step_by(good.len() / 7).chain([good.len() - 1]) {
        compare(dir.path(), library, &good, Bad::End(end));
    }
}

#[test]
fn a_pipe_from_a_disk_that_cannot_be_read_ends_with_damage() {
    let (dir, good) = packed(&[]);
    let strace = Command::new("strace").args(["-f", "-o", "/dev/null", "true"]).output();
    if !strace.is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: there is no strace, or it may not trace");
        return;
    }
    // The first reads are those of libraries and of system files.
    let mut run = Command::new("strace");
    run.args(["-f", "-qq", "-o", "/dev/null", "-e", "trace=read", "-P"]).arg(dir.path().join("good.s3a"));
    run.args(["-e", "inject=read:error=EIO:when=2", env!("CARGO_BIN_EXE_s3a"), "unpack", "-", "-C", "out"]);
    run.current_dir(dir.path()).stdin(fs::File::open(dir.path().join("good.s3a")).unwrap());
    let said = expect(&run.output().unwrap(), 3);
    assert!(good.len() > 100_000 && said.contains("cannot be read"), "{said}");
}

/// An archive of files whose contents are zeros, though their hashes are of other contents; all its
/// checksums are right.
fn forged(dir: &Path, files: &[(&str, &[u8])]) {
    let (mut raw, mut entries, mut chunks) = (0, vec![forge::entry("", Kind::Directory)], Vec::new());
    for (path, due) in files {
        let mut entry = forge::file(path, due.len() as u64, &[(0, raw, due.len() as u64)]);
        if let Kind::File { hash, .. } = &mut entry.kind {
            *hash = content_hash(blake3::hash(due).as_bytes(), due.len() as u64);
        }
        entries.push(entry);
        for part in due.chunks(4096) {
            chunks.push(forge::stored(part.len() as u32));
        }
        raw += due.len() as u64;
    }
    let forged = forge::Forged::new(vec![forge::ForgedGroup::new(entries, chunks)]);
    fs::write(dir.join("forged.s3a"), forged.bytes()).unwrap();
}

#[test]
fn short_files_are_compared_by_more_than_a_short_hash() {
    let dir = tempfile::tempdir().unwrap();
    let (short, zeros) = (noise(1, 300), [0; 300]);
    forged(dir.path(), &[("same", &zeros), ("short", &short)]);
    put(dir.path(), b"tree/short", &short);
    put(dir.path(), b"tree/same", &zeros);
    let flags = ["diff", "forged.s3a", "tree", "--no-owner", "--no-times", "--no-xattrs", "--json"];
    let output = s3a(dir.path(), &flags);
    expect(&output, 1);
    let said: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let differs = said.as_array().unwrap().iter().filter(|row| row["differs"] == "content");
    let paths: Vec<_> = differs.map(|row| row["path"].as_str().unwrap()).collect();
    assert_eq!(paths, ["short"], "{said}");
}

#[test]
fn files_that_are_short_or_have_holes_are_the_same_as_they_were() {
    let dir = tempfile::tempdir().unwrap();
    for i in 0..300u64 {
        put(dir.path(), format!("tree/{}/{i}", i % 7).as_bytes(), &prose(i, 20 * i as usize));
    }
    let sparse = fs::File::create(dir.path().join("tree/sparse")).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&sparse, b"data", 1 << 20).unwrap();
    sparse.set_len(3 << 20).unwrap();
    fs::hard_link(dir.path().join("tree/1/1"), dir.path().join("tree/linked")).unwrap();
    for flags in [&[][..], &["-l", "2"], &["--model", "nano", "--chunk-size", "8k"]] {
        expect(&s3a(dir.path(), &[&["pack", "tree", "-f"], flags].concat()), 0);
        let same = s3a(dir.path(), &["diff", "tree.s3a", "tree"]);
        expect(&same, 0);
        assert!(same.stdout.is_empty());
        put(dir.path(), b"tree/1/15", &prose(15, 299).iter().chain(b"?").copied().collect::<Vec<u8>>());
        let other = s3a(dir.path(), &["diff", "tree.s3a", "tree", "--no-times"]);
        expect(&other, 1);
        assert_eq!(String::from_utf8_lossy(&other.stdout), "1/15: other content\n");
        put(dir.path(), b"tree/1/15", &prose(15, 300));
    }
}

#[test]
fn a_hash_is_listed_as_long_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    put(dir.path(), b"tree/long", &prose(1, 5000));
    put(dir.path(), b"tree/short", &prose(2, 500));
    let sparse = fs::File::create(dir.path().join("tree/sparse")).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&sparse, &noise(3, 4096), 1 << 20).unwrap();
    expect(&s3a(dir.path(), &["pack", "tree"]), 0);
    let listed = s3a(dir.path(), &["ls", "tree.s3a", "--json"]);
    let listed: serde_json::Value = serde_json::from_slice(&listed.stdout).unwrap();
    let row = |path: &str| listed.as_array().unwrap().iter().find(|row| row["path"] == path).unwrap().clone();
    let digits = |bytes: &[u8]| blake3::hash(bytes).to_hex().to_string();
    assert_eq!(row("long")["blake3_prefix"], digits(&prose(1, 5000))[..32]);
    assert_eq!(row("short")["blake3_prefix"], digits(&prose(2, 500))[..12]);
    assert_eq!(row("sparse")["data_blake3_prefix"], digits(&noise(3, 4096))[..32]);
    assert_eq!(row("sparse").get("blake3_prefix"), None);
}

#[test]
fn who_reads_a_whole_file_is_told_that_it_is_not_what_was_packed() {
    let dir = tempfile::tempdir().unwrap();
    forged(
        dir.path(),
        &[("good", &[0; 9000]), ("long", &noise(1, 9000)), ("short", &noise(2, 300)), ("z", &[0; 50])],
    );
    let dir = dir.path();
    for (args, bytes, named) in [
        (&["cat", "forged.s3a", "good"][..], 9000, &[][..]),
        (&["cat", "forged.s3a", "long"], 9000, &["long"]),
        (&["cat", "forged.s3a", "short", "long", "z"], 9350, &["short", "long"]),
        (&["cat", "forged.s3a", "long", "--length", "9000"], 9000, &["long"]),
        // A part of a file cannot be checked.
        (&["cat", "forged.s3a", "long", "--length", "8999"], 8999, &[]),
        (&["cat", "forged.s3a", "long", "--offset", "1"], 8999, &[]),
        (&["unpack", "forged.s3a", "--to-stdout"], 18350, &["long", "short"]),
        (&["unpack", "forged.s3a", "--to-stdout", "--include", "good"], 9000, &[]),
    ] {
        let output = s3a(dir, args);
        let said = expect(&output, if named.is_empty() { 0 } else { 3 });
        assert!(output.stdout == vec![0; bytes], "{args:?}: {} bytes", output.stdout.len());
        assert!(named.iter().all(|name| said.contains(name)), "{args:?}: {said}");
    }
    let output = s3a(dir, &["unpack", "forged.s3a", "--tar", "-"]);
    let said = expect(&output, 3);
    assert!(said.contains("long: ") && said.contains("short: ") && !said.contains("good: "), "{said}");
    fs::write(dir.join("whole.tar"), output.stdout).unwrap();
    let listed = Command::new("tar").arg("tf").arg(dir.join("whole.tar")).output().unwrap();
    assert!(listed.status.success() && listed.stdout.ends_with(b"z\n./\n"), "{listed:?}");
    // No tar file with wrong contents gets its final name.
    expect(&s3a(dir, &["unpack", "forged.s3a", "--tar", "out.tar"]), 3);
    assert!(!dir.join("out.tar").exists());
    let archive = s3a::open(dir.join("forged.s3a")).unwrap();
    assert!(archive.read_range("good", 0..9000).is_ok() && archive.read_range("long", 1..9000).is_ok());
    let whole = archive.read_range("long", 0..u64::MAX);
    assert!(matches!(whole, Err(s3a::Error::BadContent { .. })), "{whole:?}");

    // Joining decodes nothing, and says so.
    expect(&s3a(dir, &["merge", "forged.s3a", "-o", "merged.s3a"]), 0);
    expect(&s3a(dir, &["verify", "merged.s3a"]), 3);
    let help = String::from_utf8(s3a(dir, &["merge", "--help"]).stdout).unwrap();
    assert!(
        help.split_whitespace().collect::<Vec<_>>().join(" ").contains("contents are not checked"),
        "{help}"
    );
}
