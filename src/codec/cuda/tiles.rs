//! Which chunks are on the device at the same time: as many as fit, in tiles of one set of weights.

use crate::model::device::job::{Job, Memory};

/// How many of the chunks fit into `room` bytes, if each takes its memory and `more` bytes; at
/// least one.
pub(crate) fn fitting(memory: &[Memory], room: usize, more: usize) -> usize {
    let mut taken = 0usize;
    let fits = memory.iter().take_while(|memory| {
        taken = taken.saturating_add(memory.total() + more);
        taken <= room
    });
    fits.count().max(1)
}

/// A chunk that has not ended.
pub(crate) struct Running {
    /// Its index in the batch.
    pub number: usize,
    /// Number of its set of weights.
    pub set: usize,
    /// Its record.
    pub job: Job,
}

/// The chunks of a block, in the form that the kernel reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tile {
    first: u32,
    count: u32,
    set: u32,
}

impl Tile {
    pub const LEN: usize = 12;

    pub fn bytes(&self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        for (to, number) in bytes.as_chunks_mut::<4>().0.iter_mut().zip([self.first, self.count, self.set]) {
            *to = number.to_le_bytes();
        }
        bytes
    }
}

/// Tiles of at most `size` consecutive chunks of one set.
pub(crate) fn tiles_of(running: &[Running], size: usize) -> Vec<Tile> {
    let mut tiles: Vec<Tile> = Vec::new();
    for (i, chunk) in (0..).zip(running) {
        let set = chunk.set as u32;
        match tiles.last_mut() {
            Some(tile) if tile.set == set && (tile.count as usize) < size => tile.count += 1,
            _ => tiles.push(Tile { first: i, count: 1, set }),
        }
    }
    tiles
}

#[cfg(test)]
mod tests {
    use super::*;

    fn running(sets: &[usize]) -> Vec<Running> {
        let job = Job::from_bytes([0; Job::LEN]);
        sets.iter().enumerate().map(|(number, &set)| Running { number, set, job: job.clone() }).collect()
    }

    #[test]
    fn tiles_hold_chunks_of_one_set() {
        let tile = |first, count, set| Tile { first, count, set };
        assert_eq!(tiles_of(&running(&[0; 19]), 8), [tile(0, 8, 0), tile(8, 8, 0), tile(16, 3, 0)]);
        assert_eq!(tiles_of(&running(&[0, 0, 2, 2, 2, 5]), 8), [tile(0, 2, 0), tile(2, 3, 2), tile(5, 1, 5)]);
        assert!(tiles_of(&[], 8).is_empty());
    }

    #[test]
    fn batches_fill_memory_and_hold_a_chunk_at_least() {
        let memory = vec![Memory { input: 10, tables: 20, scratch: 30, output: 30 }; 10];
        assert_eq!(fitting(&memory, 1000, 10), 10);
        assert_eq!(fitting(&memory, 399, 10), 3);
        assert_eq!(fitting(&memory, 0, 10), 1);
    }
}
