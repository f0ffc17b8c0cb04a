//! The models at hand for an archive, by the number under which its chunks name them.
//!
//! The codec layer sees a model only through `ChunkModel`; the integer engine implements it.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::job::{DecodeJob, Decoded, EncodeJob};
use super::work::Work;

/// The learned sequence of a chunk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Learned {
    pub c: Vec<u16>,
    /// Bits that it takes of the payload.
    pub bits: u64,
}

/// A loaded model that codes chunks.
pub trait ChunkModel: Send + Sync {
    /// BLAKE3 of the model file.
    fn fingerprint(&self) -> [u8; 32];

    /// What users call it, at most 255 bytes.
    fn name(&self) -> &str;

    /// Payloads of the jobs, in their order. `None` where the model cannot code the chunk; another
    /// codec takes it then.
    fn encode(&self, jobs: &[EncodeJob<'_>]) -> Vec<Option<Vec<u8>>>;

    /// The learned sequence of a payload; none if the model has none, or the payload is damaged.
    fn learned(&self, payload: &[u8]) -> Option<Learned> {
        let _ = payload;
        None
    }

    /// Whether this work of decoding should come together, to `decode_bulk`, rather than be shared
    /// out among threads.
    fn takes_bulk(&self, work: Work) -> bool {
        let _ = work;
        false
    }

    /// How many of these jobs of decoding it wants at once; 0 leaves it to the caller.
    fn bulk(&self, work: Work) -> usize {
        let _ = work;
        0
    }

    /// Makes its device ready on a thread of its own, if it has one and so much work may come.
    fn prepare_apart(&self, work: Work) {
        let _ = work;
    }

    /// How many of so many jobs of encoding it wants at once; 0 leaves it to the caller.
    fn bulk_encoding(&self, jobs: usize) -> usize {
        let _ = jobs;
        0
    }

    /// The same model without a device, if it has one.
    fn on_cpu(&self) -> Option<Arc<dyn ChunkModel>> {
        None
    }

    /// Takes note that the device's bytes were wrong where the CPU's were right.
    fn distrust(&self) {}

    /// Plain bytes of the jobs, in their order, each of exactly `raw_len` bytes. Payloads may be
    /// damaged or hostile: the answer is then an error or wrong bytes, never a panic.
    fn decode(&self, jobs: &[&DecodeJob<'_>]) -> Vec<Decoded>;

    /// The same for work that `takes_bulk` took, on the device.
    fn decode_bulk(&self, jobs: &[&DecodeJob<'_>]) -> Vec<Decoded> {
        self.decode(jobs)
    }
}

/// Models by the number that chunks name. A slot is empty where the model was not found: chunks of
/// other codecs can still be read then.
#[derive(Clone, Default)]
pub struct Models {
    slots: Vec<Option<Arc<dyn ChunkModel>>>,
    /// Fingerprints of models whose absence leaves a slot empty, where another than the slot's own
    /// is missing.
    bases: BTreeMap<u8, [u8; 32]>,
}

impl Models {
    /// No models: chunks are coded with zstd or stored.
    pub fn none() -> Self {
        Self::default()
    }

    pub fn new(slots: Vec<Option<Arc<dyn ChunkModel>>>) -> Self {
        Self { slots, bases: BTreeMap::new() }
    }

    /// The same with a note that slot `index` is empty for want of the model with this fingerprint.
    pub fn lacking(mut self, index: u8, fingerprint: [u8; 32]) -> Self {
        self.bases.insert(index, fingerprint);
        self
    }

    /// The fingerprint of the model for want of which slot `index` is empty, if that is not its
    /// own.
    pub fn lacks(&self, index: u8) -> Option<&[u8; 32]> {
        self.bases.get(&index)
    }

    /// The one model of a new archive.
    pub fn one(model: Arc<dyn ChunkModel>) -> Self {
        Self::new(vec![Some(model)])
    }

    pub fn get(&self, index: u8) -> Option<&Arc<dyn ChunkModel>> {
        self.slots.get(usize::from(index))?.as_ref()
    }

    /// The models without their devices; only those that have one.
    pub fn on_cpu(&self) -> Self {
        let plain = |slot: &Option<Arc<dyn ChunkModel>>| slot.as_ref().and_then(|model| model.on_cpu());
        Self::new(self.slots.iter().map(plain).collect())
    }

    /// How many of these jobs of decoding some model wants at once; 0 leaves it to the caller.
    pub fn bulk(&self, work: Work) -> usize {
        self.loaded().map(|(_, model)| model.bulk(work)).max().unwrap_or(0)
    }

    /// Makes the models' devices ready on threads of their own, if so much work is worth it.
    pub fn prepare_apart(&self, work: Work) {
        self.loaded().for_each(|(_, model)| model.prepare_apart(work));
    }

    /// How many of so many jobs of encoding some model wants at once; 0 leaves it to the caller.
    pub fn bulk_encoding(&self, jobs: usize) -> usize {
        self.loaded().map(|(_, model)| model.bulk_encoding(jobs)).max().unwrap_or(0)
    }

    /// Number of slots, empty ones included.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

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

/// A toy for tests: codes bytes that count upwards (modulo 256) as the first of them, and refuses
/// all else. Its history is ignored.
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
