//! Segments of files that were seen before, anywhere in the archive, and are not stored again.
//!
//! A file is cut into segments where its content says so (FastCDC), so that an insertion moves the cuts after it
//! along with the bytes. Segments are remembered by hash, with the file that had them last and their place in it;
//! consecutive segments that lie one after another there are a run, and a run that is long enough becomes extents
//! to the earlier bytes: as many as the earlier file has there. Where those are among the last 32 MiB of the raw
//! stream, the run grows byte by byte at both ends. What is remembered is bounded: the last `REMEMBERED` segments,
//! some 2 GiB of different data, in 100 MB at most.

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

/// A part of a file, and where its bytes lie in the raw stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    /// Its place in the file.
    pub start: usize,
    pub len: usize,
    pub raw_offset: u64,
    /// The bytes are not stored yet.
    pub is_new: bool,
}

/// Where a segment lies: half of its hash, the number of a file, and the place in the file.
#[derive(Clone, Copy)]
struct Place {
    check: u64,
    file: u32,
    start: u32,
}

/// The segments that are remembered.
pub(crate) struct Segments {
    places: HashMap<u64, Place>,
    /// Keys in the order in which they came, each with the file that brought it.
    keys: VecDeque<(u64, u32)>,
    most: usize,
    /// The parts of the files that keys may name, the first of which has the number `first`.
    files: VecDeque<Box<[Part]>>,
    first: u32,
}

impl Segments {
    pub fn new() -> Self {
        Self::remembering(REMEMBERED)
    }

    fn remembering(most: usize) -> Self {
        let (places, keys, files) = (HashMap::new(), VecDeque::new(), VecDeque::new());
        Self { places, keys, most, files, first: 0 }
    }

    /// The parts of a file whose new bytes will lie in the raw stream from `raw_offset` on, in the file's order;
    /// remembers its segments. `recent` has the raw stream's last bytes, by which runs grow beyond their segments.
    pub fn plan(&mut self, file: &[u8], raw_offset: u64, recent: &Recent<'_>) -> Vec<Part> {
        let (least, mean, most) = LENGTHS;
        let number = self.first + self.files.len() as u32;
        let mut plan = Plan { file, number, recent, parts: Vec::new(), new: raw_offset };
        let mut run: Option<Run> = None;
        for segment in FastCDC::new(file, least, mean, most) {
            let range = segment.offset..segment.offset + segment.length;
            let hash = halves(&file[range.clone()]);
            let place = self.places.get(&hash[0]).filter(|place| place.check == hash[1]).copied();
            // Of the file itself only what has its parts already can be pointed to.
            let place = place.filter(|place| {
                place.file >= self.first
                    && (place.file != number || place.start as usize + segment.length <= plan.end())
            });
            // A segment without a cut of its own is a repetition, or nothing like it was seen: none begins a run.
            if range.len() < most {
                self.remember(hash, number, range.start as u32);
            }
            if let (Some(run), Some(place)) = (&mut run, place)
                && (run.file, run.start + run.range.len()) == (place.file, place.start as usize)
            {
                run.range.end = range.end;
                continue;
            }
            self.end_run(run.take(), &mut plan);
            if range.end <= plan.end() {
                // A run has grown over all of it.
                continue;
            }
            match place.filter(|_| range.len() < most) {
                Some(place) => {
                    let range = range.start.max(plan.end())..range.end;
                    let start = place.start as usize + (segment.length - range.len());
                    run = Some(Run { range, file: place.file, start });
                }
                None => plan.add_new(range),
            }
        }
        self.end_run(run.take(), &mut plan);
        if !plan.holds() {
            debug_assert!(false, "a plan does not give its file");
            plan.parts = vec![Part { start: 0, len: file.len(), raw_offset, is_new: true }];
        }
        self.files.push_back(plan.parts.clone().into_boxed_slice());
        plan.parts
    }

    fn end_run(&self, run: Option<Run>, plan: &mut Plan<'_>) {
        let Some(run) = run else { return };
        let (before, after) = self.grown(&run, plan);
        if run.range.len() + before + after < plan.run_min() {
            return plan.add_new(run.range);
        }
        plan.shrink(before);
        let (mut at, end) = (run.start - before, run.start + run.range.len() + after);
        while at < end {
            let Some(part) = self.part(plan, run.file, at) else { break };
            let len = (part.start + part.len - at).min(end - at);
            plan.add_seen(len, part.raw_offset + (at - part.start) as u64);
            at += len;
        }
        // The earlier file was forgotten meanwhile.
        plan.add_new(plan.end()..run.range.end + after);
    }

    /// The part of an earlier file, or of the planned one so far, that has the byte at `at`.
    fn part(&self, plan: &Plan<'_>, file: u32, at: usize) -> Option<Part> {
        let parts = match file == plan.number {
            true => &plan.parts[..],
            false => self.files.get(file.checked_sub(self.first)? as usize)?,
        };
        let found = parts.partition_point(|part| part.start <= at).checked_sub(1)?;
        parts.get(found).copied().filter(|part| at < part.start + part.len)
    }

    /// How many bytes before and after a run are those that the earlier file has before and after it.
    fn grown(&self, run: &Run, plan: &Plan<'_>) -> (usize, usize) {
        let mut before = 0;
        while let Some(last) = run.start.checked_sub(before + 1) {
            let Some(part) = self.part(plan, run.file, last) else { break };
            let most = last + 1 - part.start;
            let new = &plan.file[plan.new_start()..run.range.start - before];
            let same = plan
                .recent
                .same_before(part.raw_offset + most as u64, &new[new.len().saturating_sub(most)..]);
            before += same;
            if same < most {
                break;
            }
        }
        let mut after = 0;
        loop {
            let at = run.start + run.range.len() + after;
            // What the planned file has there is not known before the run is.
            let Some(part) = self.part(plan, run.file, at).filter(|_| run.file != plan.number) else { break };
            let most = part.start + part.len - at;
            let next = &plan.file[run.range.end + after..];
            let raw = part.raw_offset + (at - part.start) as u64;
            let same = plan.recent.same_after(raw, &next[..next.len().min(most)]);
            after += same;
            if same < most {
                break;
            }
        }
        (before, after)
    }

    fn remember(&mut self, hash: [u64; 2], file: u32, start: u32) {
        if self.places.insert(hash[0], Place { check: hash[1], file, start }).is_none() {
            self.keys.push_back((hash[0], file));
        }
        while self.keys.len() > self.most
            && let Some((oldest, brought)) = self.keys.pop_front()
        {
            match self.places.get(&oldest).map(|place| place.file) {
                // A later file had it, too.
                Some(file) if file != brought => self.keys.push_back((oldest, file)),
                _ => _ = self.places.remove(&oldest),
            }
            let needed = self.keys.front().map_or(file, |(_, file)| *file).min(file);
            while self.first < needed && self.files.pop_front().is_some() {
                self.first += 1;
            }
        }
    }
}

/// Consecutive segments that lie one after another in an earlier file, from `start` on.
struct Run {
    range: Range<usize>,
    file: u32,
    start: usize,
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
    number: u32,
    recent: &'a Recent<'a>,
    parts: Vec<Part>,
    /// Where the next new byte will lie in the raw stream.
    new: u64,
}

impl Plan<'_> {
    /// How much of the file the parts cover.
    fn end(&self) -> usize {
        self.parts.last().map_or(0, |last| last.start + last.len)
    }

    /// Where the new bytes at the end of the parts begin.
    fn new_start(&self) -> usize {
        self.parts.last().filter(|last| last.is_new).map_or(self.end(), |last| last.start)
    }

    /// Whether the parts cover the file, and those that are among the recent bytes are what it has there.
    fn holds(&self) -> bool {
        let mut end = 0;
        let follow = self.parts.iter().all(|part| {
            let starts = part.start == end;
            end += part.len;
            starts
        });
        let same = |part: &Part| {
            let Some((start, old)) = self.recent.at(part.raw_offset).filter(|_| !part.is_new) else {
                return true;
            };
            let old = &old[(part.raw_offset - start) as usize..];
            let len = part.len.min(old.len());
            old[..len] == self.file[part.start..part.start + len]
        };
        follow && end == self.file.len() && self.parts.iter().all(same)
    }

    /// The shortest run that becomes an extent.
    fn run_min(&self) -> usize {
        if self.file.len() >= LONG { RUN_MIN_OF_LONG } else { RUN_MIN }
    }

    fn add_new(&mut self, range: Range<usize>) {
        // A run may have grown into it.
        let start = range.start.max(self.end());
        let len = range.end.saturating_sub(start);
        if len == 0 {
            return;
        }
        match self.parts.last_mut() {
            Some(last) if last.is_new => last.len += len,
            _ => self.parts.push(Part { start, len, raw_offset: self.new, is_new: true }),
        }
        self.new += len as u64;
    }

    /// Takes bytes off the new ones at the end.
    fn shrink(&mut self, len: usize) {
        if let Some(last) = self.parts.last_mut().filter(|last| last.is_new && len > 0) {
            last.len -= len;
            self.new -= len as u64;
            if last.len == 0 {
                self.parts.pop();
            }
        }
    }

    fn add_seen(&mut self, len: usize, raw_offset: u64) {
        let start = self.end();
        match self.parts.last_mut() {
            Some(last) if !last.is_new && last.raw_offset + last.len as u64 == raw_offset => last.len += len,
            _ => self.parts.push(Part { start, len, raw_offset, is_new: false }),
        }
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
        for part in parts.iter().filter(|part| part.is_new) {
            assert_eq!(part.raw_offset, raw.len() as u64);
            raw.extend_from_slice(&file[part.start..part.start + part.len]);
        }
        let mut out = Vec::new();
        for part in parts {
            assert_eq!(part.start, out.len());
            out.extend_from_slice(&raw[part.raw_offset as usize..][..part.len]);
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
    fn versions_follow_the_last_one_whatever_changed_before() {
        let mut version = bytes(3, 1 << 20);
        let (mut segments, mut raw) = (Segments::new(), Vec::new());
        for night in 0..20 {
            let seen = raw.clone();
            let parts = segments.plan(&version, seen.len() as u64, &Recent(vec![(0, &seen)]));
            assert!(rebuilt(&version, &parts, &mut raw) == version);
            assert!(night == 0 || raw.len() - seen.len() < 130 * 250, "{}", raw.len() - seen.len());
            for change in 0..128 {
                let at = (change * 8192 + night * 1237) % (version.len() - 60);
                version.splice(at..at + 50, bytes(night as u32 * 1000 + change as u32, 50));
            }
        }
    }

    #[test]
    fn text_that_is_like_itself_comes_back_as_it_was() {
        let line =
            |i: u32| format!("({i},'{}',{})\n", ["one", "two", "three"][(i * i % 3) as usize], i * 7919 % 97);
        let mut lines: Vec<String> = (0..30_000).map(|i| line(i / 3)).collect();
        let (mut segments, mut raw) = (Segments::new(), Vec::new());
        for night in 0..8 {
            let (version, seen) = (lines.concat().into_bytes(), raw.clone());
            let parts = segments.plan(&version, seen.len() as u64, &Recent(vec![(0, &seen)]));
            assert!(rebuilt(&version, &parts, &mut raw) == version);
            (0..300).for_each(|i| lines[(i * 97 + night * 31) as usize % 30_000] = line(i * night));
        }
    }

    #[test]
    fn repetitions_within_a_file_are_no_segments() {
        let mut segments = Segments::new();
        assert_eq!(
            segments.plan(&vec![0; 1 << 20], 7, &Recent(vec![])),
            [Part { start: 0, len: 1 << 20, raw_offset: 7, is_new: true }]
        );
        assert!(segments.plan(&vec![0; 1 << 20], 7, &Recent(vec![])).iter().all(|part| part.is_new));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut segments = Segments::remembering(100);
        for seed in 0..20 {
            segments.plan(&bytes(seed, 64 << 10), u64::from(seed) << 16, &Recent(vec![]));
            assert!(segments.places.len() <= 100 && segments.keys.len() == segments.places.len());
            assert!(segments.files.len() <= 4);
        }
    }

    const CUTS: &[usize] = &[
        1430, 2902, 4387, 4995, 7782, 8504, 9813, 10844, 11585, 12620, 13733, 15066, 15884, 16923, 18178,
        20346, 21556, 22607, 25082, 26281, 27313, 28962, 30275, 32934, 34480, 35687, 35956, 37071, 37510,
        38506, 40000,
    ];
}
