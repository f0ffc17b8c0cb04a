//! Encodes a chunk with the codec that gives the fewest bytes, and decodes it.

use super::job::{DecodeJob, Decoded, EncodeJob, Encoded, damaged};
use super::model::{ChunkModel, Models};
use super::zstd_chunk::Zstd;
use super::{lz, stored, zstd_chunk};
use crate::wire::chunk::Codec;

/// Decodes each job; results stand in the order of `jobs`.
///
/// All neural jobs of one model are passed to it in one call, so that it can decode them in
/// lockstep. A result has exactly the job's `raw_len` bytes; the caller checks that they are the
/// right ones.
pub fn decode(models: &Models, jobs: &[DecodeJob<'_>]) -> Vec<Decoded> {
    decode_with(models, jobs, |model, jobs| model.decode(jobs))
}

/// Decodes each job as `decode` does, for work that the models' devices do sooner than the CPU.
pub fn decode_bulk(models: &Models, jobs: &[DecodeJob<'_>]) -> Vec<Decoded> {
    decode_with(models, jobs, |model, jobs| model.decode_bulk(jobs))
}

fn decode_with(
    models: &Models,
    jobs: &[DecodeJob<'_>],
    decode: impl Fn(&dyn ChunkModel, &[&DecodeJob<'_>]) -> Vec<Decoded>,
) -> Vec<Decoded> {
    let mut results: Vec<Decoded> = jobs
        .iter()
        .map(|job| match job.codec {
            Codec::Stored => stored::decode(job),
            Codec::Lz => lz::decode(job),
            Codec::Zstd => Err(damaged("it was not unpacked")),
            Codec::Neural => Err(damaged("its model is not loaded")),
        })
        .collect();
    zstd_chunk::decode(jobs, &mut results);
    for (index, model) in models.loaded() {
        let mine: Vec<usize> =
            (0..jobs.len()).filter(|&i| jobs[i].codec == Codec::Neural && jobs[i].model == index).collect();
        if mine.is_empty() {
            continue;
        }
        let batch: Vec<&DecodeJob<'_>> = mine.iter().map(|&i| &jobs[i]).collect();
        for (&i, result) in mine.iter().zip(decode(&**model, &batch)) {
            results[i] = match result {
                Ok(raw) if raw.len() != jobs[i].raw_len => Err(damaged("it decodes to another length")),
                other => other,
            };
        }
    }
    results
}

/// Encodes each job with the codec that gives the fewest bytes; results stand in the order of
/// `jobs`. If two give the same length, the simpler codec and the model with the lower number are
/// preferred.
pub fn encode(models: &Models, zstd: Zstd<'_>, jobs: &[EncodeJob<'_>]) -> Vec<Encoded> {
    let mut best: Vec<Encoded> = jobs.iter().map(stored::encode).collect();
    for (best, made) in best.iter_mut().zip(zstd_chunk::encode(zstd, jobs)) {
        made.into_iter().for_each(|encoded| best.keep_shorter(encoded));
    }
    let open: Vec<usize> = (0..jobs.len()).filter(|&i| !is_noise(&best[i], &jobs[i])).collect();
    let open_jobs: Vec<EncodeJob<'_>> =
        open.iter().map(|&i| EncodeJob { raw: jobs[i].raw, history: jobs[i].history.clone() }).collect();
    for (model, loaded) in models.loaded() {
        for (&i, payload) in open.iter().zip(loaded.encode(&open_jobs)) {
            let used_history = !jobs[i].history.is_empty();
            if let Some(payload) = payload {
                best[i].keep_shorter(Encoded { codec: Codec::Neural, model, payload, used_history });
            }
        }
    }
    best
}

/// Whether a chunk is most likely compressed already, so that a model would take time and gain
/// nothing.
fn is_noise(best: &Encoded, job: &EncodeJob<'_>) -> bool {
    job.raw.len() >= 4096 && best.payload.len() as u64 * 64 >= job.raw.len() as u64 * 63
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn round_trip(models: &Models, raw: &[u8], history: Vec<Arc<[u8]>>) -> Encoded {
        let jobs = [EncodeJob { raw, history: history.clone() }];
        let encoded = encode(models, Zstd::default(), &jobs).pop().unwrap();
        let history = if encoded.used_history { history } else { Vec::new() };
        let job = DecodeJob {
            codec: encoded.codec,
            model: encoded.model,
            payload: &encoded.payload,
            raw_len: raw.len(),
            history,
            dictionary: None,
        };
        assert_eq!(decode(models, &[job]).pop().unwrap().unwrap(), raw);
        encoded
    }

    #[test]
    fn noise_is_stored_and_text_is_packed() {
        let noise: Vec<u8> = blake3::hash(b"seed").as_bytes().to_vec();
        assert_eq!(round_trip(&Models::none(), &noise, vec![]).codec, Codec::Stored);
        let text = b"the quick brown fox ".repeat(50);
        assert_eq!(round_trip(&Models::none(), &text, vec![]).codec, Codec::Zstd);
    }

    #[test]
    fn history_helps_where_it_is_alike() {
        let noise: Vec<u8> = (0..64u8).flat_map(|i| *blake3::hash(&[i]).as_bytes()).collect();
        let encoded = round_trip(&Models::none(), &noise, vec![[1, 2, 3][..].into(), noise[..].into()]);
        assert!(encoded.used_history && encoded.payload.len() < 40);
        assert!(!round_trip(&Models::none(), &noise, vec![[0; 50][..].into()]).used_history);
    }

    #[test]
    fn a_model_takes_what_it_codes_shorter() {
        let models = Models::one(Arc::new(crate::codec::model::Counting));
        let counting: Vec<u8> = (0..200).collect();
        let encoded = round_trip(&models, &counting, vec![]);
        assert_eq!((encoded.codec, encoded.payload), (Codec::Neural, vec![0]));
        assert_eq!(round_trip(&models, &[0; 200], vec![]).codec, Codec::Zstd);
    }

    #[test]
    fn damaged_payloads_are_errors() {
        let text = b"the quick brown fox ".repeat(50);
        let encoded = round_trip(&Models::none(), &text, vec![]);
        for cut in 0..encoded.payload.len() {
            let payload = &encoded.payload[..cut];
            let raw_len = text.len();
            let job = DecodeJob {
                codec: Codec::Zstd,
                model: 0,
                payload,
                raw_len,
                history: vec![],
                dictionary: None,
            };
            assert!(decode(&Models::none(), &[job])[0].is_err());
        }
        for codec in [Codec::Stored, Codec::Neural] {
            let (payload, history, dictionary) = (b"abc", vec![], None);
            let job = DecodeJob { codec, model: 3, payload, raw_len: 4, history, dictionary };
            assert!(decode(&Models::none(), &[job])[0].is_err());
        }
    }
}
