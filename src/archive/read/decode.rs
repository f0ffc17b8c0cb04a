//! Decodes chunks together with those that they refer to.
//!
//! References point backwards only, so rounds come to an end: in each, all chunks are decoded
//! whose references are there. Each chunk passes its check before anybody sees it.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use rayon::prelude::*;

use super::archive::Archive;
use super::chunk_cache::ChunkCache;
use super::pending::Pending;
use crate::codec;
use crate::codec::job::{DecodeError, DecodeJob, Decoded};
use crate::codec::model::{Learned, Models};
use crate::codec::work::Work;
use crate::error::{Error, Result};
use crate::wire::chunk::{ChunkHead, Codec, plain_check};
use crate::wire::entry::ChunkId;
use crate::wire::header::Header;
use crate::wire::limits;
use crate::wire::models::ModelRef;

/// The rule that a chunk breaks whose references go deeper than the header says.
pub(crate) const TOO_DEEP: &str = "its references chain too deep";

pub(crate) type Done = HashMap<ChunkId, Result<Arc<[u8]>>>;

/// Decodes all of `pending`; `done` has, or gets, what they refer to.
pub(crate) fn decode_all(
    models: &Models,
    refs: &[ModelRef],
    bounds: &Header,
    threads: usize,
    mut pending: BTreeMap<ChunkId, Pending>,
    done: &mut Done,
    decoded: &mut dyn FnMut(ChunkId, &Arc<[u8]>),
) {
    let mut depths: HashMap<ChunkId, u8> = HashMap::new();
    while !pending.is_empty() {
        let ready: Vec<ChunkId> = pending
            .iter()
            .filter(|(_, chunk)| chunk.refs.iter().all(|id| !pending.contains_key(id)))
            .map(|(&id, _)| id)
            .collect();
        let mut round = Vec::new();
        for id in ready {
            let Some(chunk) = pending.remove(&id) else { continue };
            let deepest = chunk.refs.iter().map(|id| depths.get(id).map_or(1, |depth| depth + 1)).max();
            depths.insert(id, deepest.unwrap_or(0));
            match history(&chunk, done, bounds.chunk_size) {
                _ if deepest > Some(bounds.ref_depth) => {
                    done.insert(id, Err(bad(id, &chunk, TOO_DEEP)));
                }
                None => {
                    done.insert(id, Err(bad(id, &chunk, "a chunk that it refers to is damaged, or a block")));
                }
                Some(_) if chunk.head.codec == Codec::Neural && models.get(chunk.head.model).is_none() => {
                    done.insert(id, Err(missing(models, refs, chunk.head.model)));
                }
                Some(history) => round.push((id, chunk, history)),
            }
        }
        for (id, result) in decode_round(models, round, threads) {
            if let Ok(bytes) = &result {
                decoded(id, bytes);
            }
            done.insert(id, result);
        }
    }
}

fn bad(id: ChunkId, chunk: &Pending, rule: &'static str) -> Error {
    Error::BadChunk { chunk: id.0, offset: chunk.offset, rule }
}

fn missing(models: &Models, refs: &[ModelRef], model: u8) -> Error {
    let named = refs.get(usize::from(model));
    let name = named.map_or_else(String::new, |named| named.name.clone());
    match models.lacks(model) {
        Some(base) => Error::ModelMissing {
            fingerprint: blake3::Hash::from_bytes(*base).to_hex().to_string(),
            name: format!("base of {name}"),
        },
        None => Error::ModelMissing { fingerprint: named.map_or_else(String::new, ModelRef::hex), name },
    }
}

/// The chunks that this one refers to; nothing if one is damaged, or a block.
fn history(chunk: &Pending, done: &Done, chunk_size: u32) -> Option<Vec<Arc<[u8]>>> {
    let known = |id| done.get(id)?.as_ref().ok().filter(|bytes| bytes.len() <= chunk_size as usize).cloned();
    chunk.refs.iter().map(known).collect()
}

type Ready = (ChunkId, Pending, Vec<Arc<[u8]>>);

/// Decodes chunks that wait for nothing: those that a model wants together, then the others, shared out
/// among the threads in equal parts.
fn decode_round(models: &Models, round: Vec<Ready>, threads: usize) -> Vec<(ChunkId, Result<Arc<[u8]>>)> {
    let neural = |chunk: &Pending| (chunk.head.codec == Codec::Neural).then_some(chunk.head.model);
    let mut works: HashMap<u8, Work> = HashMap::new();
    for (_, chunk, _) in &round {
        if let Some(model) = neural(chunk) {
            let first = || Work { threads, ..Work::default() };
            works.entry(model).or_insert_with(first).add(chunk.head.raw_len.into());
        }
    }
    works.retain(|&model, work| models.get(model).is_some_and(|model| model.takes_bulk(*work)));
    if works.is_empty() {
        return decode_shared(models, round, threads);
    }
    let wanted = |(_, chunk, _): &Ready| neural(chunk).is_some_and(|model| works.contains_key(&model));
    let (bulk, others): (Vec<Ready>, Vec<Ready>) = round.into_iter().partition(wanted);
    if others.is_empty() {
        // Who waits for a device keeps no thread of the pool.
        return decode_bulk(models, &bulk, threads);
    }
    let (mut decoded, others) =
        rayon::join(|| decode_bulk(models, &bulk, threads), || decode_shared(models, others, threads));
    decoded.extend(others);
    decoded
}

/// Decodes chunks together, and those that fail once more without a device: then it is the chunk that is
/// damaged, and not the device.
fn decode_bulk(models: &Models, bulk: &[Ready], threads: usize) -> Vec<(ChunkId, Result<Arc<[u8]>>)> {
    let mut decoded = decode_share(&|jobs| codec::decode_bulk(models, jobs), bulk);
    let on_cpu = models.on_cpu();
    let failed: Vec<usize> = (0..bulk.len())
        .filter(|&i| decoded[i].1.is_err() && on_cpu.get(bulk[i].1.head.model).is_some())
        .collect();
    let share = failed.len().div_ceil(threads.max(1)).max(1);
    let again: Vec<(ChunkId, Result<Arc<[u8]>>)> = failed
        .par_chunks(share)
        .flat_map_iter(|failed| {
            decode_share(&|jobs| codec::decode(&on_cpu, jobs), failed.iter().map(|&i| &bulk[i]))
        })
        .collect();
    for (i, again) in failed.into_iter().zip(again) {
        if let (Ok(_), Some(model)) = (&again.1, models.get(bulk[i].1.head.model)) {
            model.distrust();
            decoded[i] = again;
        }
    }
    decoded
}

fn decode_shared(models: &Models, round: Vec<Ready>, threads: usize) -> Vec<(ChunkId, Result<Arc<[u8]>>)> {
    let share = round.len().div_ceil(threads.max(1)).max(1);
    let decode = |jobs: &[DecodeJob<'_>]| codec::decode(models, jobs);
    if share >= round.len() {
        return decode_share(&decode, &round);
    }
    let shares: Vec<_> = round.par_chunks(share).map(|share| decode_share(&decode, share)).collect();
    shares.into_iter().flatten().collect()
}

/// How a share is decoded: with a device or without.
type Decode<'a> = dyn Fn(&[DecodeJob<'_>]) -> Vec<Decoded> + Sync + 'a;

fn decode_share<'a>(
    decode: &Decode<'_>,
    share: impl IntoIterator<Item = &'a Ready>,
) -> Vec<(ChunkId, Result<Arc<[u8]>>)> {
    let share: Vec<&Ready> = share.into_iter().collect();
    let jobs: Vec<DecodeJob<'_>> = share
        .iter()
        .map(|(_, chunk, history)| DecodeJob {
            codec: chunk.head.codec,
            model: chunk.head.model,
            payload: &chunk.payload,
            raw_len: chunk.head.raw_len as usize,
            history: history.clone(),
            dictionary: chunk.dictionary.clone(),
        })
        .collect();
    let results = decode(&jobs);
    let checked = share.iter().zip(results).map(|((id, chunk, _), result)| {
        let result = match result {
            Ok(raw) if plain_check(&raw) == chunk.check => Ok(raw.into()),
            Ok(_) => Err(bad(*id, chunk, "it decodes to other bytes than were packed")),
            Err(DecodeError::Damaged(rule)) => Err(bad(*id, chunk, rule)),
            Err(DecodeError::Other(other)) => Err(other),
        };
        (*id, result)
    });
    checked.collect()
}

/// Most raw bytes that are decoded together where a model wants many chunks.
const BULK_BYTES: usize = 128 << 20;

/// How many of so many chunks of `chunk_size` bytes are to be decoded together, where `threads` would do it without
/// a device: as many as a model wants, or else `otherwise`.
pub(crate) fn together(
    models: &Models,
    chunks: usize,
    chunk_size: u32,
    threads: usize,
    otherwise: usize,
) -> usize {
    let most = BULK_BYTES / chunk_size.max(1) as usize;
    models.bulk(Work::of(chunks, chunk_size.into(), threads)).min(most).max(otherwise)
}

impl Archive {
    /// How many of `chunks` chunks are best decoded together, where a device takes part; else `otherwise`.
    pub fn together(&self, chunks: usize, otherwise: usize) -> usize {
        self.together_on(rayon::current_num_threads(), chunks, otherwise)
    }

    /// The same beside so many threads.
    pub fn together_on(&self, threads: usize, chunks: usize, otherwise: usize) -> usize {
        together(&self.models, chunks, self.header.chunk_size, threads, otherwise)
    }

    /// Makes a device ready on a thread of its own, if reading all of the archive is worth it.
    pub fn prepare_apart(&self, threads: usize) {
        let chunks = self.chunk_count() as usize;
        self.models.prepare_apart(Work::of(chunks, self.header.chunk_size.into(), threads));
    }

    /// The head of a chunk, and its learned sequence if it is neural and its model at hand.
    pub fn learned(&self, id: ChunkId) -> Result<(ChunkHead, Option<Learned>)> {
        let chunk = self.load(id)?;
        let model = self.models.get(chunk.head.model).filter(|_| chunk.head.codec == Codec::Neural);
        let learned = model.and_then(|model| model.learned(&chunk.payload));
        Ok((chunk.head, learned))
    }

    /// Plain bytes of the chunks, in the order asked for, each checked. All that are not in `cache`
    /// are decoded, with those they refer to, and put there.
    pub fn read_chunks(&self, ids: &[ChunkId], cache: &dyn ChunkCache) -> Vec<Result<Arc<[u8]>>> {
        self.read_chunks_on(rayon::current_num_threads(), ids, cache)
    }

    /// The same on so many threads; one is the caller's own, for callers that have workers.
    pub fn read_chunks_on(
        &self,
        threads: usize,
        ids: &[ChunkId],
        cache: &dyn ChunkCache,
    ) -> Vec<Result<Arc<[u8]>>> {
        let mut done = Done::new();
        let mut pending = BTreeMap::new();
        let mut wanted: Vec<ChunkId> = ids.to_vec();
        self.expect_chunks(ids, cache);
        while let Some(id) = wanted.pop() {
            if done.contains_key(&id) || pending.contains_key(&id) {
                continue;
            }
            if let Some(bytes) = cache.get(id) {
                done.insert(id, Ok(bytes));
                continue;
            }
            if pending.len() >= ids.len() * limits::CLOSURE {
                let rule = "it and others need too many chunks to be decoded";
                done.insert(id, Err(Error::BadChunk { chunk: id.0, offset: 0, rule }));
                continue;
            }
            match self.load(id) {
                Ok(chunk) => {
                    wanted.extend(&chunk.refs);
                    pending.insert(id, chunk);
                }
                Err(error) => {
                    done.insert(id, Err(error));
                }
            }
        }
        let put = &mut |id, bytes: &Arc<[u8]>| cache.put(id, bytes);
        decode_all(&self.models, &self.index.models, &self.header, threads, pending, &mut done, put);
        ids.iter().map(|id| done.get(id).map_or(Err(Error::Internal("a chunk was lost")), again)).collect()
    }
}

/// A result once more; errors cannot be cloned.
fn again(result: &Result<Arc<[u8]>>) -> Result<Arc<[u8]>> {
    Err(match result {
        Ok(bytes) => return Ok(Arc::clone(bytes)),
        Err(Error::BadChunk { chunk, offset, rule }) => {
            Error::BadChunk { chunk: *chunk, offset: *offset, rule }
        }
        Err(Error::Corrupt { offset, rule }) => Error::Corrupt { offset: *offset, rule },
        Err(Error::Inconsistent { rule }) => Error::Inconsistent { rule },
        Err(Error::Truncated { offset, needed }) => Error::Truncated { offset: *offset, needed: *needed },
        Err(Error::Unreadable { offset, len, source }) => {
            Error::Unreadable { offset: *offset, len: *len, source: again_io(source) }
        }
        Err(Error::ModelMissing { fingerprint, name }) => {
            Error::ModelMissing { fingerprint: fingerprint.clone(), name: name.clone() }
        }
        Err(Error::BadModel { name, rule }) => Error::BadModel { name: name.clone(), rule: rule.clone() },
        Err(Error::ObjectChanged(path)) => Error::ObjectChanged(path.clone()),
        Err(Error::Io { path, source }) => Error::io(path, again_io(source)),
        Err(_) => Error::Internal("a chunk could not be decoded"),
    })
}

fn again_io(source: &std::io::Error) -> std::io::Error {
    match source.raw_os_error() {
        Some(code) => std::io::Error::from_raw_os_error(code),
        None => std::io::Error::new(source.kind(), source.to_string()),
    }
}
