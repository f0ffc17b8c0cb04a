//! Brings files that are alike closer together than their names do.
//!
//! The order by kind and path is gone through in stretches of one kind, so that time and memory stay
//! linear and files of one folder do not end up far apart. Within a stretch a chain is built: next comes the
//! file that shares the largest part of its samples with the three before it; where none shares
//! anything to speak of, the next by name. Files are known by samples of their beginning.

use std::collections::HashMap;
use std::io::Read;

use rayon::prelude::*;

use crate::archive::observer::Observer;
use crate::archive::write::sketch::sketch;
use crate::error::{Error, Result};

/// Bytes and files of a stretch.
const STRETCH_BYTES: u64 = 32 << 20;
const STRETCH_FILES: usize = 4096;
/// What is looked at of each file, one shingle of so many, and so many at most.
const LOOKED_AT: u64 = 64 << 10;
const RATE: u64 = 32;
const SAMPLES: usize = 512;
/// A sample in more files than this tells little.
const MOST_FILES: usize = 256;
/// How many files back likeness counts.
const BACK: usize = 3;
/// A small file's few samples count for less.
const SMALL: usize = 8;
/// A smaller file stays with its folder: what its neighbors could save is less than what its name and time
/// cost among those of other folders.
const SMALLEST: u64 = 1 << 10;

/// Rearranges `order`, whose files have `size` bytes, among those of the `same` kind; `open` gives a
/// file's content, if it can be read.
pub(crate) fn arrange<R: Read>(
    order: &mut [u32],
    size: impl Fn(u32) -> u64 + Sync,
    same: impl Fn(u32, u32) -> bool,
    open: impl Fn(u32) -> Option<R> + Sync,
    observer: &dyn Observer,
) -> Result<()> {
    let mut rest = order;
    while let Some(&first) = rest.first() {
        if observer.interrupted() {
            return Err(Error::Interrupted);
        }
        let mut bytes = 0;
        let fits = |at: &&u32| {
            bytes += size(**at);
            bytes <= STRETCH_BYTES && same(first, **at)
        };
        let len = rest.iter().take(STRETCH_FILES).take_while(fits).count().max(1);
        let (stretch, more) = rest.split_at_mut(len);
        let sketches: Vec<Vec<u32>> = stretch
            .par_iter()
            .map(|&at| (if size(at) < SMALLEST { None } else { open(at) }).map_or_else(Vec::new, sample))
            .collect();
        let chained: Vec<u32> = chain(&sketches).into_iter().map(|i| stretch[i]).collect();
        stretch.copy_from_slice(&chained);
        observer.advanced(chained.iter().map(|&at| size(at)).sum());
        rest = more;
    }
    Ok(())
}

fn sample(file: impl Read) -> Vec<u32> {
    let mut start = Vec::new();
    // What cannot be read is told when it is packed.
    let _ = file.take(LOOKED_AT).read_to_end(&mut start);
    let mut samples = sketch(&start, RATE);
    samples.truncate(SAMPLES);
    samples
}

/// The order in which the sketched files follow each other.
fn chain(sketches: &[Vec<u32>]) -> Vec<usize> {
    let mut holders: HashMap<u32, Vec<usize>> = HashMap::new();
    for (file, samples) in sketches.iter().enumerate() {
        samples.iter().for_each(|&sample| holders.entry(sample).or_default().push(file));
    }
    holders.retain(|_, files| (2..=MOST_FILES).contains(&files.len()));
    let mut placed = vec![false; sketches.len()];
    let mut counts = vec![0usize; sketches.len()];
    let mut order: Vec<usize> = Vec::with_capacity(sketches.len());
    let mut first = 0;
    while order.len() < sketches.len() {
        let recent = order.iter().rev().take(BACK).flat_map(|&file| &sketches[file]);
        let mut samples: Vec<u32> = recent.copied().collect();
        samples.sort_unstable();
        samples.dedup();
        let mut found = Vec::new();
        for file in samples.iter().filter_map(|sample| holders.get(sample)).flatten() {
            if !placed[*file] {
                if counts[*file] == 0 {
                    found.push(*file);
                }
                counts[*file] += 1;
            }
        }
        // Shares are compared as fractions; of equal ones the first by name counts.
        let share = |file: usize| (counts[file] as u64, (sketches[file].len() + SMALL) as u64);
        let best = found.iter().copied().reduce(|a, b| {
            let ((count_a, of_a), (count_b, of_b)) = (share(a), share(b));
            let (left, right) = (count_a * of_b, count_b * of_a);
            if left > right || (left == right && a < b) { a } else { b }
        });
        // At least a fiftieth.
        let best = best.filter(|&file| share(file).0 * 50 >= share(file).1);
        found.into_iter().for_each(|file| counts[file] = 0);
        while placed.get(first) == Some(&true) {
            first += 1;
        }
        let next = best.unwrap_or(first);
        placed[next] = true;
        order.push(next);
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Text that only files of the same seed share.
    fn text(seed: u8, len: usize) -> Vec<u8> {
        let mut noise = vec![0; len];
        blake3::Hasher::new().update(&[seed]).finalize_xof().fill(&mut noise);
        noise.iter().map(|byte| b'a' + byte % 26).collect()
    }

    fn arranged(files: &[Vec<u8>]) -> Vec<u32> {
        let mut order: Vec<u32> = (0..files.len() as u32).collect();
        let size = |at: u32| files[at as usize].len() as u64;
        let open = |at: u32| Some(&files[at as usize][..]);
        arrange(&mut order, size, |_, _| true, open, &()).unwrap();
        let mut sorted = order.clone();
        sorted.sort_unstable();
        assert!(sorted.into_iter().eq(0..files.len() as u32), "each file once");
        order
    }

    #[test]
    fn alike_files_become_neighbors_and_others_keep_their_order() {
        let files: Vec<Vec<u8>> = [1, 2, 3, 1, 4, 2, 1].map(|seed| text(seed, 5000)).into();
        assert_eq!(arranged(&files), [0, 3, 6, 1, 5, 2, 4]);
        let different: Vec<Vec<u8>> = (0..20).map(|seed| text(seed, 3000)).collect();
        assert!(arranged(&different).into_iter().eq(0..20));
        assert!(arranged(&[]).is_empty());
        assert_eq!(arranged(&[vec![], vec![0; 9], vec![]]), [0, 1, 2]);
    }

    #[test]
    fn files_stay_within_their_stretch() {
        let large = STRETCH_BYTES as usize / 2;
        let mut files: Vec<Vec<u8>> = (0..6).map(|seed| text(seed, 4000)).collect();
        files.insert(3, vec![b'x'; large + 1]);
        files.insert(4, vec![b'y'; large]);
        files.push(text(0, 4000));
        let order = arranged(&files);
        assert_eq!(order[8], 8);
    }

    #[test]
    fn kinds_do_not_mix() {
        let files: Vec<Vec<u8>> = [1, 2, 1, 1, 2, 1].map(|seed| text(seed, 5000)).into();
        let mut order: Vec<u32> = (0..6).collect();
        let open = |at: u32| Some(&files[at as usize][..]);
        arrange(&mut order, |_| 5000, |a, b| a / 3 == b / 3, open, &()).unwrap();
        assert_eq!(order, [0, 2, 1, 3, 5, 4]);
    }

    #[test]
    fn files_that_are_all_alike_take_no_longer_than_others() {
        let files: Vec<Vec<u8>> = (0..2000).map(|_| text(1, 4000)).collect();
        assert!(arranged(&files).into_iter().eq(0..2000));
    }
}
