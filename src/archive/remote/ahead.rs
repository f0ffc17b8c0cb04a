//! Who reads in sequence, and what is to be fetched ahead for them.
//!
//! A few sequences are followed at a time, so that several readers, or the parts of one archive, do not hide each
//! other. What is fetched ahead doubles as a sequence goes on.

use std::collections::VecDeque;
use std::ops::Range;

/// Sequences that are followed.
const SEQUENCES: usize = 16;
/// Bytes that a sequence may leave out and still go on.
const SKIP: u64 = 128 << 10;
/// Bytes in sequence before anything is fetched ahead.
const PATIENCE: u64 = 96 << 10;
/// Bytes that are fetched ahead at first.
const FIRST: u64 = 256 << 10;

#[derive(Debug)]
struct Sequence {
    start: u64,
    end: u64,
    /// How far it was fetched ahead.
    ahead: u64,
    window: u64,
}

/// The sequences, the latest last.
#[derive(Debug)]
pub(super) struct Sequences {
    followed: VecDeque<Sequence>,
    /// The largest window.
    most: u64,
    size: u64,
}

impl Sequences {
    /// For an object of `size` bytes, of which at most `most` are fetched ahead.
    pub fn new(size: u64, most: u64) -> Self {
        Self { followed: VecDeque::new(), most, size }
    }

    /// Notes that these bytes are read or will be; gives the bytes to be fetched ahead.
    pub fn note(&mut self, read: Range<u64>) -> Option<Range<u64>> {
        let goes_on = |s: &Sequence| s.start <= read.start && read.start <= s.end.saturating_add(SKIP);
        let Some(at) = self.followed.iter().rposition(goes_on) else {
            if self.followed.len() == SEQUENCES {
                self.followed.pop_front();
            }
            let (start, end) = (read.start, read.end);
            self.followed.push_back(Sequence { start, end, ahead: end, window: FIRST });
            return None;
        };
        let mut sequence = self.followed.remove(at)?;
        let mut fetch = None;
        if read.end > sequence.end {
            sequence.end = read.end;
            sequence.ahead = sequence.ahead.max(sequence.end);
            let window = sequence.window.min(self.most);
            if sequence.end - sequence.start >= PATIENCE && sequence.ahead - sequence.end < window.div_ceil(2)
            {
                let to = sequence.end.saturating_add(window).min(self.size);
                if to > sequence.ahead {
                    fetch = Some(sequence.ahead..to);
                    sequence.ahead = to;
                    sequence.window = (window * 2).min(self.most);
                }
            }
        }
        self.followed.push_back(sequence);
        fetch
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sequence_is_fetched_ahead_once_and_in_growing_steps() {
        let mut sequences = Sequences::new(64 << 20, 4 << 20);
        let mut fetched: Vec<Range<u64>> = Vec::new();
        for at in (0..32 << 20).step_by(16 << 10) {
            fetched.extend(sequences.note(at..at + (16 << 10)));
        }
        assert!(fetched.windows(2).all(|pair| pair[0].end == pair[1].start), "{fetched:?}");
        assert!(fetched.len() < 24 && fetched.iter().all(|range| range.end - range.start <= 6 << 20));
        assert!(fetched.last().unwrap().end > 34 << 20);
    }

    #[test]
    fn random_reads_and_reads_of_what_was_passed_fetch_nothing_ahead() {
        let mut sequences = Sequences::new(1 << 30, 4 << 20);
        for at in 0..100u64 {
            assert_eq!(sequences.note(at * 7_919_083..at * 7_919_083 + 5000), None);
        }
        sequences.note(0..1 << 20);
        sequences.note(1 << 20..2 << 20);
        assert_eq!(sequences.note(5000..9000), None);
    }

    #[test]
    fn two_readers_in_turn_are_both_followed_and_nothing_lies_beyond_the_end() {
        let mut sequences = Sequences::new(2 << 20, 4 << 20);
        let mut fetched = 0;
        for step in 0..64 {
            for base in [0, 1 << 20] {
                let at = base + step * (16 << 10);
                if let Some(range) = sequences.note(at..at + (16 << 10)) {
                    fetched += 1;
                    assert!(range.end <= 2 << 20);
                }
            }
        }
        assert!(fetched >= 4);
    }
}
