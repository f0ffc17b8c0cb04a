//! Whatever a power cut leaves of data that were not synced: the archive under the final name is
//! whole or not there, an archive that a command reported as written is there, and a run that was
//! cut off can be done again.
//!
//! `strace` records the calls that `pack`, `pack --resume` and `append` make to the file system.
//! From this record the test derives the states that a file system may have at each moment: of the
//! changes to the directory, those up to any moment since its last sync; of a file's data since its
//! last sync, all, nothing, only the length, or parts. Each state is written to a directory and
//! checked. Without strace the test says that it is skipped.

mod common;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::path::Path;
use std::process::Command;

use common::{expect, noise, prose, put, s3a};

/// A call of the command that concerns the one file that it writes.
#[derive(Clone, Debug, PartialEq)]
enum Event {
    Create(String),
    Write { at: u64, len: u64 },
    Truncate(u64),
    SyncFile,
    Rename(String, String),
    SyncFolder,
}

/// Runs a command under strace.
fn record(dir: &Path, args: &[&str]) -> Vec<Event> {
    const CALLS: &str = "trace=openat,write,pwrite64,copy_file_range,sendfile,lseek,fsync,fdatasync,ftruncate,\
                         renameat,renameat2,linkat,unlinkat";
    let mut run = Command::new("strace");
    run.args(["-f", "-qq", "-y", "-s", "0", "-o", "../calls", "-e", CALLS]);
    run.arg(env!("CARGO_BIN_EXE_s3a")).args(args).args(["-j", "1"]).current_dir(dir);
    expect(&run.env("S3A_MODEL", "none").env("NO_COLOR", "1").output().unwrap(), 0);
    let calls = fs::read_to_string(dir.parent().unwrap().join("calls")).unwrap();
    parse(&calls, dir.canonicalize().unwrap().to_str().unwrap())
}

/// Joins calls whose lines strace splits because another thread made a call.
fn whole_lines(calls: &str) -> Vec<String> {
    let (mut lines, mut begun) = (Vec::new(), HashMap::new());
    for line in calls.lines() {
        let (thread, call) = line.split_once(' ').unwrap();
        let call = call.trim_start();
        if let Some(start) = call.strip_suffix(" <unfinished ...>") {
            begun.insert(thread, start.to_owned());
        } else if let Some((_, rest)) =
            call.strip_prefix("<... ").and_then(|rest| rest.split_once(" resumed>"))
        {
            lines.push(begun.remove(thread).unwrap_or_default() + rest);
        } else {
            lines.push(call.to_owned());
        }
    }
    lines
}

fn parse(calls: &str, dir: &str) -> Vec<Event> {
    let (mut events, mut at) = (Vec::new(), 0);
    for line in whole_lines(calls) {
        let Some((call, rest)) = line.split_once('(') else { continue };
        let Some((args, result)) = rest.rsplit_once(" = ") else { continue };
        let Ok(result) = result.split(['<', ' ']).next().unwrap().parse::<i64>() else { continue };
        if result < 0 {
            continue;
        }
        // The file of a descriptor, if the command writes it: `3</dir/.x.partial-...>`.
        let named = |text: &str| -> Option<String> {
            let (_, path) = text.split_once('<')?;
            let path = path.split('>').next()?.strip_prefix(dir)?;
            Some(path.trim_start_matches('/').to_owned())
        };
        let partial = |text: &str| named(text).filter(|name| name.contains(".partial-"));
        let parts: Vec<&str> = args.trim_end_matches(')').split(", ").collect();
        let quoted: Vec<&str> = args.split('"').skip(1).step_by(2).collect();
        match call {
            "openat" => {
                let Some(name) = quoted.first().filter(|name| name.contains(".partial-")) else { continue };
                at = 0;
                if args.contains("O_CREAT") {
                    events.push(Event::Create((*name).to_owned()));
                }
            }
            "write" | "pwrite64" | "copy_file_range" | "sendfile" => {
                let to = if call == "copy_file_range" { parts[2] } else { parts[0] };
                if partial(to).is_none() {
                    continue;
                }
                assert_ne!(call, "pwrite64", "a call that this test does not follow");
                events.push(Event::Write { at, len: result as u64 });
                at += result as u64;
            }
            "lseek" if partial(parts[0]).is_some() => at = result as u64,
            "ftruncate" if partial(parts[0]).is_some() => {
                events.push(Event::Truncate(parts[1].parse().unwrap()));
            }
            "fsync" | "fdatasync" => match named(parts[0]).as_deref() {
                Some("") => events.push(Event::SyncFolder),
                Some(name) if name.contains(".partial-") => events.push(Event::SyncFile),
                _ => {}
            },
            "renameat" | "renameat2" | "linkat" if quoted[0].contains(".partial-") => {
                events.push(Event::Rename(quoted[0].to_owned(), quoted[1].to_owned()));
            }
            "unlinkat" => assert!(!quoted[0].contains(".partial-"), "{line}"),
            _ => {}
        }
    }
    events
}

/// The files before a command, and the content that it writes.
struct Story<'a> {
    /// Files of the directory that are safe on disk.
    before: BTreeMap<String, Vec<u8>>,
    /// The partial file from which the command continues, if there is one.
    resumed: Option<String>,
    result: &'a str,
    whole: Vec<u8>,
}

/// How many possibilities there are for data that were not synced.
const VARIANTS: usize = 7;

/// The file's content after a cut: `synced` is safe, `pending` may be lost.
fn content(synced: &[u8], pending: &[Event], whole: &[u8], variant: usize) -> Vec<u8> {
    let mut now = synced.to_vec();
    let writes = pending.iter().filter(|event| matches!(event, Event::Write { .. })).count();
    let mut nth = 0usize;
    for event in pending {
        match *event {
            Event::Write { at, len } => {
                nth += 1;
                let (from, to) = (at as usize, (at + len) as usize);
                if variant == 0 {
                    continue;
                }
                if now.len() < to {
                    now.resize(to, 0);
                }
                let keep = match variant {
                    1 => from..to,
                    // The length alone.
                    2 => from..from,
                    3 => {
                        if nth.is_multiple_of(2) {
                            from..to
                        } else {
                            from..from
                        }
                    }
                    4 => {
                        if nth % 2 == 1 {
                            from..to
                        } else {
                            from..from
                        }
                    }
                    // The last one is torn.
                    5 => {
                        if nth == writes {
                            from..from + (to - from) / 2
                        } else {
                            from..to
                        }
                    }
                    _ => {
                        // Some blocks.
                        for block in (from / 512)..to.div_ceil(512) {
                            if noise(block as u64, 1)[0].is_multiple_of(2) {
                                let part = from.max(block * 512)..to.min(block * 512 + 512);
                                now[part.clone()].copy_from_slice(&whole[part]);
                            }
                        }
                        continue;
                    }
                };
                now[keep.clone()].copy_from_slice(&whole[keep]);
            }
            Event::Truncate(len) if variant != 0 => now.resize(len as usize, 0),
            _ => {}
        }
    }
    now
}

/// Directories as a cut may leave them, and whether the command had ended.
fn states(events: &[Event], story: &Story<'_>) -> Vec<(BTreeMap<String, Vec<u8>>, bool)> {
    let (mut states, mut seen) = (Vec::new(), HashSet::new());
    for end in 0..=events.len() {
        let mut synced = story.resumed.as_ref().map_or_else(Vec::new, |name| story.before[name].clone());
        let (mut pending, mut folder, mut unsure) = (Vec::new(), Vec::new(), Vec::new());
        for event in &events[..end] {
            match event {
                Event::Create(_) | Event::Rename(..) => unsure.push(event.clone()),
                Event::SyncFolder => folder.append(&mut unsure),
                Event::SyncFile => {
                    synced = content(&synced, &pending, &story.whole, 1);
                    pending.clear();
                }
                Event::Write { .. } | Event::Truncate(_) => pending.push(event.clone()),
            }
        }
        // A directory's changes keep their order, so that nothing becomes durable by chance.
        for kept in 0..=unsure.len() {
            for variant in 0..VARIANTS {
                let mut files = story.before.clone();
                let mut name = story.resumed.clone();
                for change in folder.iter().chain(&unsure[..kept]) {
                    match change {
                        Event::Create(new) => name = Some(new.clone()),
                        Event::Rename(_, new) => {
                            name.take().map(|old| files.remove(&old));
                            name = Some(new.clone());
                        }
                        _ => {}
                    }
                }
                if let Some(name) = name {
                    files.insert(name, content(&synced, &pending, &story.whole, variant));
                }
                if seen.insert((files.clone(), end == events.len())) {
                    states.push((files, end == events.len()));
                }
            }
        }
    }
    states
}

/// What is wrong with a state: the archive is neither the old one nor whole, or is not there
/// although it was reported.
fn wrong(files: &BTreeMap<String, Vec<u8>>, done: bool, story: &Story<'_>) -> Option<&'static str> {
    let found = files.get(story.result);
    if found == Some(&story.whole) {
        return None;
    }
    if found != story.before.get(story.result) {
        return Some("the archive is neither what it was nor whole");
    }
    done.then_some("the archive is not there, though the command said so")
}

/// Checks all states, and runs the command again in each in which it had not ended.
fn check(dir: &Path, args: &[&str], story: &Story<'_>, events: &[Event]) -> usize {
    let states = states(events, story);
    let mut again = 0;
    for (files, done) in &states {
        assert_eq!(wrong(files, *done, story), None, "{args:?}: {:?}", files.keys());
        if files.get(story.result) == Some(&story.whole) {
            continue;
        }
        lay_out(dir, files);
        let said = expect(&s3a(dir, &[args, &["-j", "1"]].concat()), 0);
        assert!(fs::read(dir.join(story.result)).unwrap() == story.whole, "{args:?}: {said}");
        again += 1;
    }
    assert!(again > 5, "{args:?}: {again} of {}", states.len());

    // The check is able to fail: without a sync, some states are bad.
    for sync in [Event::SyncFile, Event::SyncFolder] {
        let without: Vec<Event> = events.iter().filter(|event| **event != sync).cloned().collect();
        assert!(without.len() < events.len(), "{args:?}: no {sync:?}");
        let bad =
            self::states(&without, story).iter().filter(|(f, done)| wrong(f, *done, story).is_some()).count();
        assert!(bad > 0, "{args:?}: without {sync:?}, nothing is wrong");
    }
    states.len()
}

/// Makes these the files of a directory, and leaves its directories as they are.
fn lay_out(dir: &Path, files: &BTreeMap<String, Vec<u8>>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            fs::remove_file(path).unwrap();
        }
    }
    files.iter().for_each(|(name, bytes)| fs::write(dir.join(name), bytes).unwrap());
}

fn files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let paths = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let name = |path: &Path| path.file_name().unwrap().to_str().unwrap().to_owned();
    paths.filter(|path| path.is_file()).map(|path| (name(&path), fs::read(&path).unwrap())).collect()
}

/// Asserts that the writes cover the whole file, so that no call was missed.
fn assert_complete(events: &[Event], from: usize, whole: &[u8]) {
    let mut covered = from;
    for event in events {
        if let Event::Write { at, len } = event
            && *at as usize <= covered
        {
            covered = covered.max((at + len) as usize);
        }
    }
    assert_eq!(covered, whole.len(), "{events:?}");
}

#[test]
fn a_power_cut_leaves_archives_whole_or_not_there() {
    let works = Command::new("strace").args(["-f", "-y", "-o", "/dev/null", "true"]).output();
    if !works.is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: there is no strace, or it may not trace");
        return;
    }
    let above = tempfile::tempdir().unwrap();
    let dir = &above.path().join("work");
    for i in 0..4u64 {
        put(dir, format!("tree/{i}.txt").as_bytes(), &prose(i, 9000));
        put(dir, format!("tree/{i}.bin").as_bytes(), &noise(i, 5000));
    }
    put(dir, b"more/late.txt", &prose(9, 6000));
    let pack =
        ["pack", "tree", "-q", "-o", "new.s3a", "--group-size", "16k", "--chunk-size", "4k", "--resume"];

    // A new archive.
    let events = record(dir, &pack);
    let whole = fs::read(dir.join("new.s3a")).unwrap();
    assert_complete(&events, 0, &whole);
    let before = BTreeMap::new();
    let mut story = Story { before, resumed: None, result: "new.s3a", whole: whole.clone() };
    let packed = check(dir, &pack, &story, &events);

    // A new archive that an interrupted run has begun.
    let partial = events
        .iter()
        .find_map(|event| if let Event::Create(name) = event { Some(name.clone()) } else { None })
        .unwrap();
    story.before = BTreeMap::from([(partial.clone(), whole[..whole.len() / 2].to_vec())]);
    story.resumed = Some(partial);
    lay_out(dir, &story.before);
    let events = record(dir, &pack);
    assert!(!events.iter().any(|event| matches!(event, Event::Create(_))), "{events:?}");
    assert_complete(&events, 0, &whole);
    let resumed = check(dir, &pack, &story, &events);

    // A new generation of an existing archive.
    let append = ["append", "new.s3a", "more", "-q"];
    let before = BTreeMap::from([("new.s3a".to_owned(), whole)]);
    lay_out(dir, &before);
    let events = record(dir, &append);
    let whole = fs::read(dir.join("new.s3a")).unwrap();
    let cloned = !events.iter().any(|event| matches!(event, Event::Write { at: 0, .. }));
    assert_complete(&events, if cloned { before["new.s3a"].len() } else { 0 }, &whole);
    let appended = if cloned {
        // A clone is a write like any other, but its call does not tell the length.
        eprintln!("append is skipped: this file system clones files");
        0
    } else {
        let story = Story { before, resumed: None, result: "new.s3a", whole };
        check(dir, &append, &story, &events)
    };
    assert!(!files(dir).is_empty());
    println!("power cuts: {packed} states of pack, {resumed} of pack --resume, {appended} of append");
}
