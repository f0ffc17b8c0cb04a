//! Chooses history for chunks: which chunks are keys, and which keys the others name.
//!
//! A chunk is known by its **sketch**: those of its 8-byte shingles whose hash falls under a bound
//! that is the same for all chunks, so that alike chunks sample alike. What two sketches share
//! stands for the text that one can copy from the other. Keys are picked greedily, tier by tier:
//! the next is the chunk that covers most of what no named key covers yet in the sketches of later
//! chunks, less what it loses itself, since a key of tier `t` names keys of lower tiers only. Then
//! each chunk names the earlier chunks that cover most of it. Orders and counts alone decide, so
//! the plan depends on the bytes only; time and memory are linear in them.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;

use super::references::{Earlier, References};
use super::sketch::sketch;
use super::writer::REF_BYTES;
use crate::wire::limits;

/// Shingles that a sketch of a full chunk of mixed text has about, and has at most.
const SAMPLES: u64 = 512;
/// Shared samples, of those not covered yet, that make a chunk worth naming, and samples that naming a key
/// must cover to make up for what its other text disturbs: for large chunks where keys name no others
/// (depth 1), and otherwise. There, fewer and better ones give the same size and less to decode
/// (docs/research/references.md).
const LEAST_SHARED: [u32; 2] = [24, 16];
const DISTURBANCE: [u32; 2] = [20, 12];
/// Large chunks have so many bytes.
const LARGE: u32 = 16 << 10;
/// What a key must gain beyond what it loses.
const LEAST_GAIN: i64 = 16;
/// Comparisons of samples per sample: shingles that are in too many chunks are left out.
const COMPARISONS: u64 = 256;
/// Candidates looked at per chunk, over all.
const LOOKS: usize = 8;

/// Names the earlier chunks that are most alike.
pub struct Similar {
    /// Chunks that one chunk names, at most.
    refs: usize,
    depth: u8,
    /// How far back a reference goes, in chunks.
    window: usize,
    /// One of so many shingles is sampled.
    rate: u64,
    /// Few and good references are better than many.
    few: bool,
}

impl Similar {
    /// For chunks of `chunk_size` that name up to `refs` others, at most `window` chunks back and
    /// `depth` deep.
    pub fn new(refs: usize, depth: u8, chunk_size: u32, window: u32) -> Self {
        Self {
            refs: refs.min(limits::REFS),
            depth: depth.min(limits::REF_DEPTH),
            window: window as usize,
            rate: (u64::from(chunk_size) / SAMPLES).max(1),
            few: depth == 1 && chunk_size >= LARGE,
        }
    }

    /// For a writer of such chunks; none if they are to stand alone.
    pub fn for_options(refs: u8, depth: u8, chunk_size: u32) -> Option<Arc<dyn References>> {
        let window = REF_BYTES / chunk_size.max(1);
        (refs > 0 && depth > 0).then(|| Arc::new(Self::new(refs.into(), depth, chunk_size, window)) as _)
    }

    /// The bound that holds here.
    fn bound(&self, [few, many]: [u32; 2]) -> u32 {
        if self.few { few } else { many }
    }
}

impl References for Similar {
    fn depth(&self) -> u8 {
        self.depth
    }

    fn plan(&self, earlier: &[Earlier], new: &[Arc<[u8]>]) -> Vec<Vec<u32>> {
        if self.refs == 0 || self.depth == 0 {
            return vec![Vec::new(); new.len()];
        }
        let mut planner = Planner::new(self, earlier, new);
        planner.pick_keys();
        planner.assign()
    }
}

/// A chunk that has a sample, and the sample's place there.
#[derive(Clone, Copy)]
struct Post {
    chunk: u32,
    place: u16,
}

/// A chunk's state while keys are picked.
#[derive(Clone, Default)]
struct Chunk {
    /// Numbers of those samples that other chunks have too.
    samples: Vec<u32>,
    covered: Vec<bool>,
    /// Keys named, and how much each covers.
    named: Vec<(u32, u32)>,
    /// Of a key; what is no key has the depth bound.
    tier: u8,
    /// The depth that the chunk ends up with.
    depth: u8,
}

struct Planner<'a> {
    similar: &'a Similar,
    /// Number of the first new chunk.
    first: usize,
    chunks: Vec<Chunk>,
    /// By sample: where its posts begin; one more at the end.
    starts: Vec<u32>,
    /// By sample, and in order of chunks.
    posts: Vec<Post>,
    /// By chunk; zero between calls.
    counts: Vec<u32>,
}

impl<'a> Planner<'a> {
    fn new(similar: &'a Similar, earlier: &[Earlier], new: &[Arc<[u8]>]) -> Self {
        let mut chunks = vec![Chunk { tier: similar.depth, ..Chunk::default() }; earlier.len() + new.len()];
        let mut pairs: Vec<(u32, u32)> = Vec::new();
        let mut add = |at: usize, bytes: &[u8]| {
            pairs.extend(sketch(bytes, similar.rate).into_iter().map(|sample| (sample, at as u32)));
        };
        for (at, chunk) in earlier.iter().enumerate() {
            chunks[at].depth = chunk.depth;
            // Out of what is too deep or too far back nothing comes.
            if chunk.depth < similar.depth && earlier.len() - at <= similar.window {
                add(at, &chunk.bytes);
            }
        }
        for (at, bytes) in (earlier.len()..).zip(new) {
            add(at, bytes);
        }
        pairs.sort_unstable();
        pairs.dedup();
        let most = most_chunks(&pairs);
        let (mut starts, mut posts) = (vec![0], Vec::new());
        for alike in pairs.chunk_by(|a, b| a.0 == b.0).filter(|alike| (2..=most).contains(&alike.len())) {
            let sample = starts.len() as u32 - 1;
            for &(_, chunk) in alike {
                let samples = &mut chunks[chunk as usize].samples;
                posts.push(Post { chunk, place: samples.len() as u16 });
                samples.push(sample);
            }
            starts.push(posts.len() as u32);
        }
        for chunk in &mut chunks {
            chunk.covered = vec![false; chunk.samples.len()];
        }
        let counts = vec![0; chunks.len()];
        Self { similar, first: earlier.len(), chunks, starts, posts, counts }
    }

    fn posts(&self, sample: u32) -> &[Post] {
        let sample = sample as usize;
        &self.posts[self.starts[sample] as usize..self.starts[sample + 1] as usize]
    }

    /// The new chunks after `key` that may name it, and how much it would newly cover in each.
    fn users(&mut self, key: usize, tier: u8) -> Vec<(usize, u32)> {
        let mut users = Vec::new();
        let mut counts = std::mem::take(&mut self.counts);
        let from = self.first.max(key + 1);
        for &sample in &self.chunks[key].samples {
            let posts = self.posts(sample);
            let after = posts.partition_point(|post| (post.chunk as usize) < from);
            for post in &posts[after..] {
                let at = post.chunk as usize;
                if at - key > self.similar.window {
                    break;
                }
                let chunk = &self.chunks[at];
                if chunk.tier > tier && !chunk.covered[post.place as usize] {
                    if counts[at] == 0 {
                        users.push((at, 0));
                    }
                    counts[at] += 1;
                }
            }
        }
        for (at, count) in &mut users {
            *count = std::mem::take(&mut counts[*at]);
        }
        self.counts = counts;
        users
    }

    /// What naming a key that covers `count` is worth to a chunk, over what it names now.
    fn worth(&self, at: usize, count: u32) -> u32 {
        if count < self.similar.bound(LEAST_SHARED) {
            return 0;
        }
        let named = &self.chunks[at].named;
        match named.iter().map(|(_, count)| *count).min() {
            Some(least) if named.len() >= self.similar.refs => count.saturating_sub(least),
            _ => count - self.similar.bound(DISTURBANCE),
        }
    }

    /// What later chunks gain if `key` is one, less what it loses.
    fn gain(&mut self, key: usize, tier: u8) -> i64 {
        let users = self.users(key, tier);
        let gain: i64 = users.into_iter().map(|(at, count)| i64::from(self.worth(at, count))).sum();
        let lost =
            self.chunks[key].named.iter().filter(|(other, _)| self.chunks[*other as usize].tier >= tier);
        gain - lost.map(|(_, count)| i64::from(*count)).sum::<i64>()
    }

    fn pick_keys(&mut self) {
        for tier in 0..self.similar.depth {
            // Chunks of earlier calls are what they are; what they cover costs nothing.
            for key in 0..self.first {
                if self.chunks[key].depth == tier && !self.chunks[key].samples.is_empty() {
                    self.make_key(key, tier);
                }
            }
            let mut heap = BinaryHeap::new();
            for key in self.first..self.chunks.len() {
                if self.chunks[key].tier == self.similar.depth {
                    heap.push((self.gain(key, tier), Reverse(key)));
                }
            }
            let mut looks = LOOKS * heap.len();
            while let Some((_, Reverse(key))) = heap.pop() {
                let gain = self.gain(key, tier);
                let next = heap.peek().map_or(0, |(gain, _)| *gain).max(LEAST_GAIN);
                if gain >= next {
                    self.make_key(key, tier);
                } else if gain >= LEAST_GAIN {
                    heap.push((gain, Reverse(key)));
                }
                looks -= 1;
                if looks == 0 {
                    break;
                }
            }
        }
    }

    fn make_key(&mut self, key: usize, tier: u8) {
        self.chunks[key].tier = tier;
        let named = std::mem::take(&mut self.chunks[key].named);
        let keep = |other: u32| self.chunks[other as usize].tier < tier;
        let (kept, lost): (Vec<_>, Vec<_>) = named.into_iter().partition(|(other, _)| keep(*other));
        self.chunks[key].named = kept;
        if !lost.is_empty() {
            self.chunks[key].covered.fill(false);
            for i in 0..self.chunks[key].named.len() {
                let other = self.chunks[key].named[i].0;
                self.cover(key, other as usize);
            }
        }
        for (at, count) in self.users(key, tier) {
            if self.worth(at, count) == 0 {
                continue;
            }
            let named = &mut self.chunks[at].named;
            if named.len() >= self.similar.refs {
                // What it covered stays marked: near enough for the choice of keys.
                let least = (0..named.len()).min_by_key(|&i| named[i].1);
                if let Some(i) = least {
                    named.swap_remove(i);
                }
            }
            named.push((key as u32, count));
            self.cover(at, key);
        }
    }

    /// Marks what of a chunk another one has too.
    fn cover(&mut self, at: usize, other: usize) {
        let Chunk { samples, covered, .. } = &mut self.chunks[at];
        let mut covered = std::mem::take(covered);
        let samples = std::mem::take(samples);
        let others = &self.chunks[other].samples;
        for (sample, covered) in samples.iter().zip(&mut covered) {
            *covered |= others.binary_search(sample).is_ok();
        }
        self.chunks[at].samples = samples;
        self.chunks[at].covered = covered;
    }

    /// With the keys known, what each chunk names: of all that is not too deep, what covers most.
    fn assign(&mut self) -> Vec<Vec<u32>> {
        let mut plans = Vec::new();
        for at in self.first..self.chunks.len() {
            self.chunks[at].covered.fill(false);
            let mut named: Vec<u32> = Vec::new();
            let mut depth = 0;
            while named.len() < self.similar.refs {
                let Some(other) = self.best(at) else { break };
                self.cover(at, other);
                named.push((at - other) as u32);
                depth = depth.max(self.chunks[other].depth + 1);
            }
            self.chunks[at].depth = depth;
            plans.push(named);
        }
        plans
    }

    /// The earlier chunk that covers most of what is not covered yet; of equal ones the shallowest,
    /// then the nearest.
    fn best(&mut self, at: usize) -> Option<usize> {
        let mut counts = std::mem::take(&mut self.counts);
        let mut others = Vec::new();
        let chunk = &self.chunks[at];
        for (&sample, _) in chunk.samples.iter().zip(&chunk.covered).filter(|(_, covered)| !**covered) {
            let before =
                self.posts(sample).iter().map(|post| post.chunk as usize).take_while(|&other| other < at);
            for other in before
                .filter(|&other| self.chunks[other].depth < chunk.tier && at - other <= self.similar.window)
            {
                if counts[other] == 0 {
                    others.push(other);
                }
                counts[other] += 1;
            }
        }
        let best = others
            .iter()
            .copied()
            .max_by_key(|&other| (counts[other], Reverse(self.chunks[other].depth), other));
        let best = best.filter(|&other| counts[other] >= self.similar.bound(LEAST_SHARED));
        for other in others {
            counts[other] = 0;
        }
        self.counts = counts;
        best
    }
}

/// In how many chunks a sample may be, so that all comparisons together stay linear in `pairs`,
/// which are sorted.
fn most_chunks(pairs: &[(u32, u32)]) -> usize {
    let mut lens: Vec<usize> = pairs.chunk_by(|a, b| a.0 == b.0).map(<[_]>::len).collect();
    lens.sort_unstable();
    let mut left = COMPARISONS * pairs.len() as u64;
    let mut most = 0;
    for len in lens {
        let Some(less) = left.checked_sub((len * len) as u64) else { break };
        (left, most) = (less, len);
    }
    most
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHUNK: u32 = 4096;

    /// Text that is the same for the same seed, and shares nothing with that of another.
    fn text(seed: u8, len: usize) -> Vec<u8> {
        let words = (0..=len as u32 / 16).flat_map(|i| {
            let hash = blake3::hash(&[&[seed][..], &i.to_le_bytes()].concat());
            hash.as_bytes()[..16].iter().map(|byte| b'a' + byte % 26).collect::<Vec<u8>>()
        });
        words.take(len).collect()
    }

    /// A chunk of `parts`, each the same text wherever it stands.
    fn chunk(parts: &[u8]) -> Arc<[u8]> {
        parts.iter().flat_map(|&seed| text(seed, 1024)).collect()
    }

    /// What each chunk names in the end, and its depth; with the plan's bounds checked.
    fn plan(similar: &Similar, earlier: &[Earlier], new: &[Arc<[u8]>]) -> Vec<(Vec<u32>, u8)> {
        let mut depths: Vec<u8> = earlier.iter().map(|chunk| chunk.depth).collect();
        let plans = similar.plan(earlier, new);
        assert_eq!(plans, similar.plan(earlier, new));
        assert_eq!(plans.len(), new.len());
        let mut out = Vec::new();
        for named in plans {
            let mut unique = named.clone();
            unique.sort_unstable();
            unique.dedup();
            assert!(unique.len() == named.len() && named.len() <= similar.refs);
            let within =
                |&distance: &u32| distance > 0 && distance as usize <= similar.window.min(depths.len());
            assert!(named.iter().all(within), "{named:?}");
            let depth =
                named.iter().map(|&distance| depths[depths.len() - distance as usize] + 1).max().unwrap_or(0);
            assert!(depth <= similar.depth);
            depths.push(depth);
            out.push((named, depth));
        }
        out
    }

    fn named(plan: Vec<(Vec<u32>, u8)>) -> Vec<Vec<u32>> {
        plan.into_iter().map(|(named, _)| named).collect()
    }

    #[test]
    fn unrelated_chunks_name_nothing() {
        let chunks: Vec<_> = (0..20u8).map(|i| chunk(&[4 * i, 4 * i + 1, 4 * i + 2, 4 * i + 3])).collect();
        for depth in 1..4 {
            let plan = plan(&Similar::new(4, depth, CHUNK, 64), &[], &chunks);
            assert!(plan.iter().all(|(named, _)| named.is_empty()));
        }
        assert!(Similar::new(2, 1, CHUNK, 64).plan(&[], &[]).is_empty());
        assert!(
            plan(&Similar::new(2, 1, CHUNK, 64), &[], &[Arc::from(&b""[..]), Arc::from(&b"short"[..])])[1]
                .0
                .is_empty()
        );
        assert!(Similar::for_options(0, 1, CHUNK).is_none());
    }

    #[test]
    fn the_most_alike_chunk_is_named_first() {
        let chunks = [chunk(&[1, 2, 3, 4]), chunk(&[5, 6, 7, 8]), chunk(&[1, 2, 3, 5])];
        let similar = Similar::new(1, 1, CHUNK, 64);
        assert_eq!(named(plan(&similar, &[], &chunks)), [vec![], vec![], vec![2]]);
        let similar = Similar::new(4, 1, CHUNK, 64);
        assert_eq!(named(plan(&similar, &[], &chunks)), [vec![], vec![], vec![2, 1]]);
    }

    #[test]
    fn a_key_gives_up_little_for_what_many_gain() {
        // The second chunk would gain a quarter from the first; six others gain three from it.
        let mut chunks = vec![chunk(&[1, 2, 3, 4]), chunk(&[1, 5, 6, 7])];
        chunks.extend((0..6).map(|i| chunk(&[5, 6, 7, 10 + i])));
        let plan = named(plan(&Similar::new(1, 1, CHUNK, 64), &[], &chunks));
        assert!(plan[1].is_empty());
        assert!((2..8).all(|at| plan[at] == [at as u32 - 1]));
    }

    #[test]
    fn a_second_tier_gives_up_nothing() {
        // What the last gains from the second chunk is less than what that one would lose as a key.
        let mut chunks: Vec<_> = [4, 7, 10, 11, 12, 13].map(|last| chunk(&[1, 2, 3, last])).into();
        chunks.push(chunk(&[7, 20, 21, 22]));
        let one = plan(&Similar::new(1, 1, CHUNK, 64), &[], &chunks);
        assert_eq!((one[1].0.as_slice(), one[6].0.as_slice()), (&[1][..], &[][..]));
        let two = plan(&Similar::new(1, 2, CHUNK, 64), &[], &chunks);
        assert_eq!((two[1].0.as_slice(), two[6].0.as_slice(), two[6].1), (&[1][..], &[5][..], 2));
    }

    #[test]
    fn the_window_is_kept() {
        let mut chunks = vec![chunk(&[1, 2, 3, 4])];
        chunks.extend((0..4u8).map(|i| chunk(&[10 + 4 * i, 11 + 4 * i, 12 + 4 * i, 13 + 4 * i])));
        chunks.push(chunk(&[1, 2, 3, 4]));
        assert_eq!(plan(&Similar::new(2, 1, CHUNK, 5), &[], &chunks)[5].0, [5]);
        assert!(plan(&Similar::new(2, 1, CHUNK, 4), &[], &chunks)[5].0.is_empty());
    }

    #[test]
    fn earlier_chunks_serve_if_they_are_not_too_deep() {
        let earlier = |depth| {
            [
                Earlier { bytes: chunk(&[1, 2, 3, 4]), depth },
                Earlier { bytes: chunk(&[5, 6, 7, 8]), depth: 0 },
            ]
        };
        let new = [chunk(&[20, 21, 22, 23]), chunk(&[1, 2, 3, 9])];
        let similar = Similar::new(2, 2, CHUNK, 64);
        assert_eq!(plan(&similar, &earlier(1), &new)[1], (vec![3], 2));
        assert!(plan(&similar, &earlier(2), &new)[1].0.is_empty());
    }

    #[test]
    fn bounds_hold_among_many_chunks_that_are_all_alike() {
        let chunks: Vec<_> = (0..120u8).map(|i| chunk(&[i % 3, 3 + i % 5, 8 + i % 7, 15 + i % 11])).collect();
        for (refs, depth, window) in [(1, 1, 200), (2, 2, 10), (8, 3, 50), (4, 8, 7)] {
            let plan = plan(&Similar::new(refs, depth, CHUNK, window), &[], &chunks);
            assert!(plan.iter().filter(|(named, _)| !named.is_empty()).count() > 60);
        }
    }

    #[test]
    fn equal_and_plain_chunks_do_no_harm() {
        let mut chunks = vec![Arc::from(vec![0; 4096]); 40];
        chunks.extend(vec![chunk(&[1, 2, 3, 4]); 40]);
        let plan = plan(&Similar::new(2, 1, CHUNK, 200), &[], &chunks);
        // Nothing is left to cover once one is named; zeros have one shingle.
        assert!(plan[..41].iter().all(|(named, _)| named.is_empty()));
        assert!(plan[41..].iter().all(|(named, _)| named.len() == 1));
    }
}
