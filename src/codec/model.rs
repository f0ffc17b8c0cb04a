//! The models that an archive's chunks can use, by the number under which chunks name them.
//!
//! The codec layer sees a model only through `ChunkModel`; the integer engine in `neural`
//! implements that trait.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::job::{DecodeJob, Decoded, EncodeJob};
use super::work::Work;

/// The learned sequence of a chunk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Learned {
    /// The symbols.
    pub c: Vec<u16>,
    /// Bits of the payload that it takes.
    pub bits: u64,
}

/// A loaded model that codes chunks.
pub trait ChunkModel: Send + Sync {
    /// BLAKE3 of the model file.
    fn fingerprint(&self) -> [u8; 32];

    /// The model's name for people, at most 255 bytes.
    fn name(&self) -> &str;

    /// Payloads of the jobs, in their order. `None` where the model cannot code a chunk, which is
    /// then left to other codecs.
    fn encode(&self, jobs: &[EncodeJob<'_>]) -> Vec<Option<Vec<u8>>>;

    /// The learned sequence of a payload; `None` if the model has no c, or the payload is damaged.
    fn learned(&self, payload: &[u8]) -> Option<Learned> {
        let _ = payload;
        None
    }

    /// Whether this much decoding should be passed to `decode_bulk` in one call, rather than be
    /// divided among threads.
    fn takes_bulk(&self, work: Work) -> bool {
        let _ = work;
        false
    }

    /// How many of these jobs of decoding the model wants in one call; 0 leaves that to the caller.
    fn bulk(&self, work: Work) -> usize {
        let _ = work;
        0
    }

    /// Prepares the model's device on another thread, if there is a device and this much work is
    /// worth it.
    fn prepare_apart(&self, work: Work) {
        let _ = work;
    }

    /// How many of `jobs` jobs of encoding the model wants in one call; 0 leaves that to the
    /// caller.
    fn bulk_encoding(&self, jobs: usize) -> usize {
        let _ = jobs;
        0
    }

    /// The same model without its device; `None` if it has no device.
    fn on_cpu(&self) -> Option<Arc<dyn ChunkModel>> {
        None
    }

    /// Tells the model that its device gave wrong bytes where the CPU gave the right ones.
    fn distrust(&self) {}

    /// Raw bytes of the jobs, in their order, each of exactly `raw_len` bytes. Payloads may be
    /// damaged or hostile: the result is then an error or wrong bytes, never a panic.
    fn decode(&self, jobs: &[&DecodeJob<'_>]) -> Vec<Decoded>;

    /// Decodes on the device what `takes_bulk` accepted.
    fn decode_bulk(&self, jobs: &[&DecodeJob<'_>]) -> Vec<Decoded> {
        self.decode(jobs)
    }
}

/// Models by the number under which chunks name them. A slot is empty where the model was not
/// found; chunks of other models and codecs can still be read.
#[derive(Clone, Default)]
pub struct Models {
    slots: Vec<Option<Arc<dyn ChunkModel>>>,
    /// For a slot that is empty because the base of its model is missing: the fingerprint of that
    /// base.
    bases: BTreeMap<u8, [u8; 32]>,
}

impl Models {
    /// No models: chunks are coded with other codecs.
    pub fn none() -> Self {
        Self::default()
    }

    /// Models in the order of their numbers; `None` for a model that was not found.
    pub fn new(slots: Vec<Option<Arc<dyn ChunkModel>>>) -> Self {
        Self { slots, bases: BTreeMap::new() }
    }

    /// Notes that slot `index` is empty because the model with this fingerprint, the base of its
    /// own, is missing.
    pub fn lacking(mut self, index: u8, fingerprint: [u8; 32]) -> Self {
        self.bases.insert(index, fingerprint);
        self
    }

    /// The fingerprint of the base whose absence leaves slot `index` empty; `None` if the slot's
    /// own model is missing or nothing is.
    pub fn lacks(&self, index: u8) -> Option<&[u8; 32]> {
        self.bases.get(&index)
    }

    /// A single model, for a new archive.
    pub fn one(model: Arc<dyn ChunkModel>) -> Self {
        Self::new(vec![Some(model)])
    }

    /// The model with this number, if it was found.
    pub fn get(&self, index: u8) -> Option<&Arc<dyn ChunkModel>> {
        self.slots.get(usize::from(index))?.as_ref()
    }

    /// The models without their devices; slots of models that have no device are empty.
    pub fn on_cpu(&self) -> Self {
        let plain = |slot: &Option<Arc<dyn ChunkModel>>| slot.as_ref().and_then(|model| model.on_cpu());
        Self::new(self.slots.iter().map(plain).collect())
    }

    /// How many of these jobs of decoding some model wants in one call; 0 leaves that to the
    /// caller.
    pub fn bulk(&self, work: Work) -> usize {
        self.loaded().map(|(_, model)| model.bulk(work)).max().unwrap_or(0)
    }

    /// Prepares the models' devices on other threads, if this much work is worth it.
    pub fn prepare_apart(&self, work: Work) {
        self.loaded().for_each(|(_, model)| model.prepare_apart(work));
    }

    /// How many of `jobs` jobs of encoding some model wants in one call; 0 leaves that to the
    /// caller.
    pub fn bulk_encoding(&self, jobs: usize) -> usize {
        self.loaded().map(|(_, model)| model.bulk_encoding(jobs)).max().unwrap_or(0)
    }

    /// Number of slots, empty ones included.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether there are no slots.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// The loaded models with their numbers.
    pub fn loaded(&self) -> impl Iterator<Item = (u8, &Arc<dyn ChunkModel>)> {
        (0..=u8::MAX).zip(&self.slots).filter_map(|(i, slot)| Some((i, slot.as_ref()?)))
    }
}

impl std::fmt::Debug for Models {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.slots.iter().map(|s| s.as_ref().map(|m| m.name()))).finish()
    }
}

/// A simple model for tests: it codes bytes that count upward (modulo 256) as the first of them,
/// and refuses all others. It ignores history.
#[cfg(test)]
pub(crate) struct Counting;

#[cfg(test)]
impl ChunkModel for Counting {
    fn fingerprint(&self) -> [u8; 32] {
        [0xc0; 32]
    }

    fn name(&self) -> &str {
        "counting"
    }

    fn encode(&self, jobs: &[EncodeJob<'_>]) -> Vec<Option<Vec<u8>>> {
        let counts = |raw: &[u8]| raw.windows(2).all(|pair| pair[1] == pair[0].wrapping_add(1));
        jobs.iter().map(|job| counts(job.raw).then(|| job.raw[..1].to_vec())).collect()
    }

    fn decode(&self, jobs: &[&DecodeJob<'_>]) -> Vec<Decoded> {
        jobs.iter()
            .map(|job| match job.payload {
                &[first] => Ok((0..job.raw_len).map(|i| first.wrapping_add(i as u8)).collect()),
                _ => Err(super::job::damaged("its payload has another length")),
            })
            .collect()
    }
}
