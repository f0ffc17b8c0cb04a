//! Sketches of chunks, by which similar ones are found.

/// Most samples of a chunk.
pub(crate) const MOST_SAMPLES: usize = 1024;

/// Hashes of the sampled shingles, each once, in ascending order.
pub(crate) fn sketch(bytes: &[u8], rate: u64) -> Vec<u32> {
    let bound = u64::MAX / rate;
    let hash = |shingle: &[u8; 8]| {
        let word = u64::from_be_bytes(*shingle);
        let mixed = (word ^ word >> 29).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (mixed ^ mixed >> 32).wrapping_mul(0xd6e8_feb8_6659_fd93)
    };
    let mut samples: Vec<u64> = bytes.array_windows().map(hash).filter(|&hash| hash <= bound).collect();
    samples.sort_unstable();
    samples.dedup();
    // The least ones, so that alike chunks still sample alike.
    samples.truncate(MOST_SAMPLES);
    // The bits that the bound says nothing about.
    samples.into_iter().map(|hash| hash as u32).collect()
}
