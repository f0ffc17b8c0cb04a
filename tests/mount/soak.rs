//! A mount under eight threads for any length of time: the bytes are right, and memory, descriptors
//! and threads do not grow.
//!
//! `S3A_SOAK_SECONDS=3600 cargo test --release --test mount soak -- --nocapture` runs for an hour
//! and prints a row for docs/results/soak.csv; without the variable the test runs for four seconds.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::fs::{Advice, fadvise};

use crate::place::{Place, fuse, tree};

/// What a process uses: KiB of resident memory, descriptors, threads.
fn held(pid: u32) -> (u64, usize, usize) {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    let memory = line.trim().trim_end_matches(" kB").parse().unwrap();
    let count = |what: &str| fs::read_dir(format!("/proc/{pid}/{what}")).unwrap().count();
    (memory, count("fd"), count("task"))
}

/// Reads at random until told to stop; pages that the kernel has cached are dropped, so that it
/// asks the daemon.
fn read_at_random(place: &Place, mut seed: u64, stop: &AtomicBool, reads: &AtomicU64) {
    let names = ["text", "noise", "same", "sparse", "deep/linked", "deep/er/file299", "deep/er/file150"];
    let files = names.map(|name| {
        let open = |folder: std::path::PathBuf| File::open(folder.join(name)).unwrap();
        (open(place.source()), open(place.target()))
    });
    while !stop.load(Ordering::Relaxed) {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let nth = (seed >> 33) as usize % names.len();
        let (ours, theirs) = &files[nth];
        let offset = (seed >> 20) % ours.metadata().unwrap().len();
        let mut expected = vec![0; (seed >> 45) as usize % 70_000];
        let mut got = expected.clone();
        fadvise(theirs, 0, None, Advice::DontNeed).unwrap();
        let len = ours.read_at(&mut expected, offset).unwrap();
        let mut done = 0;
        while done < len {
            let read = theirs.read_at(&mut got[done..len], offset + done as u64).unwrap();
            assert!(read > 0, "{} ends early at {offset}", names[nth]);
            done += read;
        }
        assert!(got == expected, "{} at {offset}", names[nth]);
        reads.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn eight_threads_and_a_small_cache_leave_nothing_behind() {
    if !fuse() {
        return;
    }
    let seconds: u64 = std::env::var("S3A_SOAK_SECONDS").map_or(4, |text| text.parse().unwrap());
    let place = Place::packed(tree, &["--chunk-size", "4k", "--references", "2"]);
    let mounted = place.mount(&["-o", "cachesize=20k,workers=3"]);
    let pid = mounted.daemon.id();
    let (stop, reads) = (AtomicBool::new(false), AtomicU64::new(0));
    let mut samples = Vec::new();
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|seed| {
                let (place, stop, reads) = (&place, &stop, &reads);
                scope.spawn(move || read_at_random(place, seed, stop, reads))
            })
            .collect();
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(seconds) && !threads.iter().any(|t| t.is_finished()) {
            std::thread::sleep(Duration::from_millis(250));
            samples.push(held(pid));
        }
        stop.store(true, Ordering::Relaxed);
    });
    let reads = reads.into_inner();
    assert!(reads > seconds * 10, "{reads} reads");
    // The first quarter is for warming up. Then the median at its end is compared with that of the
    // last quarter.
    let quarter = samples.len() / 4;
    let median = |part: &[(u64, usize, usize)]| {
        let mut memory: Vec<u64> = part.iter().map(|sample| sample.0).collect();
        memory.sort_unstable();
        memory[memory.len() / 2]
    };
    let (early, late) = (median(&samples[quarter..2 * quarter]), median(&samples[3 * quarter..]));
    let most = |part: &[(u64, usize, usize)], of: fn(&(u64, usize, usize)) -> usize| {
        part.iter().map(of).max().unwrap()
    };
    let (fds_early, fds) = (most(&samples[..2 * quarter], |s| s.1), most(&samples[2 * quarter..], |s| s.1));
    let threads = most(&samples, |sample| sample.2);
    println!("row {seconds},8,{reads},{early},{late},{fds_early},{fds},{threads}");
    // In a few seconds, allocators make a larger difference than that.
    let slack = if seconds < 60 { early / 4 } else { early / 20 };
    assert!(late <= early + slack, "memory grew from {early} to {late} KiB");
    assert!(fds <= fds_early, "descriptors grew from {fds_early} to {fds}");
    assert!(threads < 40, "{threads} threads");
}
