//! Notices sequential reads and says what to decode ahead of them.
//!
//! Two habits are noticed: one file read from some place on (`Sequence`, one for each open
//! handle), and files read whole one after the other in the archive's order (`Walk`, one for the
//! mount). A window of chunks ahead of the reader doubles each time the reader has come half way
//! through it. Nothing is decoded ahead of a first read, so a random read costs its own chunks.

use std::ops::Range;

/// Chunks of the first window.
const FIRST: u64 = 2;

/// How far ahead to decode.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Plain bytes of a usual chunk, never zero.
    pub chunk: u64,
    /// Most chunks ahead of a reader; 0 decodes nothing ahead.
    pub most: u64,
}

/// A window that grows as it is used. Positions are bytes, of a file or of the raw stream.
#[derive(Clone, Copy, Debug, Default)]
struct Window {
    /// In chunks; 0 until the first.
    len: u64,
    /// All before this was asked for.
    ahead: u64,
}

impl Window {
    /// A reader has come to `at`: what to decode now, if it is time for more.
    fn advance(&mut self, at: u64, limits: Limits) -> Option<Range<u64>> {
        let start = self.ahead.max(at);
        if self.len > 0 && start - at > self.len.saturating_mul(limits.chunk) / 2 {
            return None;
        }
        self.len = if self.len == 0 { FIRST } else { self.len * 2 }.min(limits.most);
        let end = at.saturating_add(self.len * limits.chunk);
        self.ahead = end.max(start);
        (end > start).then_some(start..end)
    }
}

/// The reads of one open file.
#[derive(Debug, Default)]
pub struct Sequence {
    /// Where the furthest read of the run ended.
    next: u64,
    /// Reads of the run that went forward.
    run: u32,
    window: Window,
}

impl Sequence {
    /// Notes a read; returns the range of the file to decode ahead.
    pub fn note(&mut self, offset: u64, len: u64, limits: Limits) -> Option<Range<u64>> {
        let end = offset.saturating_add(len);
        // The kernel's own read-ahead arrives on several threads, so neighbors may swap.
        let near = offset <= self.next.saturating_add(len) && end.saturating_add(len) >= self.next;
        if !near {
            *self = Self { next: end, run: 1, window: Window::default() };
            return None;
        }
        if end <= self.next {
            return None;
        }
        self.next = end;
        self.run += 1;
        if self.run < 2 {
            return None;
        }
        self.window.advance(end, limits)
    }
}

/// How many walks are followed at once.
const WALKS: usize = 8;

/// Files read to their end, one after the other.
#[derive(Debug, Default)]
pub struct Walk {
    /// Most recent first.
    runs: Vec<Run>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Run {
    /// Raw offset at which the last file ended.
    end: u64,
    files: u32,
    window: Window,
}

impl Walk {
    /// Notes that a file was read to its end, which takes this range of the raw stream; returns
    /// the range of the raw stream to decode ahead.
    pub fn note(&mut self, file: Range<u64>, limits: Limits) -> Option<Range<u64>> {
        // Small neighbors share a chunk, and some files in between may be left out.
        let near =
            |run: &Run| file.start + limits.chunk >= run.end && file.start <= run.end + 2 * limits.chunk;
        let mut run = match self.runs.iter().position(near) {
            Some(at) => self.runs.remove(at),
            None => Run { end: file.start, ..Run::default() },
        };
        let forward = file.end > run.end;
        run.end = run.end.max(file.end);
        run.files += u32::from(forward);
        let ahead = if forward && run.files > 2 { run.window.advance(run.end, limits) } else { None };
        self.runs.insert(0, run);
        self.runs.truncate(WALKS);
        ahead
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { chunk: 100, most: 64 };

    #[test]
    fn the_window_of_a_sequential_reader_doubles_and_has_no_gaps() {
        let mut reads = Sequence::default();
        let mut asked = Vec::new();
        for read in 0..2000 {
            asked.extend(reads.note(read * 50, 50, LIMITS));
        }
        assert!(asked.len() > 20);
        assert_eq!(asked[0], 100..300);
        assert_eq!(asked[1].end - asked[1].start, 300);
        assert!(asked.windows(2).all(|pair| pair[0].end == pair[1].start));
        assert!(asked.iter().all(|range| range.end - range.start <= 6400));
        assert!(asked.last().is_some_and(|range| range.end >= 2000 * 50));
    }

    #[test]
    fn a_sequence_that_starts_anywhere_is_noticed_at_its_second_read() {
        let mut reads = Sequence::default();
        assert_eq!(reads.note(50_000, 100, LIMITS), None);
        assert_eq!(reads.note(50_100, 100, LIMITS), Some(50_200..50_400));
    }

    #[test]
    fn random_reads_ask_for_nothing() {
        let mut reads = Sequence::default();
        for read in 1..1000u64 {
            assert_eq!(reads.note(read * 7_919 % 1009 * 1000, 40, LIMITS), None);
        }
    }

    #[test]
    fn neighboring_reads_may_swap() {
        let mut reads = Sequence::default();
        let mut asked = 0;
        for pair in 0..100 {
            asked += u64::from(reads.note(pair * 200 + 100, 100, LIMITS).is_some());
            asked += u64::from(reads.note(pair * 200, 100, LIMITS).is_some());
        }
        assert!(asked > 3);
    }

    #[test]
    fn a_jump_begins_anew_with_a_small_window() {
        let mut reads = Sequence::default();
        for read in 0..100 {
            reads.note(read * 100, 100, LIMITS);
        }
        assert_eq!(reads.note(1_000_000, 100, LIMITS), None);
        assert_eq!(reads.note(1_000_100, 100, LIMITS), Some(1_000_200..1_000_400));
    }

    #[test]
    fn small_files_read_in_the_archives_order_are_noticed() {
        let mut walk = Walk::default();
        let mut asked = Vec::new();
        for file in 0..200 {
            asked.extend(walk.note(file * 30..file * 30 + 30, LIMITS));
            // Another walk, and single files elsewhere, do not disturb it.
            walk.note(1_000_000 + file * 30..1_000_030 + file * 30, LIMITS);
            assert_eq!(walk.note(2_000_000 + file * 10_000..2_000_000 + file * 10_000 + 50, LIMITS), None);
        }
        assert_eq!(asked[0], 90..290);
        assert!(asked.windows(2).all(|pair| pair[0].end == pair[1].start));
    }

    #[test]
    fn the_window_keeps_to_its_bound() {
        for (most, expected) in [(0, None), (1, Some(200..300)), (2, Some(200..400)), (9, Some(200..400))] {
            let mut reads = Sequence::default();
            let limits = Limits { chunk: 100, most };
            reads.note(0, 100, limits);
            assert_eq!(reads.note(100, 100, limits), expected);
        }
    }
}
