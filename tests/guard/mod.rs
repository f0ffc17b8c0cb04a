//! What hostile input may cost: one second of CPU time, and 64 MiB more memory than before.
//!
//! The tests run one at a time, in a process of their own, because the memory of the whole process
//! is measured.
#![allow(dead_code)]

use std::fs;
use std::time::Duration;

/// Bytes that refusing an input may take.
pub const MEMORY: u64 = 64 << 20;
pub const TIME: Duration = Duration::from_secs(1);

/// Peak of this process's memory since `reset_peak`.
pub fn peak() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().trim_end_matches(" kB").parse::<u64>().ok()? << 10)
}

/// Resets the peak; `false` where that is not possible.
pub fn reset_peak() -> bool {
    fs::write("/proc/self/clear_refs", "5").is_ok()
}

/// CPU time of this process.
pub fn worked() -> Duration {
    let status = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = status.rsplit(')').next().unwrap_or_default().split_whitespace();
    let ticks: u64 = fields.skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    Duration::from_millis(ticks * 10)
}

/// Runs work on hostile input and returns its result; fails if it took too long or too much memory.
pub fn guarded<T>(name: &str, what: &str, work: impl FnOnce() -> T) -> T {
    let watched = reset_peak();
    let (before, start) = (peak(), worked());
    let result = work();
    let (took, after) = (worked().saturating_sub(start), peak());
    assert!(took < TIME * if cfg!(debug_assertions) { 20 } else { 1 }, "{name}: {what} took {took:?}");
    if let (true, Some(before), Some(after)) = (watched, before, after) {
        let grown = after.saturating_sub(before);
        assert!(grown < MEMORY, "{name}: {what} took {} MiB", grown >> 20);
    }
    result
}
