//! A read through a mount gives the bytes that were packed.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::Signal;

use crate::common::{assert_same, noise, prose, snapshot};
use crate::place::{Place, fuse, is_mounted, program, run, s3a, tree};

#[test]
fn a_mounted_tree_equals_its_source_in_bytes_and_metadata() {
    if !fuse() {
        return;
    }
    let place = Place::packed(tree, &[]);
    // The mount runs in the background, and answers as soon as the command returns.
    run(s3a().arg("mount").arg(place.archive()).arg(place.target()));
    assert!(fs::read_dir(place.target()).unwrap().count() > 5);
    run(Command::new("diff").args(["-r", "--no-dereference"]).arg(place.source()).arg(place.target()));
    assert_same(&snapshot(&place.source()), &snapshot(&place.target()));
    run(s3a().arg("umount").arg(place.target()));
    assert!(!is_mounted(&place.target()));
    assert_eq!(fs::read_dir(place.target()).unwrap().count(), 0);
}

#[test]
fn holes_of_sparse_files_are_found_and_cost_no_blocks() {
    if !fuse() {
        return;
    }
    let place = Place::packed(tree, &[]);
    let _mounted = place.mount(&[]);
    let file = File::open(place.target().join("sparse")).unwrap();
    assert!(file.metadata().unwrap().blocks() * 512 < 1 << 20);
    let data = rustix::fs::seek(&file, rustix::fs::SeekFrom::Data(0)).unwrap();
    assert!((1..=3 << 20).contains(&data), "{data}");
    assert_eq!(rustix::fs::seek(&file, rustix::fs::SeekFrom::Hole(0)).unwrap(), 0);
}

/// Reads at random; started as a process of its own by the test below.
#[test]
fn random_reader() {
    let Ok(work) = std::env::var("S3A_TEST_READER") else { return };
    let mut parts = work.split('|');
    let (source, target) = (parts.next().unwrap(), parts.next().unwrap());
    let mut seed: u64 = parts.next().unwrap().parse().unwrap();
    let names = ["text", "noise", "same", "sparse", "deep/linked", "deep/er/file299"];
    for _ in 0..400 {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let name = names[(seed >> 33) as usize % names.len()];
        let (ours, theirs) = (
            File::open(format!("{source}/{name}")).unwrap(),
            File::open(format!("{target}/{name}")).unwrap(),
        );
        let offset = (seed >> 20) % ours.metadata().unwrap().len();
        let mut expected = vec![0; (seed >> 45) as usize % 70_000];
        let mut got = expected.clone();
        let len = ours.read_at(&mut expected, offset).unwrap();
        assert_eq!(theirs.read_at(&mut got, offset).unwrap(), len, "{name} at {offset}");
        assert!(got == expected, "{name} at {offset}");
    }
}

#[test]
fn processes_that_read_at_random_at_once_get_the_right_bytes() {
    if !fuse() {
        return;
    }
    let place = Place::packed(tree, &["--chunk-size", "4k"]);
    // A cache of few chunks, so that readers evict each other's.
    let _mounted = place.mount(&["-o", "cachesize=20k,workers=3"]);
    let readers: Vec<Child> = (0..8)
        .map(|seed| {
            let work = format!("{}|{}|{seed}", place.source().display(), place.target().display());
            let mut reader = Command::new(std::env::current_exe().unwrap());
            reader
                .args(["--exact", "contents::random_reader"])
                .env("S3A_TEST_READER", work)
                .stdout(Stdio::null())
                .spawn()
                .unwrap()
        })
        .collect();
    for mut reader in readers {
        assert!(reader.wait().unwrap().success());
    }
}

#[test]
fn a_database_in_an_archive_passes_its_integrity_check() {
    if !fuse() || !program("sqlite3") {
        return;
    }
    let make = |root: &Path| {
        let sql = "PRAGMA page_size=4096; CREATE TABLE t(a INTEGER PRIMARY KEY, b TEXT, c BLOB);
            WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 30000)
            INSERT INTO t SELECT i, 'row ' || (i * 7919 % 10007), randomblob(i % 50) FROM n; CREATE INDEX tb ON t(b);";
        run(Command::new("sqlite3").arg(root.join("data.db")).arg(sql));
    };
    let place = Place::packed(make, &[]);
    let _mounted = place.mount(&[]);
    let ask = |root: PathBuf, sql: &str| {
        let output = run(Command::new("sqlite3").arg("-readonly").arg(root.join("data.db")).arg(sql));
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(ask(place.target(), "PRAGMA integrity_check").trim(), "ok");
    let sum = "SELECT count(*), sum(length(c)), max(b) FROM t WHERE b > 'row 5'";
    assert_eq!(ask(place.target(), sum), ask(place.source(), sum));
}

#[test]
fn a_repository_in_an_archive_passes_git_fsck() {
    if !fuse() || !program("git") {
        return;
    }
    let git = |root: &Path, args: &[&str]| {
        let mut command = Command::new("git");
        command.arg("-C").arg(root).args([
            "-c",
            "safe.directory=*",
            "-c",
            "user.name=n",
            "-c",
            "user.email=e@x",
            "-c",
            "gc.auto=0",
        ]);
        run(command.args(args).env("GIT_CONFIG_NOSYSTEM", "1"))
    };
    let place = Place::packed(
        |root| {
            git(root, &["init", "-q"]);
            for commit in 0..20u64 {
                for i in 0..5 {
                    fs::write(root.join(format!("f{i}")), prose(commit * i, 3000 + commit as usize * 100))
                        .unwrap();
                }
                git(root, &["add", "."]);
                git(root, &["commit", "-q", "-m", "change"]);
                if commit == 12 {
                    git(root, &["repack", "-a", "-d", "-q"]);
                }
            }
        },
        &[],
    );
    let _mounted = place.mount(&[]);
    git(&place.target(), &["fsck", "--full", "--strict"]);
    let log = |root: &Path| git(root, &["log", "--format=%H", "-p"]).stdout;
    assert!(log(&place.target()) == log(&place.source()));
}

#[test]
fn a_damaged_chunk_gives_eio_on_exactly_its_range() {
    if !fuse() {
        return;
    }
    let place = Place::packed(
        |root| fs::write(root.join("noise"), noise(3, 400_000)).unwrap(),
        &["--chunk-size", "8k", "--read-time", "0"],
    );
    let archive = s3a::archive::Archive::open(place.archive(), &Default::default()).unwrap();
    let damaged = s3a::archive::ChunkId(20);
    let chunk = archive.chunk(damaged).unwrap();
    let file = File::options().read(true).write(true).open(place.archive()).unwrap();
    let at = chunk.offset + u64::from(chunk.frame_len) / 2;
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 0x10], at).unwrap();

    let mounted = place.mount(&[]);
    let expected = fs::read(place.source().join("noise")).unwrap();
    let hit = chunk.raw_offset as usize..chunk.raw_offset as usize + chunk.raw_len as usize;
    assert_eq!(hit.len(), 8192);
    // Twice and in both directions, so that the kernel's own read-ahead is at work too.
    let pages: Vec<usize> = (0..expected.len()).step_by(4096).collect();
    for pages in [pages.clone(), pages.iter().rev().copied().collect(), pages] {
        let file = File::open(place.target().join("noise")).unwrap();
        for page in pages {
            let end = (page + 4096).min(expected.len());
            let mut got = vec![0; end - page];
            match file.read_at(&mut got, page as u64) {
                Ok(len) => {
                    assert_eq!(len, got.len(), "short at {page}");
                    assert!(got == expected[page..end], "wrong bytes at {page}");
                    assert!(end <= hit.start || page >= hit.end, "{page} is damaged");
                }
                Err(error) => {
                    assert_eq!(error.raw_os_error(), Some(5), "{error}");
                    assert!(page < hit.end && end > hit.start, "{page} is not damaged");
                }
            }
        }
    }
    assert!(fs::read(place.target().join("noise")).is_err());
    mounted.signal(Signal::TERM);
    assert_eq!(mounted.ended(), Some(0));
}

#[test]
fn df_attributes_owner_and_read_only_are_as_asked() {
    if !fuse() {
        return;
    }
    let place = Place::packed(tree, &["--read-time", "0"]);
    let mounted = place.mount(&["-o", "uid=1234,gid=5678,allow_other"]);
    let stat = rustix::fs::statvfs(place.target()).unwrap();
    let bytes = stat.f_blocks * stat.f_frsize;
    assert!((1_700_000..8_000_000).contains(&bytes), "{bytes}");
    assert_eq!((stat.f_bfree, stat.f_bavail), (0, 0));
    assert!(stat.f_files > 300);
    let shown = run(Command::new("df").arg("--output=source,fstype,used").arg(place.target())).stdout;
    let shown = String::from_utf8(shown).unwrap();
    assert!(shown.contains("fuse.s3a") && shown.contains("packed.s3a"), "{shown}");

    let text = place.target().join("text");
    let m = fs::metadata(&text).unwrap();
    assert_eq!((m.uid(), m.gid()), (1234, 5678));
    let ask = |name: &str| {
        let mut value = [0; 4096];
        let len = rustix::fs::getxattr(&text, name, &mut value[..]).unwrap();
        String::from_utf8(value[..len].to_vec()).unwrap()
    };
    let stored: u64 = ask("user.s3a.stored_size").parse().unwrap();
    assert!((100..700_000).contains(&stored), "{stored}");
    assert!(ask("user.s3a.chunks").contains('-'));
    assert!(ask("user.s3a.codecs").contains("zstd:"));
    assert!(rustix::fs::getxattr(&text, "user.other", &mut [0u8; 9][..]).is_err());
    assert_eq!(rustix::fs::listxattr(&text, &mut [0u8; 99][..]).unwrap(), 0);
    let refused = File::create(place.target().join("new")).unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ReadOnlyFilesystem);

    // Everything but cache and model is small.
    run(Command::new("sh")
        .arg("-c")
        .arg("cat $(find . -type f ! -name '*odd*') > /dev/null")
        .current_dir(place.target()));
    println!("resident: {} KiB, peak {} KiB", mounted.memory("VmRSS"), mounted.memory("VmHWM"));
    assert!(mounted.memory("VmHWM") < 64 << 10);
}
