//! Archives that grow: the old bytes stay as they are, and the new entries are there too.

mod common;

use std::fs::{self, File};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use common::{assert_same, command, expect, noise, prose, put, s3a, snapshot};

/// A directory `tree` and its archive; the directory `more` holds what is appended later.
fn packed(flags: &[&str]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    put(dir.path(), b"tree/a.txt", &prose(1, 50_000));
    put(dir.path(), b"tree/b.bin", &noise(2, 90_000));
    put(dir.path(), b"tree/sub/c.txt", &prose(3, 500));
    put(dir.path(), b"more/sub/d.txt", &prose(4, 300_000));
    put(dir.path(), b"more/sub/new/e", b"e");
    put(dir.path(), b"more/same.bin", &noise(2, 90_000));
    put(dir.path(), b"more/same-again.bin", &noise(2, 90_000));
    put(dir.path(), b"more/empty", b"");
    fs::hard_link(dir.path().join("more/sub/d.txt"), dir.path().join("more/linked")).unwrap();
    std::os::unix::fs::symlink("a.txt", dir.path().join("more/link")).unwrap();
    expect(
        &s3a(dir.path(), &[&["pack", "tree", "--chunk-size", "4k", "--group-size", "16k"], flags].concat()),
        0,
    );
    dir
}

/// Unpacks from the file, from a pipe, and with the independent decoder; all must give the same.
fn check(dir: &Path, archive: &str, expected: &Path) {
    let expected = snapshot(expected);
    expect(&s3a(dir, &["verify", archive]), 0);
    expect(&s3a(dir, &["unpack", archive, "-C", "out"]), 0);
    assert_same(&expected, &snapshot(&dir.join("out")));
    let piped = command(dir)
        .args(["unpack", "-", "-C", "piped"])
        .stdin(File::open(dir.join(archive)).unwrap())
        .output()
        .unwrap();
    expect(&piped, 0);
    assert_same(&expected, &snapshot(&dir.join("piped")));
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("spec/reference/s3a_decode.py");
    let run = std::process::Command::new("python3")
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .arg(script)
        .args([dir.join(archive), dir.join("independent")])
        .output();
    match run {
        Ok(output) => {
            expect(&output, 0);
            assert_same(&expected, &snapshot(&dir.join("independent")));
        }
        Err(_) => eprintln!("not checked with the independent decoder: there is no python3"),
    }
    for name in ["out", "piped", "independent"] {
        let _ = fs::remove_dir_all(dir.join(name));
    }
}

/// Copies a tree with all properties that the system stores.
fn copy(from: &Path, to: &Path) {
    assert!(std::process::Command::new("cp").arg("-a").args([from, to]).status().unwrap().success());
}

#[test]
fn a_generation_leaves_the_bytes_before_it_alone() {
    for flags in [&[][..], &["--references", "2", "--depth", "2"]] {
        let dir = packed(flags);
        let old = fs::read(dir.path().join("tree.s3a")).unwrap();
        let names = ["sub/d.txt", "sub/new", "same.bin", "same-again.bin", "empty", "linked", "link"];
        let refs = if flags.is_empty() { "0" } else { "2" };
        let flags = ["append", "tree.s3a", "--references", refs, "-C", "more"];
        expect(&s3a(dir.path(), &[&flags[..], &names].concat()), 0);
        let new = fs::read(dir.path().join("tree.s3a")).unwrap();
        assert!(new.starts_with(&old) && new.len() > old.len());
        // Content that the archive has already is not stored again.
        assert!(new.len() < old.len() + 90_000, "{} bytes more", new.len() - old.len());

        let joined = dir.path().join("joined");
        copy(&dir.path().join("tree"), &joined);
        let times = fs::metadata(dir.path().join("tree/sub")).unwrap();
        for name in names {
            copy(&dir.path().join("more").join(name), &joined.join(name));
        }
        fs::remove_file(joined.join("linked")).unwrap();
        fs::hard_link(joined.join("sub/d.txt"), joined.join("linked")).unwrap();
        // Directories that were in the archive keep their times.
        for (name, times) in [("sub", times), ("", fs::metadata(dir.path().join("tree")).unwrap())] {
            File::open(joined.join(name)).unwrap().set_modified(times.modified().unwrap()).unwrap();
        }
        check(dir.path(), "tree.s3a", &joined);

        // The first generation is an archive by itself.
        fs::write(dir.path().join("first.s3a"), &new[..old.len()]).unwrap();
        check(dir.path(), "first.s3a", &dir.path().join("tree"));
    }
}

#[test]
fn many_generations_follow_one_another() {
    let dir = packed(&[]);
    let tree = dir.path().join("tree");
    let times = fs::metadata(&tree).unwrap().modified().unwrap();
    for round in 0..5u64 {
        let name = format!("round-{round}");
        put(&tree, name.as_bytes(), &prose(round + 10, 30_000 + 7 * round as usize));
        File::open(&tree).unwrap().set_modified(times).unwrap();
        expect(&s3a(dir.path(), &["append", "tree.s3a", "-C", "tree", &name]), 0);
    }
    check(dir.path(), "tree.s3a", &tree);
    // A whole directory goes to the root by the name `.`; entries that exist are skipped on
    // request.
    put(&tree, b"sub/last", b"last");
    File::open(tree.join("sub")).unwrap().set_modified(times).unwrap();
    let said = expect(&s3a(dir.path(), &["append", "tree.s3a", "-C", "tree", "."]), 2);
    assert!(said.contains("--skip-existing"), "{said}");
    expect(&s3a(dir.path(), &["append", "tree.s3a", "-C", "tree", ".", "--skip-existing"]), 0);
    let listed = String::from_utf8(s3a(dir.path(), &["ls", "tree.s3a"]).stdout).unwrap();
    assert!(listed.contains("sub/last"), "{listed}");
    let before = fs::read(dir.path().join("tree.s3a")).unwrap();
    let said = expect(&s3a(dir.path(), &["append", "tree.s3a", "-C", "tree", ".", "--skip-existing"]), 0);
    assert!(said.contains("nothing to append"), "{said}");
    assert!(before == fs::read(dir.path().join("tree.s3a")).unwrap());
}

#[test]
fn a_generation_with_another_number_is_found_by_all() {
    use s3a::wire::index::{TRAILER_LEN, Trailer};
    let dir = packed(&[]);
    let first = fs::read(dir.path().join("tree.s3a")).unwrap().len();
    expect(&s3a(dir.path(), &["append", "tree.s3a", "more"]), 0);
    put(dir.path(), b"last/x", b"x");
    expect(&s3a(dir.path(), &["append", "tree.s3a", "last"]), 0);
    let mut bytes = fs::read(dir.path().join("tree.s3a")).unwrap();
    let place = first - TRAILER_LEN..first;
    let trailer = Trailer::read(&bytes[place.clone()], place.start as u64).unwrap();
    let mut changed = Vec::new();
    Trailer { generation: 3, ..trailer }.write(&mut changed);
    bytes[place].copy_from_slice(&changed);
    fs::write(dir.path().join("tree.s3a"), bytes).unwrap();
    let checked = s3a(dir.path(), &["verify", "--fast", "tree.s3a"]);
    expect(&checked, 3);
    // The groups behind the damage are not reported as damaged, too.
    assert!(String::from_utf8_lossy(&checked.stdout).contains("damaged in 1 places"));
    let piped = File::open(dir.path().join("tree.s3a")).unwrap();
    expect(&command(dir.path()).args(["unpack", "-", "-C", "out"]).stdin(piped).output().unwrap(), 3);
}

#[test]
fn what_would_contradict_the_archive_is_refused_and_changes_nothing() {
    let dir = packed(&["--references", "0"]);
    let before = fs::read(dir.path().join("tree.s3a")).unwrap();
    put(dir.path(), b"bad/a.txt/below", b"x");
    put(dir.path(), b"bad/sub", b"a file where a folder is");
    for name in ["a.txt", "sub"] {
        let said = expect(&s3a(dir.path(), &["append", "tree.s3a", "-C", "bad", name]), 2);
        assert!(said.contains(name), "{said}");
    }
    expect(&s3a(dir.path(), &["append", "tree.s3a", "more/missing"]), 7);
    expect(&s3a(dir.path(), &["append", "missing.s3a", "more"]), 7);
    expect(&s3a(dir.path(), &["append", "tree.s3a", "more", "--references", "1"]), 2);
    fs::write(dir.path().join("cut.s3a"), &before[..before.len() - 1]).unwrap();
    expect(&s3a(dir.path(), &["append", "cut.s3a", "more"]), 3);
    assert!(before == fs::read(dir.path().join("tree.s3a")).unwrap());
}

#[test]
fn a_model_that_is_new_joins_the_list() {
    let dir = packed(&[]);
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/tiny.safetensors");
    put(dir.path(), b"tree/log", &b"the quick brown fox jumps over the lazy dog\n".repeat(40));
    let append = |more: &[&str]| {
        let mut run = command(dir.path());
        run.args(["append", "tree.s3a", "-C", "tree"]).args(more).env_remove("S3A_MODEL");
        run.output().unwrap()
    };
    let times = fs::metadata(dir.path().join("tree/sub")).unwrap().modified().unwrap();
    File::open(dir.path().join("tree")).unwrap().set_modified(times).unwrap();
    expect(&append(&["log", "--embed-model", "--model", model.to_str().unwrap()]), 0);
    // From now on the path belongs to the archive, and need not be named.
    put(dir.path(), b"tree/log-2", &b"the quick brown fox jumps over the lazy cat\n".repeat(40));
    expect(&append(&["log-2"]), 0);
    let info = s3a(dir.path(), &["info", "--json", "--chunks", "tree.s3a"]).stdout;
    let info: serde_json::Value = serde_json::from_slice(&info).unwrap();
    assert_eq!(info["models"].as_array().unwrap().len(), 1);
    assert_eq!(info["models"][0]["embedded"], true);
    // The root was not appended, and keeps the time that it was packed with.
    expect(&s3a(dir.path(), &["verify", "tree.s3a"]), 0);
    for archive in ["tree.s3a", "-"] {
        let mut unpack = command(dir.path());
        unpack.args(["unpack", archive, "-f", "-C", "out"]);
        unpack.stdin(Stdio::from(File::open(dir.path().join("tree.s3a")).unwrap()));
        expect(&unpack.output().unwrap(), 0);
        for name in ["log", "log-2", "a.txt"] {
            let read = |folder: &str| fs::read(dir.path().join(folder).join(name)).unwrap();
            assert!(read("tree") == read("out"), "{name}");
        }
        fs::remove_dir_all(dir.path().join("out")).unwrap();
    }
}

#[test]
fn a_cut_generation_costs_no_other() {
    let dir = packed(&[]);
    let old = fs::read(dir.path().join("tree.s3a")).unwrap().len();
    expect(&s3a(dir.path(), &["append", "tree.s3a", "-C", "more", "sub/d.txt"]), 0);
    let new = fs::read(dir.path().join("tree.s3a")).unwrap();
    for cut in [old + 1, old + 20_000, new.len() - 1] {
        fs::write(dir.path().join("cut.s3a"), &new[..cut]).unwrap();
        expect(&s3a(dir.path(), &["ls", "cut.s3a"]), 3);
        let said = s3a(dir.path(), &["salvage", "cut.s3a", "-C", "saved"]);
        assert!(matches!(said.status.code(), Some(0 | 1)));
        for name in ["a.txt", "b.bin", "sub/c.txt"] {
            let read = |folder: &str| fs::read(dir.path().join(folder).join(name)).unwrap();
            assert!(read("tree") == read("saved"), "{name}");
        }
        fs::remove_dir_all(dir.path().join("saved")).unwrap();
    }
}

#[test]
fn a_killed_append_leaves_the_archive_as_it_was_or_complete() {
    let dir = packed(&[]);
    put(dir.path(), b"more/large", &prose(9, 3 << 20));
    let old = fs::read(dir.path().join("tree.s3a")).unwrap();
    let mut ended = [0, 0];
    for round in 0..12u64 {
        fs::write(dir.path().join("tree.s3a"), &old).unwrap();
        let mut run = command(dir.path())
            .args(["append", "tree.s3a", "-C", "more", "large", "-j", "1"])
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(7 * round * round));
        let _ = run.kill();
        run.wait().unwrap();
        let now = fs::read(dir.path().join("tree.s3a")).unwrap();
        assert!(now.starts_with(&old), "round {round}");
        expect(&s3a(dir.path(), &["verify", "--fast", "tree.s3a"]), 0);
        ended[usize::from(now.len() > old.len())] += 1;
    }
    assert!(ended[0] > 0, "no run was killed before its end");
}
