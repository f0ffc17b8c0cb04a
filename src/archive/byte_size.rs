//! Numbers of bytes as people write them.

/// Reads a number of bytes with an optional suffix k, m, g or t (also `kb`, `KiB`), in powers of 1,024.
pub fn parse(text: &str) -> Option<u64> {
    let lower = text.to_ascii_lowercase();
    let plain = lower.trim_end_matches("ib").trim_end_matches('b');
    let (digits, shift) = match plain.char_indices().next_back() {
        Some((at, 'k')) => (&plain[..at], 10),
        Some((at, 'm')) => (&plain[..at], 20),
        Some((at, 'g')) => (&plain[..at], 30),
        Some((at, 't')) => (&plain[..at], 40),
        _ => (plain, 0),
    };
    digits.parse::<u64>().ok()?.checked_mul(1 << shift)
}
