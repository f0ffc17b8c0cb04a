//! An interrupted pack continues where it stopped, and gives the same bytes as one that was not
//! interrupted.

mod common;

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use common::{command, expect, noise, prose, put, s3a};

/// Enough files for many groups and some hundred milliseconds.
fn tree(dir: &Path) {
    for i in 0..8u64 {
        put(dir, format!("tree/{i}/prose.txt").as_bytes(), &prose(i, 300_000 + 1000 * i as usize));
        put(dir, format!("tree/{i}/noise.bin").as_bytes(), &noise(i, 20_000));
        put(dir, format!("tree/{i}/copy.txt").as_bytes(), &prose(i / 3, 300_000));
        put(dir, format!("tree/{i}/small").as_bytes(), &prose(i, 300));
    }
}

const FLAGS: [&str; 11] =
    ["pack", "tree", "-j", "1", "--group-size", "64k", "--chunk-size", "8k", "--references", "2", "-o"];

fn start(dir: &Path, flags: &[&str]) -> Child {
    command(dir).args(flags).args(["part.s3a", "--resume"]).stderr(Stdio::piped()).spawn().unwrap()
}

fn partials(dir: &Path) -> Vec<PathBuf> {
    let mut found: Vec<_> = fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect();
    found.retain(|path| path.to_string_lossy().contains(".partial-"));
    found
}

#[test]
fn twenty_kills_at_random_moments_give_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    tree(dir.path());
    let begin = Instant::now();
    expect(&s3a(dir.path(), &[&FLAGS[..], &["whole.s3a"]].concat()), 0);
    let takes = begin.elapsed();
    let mut state = u64::from(std::process::id());
    let (mut kills, mut most) = (0, 0);
    while kills < 20 {
        let mut run = start(dir.path(), &FLAGS);
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        std::thread::sleep(takes.mul_f64((state >> 40) as f64 / (1u64 << 24) as f64 / 3.0));
        let _ = run.kill();
        if run.wait().unwrap().success() {
            // The run ended before it was killed; the next one begins anew.
            assert_eq!(
                fs::read(dir.path().join("part.s3a")).unwrap(),
                fs::read(dir.path().join("whole.s3a")).unwrap()
            );
            fs::remove_file(dir.path().join("part.s3a")).unwrap();
            continue;
        }
        kills += 1;
        assert!(!dir.path().join("part.s3a").exists());
        // There is one partial file, which only grows; none if the kill came before it was made.
        let left = partials(dir.path());
        assert!(left.len() <= 1, "{left:?}");
        most = most.max(left.first().map_or(0, |path| fs::metadata(path).unwrap().len()));
    }
    assert!(most > 0, "no kill left anything to go on with");
    expect(&s3a(dir.path(), &[&FLAGS[..], &["part.s3a", "--resume"]].concat()), 0);
    assert!(
        fs::read(dir.path().join("part.s3a")).unwrap() == fs::read(dir.path().join("whole.s3a")).unwrap()
    );
    assert_eq!(partials(dir.path()), Vec::<PathBuf>::new());
}

/// Interrupts a pack after some groups, and returns its messages.
fn interrupted(dir: &Path) -> String {
    let mut run = start(dir, &FLAGS);
    let begin = Instant::now();
    while partials(dir).first().is_none_or(|path| fs::metadata(path).map_or(0, |m| m.len()) < 30_000) {
        assert!(begin.elapsed() < Duration::from_secs(60));
        std::thread::sleep(Duration::from_millis(2));
    }
    let pid = rustix::process::Pid::from_raw(run.id() as i32).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let mut said = String::new();
    run.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!(run.wait().unwrap().code(), Some(130), "{said}");
    said
}

#[test]
fn an_interrupt_leaves_a_partial_and_says_so() {
    let dir = tempfile::tempdir().unwrap();
    tree(dir.path());
    expect(&s3a(dir.path(), &[&FLAGS[..], &["whole.s3a"]].concat()), 0);
    let said = interrupted(dir.path());
    let left = partials(dir.path());
    assert_eq!(left.len(), 1);
    let name = left[0].file_name().unwrap().to_str().unwrap();
    assert!(said.contains("--resume") && said.contains(name), "{said}");

    // A command with other options does not use the partial file, and leaves it in place.
    let mut other = FLAGS;
    other[7] = "16k";
    let said = expect(&s3a(dir.path(), &[&other[..], &["part.s3a", "--resume"]].concat()), 0);
    assert!(said.contains("no interrupted run"), "{said}");
    assert_eq!(partials(dir.path()), left);
    fs::remove_file(dir.path().join("part.s3a")).unwrap();
    // Neither does a command that is not told to resume.
    let said = expect(&s3a(dir.path(), &[&FLAGS[..], &["part.s3a"]].concat()), 0);
    assert!(said.contains("--resume"), "{said}");
    assert_eq!(partials(dir.path()), left);
    fs::remove_file(dir.path().join("part.s3a")).unwrap();

    let said = expect(&s3a(dir.path(), &[&FLAGS[..], &["part.s3a", "--resume"]].concat()), 0);
    assert!(!said.contains("no interrupted run"), "{said}");
    assert!(
        fs::read(dir.path().join("part.s3a")).unwrap() == fs::read(dir.path().join("whole.s3a")).unwrap()
    );
    assert_eq!(partials(dir.path()), Vec::<PathBuf>::new());
}

#[test]
fn a_tree_that_changed_meanwhile_is_packed_as_it_is_now() {
    for (name, change) in [
        (&b"tree/0/prose.txt"[..], Some(prose(77, 300_000))),
        (b"tree/5/prose.txt", Some(prose(78, 310_000))),
        (b"tree/3/new", Some(b"new".to_vec())),
        (b"tree/1/prose.txt", None),
    ] {
        let dir = tempfile::tempdir().unwrap();
        tree(dir.path());
        interrupted(dir.path());
        match change {
            Some(content) => put(dir.path(), name, &content),
            None => fs::remove_file(common::path(dir.path(), name)).unwrap(),
        }
        expect(&s3a(dir.path(), &[&FLAGS[..], &["part.s3a", "--resume"]].concat()), 0);
        expect(&s3a(dir.path(), &[&FLAGS[..], &["whole.s3a"]].concat()), 0);
        let read = |name| fs::read(dir.path().join(name)).unwrap();
        assert!(read("part.s3a") == read("whole.s3a"), "{:?}", String::from_utf8_lossy(name));
        expect(&s3a(dir.path(), &["verify", "part.s3a"]), 0);
    }
}

#[test]
fn a_damaged_partial_is_packed_again_from_the_damage_on() {
    let dir = tempfile::tempdir().unwrap();
    tree(dir.path());
    expect(&s3a(dir.path(), &[&FLAGS[..], &["whole.s3a"]].concat()), 0);
    for (at, fill) in [(3, 1), (60, 20), (9_000, 1), (20_000, 4000)] {
        interrupted(dir.path());
        let left = partials(dir.path()).remove(0);
        let mut bytes = fs::read(&left).unwrap();
        let end = bytes.len().min(at + fill);
        bytes[at..end].iter_mut().for_each(|byte| *byte ^= 0x55);
        // As a power cut may leave it, with zeros at the end.
        bytes.extend([0; 5000]);
        fs::write(&left, bytes).unwrap();
        expect(&s3a(dir.path(), &[&FLAGS[..], &["part.s3a", "--resume"]].concat()), 0);
        assert!(
            fs::read(dir.path().join("part.s3a")).unwrap() == fs::read(dir.path().join("whole.s3a")).unwrap()
        );
        fs::remove_file(dir.path().join("part.s3a")).unwrap();
    }
}
