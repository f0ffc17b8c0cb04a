//! Archives that are joined: every entry and every byte is there, references stay within their
//! archive, and paths that clash are refused or replaced as requested.

mod common;
mod sample;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::Path;
use std::process::Command;

use common::{assert_same, command, expect, noise, prose, put, s3a, snapshot};
use s3a::archive::check::verify::verify;
use s3a::archive::merge::{OnClash, merge};
use s3a::archive::{Archive, Entry, EntryId, Event, Kind, NoCache, OpenOptions, StreamReader};
use sample::{Sample, SampleWriter, file, models, open, text};

/// A tree with links and equal files, some of them in several directories.
fn make_tree(root: &Path) {
    for shard in 0..4u64 {
        let at = |name: &str| format!("part-{shard}/{name}");
        put(root, at("prose.txt").as_bytes(), &prose(shard, 60_000));
        put(root, at("noise").as_bytes(), &noise(shard, 9_000));
        put(root, at("copy").as_bytes(), &prose(shard, 60_000));
        put(root, at("in all of them").as_bytes(), &prose(99, 20_000));
        put(root, at("empty").as_bytes(), b"");
        fs::hard_link(root.join(at("noise")), root.join(at("zz linked"))).unwrap();
        std::os::unix::fs::symlink("prose.txt", root.join(at("link"))).unwrap();
    }
    put(root, b"readme", b"at the root");
}

fn python(dir: &Path, archive: &str, out: &str) -> bool {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("spec/reference/s3a_decode.py");
    let mut run = Command::new("python3");
    run.env("PYTHONDONTWRITEBYTECODE", "1").arg(script).args([dir.join(archive), dir.join(out)]);
    let Ok(output) = run.output() else {
        eprintln!("not checked with the independent decoder: there is no python3");
        return false;
    };
    expect(&output, 0);
    true
}

#[test]
fn shards_that_are_packed_by_processes_join_to_the_whole() {
    let dir = tempfile::tempdir().unwrap();
    let tree = dir.path().join("tree");
    make_tree(&tree);
    // Each directory is a part; the root itself and the files in it are one more.
    fs::write(dir.path().join("list"), "part-0\0part-1\0part-2\0part-3\0").unwrap();
    let mut workers = Vec::new();
    for shard in 0..5 {
        let mut run = command(dir.path());
        run.args(["pack", "-q", "-C", "tree", "--chunk-size", "4k", "--group-size", "32k", "-o"]);
        run.arg(format!("shard-{shard}.s3a"));
        match shard {
            4 => run.args([".", "readme", "--no-recursion"]),
            _ => {
                fs::write(dir.path().join(format!("list-{shard}")), format!("part-{shard}\n")).unwrap();
                run.args(["--references", "2", "--files-from"]).arg(format!("list-{shard}"))
            }
        };
        workers.push(run.spawn().unwrap());
    }
    for mut worker in workers {
        assert!(worker.wait().unwrap().success());
    }
    let shards = ["shard-4.s3a", "shard-0.s3a", "shard-1.s3a", "shard-2.s3a", "shard-3.s3a"];
    expect(&s3a(dir.path(), &[&["merge", "-o", "whole.s3a"], &shards[..]].concat()), 0);
    expect(&s3a(dir.path(), &["verify", "whole.s3a"]), 0);
    let expected = snapshot(&tree);
    expect(&s3a(dir.path(), &["unpack", "whole.s3a", "-C", "out"]), 0);
    assert_same(&expected, &snapshot(&dir.path().join("out")));
    let piped = s3a(dir.path(), &[&["merge", "-o", "-"], &shards[..]].concat());
    expect(&piped, 0);
    assert!(piped.stdout == fs::read(dir.path().join("whole.s3a")).unwrap());
    let mut unpack = command(dir.path());
    unpack.args(["unpack", "-", "-C", "piped"]).stdin(File::open(dir.path().join("whole.s3a")).unwrap());
    expect(&unpack.output().unwrap(), 0);
    assert_same(&expected, &snapshot(&dir.path().join("piped")));
    if python(dir.path(), "whole.s3a", "independent") {
        assert_same(&expected, &snapshot(&dir.path().join("independent")));
    }

    // A joined archive can be joined and appended to again.
    put(dir.path(), b"more/extra", &prose(5, 9_000));
    expect(&s3a(dir.path(), &["append", "whole.s3a", "-C", "more", "extra"]), 0);
    expect(&s3a(dir.path(), &["pack", "-C", "more", "extra", "--chunk-size", "64k", "-o", "other.s3a"]), 0);
    expect(
        &s3a(dir.path(), &["merge", "other.s3a", "whole.s3a", "-o", "again.s3a", "--on-clash", "last"]),
        0,
    );
    expect(&s3a(dir.path(), &["verify", "again.s3a"]), 0);
    // The reference window is as wide as necessary where chunk sizes differ.
    let wide = ["pack", "-C", "more", "extra", "--chunk-size", "1m", "--references", "1", "-o", "wide.s3a"];
    expect(&s3a(dir.path(), &wide), 0);
    expect(&s3a(dir.path(), &["merge", "wide.s3a", "whole.s3a", "-o", "wider.s3a", "--on-clash", "last"]), 0);
    expect(&s3a(dir.path(), &["verify", "wider.s3a"]), 0);
}

#[test]
fn archives_with_dictionaries_join() {
    let dir = tempfile::tempdir().unwrap();
    for shard in 0..2u64 {
        // Sources take turns: text of one kind, enough of it for a dictionary to pay.
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        for folder in ["src/archive", "src/cli", "src/train", "src/model", "src/mount"] {
            let files = fs::read_dir(root.join(folder)).unwrap().map(|entry| entry.unwrap().path());
            let mut files: Vec<_> = files.filter(|path| path.is_file()).collect();
            files.sort();
            for (i, path) in files.iter().enumerate().filter(|(i, _)| *i as u64 % 2 == shard) {
                put(dir.path(), format!("tree/{shard}/{folder}/{i}.rs").as_bytes(), &fs::read(path).unwrap());
            }
        }
        let (from, to) = (format!("{shard}"), format!("{shard}.s3a"));
        let pack = ["pack", "-q", "-l", "1", "--chunk-size", "4k", "-C", "tree", &from, "-o", &to];
        expect(&s3a(dir.path(), &pack), 0);
        let packed = Archive::open(dir.path().join(&to), &OpenOptions::default()).unwrap();
        assert!(packed.has_dictionaries());
    }
    expect(&s3a(dir.path(), &["merge", "0.s3a", "1.s3a", "-o", "all.s3a"]), 0);
    expect(&s3a(dir.path(), &["verify", "all.s3a"]), 0);
    expect(&s3a(dir.path(), &["unpack", "all.s3a", "-C", "out"]), 0);
    let out = snapshot(&dir.path().join("out"));
    for shard in ["0", "1"] {
        for (path, object) in snapshot(&dir.path().join("tree").join(shard)) {
            assert_eq!(out[&path].content, object.content, "{:?}", String::from_utf8_lossy(&path));
        }
    }
}

#[test]
fn clashes_are_refused_unless_one_is_to_give_way() {
    let dir = tempfile::tempdir().unwrap();
    put(dir.path(), b"a/same", b"of a");
    put(dir.path(), b"a/thing", b"a file");
    put(dir.path(), b"a/only-a", b"a");
    put(dir.path(), b"b/same", b"of b");
    put(dir.path(), b"b/thing/below", b"a folder");
    put(dir.path(), b"b/only-b", b"b");
    for name in ["a", "b"] {
        expect(&s3a(dir.path(), &["pack", name]), 0);
    }
    let said = expect(&s3a(dir.path(), &["merge", "a.s3a", "b.s3a", "-o", "c.s3a"]), 2);
    assert!(said.contains("b.s3a is in a.s3a") && said.contains("--on-clash"), "{said}");
    assert!(!dir.path().join("c.s3a").exists());
    for (which, same, thing) in [("first", "of a", "thing"), ("last", "of b", "thing/below")] {
        let merge = ["merge", "a.s3a", "b.s3a", "-f", "-o", "c.s3a", "--on-clash", which];
        let said = expect(&s3a(dir.path(), &merge), 0);
        assert!(said.contains("gave way"), "{said}");
        expect(&s3a(dir.path(), &["unpack", "c.s3a", "-C", which]), 0);
        let out = dir.path().join(which);
        assert_eq!(fs::read_to_string(out.join("same")).unwrap(), same);
        assert!(out.join(thing).is_file() && out.join("only-a").exists() && out.join("only-b").exists());
        let mut unpack = command(dir.path());
        unpack.args(["unpack", "-", "-C", "piped"]).stdin(File::open(dir.path().join("c.s3a")).unwrap());
        expect(&unpack.output().unwrap(), 0);
        assert_same(&snapshot(&out), &snapshot(&dir.path().join("piped")));
        fs::remove_dir_all(dir.path().join("piped")).unwrap();
    }
    expect(&s3a(dir.path(), &["merge", "a.s3a", "-o", "c.s3a"]), 11);
    let mut hurt = fs::read(dir.path().join("b.s3a")).unwrap();
    let at = hurt.windows(4).position(|w| w == b"of b").unwrap();
    hurt[at] ^= 1;
    fs::write(dir.path().join("hurt.s3a"), hurt).unwrap();
    let said = expect(&s3a(dir.path(), &["merge", "hurt.s3a", "-o", "d.s3a"]), 3);
    assert!(said.contains("damaged") && !dir.path().join("d.s3a").exists(), "{said}");
}

#[test]
fn models_are_united_by_their_fingerprint() {
    let dir = tempfile::tempdir().unwrap();
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/tiny.safetensors");
    let model = model.to_str().unwrap();
    let line = |i: u64| format!("the quick brown fox {i} jumps over the lazy dog\n").repeat(30).into_bytes();
    for (at, flags) in [&["--model", model][..], &["--model", model, "--embed-model"], &["--model", "none"]]
        .iter()
        .enumerate()
    {
        let name = format!("{at}");
        put(dir.path(), format!("{at}/log-{at}").as_bytes(), &line(at as u64));
        expect(&s3a(dir.path(), &[&["pack", &name], *flags].concat()), 0);
    }
    for order in [["0.s3a", "1.s3a", "2.s3a"], ["2.s3a", "1.s3a", "0.s3a"]] {
        expect(&s3a(dir.path(), &[&["merge", "-f", "-o", "all.s3a"], &order[..]].concat()), 0);
        let info = s3a(dir.path(), &["info", "--json", "--chunks", "all.s3a"]).stdout;
        let info: serde_json::Value = serde_json::from_slice(&info).unwrap();
        assert_eq!(info["models"].as_array().unwrap().len(), 1);
        assert_eq!(info["models"][0]["embedded"], true);
        expect(&s3a(dir.path(), &["verify", "all.s3a"]), 0);
        expect(&s3a(dir.path(), &["unpack", "-f", "all.s3a", "-C", "out"]), 0);
        for at in 0..3 {
            assert_eq!(fs::read(dir.path().join(format!("out/log-{at}"))).unwrap(), line(at));
        }
    }
    python(dir.path(), "all.s3a", "independent");
}

/// Draws numbers; the same for each seed.
struct Draw(u64);

impl Draw {
    fn below(&mut self, below: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % below
    }
}

/// A random archive with few names, so that many of them clash.
fn random(draw: &mut Draw) -> Sample {
    Sample::new(|w: &mut SampleWriter| {
        let mut paths: BTreeMap<String, bool> = BTreeMap::new();
        let mut files: Vec<EntryId> = Vec::new();
        for _ in 0..3 + draw.below(12) {
            let names = ["a", "b", "c", "d"];
            let mut path = names[draw.below(4)].to_owned();
            for _ in 0..draw.below(3) {
                path = format!("{path}/{}", names[draw.below(4)]);
            }
            let kind = draw.below(8);
            let is_folder = kind == 0;
            // Entries of one archive do not contradict each other.
            let above = path.match_indices('/').any(|(at, _)| paths.get(&path[..at]) == Some(&false));
            let below = paths.keys().any(|other| other.starts_with(&format!("{path}/")));
            if paths.contains_key(&path) || above || (below && !is_folder) {
                continue;
            }
            paths.insert(path.clone(), is_folder);
            match kind {
                0 => _ = w.other(&path, Kind::Directory),
                1 => _ = w.other(&path, Kind::Symlink { target: b"x".to_vec() }),
                2 | 3 if !files.is_empty() => {
                    _ = w.other(&path, Kind::Hardlink { target: files[draw.below(files.len())] });
                }
                4 if !files.is_empty() => files.push(w.same(&path, files[draw.below(files.len())])),
                5 => files.push(w.file(&path, &text(20_000 + draw.below(9000), draw.below(3) as u64))),
                6 => files.push(w.sparse(&path, 30_000, &[(5, 20), (9000, 10)], &common::noise(1, 30))),
                _ => {
                    let len = draw.below(3) * 100;
                    files.push(w.file(&path, &text(len, draw.below(3) as u64)));
                }
            }
        }
    })
}

/// What a user can see of an entry: its kind, its content, and which paths are the same file.
fn contents(archive: &Archive) -> BTreeMap<Vec<u8>, (String, Vec<u8>)> {
    let mut found = BTreeMap::new();
    for (id, entry) in (0..).map(EntryId).zip(archive.entries()) {
        let size = match &entry.kind {
            Kind::File { size, .. } => Some(*size),
            Kind::Hardlink { target } => match archive.entry(*target).unwrap().kind {
                Kind::File { size, .. } => Some(size),
                _ => unreachable!(),
            },
            _ => None,
        };
        let what = match &entry.kind {
            Kind::File { .. } | Kind::Hardlink { .. } => "file".to_owned(),
            other => format!("{other:?}"),
        };
        let mut content = vec![0; size.unwrap_or(0) as usize];
        if size.is_some() {
            assert_eq!(archive.read_at(id, 0, &mut content, &NoCache).unwrap(), content.len());
        }
        found.insert(entry.path.clone(), (what, content));
    }
    found
}

/// Whether `path` contradicts `other`, so that one of them must be replaced.
fn contradict(path: &[u8], is_folder: bool, other: &[u8], other_is_folder: bool) -> bool {
    let below = |a: &[u8], b: &[u8]| a.len() > b.len() && a.starts_with(b) && a[b.len()] == b'/';
    path == other || (below(path, other) && !other_is_folder) || (below(other, path) && !is_folder)
}

/// Names come before data, so that a pipe can be unpacked: the data of each file were there when
/// its entry came, or come with its group.
fn stream_order_holds(bytes: &[u8]) {
    let mut reader = StreamReader::open(bytes, &OpenOptions::default()).unwrap();
    reader.set_models(models());
    let mut passed = 0;
    let mut entries: Vec<Entry> = Vec::new();
    while let Some(event) = reader.next_event().unwrap() {
        match event {
            Event::Entry(_, entry) => {
                if let Kind::File { extents, .. } = &entry.kind {
                    for extent in extents.iter().filter(|extent| extent.raw_offset < passed) {
                        let (owner, ..) =
                            reader.owner(extent.raw_offset).expect("the data passed without a name");
                        assert!((owner.0 as usize) < entries.len());
                    }
                }
                entries.push(entry);
            }
            Event::Data { raw_offset, bytes, .. } => passed = raw_offset + bytes.len() as u64,
            Event::FileEnd { .. } | Event::Models => {}
        }
    }
}

#[test]
fn random_archives_join_to_what_a_simple_model_says() {
    for seed in 0..400 {
        let mut draw = Draw(seed);
        let archives: Vec<Archive> =
            (0..2 + draw.below(2)).map(|_| open(&random(&mut draw).bytes).unwrap()).collect();
        for on_clash in [OnClash::First, OnClash::Last] {
            let mut order: Vec<&Archive> = archives.iter().collect();
            if on_clash == OnClash::Last {
                order.reverse();
            }
            let mut expected: BTreeMap<Vec<u8>, (String, Vec<u8>)> = BTreeMap::new();
            for archive in order {
                let before: Vec<(Vec<u8>, bool)> =
                    expected.iter().map(|(path, (what, _))| (path.clone(), what == "Directory")).collect();
                for (path, found) in contents(archive) {
                    let is_folder = found.0 == "Directory";
                    if !before.iter().any(|(other, other_is)| contradict(&path, is_folder, other, *other_is))
                    {
                        expected.insert(path, found);
                    }
                }
            }
            let (bytes, summary) = merge(&archives, Vec::new(), on_clash, &()).unwrap();
            assert_eq!(summary.archive_len, bytes.len() as u64);
            let mut joined =
                Archive::from_file(file(&bytes), Path::new("joined"), &OpenOptions::default()).unwrap();
            joined.set_models(models());
            assert_eq!(contents(&joined), expected, "seed {seed}, {on_clash:?}");
            let report = verify(&joined, true, &()).unwrap();
            assert!(report.is_clean(), "seed {seed}: {report:?}");
            stream_order_holds(&bytes);
        }
    }
}
