//! What is left of a damaged archive gets into a new one, bit for bit, and what is lost is named.

mod common;
mod sample;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use common::{expect, prose, put, s3a, snapshot};
use s3a::archive::check::verify::verify;
use s3a::archive::salvage::recover::salvage;
use s3a::archive::salvage::repack::{RepackOptions, RepackSummary, repack};
use s3a::archive::selection::Selection;
use s3a::archive::{Archive, EntryId, Kind, NoCache, OpenOptions, WriterOptions};
use s3a::error::Error;
use sample::{Sample, file, models, open};

/// Salvages bytes into a new archive.
fn saved(bytes: &[u8], max_bytes: u64) -> Result<(Archive, RepackSummary), Error> {
    let (mut archive, _) = salvage(file(bytes), Path::new("bad"), &OpenOptions::default())?;
    archive.set_models(models());
    let writer = WriterOptions { chunk_size: 4096, models: models(), threads: 1, ..WriterOptions::default() };
    let options = RepackOptions { selection: Selection::default(), max_bytes };
    let (bytes, summary) = repack(&archive, Vec::new(), &options, writer)?;
    assert_eq!(summary.archive_len, bytes.len() as u64);
    Ok((open(&bytes)?, summary))
}

/// Checks that every file of the archive is one that was packed, with all its bytes; returns their
/// number.
fn check(archive: &Archive, sample: &Sample) -> usize {
    assert!(verify(archive, true, &()).unwrap().is_clean());
    let mut whole = 0;
    for (id, entry) in (0..).map(EntryId).zip(archive.entries()) {
        let copied = entry.path.windows(10).rposition(|part| part == b".salvaged-");
        let path = &entry.path[..copied.unwrap_or(entry.path.len())];
        let (packed, content) = sample.files.iter().find(|(packed, _)| packed.path == path).unwrap();
        assert_eq!((entry.mode, entry.mtime, &entry.xattrs), (packed.mode, packed.mtime, &packed.xattrs));
        match (&entry.kind, content) {
            (Kind::File { size, .. }, Some(content)) => {
                let mut buf = vec![1; *size as usize];
                archive.read_at(id, 0, &mut buf, &NoCache).unwrap();
                assert!(buf == *content, "{:?}", String::from_utf8_lossy(path));
                whole += 1;
            }
            (kind, _) => {
                // A hard link may have become the file, where the file is gone.
                assert!(kind == &packed.kind || matches!(kind, Kind::Hardlink { .. }), "{kind:?}");
            }
        }
    }
    whole
}

#[test]
fn what_is_whole_comes_back_whatever_byte_is_damaged() {
    let sample = Sample::tiny_with(None);
    let all = sample.files.iter().filter(|(_, content)| content.is_some()).count();
    let (archive, summary) = saved(&sample.bytes, u64::MAX).unwrap();
    assert_eq!((check(&archive, &sample), summary.lost), (all, 0));
    let mut bytes = sample.bytes.clone();
    let (mut most, mut least) = (0, all);
    for at in (0..bytes.len()).step_by(if cfg!(debug_assertions) { 7 } else { 1 }) {
        bytes[at] ^= 0xa5;
        let (archive, _) = saved(&bytes, u64::MAX).unwrap();
        let whole = check(&archive, &sample);
        (most, least) = (most.max(whole), least.min(whole));
        bytes[at] ^= 0xa5;
    }
    assert!(most == all && (1..all).contains(&least), "{least} to {most} of {all}");
}

#[test]
fn everything_comes_back_without_header_and_index() {
    let sample = Sample::rich();
    let (archive, summary) = saved(&sample.bytes[3..sample.bytes.len() - 60], u64::MAX).unwrap();
    let all = sample.files.iter().filter(|(_, content)| content.is_some()).count();
    assert_eq!(check(&archive, &sample), all);
    assert_eq!((summary.entries, summary.lost), (sample.files.len() as u64, 0));
    assert!(matches!(saved(&sample.bytes, 1000), Err(Error::Limit { .. })));
}

#[test]
fn a_damaged_model_that_is_at_hand_otherwise_is_not_missed() {
    let dir = tempfile::tempdir().unwrap();
    put(dir.path(), b"tree/a.txt", &prose(1, 3000));
    let pack = ["pack", "tree", "-o", "a.s3a", "--model", "nano", "--embed-model"];
    expect(&s3a(dir.path(), &pack), 0);
    let mut bytes = fs::read(dir.path().join("a.s3a")).unwrap();
    bytes[1 << 20] ^= 1;
    fs::write(dir.path().join("a.s3a"), &bytes).unwrap();
    expect(&s3a(dir.path(), &["unpack", "a.s3a", "-C", "out"]), 0);
    let source = snapshot(&dir.path().join("tree"));
    common::assert_same(&source, &snapshot(&dir.path().join("out")));
    let output = s3a(dir.path(), &["verify", "a.s3a"]);
    expect(&output, 3);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.contains("damage"), "{said}");
    // Lost entries are reported, even if no selected entry is lost.
    let said = expect(&s3a(dir.path(), &["salvage", "a.s3a", "-C", "saved"]), 1);
    assert!(said.contains("bytes "), "{said}");
    common::assert_same(&source, &snapshot(&dir.path().join("saved")));
}

#[test]
fn the_command_writes_an_archive_of_what_it_can_read_and_names_the_rest() {
    let dir = tempfile::tempdir().unwrap();
    for i in 0..12u64 {
        put(dir.path(), format!("tree/{i:02}/long.txt").as_bytes(), &prose(i, 30_000));
        put(dir.path(), format!("tree/{i:02}/short.txt").as_bytes(), &prose(100 + i, 700));
    }
    fs::hard_link(dir.path().join("tree/03/long.txt"), dir.path().join("tree/linked")).unwrap();
    std::os::unix::fs::symlink("03", dir.path().join("tree/link")).unwrap();
    let pack = ["pack", "tree", "-o", "good.s3a", "--chunk-size", "4k", "--group-size", "64k"];
    expect(&s3a(dir.path(), &pack), 0);
    let good = fs::read(dir.path().join("good.s3a")).unwrap();

    // A whole archive stays whole.
    expect(&s3a(dir.path(), &["salvage", "good.s3a", "-o", "same.s3a"]), 0);
    expect(&s3a(dir.path(), &["unpack", "same.s3a", "-C", "same"]), 0);
    common::assert_same(&snapshot(&dir.path().join("tree")), &snapshot(&dir.path().join("same")));

    // An archive with damage in its middle, and without its end.
    let mut bad = good[..good.len() - 50].to_vec();
    for at in [good.len() / 3, good.len() / 2] {
        bad[at..at + 300].fill(0);
    }
    fs::write(dir.path().join("bad.s3a"), bad).unwrap();
    let output = s3a(dir.path(), &["salvage", "bad.s3a", "-o", "new.s3a", "-v"]);
    let said = expect(&output, 1);
    expect(&s3a(dir.path(), &["verify", "new.s3a"]), 0);
    expect(&s3a(dir.path(), &["unpack", "new.s3a", "-C", "out"]), 0);
    let (source, out) = (snapshot(&dir.path().join("tree")), snapshot(&dir.path().join("out")));
    let lost: BTreeMap<_, _> = source.iter().filter(|(path, _)| !out.contains_key(*path)).collect();
    assert!((1..6).contains(&lost.len()) && out.len() > 20, "{said}");
    for (path, object) in &out {
        // Directories lose their times where something in them is lost, and files may lose a name.
        assert_eq!(object.content, source[path].content, "{:?}", String::from_utf8_lossy(path));
    }
    for path in lost.keys() {
        let path = String::from_utf8_lossy(path);
        assert!(said.contains(&format!("{path}: lost: ")), "{path} in {said}");
    }
    let named = said.lines().filter(|line| line.contains(": lost: ")).count();
    assert_eq!(named, lost.len(), "{said}");

    // Like any command that writes an archive.
    expect(&s3a(dir.path(), &["salvage", "bad.s3a", "-o", "new.s3a"]), 11);
    expect(&s3a(dir.path(), &["salvage", "bad.s3a", "-o", "new.s3a", "-f"]), 1);
    expect(&s3a(dir.path(), &["salvage", "bad.s3a", "-o", "x.s3a", "-C", "x"]), 2);
    let said = expect(&s3a(dir.path(), &["salvage", "tree/00/long.txt", "-o", "x.s3a"]), 3);
    assert!(said.contains("not an s3a archive"), "{said}");
    expect(&s3a(dir.path(), &["salvage", "good.s3a", "-o", "x.s3a", "--max-size", "1k"]), 6);
    assert!(!dir.path().join("x.s3a").exists());
    expect(&s3a(dir.path(), &["salvage", "good.s3a", "-o", "part.s3a", "--include", "03/**"]), 0);
    let listed = String::from_utf8(s3a(dir.path(), &["ls", "part.s3a"]).stdout).unwrap();
    assert!(listed.contains("03/long.txt") && !listed.contains("04/long.txt"), "{listed}");
}
