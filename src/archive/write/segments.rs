//! Segments of files that were seen before, anywhere in the archive, and are not stored again.
//!
//! A file is cut into segments where its content says so (FastCDC), so that an insertion moves the cuts after it
//! along with the bytes. The segments of what is new are remembered by hash; consecutive segments that lie one after
//! another in the raw stream are a run, and a run that is long enough becomes an extent to the earlier bytes. Where
//! those are among the last 32 MiB of the raw stream, the run grows byte by byte at both ends. What is remembered is
//! bounded: the last `REMEMBERED` segments, some 2 GiB of new data, in 70 MB at most.

use std::collections::{HashMap, VecDeque};
use std::ops::Range;

use fastcdc::v2020::FastCDC;

/// Bytes of a segment: the fewest, about the mean, and the most.
const LENGTHS: (usize, usize, usize) = (256, 1 << 10, 8 << 10);
/// Shorter runs are stored again: an extent has its cost, and what lies together is read together. In a long file, of
/// which a read needs a small part, shorter runs pay.
const RUN_MIN: usize = 4 << 10;
const RUN_MIN_OF_LONG: usize = 1 << 10;
/// Bytes of a long file.
const LONG: usize = 256 << 10;
/// Segments that are remembered.
const REMEMBERED: usize = 1_800_000;
/// Files that are looked at: shorter ones are one run at most, and longer ones are not held in memory.
pub(crate) const LOOKED_AT: Range<u64> = (RUN_MIN as u64)..(64 << 20) + 1;

/// A part of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    /// Its place in the file.
    pub range: Range<usize>,
    /// Where it lies in the raw stream, if it was seen before.
    pub seen: Option<u64>,
}

/// Where a segment lies: half of its hash, and the offset in the raw stream.
#[derive(Clone, Copy)]
struct Place {
    check: u64,
    raw_offset: u64,
}

/// The segments of the raw stream that are remembered.
pub(crate) struct Segments {
    places: HashMap<u64, Place>,
    /// Keys in the order in which they came.
    keys: VecDeque<u64>,
    most: usize,
}

impl Segments {
    pub fn new() -> Self {
        Self::remembering(REMEMBERED)
    }

    fn remembering(most: usize) -> Self {
        Self { places: HashMap::new(), keys: VecDeque::new(), most }
    }

    /// The parts of a file whose new bytes will lie in the raw stream from `raw_offset` on, in the file's order;
    /// remembers its segments. `recent` has the raw stream's last bytes, by which runs grow beyond their segments.
    pub fn plan(&mut self, file: &[u8], raw_offset: u64, recent: &Recent<'_>) -> Vec<Part> {
        let (least, mean, most) = LENGTHS;
        let mut plan = Plan { file, recent, parts: Vec::new(), new: raw_offset, remembered: Vec::new() };
        let mut run: Option<Run> = None;
        for segment in FastCDC::new(file, least, mean, most) {
            let range = segment.offset..segment.offset + segment.length;
            let hash = halves(&file[range.clone()]);
            let place = self.places.get(&hash[0]).filter(|place| place.check == hash[1]).copied();
            if let (Some(run), Some(place)) = (&mut run, place)
                && run.raw + run.range.len() as u64 == place.raw_offset
            {
                run.range.end = range.end;
                run.segments.push((range, hash));
                continue;
            }
            self.end_run(run.take(), &mut plan);
            // A segment without a cut of its own is a repetition, or nothing like it was seen: none begins a run.
            match place.filter(|_| range.len() < most) {
                Some(place) => {
                    let range = range.start.max(plan.end())..range.end;
                    let raw = place.raw_offset + (segment.length - range.len()) as u64;
                    run = Some(Run { range: range.clone(), raw, segments: vec![(range, hash)] });
                }
                None => self.add_new(range, hash, &mut plan),
            }
        }
        self.end_run(run.take(), &mut plan);
        plan.parts
    }

    fn end_run(&mut self, run: Option<Run>, plan: &mut Plan<'_>) {
        let grown = run.as_ref().map(|run| plan.grown(&run.range, run.raw));
        match (run, grown) {
            (Some(run), Some((before, after))) if run.range.len() + before + after >= plan.run_min() => {
                plan.add_seen(run.range, run.raw, before, after);
                // What the run took of the new bytes before it lies elsewhere now.
                while let Some((key, _)) = plan.remembered.pop_if(|(_, end)| *end > plan.new) {
                    self.places.remove(&key);
                }
                plan.remembered.clear();
            }
            (Some(run), _) => run.segments.into_iter().for_each(|(range, _)| plan.add_new(range)),
            (None, _) => {}
        }
    }

    fn add_new(&mut self, range: Range<usize>, hash: [u64; 2], plan: &mut Plan<'_>) {
        if range.start >= plan.end() && range.len() < LENGTHS.2 {
            let place = Place { check: hash[1], raw_offset: plan.new };
            if self.places.insert(hash[0], place).is_none() {
                self.keys.push_back(hash[0]);
            }
            plan.remembered.push((hash[0], plan.new + range.len() as u64));
            if self.keys.len() > self.most
                && let Some(oldest) = self.keys.pop_front()
            {
                self.places.remove(&oldest);
            }
        }
        plan.add_new(range);
    }
}

/// Consecutive segments that lie one after another in the raw stream, from `raw` on.
struct Run {
    range: Range<usize>,
    raw: u64,
    segments: Vec<(Range<usize>, [u64; 2])>,
}

/// The last bytes of the raw stream: stretches, each with the offset at which it begins.
pub(crate) struct Recent<'a>(pub Vec<(u64, &'a [u8])>);

impl Recent<'_> {
    /// How many bytes from `raw` on are those of `bytes`.
    fn same_after(&self, raw: u64, bytes: &[u8]) -> usize {
        let Some((start, old)) = self.at(raw) else { return 0 };
        old[(raw - start) as usize..].iter().zip(bytes).take_while(|(a, b)| a == b).count()
    }

    /// How many bytes before `raw` are those at the end of `bytes`.
    fn same_before(&self, raw: u64, bytes: &[u8]) -> usize {
        let Some((start, old)) = raw.checked_sub(1).and_then(|last| self.at(last)) else { return 0 };
        old[..(raw - start) as usize].iter().rev().zip(bytes.iter().rev()).take_while(|(a, b)| a == b).count()
    }

    fn at(&self, raw: u64) -> Option<(u64, &[u8])> {
        let found = self.0.iter().find(|(start, old)| raw >= *start && raw - start < old.len() as u64);
        found.map(|(start, old)| (*start, *old))
    }
}

/// The parts so far.
struct Plan<'a> {
    file: &'a [u8],
    recent: &'a Recent<'a>,
    parts: Vec<Part>,
    /// Where the next new byte will lie in the raw stream.
    new: u64,
    /// Segments of the new bytes since the last run: key, and where in the raw stream each ends.
    remembered: Vec<(u64, u64)>,
}

impl Plan<'_> {
    /// How much of the file the parts cover.
    fn end(&self) -> usize {
        self.parts.last().map_or(0, |last| last.range.end)
    }

    fn add_new(&mut self, range: Range<usize>) {
        // A run may have grown into it.
        let range = range.start.max(self.end())..range.end;
        if range.is_empty() {
            return;
        }
        self.new += range.len() as u64;
        match self.parts.last_mut() {
            Some(last) if last.seen.is_none() => last.range.end = range.end,
            _ => self.parts.push(Part { range, seen: None }),
        }
    }

    /// The shortest run that becomes an extent.
    fn run_min(&self) -> usize {
        if self.file.len() >= LONG { RUN_MIN_OF_LONG } else { RUN_MIN }
    }

    /// How many bytes before and after a run are those that were seen before and after it.
    fn grown(&self, range: &Range<usize>, raw: u64) -> (usize, usize) {
        let new = self.parts.last().filter(|last| last.seen.is_none());
        let before = new.map_or(0, |new| self.recent.same_before(raw, &self.file[new.range.clone()]));
        let after = self.recent.same_after(raw + range.len() as u64, &self.file[range.end..]);
        (before, after)
    }

    /// Adds a run that grows by bytes before it, which the new part before loses, and after it.
    fn add_seen(&mut self, range: Range<usize>, raw: u64, before: usize, after: usize) {
        if let Some(new) = self.parts.last_mut().filter(|new| new.seen.is_none()) {
            new.range.end -= before;
            self.new -= before as u64;
            if new.range.is_empty() {
                self.parts.pop();
            }
        }
        let range = range.start - before..range.end + after;
        self.parts.push(Part { range, seen: Some(raw - before as u64) });
    }
}

/// The first 128 bits of a segment's BLAKE3: enough that no two segments are taken for each other.
fn halves(segment: &[u8]) -> [u64; 2] {
    let hash = blake3::hash(segment);
    let half =
        |at: usize| hash.as_bytes()[at..at + 8].iter().fold(0, |sum, &byte| sum << 8 | u64::from(byte));
    [half(0), half(8)]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes that repeat nowhere.
    fn bytes(seed: u32, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
        bytes
    }

    /// What the parts say the file is, given the raw stream before it.
    fn rebuilt(file: &[u8], parts: &[Part], raw: &mut Vec<u8>) -> Vec<u8> {
        for part in parts.iter().filter(|part| part.seen.is_none()) {
            raw.extend_from_slice(&file[part.range.clone()]);
        }
        let mut out = Vec::new();
        let mut new =
            raw.len() - parts.iter().filter(|p| p.seen.is_none()).map(|p| p.range.len()).sum::<usize>();
        for part in parts {
            assert_eq!(part.range.start, out.len());
            let at = part.seen.map_or(new, |at| at as usize);
            out.extend_from_slice(&raw[at..at + part.range.len()]);
            new += if part.seen.is_none() { part.range.len() } else { 0 };
        }
        out
    }

    #[test]
    fn cut_points_are_those_that_archives_were_written_with() {
        let (least, mean, most) = LENGTHS;
        let file = bytes(1, 40_000);
        let cuts: Vec<usize> = FastCDC::new(&file, least, mean, most).map(|s| s.offset + s.length).collect();
        assert_eq!(cuts, CUTS);
    }

    #[test]
    fn what_was_seen_before_is_not_stored_again_though_all_has_moved() {
        let first = bytes(2, 1 << 20);
        let mut second = Vec::new();
        for (i, part) in first.chunks(40 << 10).enumerate() {
            second.extend_from_slice(&bytes(100 + i as u32, 100));
            second.extend_from_slice(part);
        }
        let (mut segments, mut raw) = (Segments::new(), Vec::new());
        for file in [&first, &second, &second] {
            let before = raw.len();
            let seen = raw.clone();
            let parts = segments.plan(file, before as u64, &Recent(vec![(0, &seen)]));
            let got = rebuilt(file, &parts, &mut raw);
            let at = got.iter().zip(file).position(|(a, b)| a != b);
            assert!(got == *file, "{at:?} {} {} {:?}", got.len(), file.len(), &parts[..parts.len().min(6)]);
        }
        let new = raw.len() - first.len();
        assert!(new < 27 * 200, "{new}");
    }

    #[test]
    fn repetitions_within_a_file_are_no_segments() {
        let mut segments = Segments::new();
        assert_eq!(
            segments.plan(&vec![0; 1 << 20], 7, &Recent(vec![])),
            [Part { range: 0..1 << 20, seen: None }]
        );
        assert!(segments.plan(&vec![0; 1 << 20], 7, &Recent(vec![])).iter().all(|part| part.seen.is_none()));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut segments = Segments::remembering(100);
        for seed in 0..20 {
            segments.plan(&bytes(seed, 64 << 10), u64::from(seed) << 16, &Recent(vec![]));
            assert!(segments.places.len() <= 100 && segments.keys.len() <= 100);
        }
    }

    const CUTS: &[usize] = &[
        1430, 2902, 4387, 4995, 7782, 8504, 9813, 10844, 11585, 12620, 13733, 15066, 15884, 16923, 18178,
        20346, 21556, 22607, 25082, 26281, 27313, 28962, 30275, 32934, 34480, 35687, 35956, 37071, 37510,
        38506, 40000,
    ];
}
