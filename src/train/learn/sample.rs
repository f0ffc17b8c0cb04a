//! What is learned from: chunks as the archive will have them, with the references that it will
//! choose.

use std::sync::Arc;

use rayon::prelude::*;

use crate::archive::write::references::References;
use crate::error::Result;
use crate::train::corpus::{Featuriser, Window, join};
use crate::train::net::Batch;
use crate::train::random::Random;

/// Windows that are mixed with one another.
const POOL: usize = 1024;
/// Chunks whose windows are made at once.
const AT_ONCE: usize = 32;
/// Chunks among which references are chosen.
const GROUP: usize = 2048;

/// Parts of the data of an archive, cut into chunks.
pub struct Sample {
    chunks: Vec<Arc<[u8]>>,
    /// For each chunk the numbers of the chunks that it refers to.
    references: Vec<Vec<u32>>,
}

impl Sample {
    /// Cuts parts of the data into chunks of `size` bytes and chooses their references.
    pub fn new(stretches: &[Vec<u8>], size: u32, references: Option<&dyn References>) -> Self {
        let cut = |stretch: &Vec<u8>| -> Vec<Arc<[u8]>> {
            stretch.chunks(size.max(1) as usize).map(Arc::from).collect()
        };
        let chunks: Vec<Arc<[u8]>> = stretches.iter().flat_map(cut).collect();
        let plan = |group: &[Arc<[u8]>]| match references {
            Some(references) => references.plan(&[], group),
            None => vec![Vec::new(); group.len()],
        };
        let back: Vec<Vec<u32>> = chunks.par_chunks(GROUP).flat_map_iter(plan).collect();
        let absolute = |(at, back): (u32, Vec<u32>)| back.into_iter().map(|back| at - back.min(at)).collect();
        Self { references: (0..).zip(back).map(absolute).collect(), chunks }
    }

    /// Whether there is nothing to learn from.
    pub fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }

    fn windows(&self, chunk: usize, featuriser: &Featuriser<'_>) -> Result<Vec<Window>> {
        let references: Vec<&[u8]> =
            self.references[chunk].iter().map(|&number| &self.chunks[number as usize][..]).collect();
        let mut windows = Vec::new();
        featuriser.windows(&self.chunks[chunk], &references, &mut windows)?;
        Ok(windows)
    }

    /// Some windows, evenly spread, in batches of `sequences`.
    pub(super) fn spread(
        &self,
        featuriser: &Featuriser<'_>,
        sequences: usize,
        batches: usize,
    ) -> Result<Vec<Batch>> {
        let step = self.chunks.len().div_ceil(sequences * batches).max(1);
        let mut windows = Vec::new();
        for chunk in (step / 2..self.chunks.len()).step_by(step) {
            let mut own = self.windows(chunk, featuriser)?;
            let middle = own.len() / 2;
            windows.extend(own.drain(middle..).next());
        }
        let mut out = Vec::new();
        while windows.len() >= sequences {
            let rest = windows.split_off(sequences);
            out.push(join(featuriser.len, windows));
            windows = rest;
        }
        Ok(out)
    }
}

/// An endless stream of batches in a random order, which depends on the seed only.
pub(super) struct Draws<'a> {
    sample: &'a Sample,
    featuriser: Featuriser<'a>,
    random: Random,
    order: Vec<u32>,
    pool: Vec<Window>,
}

impl<'a> Draws<'a> {
    pub fn new(sample: &'a Sample, featuriser: Featuriser<'a>, seed: u64) -> Self {
        Self { sample, featuriser, random: Random::new(seed), order: Vec::new(), pool: Vec::new() }
    }

    /// The next batch of `sequences` windows; `None` if no chunk is long enough for a window.
    pub fn next(&mut self, sequences: usize) -> Result<Option<Batch>> {
        let mut rounds = 0;
        while self.pool.len() < POOL.max(sequences) {
            if self.order.is_empty() {
                rounds += 1;
                if rounds > 1 && self.pool.is_empty() {
                    return Ok(None);
                }
                self.order = (0..self.sample.chunks.len() as u32).collect();
                self.random.shuffle(&mut self.order);
            }
            let drawn = self.order.split_off(self.order.len().saturating_sub(AT_ONCE));
            let (sample, featuriser) = (self.sample, &self.featuriser);
            let windows: Result<Vec<Vec<Window>>> =
                drawn.par_iter().map(|&chunk| sample.windows(chunk as usize, featuriser)).collect();
            self.pool.extend(windows?.into_iter().flatten());
        }
        let windows = (0..sequences).map(|_| self.pool.swap_remove(self.random.below(self.pool.len())));
        let windows = windows.collect();
        Ok(Some(join(self.featuriser.len, windows)))
    }
}
