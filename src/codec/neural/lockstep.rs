//! Many chunks decoded in lockstep, one token of each per step.
//!
//! Weights are used for all chunks while they are in the cache. A chunk that ends makes room for
//! another.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use crate::codec::job::{DecodeError, DecodeJob, Decoded, damaged};
use crate::codec::work::LANES;
use crate::coder::decode::{Damaged, Decoder as Reader};
use crate::coder::share::Share;
use crate::error::{Error, Result};
use crate::kernels::backend::Backend;
use crate::model::decoder::{Decoder, Row};
use crate::model::latent;
use crate::model::matcher::Matcher;
use crate::model::weights::Model;

/// Bytes of match tables that the chunks of one lockstep may take together; the first chunk does
/// not count.
pub(crate) const TABLE_BYTES: usize = 64 << 20;

/// What is wrong with a payload whose tokens miss the end of the chunk, or that no encoder can have
/// written.
pub(crate) const WRONG_LENGTH: &str = "its payload does not decode to its length";

/// Decodes chunks of one model on the calling thread; results stand in the order of `jobs`.
pub(crate) fn decode(model: &Model, backend: Backend, jobs: &[&DecodeJob<'_>]) -> Vec<Decoded> {
    let lanes = LANES.min(jobs.len()).max(1);
    let mut lockstep = Lockstep {
        model,
        decoder: Decoder::new(model, backend, lanes, lanes),
        free: (0..lanes).rev().collect(),
        waiting: VecDeque::new(),
        active: Vec::with_capacity(lanes),
        table_bytes: 0,
        results: jobs.iter().map(|_| None).collect(),
    };
    // Chunks of one expert share their weights.
    let mut experts: BTreeMap<usize, VecDeque<Opened<'_>>> = BTreeMap::new();
    for (index, job) in jobs.iter().enumerate() {
        match open(model, index, job) {
            Ok(opened) => experts.entry(model.expert(&opened.c)).or_default().push_back(opened),
            Err(error) => lockstep.results[index] = Some(Err(error)),
        }
    }
    for (expert, waiting) in experts {
        lockstep.decoder.select(expert);
        lockstep.waiting = waiting;
        lockstep.run();
    }
    let results = lockstep.results.into_iter();
    results
        .map(|result| result.unwrap_or(Err(Error::Internal("a chunk was left undecoded").into())))
        .collect()
}

/// The history of a chunk: the chunks that it refers to, then the separator before its own tokens.
pub(crate) fn lay_history(model: &Model, raw_len: usize, history: &[Arc<[u8]>]) -> Result<Matcher> {
    let (config, vocabulary) = (model.config(), model.vocabulary());
    let capacity = history.iter().map(|bytes| bytes.len()).fold(raw_len, usize::saturating_add);
    let mut matcher = Matcher::new(&config.orders, &config.seconds, capacity, vocabulary.separator())?;
    for bytes in history {
        matcher.extend(&vocabulary.tokenize(bytes));
    }
    matcher.extend(&[]);
    Ok(matcher)
}

/// A chunk whose c was read.
pub(crate) struct Opened<'a> {
    /// Index among the results.
    index: usize,
    job: &'a DecodeJob<'a>,
    reader: Reader<'a>,
    c: Vec<u16>,
}

pub(crate) fn open<'a>(
    model: &Model,
    index: usize,
    job: &'a DecodeJob<'a>,
) -> Result<Opened<'a>, DecodeError> {
    let (reader, c) = begin(model, job.payload)?;
    Ok(Opened { index, job, reader, c })
}

/// Reads the learned sequence of a payload.
pub(crate) fn begin<'a>(model: &Model, payload: &'a [u8]) -> Result<(Reader<'a>, Vec<u16>), DecodeError> {
    if payload.last() == Some(&0) {
        return Err(damaged("its payload ends in a zero byte"));
    }
    let mut reader = Reader::new(payload);
    let c =
        latent::decode(model, &mut reader).map_err(|Damaged| damaged("its learned sequence is damaged"))?;
    Ok((reader, c))
}

/// A chunk that is being decoded.
pub(crate) struct Lane<'a> {
    /// Index among the results.
    job: usize,
    /// Index of the lane in the decoder's caches.
    slot: usize,
    matcher: Matcher,
    reader: Reader<'a>,
    position: usize,
    raw_len: usize,
    raw: Vec<u8>,
    damaged: bool,
}

pub(crate) struct Lockstep<'a> {
    model: &'a Model,
    decoder: Decoder<'a>,
    free: Vec<usize>,
    waiting: VecDeque<Opened<'a>>,
    active: Vec<Lane<'a>>,
    table_bytes: usize,
    results: Vec<Option<Decoded>>,
}

impl<'a> Lockstep<'a> {
    fn run(&mut self) {
        let mut rows = Vec::with_capacity(self.decoder.rows());
        loop {
            self.fill();
            if self.active.is_empty() {
                return;
            }
            rows.clear();
            self.active.iter().for_each(|lane| lane.matcher.ask());
            for (row, lane) in self.active.iter_mut().enumerate() {
                self.decoder.input(row, &mut lane.matcher);
                rows.push(Row { lane: lane.slot, position: lane.position });
            }
            self.decoder.forward(&rows);
            for (row, lane) in self.active.iter_mut().enumerate() {
                lane.damaged = step(self.model, &mut self.decoder, row, lane).is_err();
            }
            self.retire();
        }
    }

    /// Starts waiting chunks while there is room.
    fn fill(&mut self) {
        while let Some(&slot) = self.free.last() {
            if !self.active.is_empty() && self.table_bytes > TABLE_BYTES {
                return;
            }
            let Some(opened) = self.waiting.pop_front() else { return };
            let index = opened.index;
            match self.start(opened, slot) {
                Ok(lane) if lane.raw_len > 0 => {
                    self.free.pop();
                    self.table_bytes += lane.matcher.table_bytes();
                    self.active.push(lane);
                }
                Ok(lane) => self.results[index] = Some(Ok(lane.raw)),
                Err(error) => self.results[index] = Some(Err(error)),
            }
        }
    }

    fn start(&mut self, opened: Opened<'a>, slot: usize) -> Result<Lane<'a>, DecodeError> {
        let Opened { index, job, reader, c } = opened;
        let matcher = lay_history(self.model, job.raw_len, &job.history)?;
        // A token has at least one byte.
        self.decoder.begin(slot, job.raw_len, &c);
        let raw = Vec::with_capacity(job.raw_len.min(1 << 16));
        Ok(Lane { job: index, slot, matcher, reader, position: 0, raw_len: job.raw_len, raw, damaged: false })
    }

    /// Takes out the chunks that are complete or damaged.
    fn retire(&mut self) {
        let mut place = 0;
        while let Some(lane) = self.active.get(place) {
            let most = lane.position >= self.decoder.max_tokens() && lane.raw.len() < lane.raw_len;
            let result = if lane.damaged || most || lane.raw.len() > lane.raw_len {
                Err(damaged(WRONG_LENGTH))
            } else if lane.raw.len() == lane.raw_len {
                Ok(())
            } else {
                place += 1;
                continue;
            };
            let lane = self.active.swap_remove(place);
            self.free.push(lane.slot);
            self.table_bytes -= lane.matcher.table_bytes();
            self.results[lane.job] = Some(result.map(|()| lane.raw));
        }
    }
}

/// Decodes the next token of a lane under the slots of its row.
pub(crate) fn step(
    model: &Model,
    decoder: &mut Decoder<'_>,
    row: usize,
    lane: &mut Lane<'_>,
) -> Result<(), Damaged> {
    let slots = decoder.slots(row, lane.matcher.look_up());
    let target = lane.reader.target(slots.total())?;
    let (symbol, cum, slot) = slots.find(target);
    lane.reader.consume(Share { cum, slot }, slots.total());
    // Symbols are tokens: at most 65,535 of them.
    let token = symbol as u16;
    decoder.learn(row, token);
    lane.raw.extend_from_slice(model.vocabulary().token(token));
    lane.matcher.update(token);
    lane.position += 1;
    Ok(())
}
