//! Content hashes of files, computed while chunks come by.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use crate::archive::read::archive::Archive;
use crate::archive::read::chunk_cache::RecentChunks;
use crate::error::Result;
use crate::wire::entry::{ContentHash, EntryId, Extent, Kind, content_hash};

/// A content that one or more files have: a run of the raw stream, and what it must hash to.
pub(crate) struct Run {
    raw: Range<u64>,
    hash: ContentHash,
    files: Vec<EntryId>,
    /// While the run goes by: a hasher takes 2 KB, so that only few may be there at a time.
    hasher: Option<Box<blake3::Hasher>>,
    /// Bytes hashed so far.
    done: u64,
    /// Whether the hash was right, once all bytes were there.
    is_right: Option<bool>,
}

impl Run {
    fn feed(&mut self, bytes: &[u8]) {
        let hasher = self.hasher.get_or_insert_default();
        hasher.update(bytes);
        self.done += bytes.len() as u64;
        if self.done == self.raw.end - self.raw.start {
            self.is_right = Some(content_hash(hasher.finalize().as_bytes(), self.done) == self.hash);
            self.hasher = None;
        }
    }
}

pub(crate) struct Hashing {
    /// Sorted by where they begin.
    runs: Vec<Run>,
    /// The first run that has not ended yet.
    first: usize,
    /// Files whose content is no run.
    scattered: Vec<EntryId>,
}

impl Hashing {
    pub fn new(archive: &Archive) -> Self {
        let mut runs: HashMap<(u64, u64, ContentHash), Vec<EntryId>> = HashMap::new();
        let mut scattered = Vec::new();
        for (id, entry) in (0..).map(EntryId).zip(&archive.entries) {
            let Kind::File { extents, hash, .. } = &entry.kind else { continue };
            match run(extents) {
                Some(raw) => runs.entry((raw.start, raw.end, *hash)).or_default().push(id),
                None => scattered.push(id),
            }
        }
        let mut runs: Vec<Run> = runs
            .into_iter()
            .map(|((start, end, hash), files)| Run {
                raw: start..end,
                hash,
                files,
                hasher: None,
                done: 0,
                is_right: None,
            })
            .collect();
        runs.iter_mut().filter(|run| run.raw.is_empty()).for_each(|run| run.feed(&[]));
        runs.sort_by_key(|run| (run.raw.start, run.raw.end));
        Self { runs, first: 0, scattered }
    }

    pub fn feed(&mut self, raw_offset: u64, bytes: &Arc<[u8]>) {
        let end = raw_offset + bytes.len() as u64;
        while let Some(run) = self.runs.get_mut(self.first).filter(|run| run.raw.end <= raw_offset) {
            // What is not complete by now misses some bytes.
            run.hasher = None;
            self.first += 1;
        }
        for run in self.runs[self.first..].iter_mut().take_while(|run| run.raw.start < end) {
            let from = run.raw.start.max(raw_offset);
            let to = run.raw.end.min(end);
            if from < to && from == run.raw.start + run.done {
                run.feed(&bytes[(from - raw_offset) as usize..(to - raw_offset) as usize]);
            }
        }
    }

    /// How many files were hashed, and which have another hash though all their bytes were read.
    pub fn finish(
        self,
        archive: &Archive,
        bad: &[Range<u64>],
        cache: &RecentChunks,
    ) -> Result<(u64, Vec<EntryId>)> {
        let (mut hashed, mut wrong) = (0, Vec::new());
        for run in self.runs {
            hashed += run.is_right.map_or(0, |_| run.files.len() as u64);
            if run.is_right == Some(false) {
                wrong.extend(run.files);
            }
        }
        for id in self.scattered {
            let Some(Kind::File { extents, hash, .. }) = archive.entry(id).map(|entry| &entry.kind) else {
                continue;
            };
            if extents.iter().any(|extent| overlaps(extent, bad).next().is_some()) {
                continue;
            }
            hashed += 1;
            match archive.hash_extents(extents, cache) {
                Ok(found) if found == *hash => {}
                Err(error) if !error.is_damage() => return Err(error),
                // What could be read a moment ago may be gone.
                _ => wrong.push(id),
            }
        }
        Ok((hashed, wrong))
    }
}

/// The run that the extents are, if they lie one after another. Holes do not matter: a content
/// hash covers the bytes between them.
pub(crate) fn run(extents: &[Extent]) -> Option<Range<u64>> {
    let first = extents.first().map_or(0, |extent| extent.raw_offset);
    let mut end = first;
    for extent in extents {
        if extent.raw_offset != end {
            return None;
        }
        end += extent.len;
    }
    Some(first..end)
}

/// The parts of an extent, as raw bytes, that are damaged.
pub(crate) fn overlaps<'a>(
    extent: &'a Extent,
    bad: &'a [Range<u64>],
) -> impl Iterator<Item = Range<u64>> + 'a {
    let end = extent.raw_offset + extent.len;
    let first = bad.partition_point(|range| range.end <= extent.raw_offset);
    bad[first..]
        .iter()
        .take_while(move |range| range.start < end)
        .map(move |range| range.start.max(extent.raw_offset)..range.end.min(end))
}
