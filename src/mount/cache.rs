//! Decoded chunks, kept in an LRU that is bounded in bytes, each decoded once however many wait.
//!
//! A chunk is in one of three states: kept, in flight, or neither. Who asks for a chunk in the
//! third state claims it into a `Batch` and owes its decoding; all others who ask meanwhile wait
//! for the same outcome. A batch that is dropped undone, by a shutdown, fails its waiters, so nobody
//! waits for ever; a panic costs only the chunk that it is about. Errors reach all who wait and are then forgotten.
//!
//! Invariant under the lock: `bytes` is the sum of the costs of `kept` and at most `capacity`. A
//! chunk can be kept while it is in flight: then another one's decode needed it as history.
//!
//! Locks come from the module above: `tests/schedules` has this file below another one, too, whose locks try
//! out schedules.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

use lru::LruCache;
use tokio::sync::oneshot;

use super::source::Source;
use super::sync::{AtomicU64, Mutex, MutexGuard, Ordering, PoisonError};
use crate::archive::read::chunk_cache::ChunkCache;
use crate::error::Error;
use crate::wire::entry::ChunkId;

/// The plain bytes of a chunk.
pub type Plain = Arc<[u8]>;

/// A chunk's bytes, or why there are none; shared by all who waited.
pub type Outcome = Result<Plain, Arc<Error>>;

/// What an entry of the cache takes besides the chunk's bytes: list links, map slot, counters.
pub(crate) const ENTRY_COST: u64 = 96;

/// Decoded chunks of one archive.
pub struct Cache {
    source: Arc<dyn Source>,
    capacity: u64,
    state: Mutex<State>,
    /// Smoothed cost of decoding, in nanoseconds for 1,024 plain bytes on one worker; 0 is unknown.
    cost: AtomicU64,
}

struct State {
    kept: LruCache<ChunkId, Plain>,
    bytes: u64,
    flights: HashMap<ChunkId, Vec<oneshot::Sender<Outcome>>>,
}

/// One chunk asked for.
pub enum Slot {
    Ready(Plain),
    /// Another's decode, or one's own batch, will send it.
    Pending(oneshot::Receiver<Outcome>),
}

/// Chunks that were claimed and must be decoded by whoever holds this.
#[must_use = "others may wait for these chunks"]
pub struct Batch {
    cache: Arc<Cache>,
    ids: Vec<ChunkId>,
}

impl Cache {
    /// An empty cache that keeps at most `capacity` bytes.
    pub fn new(source: Arc<dyn Source>, capacity: u64) -> Arc<Self> {
        let state = State { kept: LruCache::unbounded(), bytes: 0, flights: HashMap::new() };
        Arc::new(Self { source, capacity, state: Mutex::new(state), cost: AtomicU64::new(0) })
    }

    /// Most bytes that it keeps.
    pub fn capacity(&self) -> u64 {
        self.capacity
    }

    /// Bytes kept now.
    #[cfg(test)]
    pub fn bytes(&self) -> u64 {
        self.lock().bytes
    }

    /// Nanoseconds that a worker needs to decode 1,024 bytes, by the batches so far.
    pub fn cost(&self) -> u64 {
        self.cost.load(Ordering::Relaxed)
    }

    /// All of `ids` if every one is kept, without claiming any.
    pub fn get_all(&self, ids: impl Iterator<Item = ChunkId>) -> Option<Vec<Plain>> {
        let mut state = self.lock();
        ids.map(|id| state.kept.get(&id).cloned()).collect()
    }

    /// Asks for chunks. Those that nobody has or decodes are claimed into the batch.
    pub fn request(self: &Arc<Self>, ids: impl Iterator<Item = ChunkId>) -> (Vec<Slot>, Batch) {
        let mut claimed = Vec::new();
        let mut state = self.lock();
        let slots = ids
            .map(|id| {
                if let Some(plain) = state.kept.get(&id) {
                    return Slot::Ready(plain.clone());
                }
                let (sender, receiver) = oneshot::channel();
                match state.flights.entry(id) {
                    Entry::Occupied(mut flight) => flight.get_mut().push(sender),
                    Entry::Vacant(free) => {
                        free.insert(vec![sender]);
                        claimed.push(id);
                    }
                }
                Slot::Pending(receiver)
            })
            .collect();
        drop(state);
        (slots, Batch { cache: self.clone(), ids: claimed })
    }

    /// Claims those of `ids` that nobody has or decodes, for later readers.
    pub fn claim(self: &Arc<Self>, ids: impl Iterator<Item = ChunkId>) -> Batch {
        let mut claimed = Vec::new();
        let mut state = self.lock();
        for id in ids {
            if state.kept.contains(&id) {
                continue;
            }
            if let Entry::Vacant(free) = state.flights.entry(id) {
                free.insert(Vec::new());
                claimed.push(id);
            }
        }
        drop(state);
        Batch { cache: self.clone(), ids: claimed }
    }

    /// Ends a flight: keeps what was decoded and tells all who wait.
    fn land(&self, id: ChunkId, outcome: &Outcome) {
        let mut evicted = Vec::new();
        let waiting = {
            let mut state = self.lock();
            if let Ok(plain) = outcome {
                state.keep(id, plain.clone(), self.capacity, &mut evicted);
            }
            state.flights.remove(&id)
        };
        // Freed and sent outside the lock.
        drop(evicted);
        for sender in waiting.into_iter().flatten() {
            // A reader that has gone away does not mind.
            let _ = sender.send(outcome.clone());
        }
    }

    fn learn_cost(&self, bytes: u64, nanos: u64) {
        if bytes == 0 {
            return;
        }
        let now = (nanos.saturating_mul(1024) / bytes).max(1);
        let before = self.cost.load(Ordering::Relaxed);
        let next = if before == 0 { now } else { before - before / 8 + now / 8 };
        self.cost.store(next.max(1), Ordering::Relaxed);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing that can panic runs under the lock, so a poisoned state is whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn keep(&mut self, id: ChunkId, plain: Plain, capacity: u64, evicted: &mut Vec<Plain>) {
        let cost = cost_of(&plain);
        if cost > capacity {
            return;
        }
        self.bytes += cost;
        if let Some(old) = self.kept.put(id, plain) {
            self.bytes -= cost_of(&old);
        }
        while self.bytes > capacity {
            let Some((_, old)) = self.kept.pop_lru() else { break };
            self.bytes -= cost_of(&old);
            evicted.push(old);
        }
    }
}

fn cost_of(plain: &Plain) -> u64 {
    plain.len() as u64 + ENTRY_COST
}

impl Batch {
    /// The claimed chunks.
    #[cfg(test)]
    pub fn ids(&self) -> &[ChunkId] {
        &self.ids
    }

    /// Cuts the batch into at most `parts`, each a run of at least `least` chunks where possible.
    pub fn split(mut self, parts: usize, least: usize) -> Vec<Batch> {
        let ids = std::mem::take(&mut self.ids);
        let parts = parts.min(ids.len() / least.max(1)).max(1);
        let len = ids.len().div_ceil(parts).max(1);
        ids.chunks(len).map(|ids| Batch { cache: self.cache.clone(), ids: ids.to_vec() }).collect()
    }

    /// Decodes the chunks, keeps them and tells all who wait. Blocks as long as that takes.
    pub fn run(mut self) {
        if self.ids.is_empty() {
            return;
        }
        let start = Instant::now();
        let results = self.decode();
        let nanos = u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let mut bytes = 0;
        let mut results = results.into_iter();
        // Popped from the back as they land, so that a drop fails only the rest.
        self.ids.reverse();
        while let Some(&id) = self.ids.last() {
            let outcome = match results.next() {
                Some(Ok(plain)) => {
                    bytes += plain.len() as u64;
                    Ok(plain)
                }
                Some(Err(error)) => Err(Arc::new(error)),
                None => Err(Arc::new(Error::Internal("a decode returned too few chunks"))),
            };
            self.ids.pop();
            self.cache.land(id, &outcome);
        }
        self.cache.learn_cost(bytes, nanos);
    }
}

impl Batch {
    /// Decodes the chunks together, or one by one if that panics, so that a panic costs its chunk only.
    fn decode(&self) -> Vec<Result<Plain, Error>> {
        let guarded = |ids: &[ChunkId]| {
            catch_unwind(AssertUnwindSafe(|| self.cache.source.decode(ids, &*self.cache))).ok()
        };
        let one = |id: &ChunkId| {
            let alone = guarded(std::slice::from_ref(id)).and_then(|mut results| results.pop());
            alone.unwrap_or(Err(Error::Internal("a decode was given up")))
        };
        guarded(&self.ids).unwrap_or_else(|| self.ids.iter().map(one).collect())
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        if self.ids.is_empty() {
            return;
        }
        let outcome = Err(Arc::new(Error::Internal("a decode was given up")));
        for id in std::mem::take(&mut self.ids) {
            self.cache.land(id, &outcome);
        }
    }
}

/// History of the chunks being decoded.
impl ChunkCache for Cache {
    fn get(&self, id: ChunkId) -> Option<Plain> {
        self.lock().kept.get(&id).cloned()
    }

    fn put(&self, id: ChunkId, plain: &Plain) {
        let mut evicted = Vec::new();
        self.lock().keep(id, plain.clone(), self.capacity, &mut evicted);
    }
}
