//! Cold random reads of 4 KiB through a mount, for several chunk sizes, as CSV.
//!
//! `cargo bench --bench mount_latency -- FOLDER [READS] [MODEL]` packs FOLDER once for each chunk
//! size and mounts it with a cache that holds nothing, so that each read decodes its chunk and all
//! chunks that this one refers to. It needs root and /dev/fuse.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// Bytes of a read.
const READ: usize = 4096;

fn main() {
    // Cargo adds `--bench`.
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let Some(folder) = args.first() else {
        println!("usage: cargo bench --bench mount_latency -- FOLDER [READS] [MODEL]");
        return;
    };
    let reads = args.get(1).map_or(500, |reads| reads.parse().expect("READS is a number"));
    let model = args.get(2);
    let dir = std::env::temp_dir().join(format!("s3a-mount-latency-{}", std::process::id()));
    std::fs::create_dir_all(dir.join("mnt")).expect("a temporary folder");
    println!(
        "chunk_kib,archive_bytes,mount_to_ls_ms,resident_kib,reads,median_us,p99_us,worst_us,warm_median_us"
    );
    for chunk in ["4k", "8k", "16k", "64k"] {
        measure(Path::new(folder), &dir, chunk, reads, model.map(String::as_str));
    }
    let _ = std::fs::remove_dir_all(&dir);
}

fn measure(folder: &Path, dir: &Path, chunk: &str, reads: usize, model: Option<&str>) {
    let (archive, target) = (dir.join("packed.s3a"), dir.join("mnt"));
    let mut pack = s3a();
    // The chunks have no references, so that the time is that of one chunk.
    pack.args(["pack", "-q", "-f", "--references", "0", "--chunk-size", chunk, "-o"])
        .arg(&archive)
        .arg(folder);
    run(pack.args(model.map(|model| format!("--model={model}"))));
    let start = Instant::now();
    run(s3a().arg("mount").arg(&archive).arg(&target).args(["-o", "cachesize=0,readahead=0"]));
    let entries = std::fs::read_dir(&target).expect("the mount answers").count();
    let mounted = start.elapsed();
    assert!(entries > 0, "the folder is empty");

    let files = files(&target);
    let total: u64 = files.iter().map(|(_, len)| len).sum();
    let mut seed = 1u64;
    let mut times = Vec::with_capacity(reads);
    let mut again = Vec::with_capacity(reads);
    let mut buffer = [0; READ];
    while times.len() < reads && total > 0 {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        // One byte of all files' bytes, each with the same probability.
        let mut at = (seed >> 16) % total;
        let Some((path, _)) =
            files.iter().find(|(_, len)| at.checked_sub(*len).map(|rest| at = rest).is_none())
        else {
            continue;
        };
        let file = File::open(path).expect("a file of the mount");
        // No read-ahead of the kernel, and no page from its cache.
        let _ = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::Random);
        let _ = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed);
        let start = Instant::now();
        file.read_at(&mut buffer, at / READ as u64 * READ as u64).expect("a read");
        times.push(start.elapsed());
        let start = Instant::now();
        file.read_at(&mut buffer, at / READ as u64 * READ as u64).expect("a read");
        again.push(start.elapsed());
    }
    let resident = resident_kib(&archive);
    run(s3a().arg("umount").arg(&target));
    times.sort();
    again.sort();
    let at = |times: &[Duration], percent: usize| times[(times.len() - 1) * percent / 100].as_micros();
    let len = std::fs::metadata(&archive).map_or(0, |metadata| metadata.len());
    println!(
        "{},{len},{},{resident},{},{},{},{},{}",
        chunk.trim_end_matches('k'),
        mounted.as_millis(),
        times.len(),
        at(&times, 50),
        at(&times, 99),
        at(&times, 100),
        at(&again, 50)
    );
}

/// Files of a tree with their lengths.
fn files(root: &Path) -> Vec<(PathBuf, u64)> {
    let mut found = Vec::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("a folder of the mount").flatten() {
            match entry.metadata() {
                Ok(metadata) if metadata.is_dir() => folders.push(entry.path()),
                Ok(metadata) if metadata.is_file() && metadata.len() > 0 => {
                    found.push((entry.path(), metadata.len()))
                }
                _ => {}
            }
        }
    }
    found
}

/// Resident memory of the daemon that serves an archive.
fn resident_kib(archive: &Path) -> u64 {
    let name = archive.to_string_lossy().into_owned();
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let daemon = processes.map(|process| process.path()).find(|process| {
        let line = std::fs::read(process.join("cmdline")).unwrap_or_default();
        let args: Vec<_> = line.split(|&b| b == 0).collect();
        args.get(1) == Some(&&b"mount"[..]) && args.contains(&name.as_bytes())
    });
    let status =
        daemon.and_then(|process| std::fs::read_to_string(process.join("status")).ok()).unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmRSS"));
    line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok()).unwrap_or(0)
}

fn s3a() -> Command {
    Command::new(env!("CARGO_BIN_EXE_s3a"))
}

fn run(command: &mut Command) {
    let output = command.output().expect("s3a starts");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}
