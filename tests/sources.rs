//! The sources that `pack` and `append` are given: nothing of them is lost silently, and no file of
//! the commands' own gets into the archive.

mod common;

use std::fs::{self, File};
use std::path::Path;

use common::{command, expect, noise, put, s3a};

fn paths(dir: &Path, archive: &str) -> Vec<String> {
    let listed = s3a(dir, &["ls", archive]);
    expect(&listed, 0);
    String::from_utf8(listed.stdout).unwrap().lines().map(str::to_owned).collect()
}

#[test]
fn two_objects_of_one_path_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    put(dir, b"notes", b"outer");
    put(dir, b"sub/notes", b"inner");
    put(dir, b"other/f", b"f");
    std::os::unix::fs::symlink("other", dir.join("link")).unwrap();
    let sub = dir.join("sub");
    let said = expect(&s3a(&sub, &["pack", "../notes", "notes", "-o", "a.s3a"]), 2);
    assert!(said.contains("notes") && said.contains("different"), "{said}");
    expect(&s3a(dir, &["pack", "link", "link/f", "-o", "a.s3a"]), 2);
    assert!(!sub.join("a.s3a").exists() && !dir.join("a.s3a").exists());
    expect(&s3a(dir, &["pack", "sub", "-o", "b.s3a"]), 0);
    let before = fs::read(dir.join("b.s3a")).unwrap();
    expect(&s3a(dir, &["append", "b.s3a", "link", "link/f"]), 2);
    assert!(fs::read(dir.join("b.s3a")).unwrap() == before);
    // The same source may be given twice, by any path.
    expect(&s3a(dir, &["pack", "notes", "./notes", "sub", "sub/notes", "-o", "c.s3a"]), 0);
    assert_eq!(paths(dir, "c.s3a"), ["notes", "sub", "sub/notes"]);
}

#[test]
fn an_archive_does_not_get_into_itself() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    put(dir, b"f", &noise(1, 30_000));
    // What a killed run has left behind.
    put(dir, b".out.s3a.partial-0123456789abcdef-00000001", &noise(2, 100));
    let into = File::create(dir.join("piped.s3a")).unwrap();
    expect(&command(dir).args(["pack", ".", "-o", "-"]).stdout(into).output().unwrap(), 0);
    assert!(!paths(dir, "piped.s3a").iter().any(|path| path.contains("piped")));
    fs::remove_file(dir.join("piped.s3a")).unwrap();
    for args in [["pack", ".", "-o", "out.s3a"], ["pack", ".", "-fo", "./out.s3a"]] {
        expect(&s3a(dir, &args), 0);
        assert_eq!(paths(dir, "out.s3a"), [".", "f"]);
    }
    put(dir, b"g", b"g");
    expect(&s3a(dir, &["append", "out.s3a", "."]), 2);
    expect(&s3a(dir, &["append", "out.s3a", ".", "--skip-existing"]), 0);
    assert_eq!(paths(dir, "out.s3a"), [".", "f", "g"]);
}

#[test]
fn folders_come_together_where_components_are_taken_off() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    put(dir, b"t/x/a/f", b"f");
    put(dir, b"t/y/a/g", b"g");
    expect(&s3a(dir, &["pack", "t"]), 0);
    expect(&s3a(dir, &["unpack", "t.s3a", "--strip-components", "1", "-C", "out"]), 0);
    let archive = File::open(dir.join("t.s3a")).unwrap();
    let mut piped = command(dir);
    piped.args(["unpack", "-", "--strip-components", "1", "-C", "piped"]).stdin(archive);
    expect(&piped.output().unwrap(), 0);
    for folder in ["out", "piped"] {
        assert_eq!(fs::read(dir.join(folder).join("a/f")).unwrap(), b"f");
        assert_eq!(fs::read(dir.join(folder).join("a/g")).unwrap(), b"g");
    }
    // Files do not merge.
    put(dir, b"t/y/a/f", b"another");
    expect(&s3a(dir, &["pack", "t", "-f"]), 0);
    expect(&s3a(dir, &["unpack", "t.s3a", "--strip-components", "1", "-C", "again"]), 5);
}
