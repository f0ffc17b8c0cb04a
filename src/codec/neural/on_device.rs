//! Neural chunks on a device: what the host does before and after, for many chunks at once.
//!
//! Before, the host reads c and tokenizes the history, each referenced chunk once. Afterwards it
//! turns tokens into bytes, or intervals into a payload. Errors are the same as on the CPU.
#![deny(clippy::float_arithmetic)]

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use rayon::prelude::*;

use super::chunk_model::Neural;
use super::lockstep::{WRONG_LENGTH, begin};
use crate::codec::job::{DecodeJob, Decoded, EncodeJob, damaged};
use crate::codec::offload::costs::rate_of;
use crate::codec::offload::device::Output;
use crate::codec::offload::dispatch::Offload;
use crate::codec::work::LANES;
use crate::coder::encode::Encoder;
use crate::error::{Error, Result};
use crate::model::config::MAX_WINDOW;
use crate::model::device::job::Request;
use crate::model::latent;
use crate::model::matcher::check_capacity;
use crate::model::weights::Model;
use crate::wire::chunk::Codec;

/// What the CPU's speed is measured with, where it is compared with a device.
const SAMPLE: &[u8] = b"A chunk's bytes become tokens of a learned vocabulary. A decoder predicts each token from those \
    before it, and from a match input: what followed the last few tokens when they last stood together, in this \
    chunk or in earlier ones that it names. A range coder stores what the prediction leaves open.";

/// Tokens of referenced chunks by the address of their bytes; chunks that refer to the same one
/// share them.
struct Histories<'a> {
    model: &'a Model,
    tokens: HashMap<*const u8, Vec<u16>>,
}

impl<'a> Histories<'a> {
    fn new<'b>(model: &'a Model, all: impl Iterator<Item = &'b [Arc<[u8]>]>) -> Self {
        let distinct: HashMap<*const u8, &Arc<[u8]>> =
            all.flatten().map(|bytes| (bytes.as_ptr(), bytes)).collect();
        // Pointers are used as keys only, and cannot be sent to other threads.
        let distinct: Vec<&Arc<[u8]>> = distinct.into_values().collect();
        let cut: Vec<Vec<u16>> =
            distinct.par_iter().map(|bytes| model.vocabulary().tokenize(bytes)).collect();
        Self { model, tokens: distinct.iter().map(|bytes| bytes.as_ptr()).zip(cut).collect() }
    }

    /// The history array up to the chunk's own tokens, and the capacity of its match tables.
    fn of(&self, raw_len: usize, history: &[Arc<[u8]>]) -> Result<(Vec<u16>, usize)> {
        let capacity = history.iter().map(|bytes| bytes.len()).fold(raw_len, usize::saturating_add);
        check_capacity(capacity)?;
        let separator = self.model.vocabulary().separator();
        let mut all = vec![separator];
        for bytes in history {
            // Chunks without bytes may have any address, and have no tokens.
            let tokens = self.tokens.get(&bytes.as_ptr()).filter(|_| !bytes.is_empty());
            all.extend(tokens.into_iter().flatten());
            all.push(separator);
        }
        Ok((all, capacity))
    }
}

/// A job of decoding: its result, if that is known without a device, or the request to a device.
enum Ready<'a> {
    Known(Decoded),
    Asked(Request<'a>),
}

fn ready<'a>(model: &Model, histories: &Histories<'_>, job: &'a DecodeJob<'a>) -> Ready<'a> {
    let opened = begin(model, job.payload);
    match opened.and_then(|opened| Ok((opened, histories.of(job.raw_len, &job.history)?))) {
        Err(error) => Ready::Known(Err(error)),
        Ok(_) if job.raw_len == 0 => Ready::Known(Ok(vec![])),
        Ok(((reader, c), (history, capacity))) => {
            let (code, range, payload) = reader.state();
            let raw_len = job.raw_len;
            Ready::Asked(Request { c, code, range, payload, raw_len, capacity, history, known: None })
        }
    }
}

impl Neural {
    /// Measures a thread of the CPU with one chunk and with many, and returns both rates. `None` if
    /// the sample cannot be coded.
    pub(crate) fn measure(&self) -> Option<(u64, u64)> {
        let payload = self.encode_with(SAMPLE, &[], &[]).ok()?.payload;
        let job = DecodeJob {
            codec: Codec::Neural,
            model: 0,
            payload: &payload,
            raw_len: SAMPLE.len(),
            history: vec![],
            dictionary: None,
        };
        let rate = |count: usize| {
            // The first run fills caches.
            let took = [(); 2].map(|()| {
                let start = Instant::now();
                self.decode_lockstep(&vec![&job; count]);
                start.elapsed().as_nanos()
            });
            let nanos = u64::try_from(took[0].min(took[1])).unwrap_or(u64::MAX);
            rate_of((count * SAMPLE.len()) as u64, nanos)
        };
        Some((rate(1), rate(LANES)))
    }

    /// Decodes on a device; `None` if it fails.
    pub(crate) fn decode_offloaded(
        &self,
        offload: &Offload,
        jobs: &[&DecodeJob<'_>],
    ) -> Option<Vec<Decoded>> {
        let model = &self.model;
        let histories = Histories::new(model, jobs.iter().map(|job| &job.history[..]));
        let mut results: Vec<Option<Decoded>> = Vec::with_capacity(jobs.len());
        let mut requests = Vec::with_capacity(jobs.len());
        for job in jobs {
            match ready(model, &histories, job) {
                Ready::Known(known) => results.push(Some(known)),
                Ready::Asked(request) => {
                    requests.push(request);
                    results.push(None);
                }
            }
        }
        let outputs = if requests.is_empty() { vec![] } else { offload.run(model, &requests)? };
        let decoded: Vec<Decoded> = outputs.par_iter().map(|output| self.bytes_of(output)).collect();
        let mut decoded = decoded.into_iter();
        let missing = || Err(Error::Internal("a chunk was left undecoded").into());
        Some(
            results
                .into_iter()
                .map(|known| known.or_else(|| decoded.next()).unwrap_or_else(missing))
                .collect(),
        )
    }

    fn bytes_of(&self, output: &Output) -> Decoded {
        let vocabulary = self.model.vocabulary();
        match output {
            Output::Damaged => Err(damaged(WRONG_LENGTH)),
            Output::Shares(_) => Err(Error::Internal("shares where tokens were asked for").into()),
            Output::Tokens(tokens) if tokens.iter().any(|&token| token >= vocabulary.separator()) => {
                Err(Error::Internal("a token that is none").into())
            }
            Output::Tokens(tokens) => {
                let mut raw = Vec::with_capacity(3 * tokens.len());
                tokens.iter().for_each(|&token| raw.extend_from_slice(vocabulary.token(token)));
                Ok(raw)
            }
        }
    }

    /// Encodes on a device, all candidates for c of all chunks side by side; `None` if the device
    /// fails.
    pub(crate) fn encode_offloaded(
        &self,
        offload: &Offload,
        jobs: &[EncodeJob<'_>],
    ) -> Option<Vec<Option<Vec<u8>>>> {
        let model = &self.model;
        let histories = Histories::new(model, jobs.iter().map(|job| &job.history[..]));
        let most = if model.config().window == 0 { MAX_WINDOW } else { usize::MAX };
        let (mut requests, mut owners) = (Vec::new(), Vec::new());
        for (number, job) in jobs.iter().enumerate() {
            let known = model.vocabulary().tokenize(job.raw);
            let Ok((history, capacity)) = histories.of(job.raw.len(), &job.history) else { continue };
            if known.is_empty() || known.len() > most {
                continue;
            }
            for c in self.candidates(job.raw) {
                // A compressor may write symbols that the model does not have.
                if latent::encode(model, &c, &mut Encoder::new()).is_ok() {
                    let (history, known) = (history.clone(), Some(known.clone()));
                    let raw_len = job.raw.len();
                    requests.push(Request { c, raw_len, capacity, history, known, ..Request::default() });
                    owners.push(number);
                }
            }
        }
        let outputs = if requests.is_empty() { vec![] } else { offload.run(model, &requests)? };
        let coded: Vec<Option<Vec<u8>>> = requests
            .par_iter()
            .zip(&outputs)
            .map(|(request, output)| payload_of(model, request, output))
            .collect();
        let mut best: Vec<Option<Vec<u8>>> = vec![None; jobs.len()];
        for (number, payload) in owners.into_iter().zip(coded) {
            // Of several codings with the same length, the first candidate is taken.
            if let (Some(payload), best) = (payload, &mut best[number])
                && best.as_ref().is_none_or(|best| payload.len() < best.len())
            {
                *best = Some(payload);
            }
        }
        // Chunks without bytes have no tokens. A chunk that could not be tried here cannot be coded
        // on the CPU either.
        for (best, job) in best.iter_mut().zip(jobs) {
            if best.is_none() && job.raw.is_empty() {
                *best = self.encode_with(job.raw, &job.history, &[]).ok().map(|coded| coded.payload);
            }
        }
        Some(best)
    }
}

/// The payload of known tokens; `None` if an interval is empty, which no device should return.
fn payload_of(model: &Model, request: &Request<'_>, output: &Output) -> Option<Vec<u8>> {
    let Output::Shares(shares) = output else { return None };
    let mut encoder = Encoder::new();
    latent::encode(model, &request.c, &mut encoder).ok()?;
    let sound = |(share, total): &(crate::coder::share::Share, u64)| {
        share.slot > 0
            && share.cum.checked_add(share.slot).is_some_and(|end| end <= *total)
            && *total < crate::coder::share::MAX_TOTAL
    };
    if shares.len() != request.known.as_ref()?.len() || !shares.iter().all(sound) {
        return None;
    }
    shares.iter().for_each(|&(share, total)| encoder.encode(share, total));
    Some(encoder.finish())
}
