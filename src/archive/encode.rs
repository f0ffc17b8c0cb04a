//! Codes the chunks of a group: in parallel, with the same result for any number of threads.
//!
//! Which earlier chunks serve a chunk as history is planned by a `References`; what breaks the
//! bounds of the format is dropped from its plan here.

use std::collections::VecDeque;
use std::sync::Arc;

use rayon::prelude::*;

use super::dictionary::Trained;
use super::events::Observer;
use super::workers::Workers;
use super::writer_options::WriterOptions;
use crate::codec::{self, Codec, DecodeJob, EncodeJob, Encoded, Models, Zstd};
use crate::error::{Error, Result};
use crate::wire::chunk::{ChunkHead, plain_check};
use crate::wire::limits;

/// Chunks that are coded together; independent of the threads, which share the batches.
const BATCH: usize = 16;

/// Chooses history for chunks.
pub trait References: Send + Sync {
    /// How deep references may chain, at most 8.
    fn depth(&self) -> u8 {
        2
    }

    /// For each chunk of `new`, backward distances in chunks, the most useful first. `earlier` are
    /// the chunks right before them, oldest first; distances reach into both.
    fn plan(&self, earlier: &[Earlier], new: &[Arc<[u8]>]) -> Vec<Vec<u32>>;
}

/// A chunk that was coded before.
#[derive(Clone)]
pub struct Earlier {
    pub bytes: Arc<[u8]>,
    /// 0 if it names no other, else one more than that of the deepest it names.
    pub depth: u8,
}

/// A chunk, coded. `head.model` is the model's number in the archive.
pub(super) struct Coded {
    pub head: ChunkHead,
    pub payload: Vec<u8>,
    pub check: [u8; 4],
    /// A neural payload did not decode to what went in.
    pub rejected: bool,
}

/// A chunk that later ones may refer to.
struct Known {
    chunk: Earlier,
    /// Numbers of the chunks that must be decoded for this one, itself included.
    closure: Vec<u64>,
}

pub(super) struct ChunkEncoder {
    pub models: Models,
    pub check: bool,
    pub references: Option<Arc<dyn References>>,
    pub ref_window: u32,
    pub zstd_level: i32,
    /// Most bytes of a group's dictionary.
    pub dictionary: usize,
    recent: VecDeque<Known>,
    /// Chunks coded so far.
    count: u64,
}

impl ChunkEncoder {
    pub fn new(options: &WriterOptions, ref_window: u32) -> Self {
        Self {
            models: options.models.clone(),
            check: options.check,
            references: options.references.clone(),
            ref_window,
            zstd_level: options.zstd_level,
            dictionary: options.dictionary as usize,
            recent: VecDeque::new(),
            count: 0,
        }
    }

    /// Codes chunks of a group as they were planned; also gives the frame of the dictionary that they are
    /// coded with.
    pub fn encode(
        &self,
        workers: &Workers,
        chunks: &[Arc<[u8]>],
        plans: &[Plan],
        observer: &dyn Observer,
    ) -> Result<(Vec<Coded>, Vec<u8>)> {
        let trained = workers.run(|| Trained::new(chunks, self.dictionary, self.zstd_level));
        let zstd = Zstd { level: self.zstd_level, dictionary: trained.as_ref().map(|trained| &trained.pack) };
        let jobs: Vec<(&Arc<[u8]>, &Plan)> = chunks.iter().zip(plans).collect();
        let coded: Result<Vec<Vec<Coded>>> = workers.run(|| {
            jobs.par_chunks(self.models.bulk_encoding(jobs.len()).max(BATCH))
                .map(|batch| {
                    if observer.interrupted() {
                        return Err(Error::Interrupted);
                    }
                    let coded = self.encode_batch(zstd, batch);
                    observer.advanced(batch.iter().map(|(raw, _)| raw.len() as u64).sum());
                    Ok(coded)
                })
                .collect()
        });
        let frame = trained.map_or_else(Vec::new, |trained| trained.frame);
        Ok((coded?.into_iter().flatten().collect(), frame))
    }

    fn encode_batch(&self, zstd: Zstd<'_>, batch: &[(&Arc<[u8]>, &Plan)]) -> Vec<Coded> {
        let jobs: Vec<EncodeJob<'_>> =
            batch.iter().map(|(raw, plan)| EncodeJob { raw, history: plan.history.clone() }).collect();
        let mut encoded = codec::encode(&self.models, zstd, &jobs);
        let wrong = if self.check { self.wrong(&jobs, &encoded) } else { Vec::new() };
        for &i in &wrong {
            encoded.splice(i..=i, codec::encode(&Models::none(), zstd, &jobs[i..=i]));
        }
        (0..)
            .zip(batch)
            .zip(encoded)
            .map(|((i, (raw, plan)), encoded)| Coded {
                head: ChunkHead {
                    codec: encoded.codec,
                    model: encoded.model,
                    raw_len: raw.len() as u32,
                    coded_len: encoded.payload.len() as u32,
                    refs: if encoded.used_history { plan.distances.clone() } else { Vec::new() },
                },
                payload: encoded.payload,
                check: plain_check(raw),
                rejected: wrong.contains(&i),
            })
            .collect()
    }

    /// Which neural payloads the decoder does not turn back into what went in.
    fn wrong(&self, jobs: &[EncodeJob<'_>], encoded: &[Encoded]) -> Vec<usize> {
        let neural: Vec<usize> = (0..jobs.len()).filter(|&i| encoded[i].codec == Codec::Neural).collect();
        let back: Vec<DecodeJob<'_>> = neural
            .iter()
            .map(|&i| DecodeJob {
                codec: Codec::Neural,
                model: encoded[i].model,
                payload: &encoded[i].payload,
                raw_len: jobs[i].raw.len(),
                history: if encoded[i].used_history { jobs[i].history.clone() } else { Vec::new() },
                dictionary: None,
            })
            .collect();
        let decoded = codec::decode(&self.models, &back);
        neural
            .into_iter()
            .zip(decoded)
            .filter(|(i, raw)| raw.as_ref().map_or(true, |raw| raw != jobs[*i].raw))
            .map(|(i, _)| i)
            .collect()
    }

    /// What each chunk looks back on, within the bounds; the chunks themselves become known.
    pub fn plan(&mut self, chunks: &[Arc<[u8]>]) -> Vec<Plan> {
        let Some(references) = self.references.clone() else {
            return chunks.iter().map(|_| Plan::default()).collect();
        };
        let earlier: Vec<Earlier> = self.recent.iter().map(|known| known.chunk.clone()).collect();
        let mut wishes = references.plan(&earlier, chunks).into_iter();
        let mut plans = Vec::new();
        for chunk in chunks {
            let id = self.count;
            let mut plan = Plan::default();
            let (mut depth, mut closure) = (0, vec![id]);
            for distance in wishes.next().unwrap_or_default() {
                let Some(known) = self.known(distance) else { continue };
                let mut more = closure.clone();
                more.extend(known.closure.iter().filter(|id| !closure.contains(id)));
                let deeper = depth.max(known.chunk.depth + 1);
                let fits = deeper <= references.depth() && more.len() <= limits::CLOSURE;
                if fits && plan.distances.len() < limits::REFS && !plan.distances.contains(&distance) {
                    plan.distances.push(distance);
                    plan.history.push(Arc::clone(&known.chunk.bytes));
                    (depth, closure) = (deeper, more);
                }
            }
            // The last one laid is what the match input finds first.
            plan.distances.reverse();
            plan.history.reverse();
            self.recent.push_back(Known { chunk: Earlier { bytes: Arc::clone(chunk), depth }, closure });
            if self.recent.len() > self.ref_window as usize {
                self.recent.pop_front();
            }
            self.count += 1;
            plans.push(plan);
        }
        plans
    }

    fn known(&self, distance: u32) -> Option<&Known> {
        let at = self.recent.len().checked_sub(distance as usize)?;
        self.recent.get(at)
    }
}

/// What one chunk looks back on.
#[derive(Default)]
pub(super) struct Plan {
    pub distances: Vec<u32>,
    history: Vec<Arc<[u8]>>,
}
