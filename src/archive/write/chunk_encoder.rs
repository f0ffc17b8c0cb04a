//! Codes the chunks of a group: in parallel, with the same result for any number of threads.
//!
//! Which earlier chunks serve a chunk as history is planned by a `References`; what breaks the
//! bounds of the format is dropped from its plan here.

use std::collections::VecDeque;
use std::sync::Arc;

use rayon::prelude::*;

use super::blocks;
use super::blocks::{Piece, Trial};
use super::dictionary::Trained;
use super::options::WriterOptions;
use super::references::{Earlier, References};
use super::workers::Workers;
use crate::archive::observer::Observer;
use crate::codec;
use crate::codec::job::{DecodeJob, EncodeJob, Encoded};
use crate::codec::model::Models;
use crate::codec::zstd_chunk::Zstd;
use crate::error::{Error, Result};
use crate::wire::chunk::{ChunkHead, Codec, plain_check};
use crate::wire::limits;

/// Chunks that are coded together; independent of the threads, which share the batches.
const BATCH: usize = 16;

/// A chunk, coded. `head.model` is the model's number in the archive.
pub(crate) struct Coded {
    pub head: ChunkHead,
    pub payload: Vec<u8>,
    pub check: [u8; 4],
    /// A neural payload did not decode to what went in.
    pub rejected: bool,
}

impl Coded {
    fn block(raw: &[u8], block: Encoded) -> Self {
        let Encoded { codec, model, payload, .. } = block;
        let (raw_len, coded_len) = (raw.len() as u32, payload.len() as u32);
        let head = ChunkHead { codec, model, raw_len, coded_len, refs: Vec::new() };
        Self { head, payload, check: plain_check(raw), rejected: false }
    }
}

/// A chunk that later ones may refer to.
struct Known {
    chunk: Earlier,
    /// Numbers of the chunks that must be decoded for this one, itself included.
    closure: Vec<u64>,
}

pub(crate) struct ChunkEncoder {
    pub models: Models,
    pub check: bool,
    pub references: Option<Arc<dyn References>>,
    pub ref_window: u32,
    pub zstd_level: i32,
    pub chunk_size: usize,
    /// Raw bytes of the longest block; 0 for none.
    pub block_len: usize,
    /// Most bytes of a group's dictionary.
    pub dictionary: usize,
    recent: VecDeque<Known>,
    /// Chunks coded so far.
    count: u64,
}

impl ChunkEncoder {
    pub fn new(options: &WriterOptions, chunk_size: u32, ref_window: u32) -> Self {
        Self {
            models: options.models.clone(),
            check: options.check,
            references: options.references.clone(),
            ref_window,
            zstd_level: options.zstd_level,
            chunk_size: chunk_size as usize,
            block_len: options.block_len as usize,
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
        pieces: Vec<Piece>,
        plans: &[Plan],
        observer: &dyn Observer,
    ) -> Result<(Vec<Coded>, Vec<u8>)> {
        let open = pieces.iter().filter(|piece| piece.block.is_none());
        let chunks: Vec<Arc<[u8]>> = open.map(|piece| Arc::clone(&piece.raw)).collect();
        let trained = workers.run(|| Trained::new(&chunks, self.dictionary, self.zstd_level));
        let zstd = Zstd { level: self.zstd_level, dictionary: trained.as_ref().map(|trained| &trained.pack) };
        let open = pieces.iter().zip(plans).filter(|(piece, _)| piece.block.is_none());
        let jobs: Vec<(&Arc<[u8]>, &Plan)> = open.map(|(piece, plan)| (&piece.raw, plan)).collect();
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
        let mut coded = coded?.into_iter().flatten();
        let all = pieces.into_iter().map(|piece| match piece.block {
            Some(block) => {
                observer.advanced(piece.raw.len() as u64);
                Ok(Coded::block(&piece.raw, block))
            }
            None => coded.next().ok_or(Error::Internal("a chunk was lost")),
        });
        Ok((all.collect::<Result<_>>()?, frame))
    }

    /// Cuts a group's raw bytes into pieces; `files` are the places where files begin, with their kinds.
    pub fn cut(
        &self,
        workers: &Workers,
        raw: &[u8],
        files: &[(usize, &[u8])],
        observer: &dyn Observer,
    ) -> Result<Vec<Piece>> {
        let small = |raw: &[u8]| -> Vec<Piece> {
            raw.chunks(self.chunk_size).map(|raw| Piece { raw: raw.into(), block: None }).collect()
        };
        if self.block_len == 0 {
            return Ok(small(raw));
        }
        let grid: Vec<Arc<[u8]>> = raw.chunks(self.chunk_size).map(Arc::from).collect();
        let earlier = self.earlier();
        let wishes = self.references.as_ref().map(|references| references.plan(&earlier, &grid));
        let history = |chunk: usize| -> Vec<Arc<[u8]>> {
            let wished = wishes.as_ref().and_then(|wishes| wishes.get(chunk)).into_iter().flatten();
            let known = wished.filter_map(|&distance| {
                let at = (earlier.len() + chunk).checked_sub(distance as usize)?;
                let own = at.checked_sub(earlier.len());
                own.map_or_else(|| earlier.get(at).map(|known| &known.bytes), |own| grid.get(own))
            });
            let mut known: Vec<_> = known.take(limits::REFS).cloned().collect();
            known.reverse();
            known
        };
        let zstd = Zstd { level: self.zstd_level, dictionary: None };
        let (models, chunk_size, block_len) = (&self.models, self.chunk_size, self.block_len);
        let trial = Trial { models, zstd, chunk_size, check: self.check };
        let parts = blocks::parts(raw.len(), files, block_len);
        let tried: Result<Vec<Option<Encoded>>> = workers.run(|| {
            let one = |part: &std::ops::Range<usize>| {
                if observer.interrupted() {
                    return Err(Error::Interrupted);
                }
                Ok(trial.block(&raw[part.clone()], part.start, &grid, &history))
            };
            parts.par_iter().map(one).collect()
        });
        let (mut pieces, mut open) = (Vec::new(), 0);
        for (part, block) in parts.into_iter().zip(tried?) {
            if block.is_some() {
                pieces.extend(small(&raw[open..part.start]));
                open = part.end;
                pieces.push(Piece { raw: raw[part].into(), block });
            }
        }
        pieces.extend(small(&raw[open..]));
        Ok(pieces)
    }

    /// The chunks that later ones may refer to; blocks are without bytes.
    fn earlier(&self) -> Vec<Earlier> {
        self.recent.iter().map(|known| known.chunk.clone()).collect()
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
    pub fn plan(&mut self, pieces: &[Piece]) -> Vec<Plan> {
        let Some(references) = self.references.clone() else {
            return pieces.iter().map(|_| Plan::default()).collect();
        };
        let earlier = self.earlier();
        // Blocks stand alone: nothing in them is to be found.
        let bytes =
            |piece: &Piece| if piece.block.is_none() { Arc::clone(&piece.raw) } else { [][..].into() };
        let chunks: Vec<Arc<[u8]>> = pieces.iter().map(bytes).collect();
        let mut wishes = references.plan(&earlier, &chunks).into_iter();
        let mut plans = Vec::new();
        for chunk in &chunks {
            let id = self.count;
            let mut plan = Plan::default();
            let (mut depth, mut closure) = (0, vec![id]);
            for distance in wishes.next().unwrap_or_default() {
                let known = self.known(distance).filter(|known| !known.chunk.bytes.is_empty());
                let Some(known) = known.filter(|_| !chunk.is_empty()) else { continue };
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
pub(crate) struct Plan {
    pub distances: Vec<u32>,
    history: Vec<Arc<[u8]>>,
}
