//! Archives that were written once can be read for ever: `tests/golden/*.s3a` are compared with
//! their contents.
//!
//! Until 1.0.0 they are written anew, on purpose, when the format or the arithmetic changes:
//! `cargo test --test golden -- --ignored`. The independent decoder reads them too
//! (`reference.rs`).

mod common;

use std::path::{Path, PathBuf};

use common::{command, expect, noise, put};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

/// The contents of the golden archives, made by code so that they cannot change unnoticed.
fn tree(root: &Path) {
    let log: String = (0..80)
        .map(|i| {
            format!(
                "2026-01-{:02} 12:{:02}:{:02} service[{}]: request {} took {} ms\n",
                i % 28 + 1,
                i * 7 % 60,
                i * 13 % 60,
                100 + i % 3,
                i,
                i * i % 97
            )
        })
        .collect();
    put(root, b"log.txt", log.as_bytes());
    put(root, b"copy of log.txt", log.as_bytes());
    put(root, b"sub/noise", &noise(7, 4500));
    put(root, b"sub/deeper/zeros", &[0; 5000]);
    put(root, b"empty", b"");
    put(root, b"\xff name \n", b"not utf-8\n");
    std::fs::create_dir(root.join("nothing")).unwrap();
    std::fs::hard_link(root.join("log.txt"), root.join("sub/linked")).unwrap();
    std::os::unix::fs::symlink("../log.txt", root.join("sub/symlink")).unwrap();
}

/// Enough files of one kind for a dictionary.
fn large_tree(root: &Path) {
    for part in 0..4u32 {
        let line = |i: u32| {
            let (method, status) = (["GET", "PUT", "POST"][(i % 3) as usize], 200 + i * 7 % 5);
            format!(
                "{:06} {method} /items/{}/parts?limit={} {status}\n",
                i * 131 % 999_983,
                i * i % 9973,
                i % 17
            )
        };
        let text: String = (part * 1000..part * 1000 + 900).map(line).collect();
        put(root, format!("log.{part}").as_bytes(), text.as_bytes());
    }
}

/// Data that are packed in large blocks: samples of sound, and calls between functions.
fn block_tree(root: &Path) {
    let sample = |i: u32| (i % 400).abs_diff(200) as u16 * 90 + (i * 7 % 11) as u16;
    put(root, b"sound.raw", &(0..20_000).flat_map(|i| sample(i).to_le_bytes()).collect::<Vec<_>>());
    let call = |i: u32| {
        let to = (i * i % 61) * 512;
        [&[0x55, 0x48, 0x89, 0xe5, 0xe8][..], &to.wrapping_sub(i * 12 + 9).to_le_bytes(), &[0x5d, 0xc3, 0x90]]
            .concat()
    };
    put(root, b"code.o", &(0..5000).flat_map(call).collect::<Vec<_>>());
    put(root, b"noise.bin", &noise(7, 3000));
}

/// Makes the contents of an archive.
type Fill = fn(&Path);

const GOLDENS: &[(&str, Fill, &[&str])] = &[
    ("v1_0_neural", tree, &["--model", "default", "--chunk-size", "4k", "--references", "2"]),
    ("v1_0_embedded", tree, &["--model", "MODEL", "--embed-model", "--chunk-size", "4k"]),
    ("v1_0_zstd", tree, &["--model", "none", "--chunk-size", "4k"]),
    ("v1_0_large_chunks", tree, &["--model", "none", "--chunk-size", "1m"]),
    ("v1_0_blocks", block_tree, &["--model", "none", "--read-time", "20"]),
    ("v1_0_dictionary", large_tree, &["-l", "3", "--chunk-size", "4k"]),
];

#[test]
fn golden_archives_hold_what_they_held() {
    for (name, fill, _) in GOLDENS {
        let expected = tempfile::tempdir().unwrap();
        fill(expected.path());
        for scalar in ["0", "1"] {
            let out = tempfile::tempdir().unwrap();
            let archive = folder().join(format!("{name}.s3a"));
            let target = out.path().join("out");
            let run = command(out.path())
                .env("S3A_FORCE_SCALAR", scalar)
                .arg("unpack")
                .arg(&archive)
                .arg("-C")
                .arg(&target)
                .output();
            expect(&run.unwrap(), 0);
            assert_eq!(contents(expected.path()), contents(&target), "{name}, scalar {scalar}");
            expect(&command(out.path()).arg("verify").arg(&archive).output().unwrap(), 0);
        }
    }
}

/// Paths and contents; owners and times are not compared.
fn contents(root: &Path) -> Vec<(PathBuf, String, Vec<u8>)> {
    let mut found = Vec::new();
    let mut todo = vec![root.to_owned()];
    while let Some(folder) = todo.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let kind = std::fs::symlink_metadata(&path).unwrap().file_type();
            let content = if kind.is_file() { std::fs::read(&path).unwrap() } else { Vec::new() };
            let relative = path.strip_prefix(root).unwrap().to_owned();
            found.push((relative, format!("{:?}", std::fs::read_link(&path).ok()), content));
            if kind.is_dir() {
                todo.push(path);
            }
        }
    }
    found.sort();
    found
}

#[test]
#[ignore = "writes the golden archives anew"]
fn write_the_golden_archives() {
    for (name, fill, options) in GOLDENS {
        let source = tempfile::tempdir().unwrap();
        fill(source.path());
        let model = folder().join("tiny.safetensors");
        let options = options.iter().map(|o| if *o == "MODEL" { model.as_os_str() } else { o.as_ref() });
        let archive = folder().join(format!("{name}.s3a"));
        let run = command(source.path())
            .args(["pack", "-f", "-o"])
            .arg(&archive)
            .args(options)
            .arg(source.path())
            .output();
        expect(&run.unwrap(), 0);
    }
}
