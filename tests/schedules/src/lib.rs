//! The mount's cache of decoded chunks, `src/mount/cache.rs` without changes, under schedules that
//! shuttle generates: at each lock another thread may run, chosen at random or within a limit of
//! preemptions. A schedule that fails is printed, so that it can be replayed.
//!
//! This is a crate of its own, so that nothing else needs shuttle. Run `cargo test --release` in
//! this directory.
#![cfg(test)]

use std::sync::{Arc, Mutex as StdMutex};

use shuttle::thread;
use tokio::sync::oneshot::error::TryRecvError;

use archive::read::chunk_cache::ChunkCache;
use cache::{Batch, Cache, ENTRY_COST, Outcome, Slot};
use error::Error;
use wire::entry::ChunkId;

#[path = "../../../src/error.rs"]
#[allow(dead_code)]
mod error;

#[path = "../../../src/archive/read/chunk_cache.rs"]
#[allow(dead_code)]
mod chunk_cache;

mod archive {
    pub mod read {
        pub(crate) use crate::chunk_cache;
    }
}

mod wire {
    pub mod entry {
        /// The number of a chunk, as in the archive format.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub struct ChunkId(pub u32);
    }
}

/// The locks that the cache uses.
mod sync {
    pub use shuttle::sync::atomic::{AtomicU64, Ordering};
    pub use shuttle::sync::{Mutex, MutexGuard};
    pub use std::sync::PoisonError;
}

/// The archive that the cache uses.
mod source {
    use super::{Arc, ChunkCache, ChunkId, Error};

    pub trait Source: Send + Sync + 'static {
        fn decode(&self, ids: &[ChunkId], known: &dyn ChunkCache) -> Vec<Result<Arc<[u8]>, Error>>;
    }
}

#[path = "../../../src/mount/cache.rs"]
#[allow(dead_code)]
mod cache;

const CHUNKS: u32 = 4;
const LEN: usize = 50;

/// Chunks of which the odd ones refer to the chunk before, which is taken from the cache or
/// decoded.
struct Chained {
    /// How often each chunk was decoded.
    decodes: StdMutex<Vec<u32>>,
    /// A chunk that cannot be decoded.
    damaged: Option<u32>,
}

fn plain(id: u32) -> Vec<u8> {
    (0..LEN as u32).map(|i| (i * 7 + id * 31) as u8).collect()
}

impl source::Source for Chained {
    fn decode(&self, ids: &[ChunkId], known: &dyn ChunkCache) -> Vec<Result<Arc<[u8]>, Error>> {
        for id in ids.iter().filter(|id| !id.0.is_multiple_of(2)) {
            let before = ChunkId(id.0 - 1);
            if known.get(before).is_none() {
                known.put(before, &plain(before.0).into());
            }
        }
        thread::yield_now();
        let decode = |id: &ChunkId| {
            self.decodes.lock().unwrap()[id.0 as usize] += 1;
            if self.damaged == Some(id.0) {
                return Err(Error::BadChunk { chunk: id.0, offset: 0, rule: "damaged for a test" });
            }
            Ok(plain(id.0).into())
        };
        ids.iter().map(decode).collect()
    }
}

fn new(capacity: usize, damaged: Option<u32>) -> (Arc<Chained>, Arc<Cache>) {
    let source = Arc::new(Chained { decodes: StdMutex::new(vec![0; CHUNKS as usize]), damaged });
    let cache = Cache::new(source.clone(), (capacity * (LEN + ENTRY_COST as usize)) as u64);
    (source, cache)
}

/// Waits for a slot. If nothing ever fills it, shuttle runs out of steps, which is a failure.
fn wait(slot: Slot) -> Outcome {
    match slot {
        Slot::Ready(bytes) => Ok(bytes),
        Slot::Pending(mut receiver) => loop {
            match receiver.try_recv() {
                Ok(outcome) => return outcome,
                Err(TryRecvError::Empty) => thread::yield_now(),
                Err(TryRecvError::Closed) => panic!("a flight ended without an answer"),
            }
        },
    }
}

/// Asks for chunks, and decodes those that the cache assigns to this reader.
fn read(cache: &Arc<Cache>, ids: &[u32]) {
    let (slots, batch) = cache.request(ids.iter().map(|&id| ChunkId(id)));
    batch.run();
    for (slot, id) in slots.into_iter().zip(ids) {
        assert_eq!(wait(slot).unwrap()[..], plain(*id));
    }
}

/// The cache is below its bound and nothing is in flight: every chunk that is not cached can be
/// claimed.
fn assert_at_rest(cache: &Arc<Cache>) {
    assert!(cache.bytes() <= cache.capacity());
    let kept = (0..CHUNKS).filter(|&id| cache.get(ChunkId(id)).is_some()).count();
    assert_eq!(cache.bytes(), (kept * (LEN + ENTRY_COST as usize)) as u64);
    let claimed = cache.claim((0..CHUNKS).map(ChunkId));
    assert_eq!(claimed.ids().len() + kept, CHUNKS as usize);
    drop(claimed);
}

fn join(threads: Vec<thread::JoinHandle<()>>) {
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

/// Runs a test under random schedules, and under such as switch threads at few places.
fn under_schedules(test: fn()) {
    shuttle::check_random(test, 1500);
    shuttle::check_pct(test, 500, 3);
}

#[test]
fn readers_of_a_cache_of_two_chunks_get_the_right_bytes() {
    under_schedules(|| {
        let (_, cache) = new(2, None);
        let threads = [&[0, 1, 2][..], &[2, 1], &[3, 0], &[1, 3, 2]].map(|ids| {
            let cache = cache.clone();
            thread::spawn(move || {
                for _ in 0..2 {
                    read(&cache, ids);
                }
            })
        });
        join(threads.into());
        assert_at_rest(&cache);
    });
}

#[test]
fn a_chunk_that_fits_is_decoded_once() {
    under_schedules(|| {
        let (source, cache) = new(CHUNKS as usize, None);
        let threads = [&[0, 2][..], &[2, 0], &[2]].map(|ids| {
            let cache = cache.clone();
            thread::spawn(move || read(&cache, ids))
        });
        join(threads.into());
        assert_eq!(*source.decodes.lock().unwrap(), [1, 0, 1, 0]);
        assert_at_rest(&cache);
    });
}

#[test]
fn a_batch_that_is_given_up_fails_those_who_wait_and_nobody_else() {
    under_schedules(|| {
        let (_, cache) = new(CHUNKS as usize, None);
        let gives_up = {
            let cache = cache.clone();
            thread::spawn(move || {
                let batch = cache.claim([ChunkId(0), ChunkId(1)].into_iter());
                thread::yield_now();
                drop(batch);
            })
        };
        let waits = {
            let cache = cache.clone();
            thread::spawn(move || {
                let (slots, batch) = cache.request([ChunkId(1), ChunkId(3)].into_iter());
                let mine: Vec<u32> = batch.ids().iter().map(|id| id.0).collect();
                batch.run();
                for (slot, id) in slots.into_iter().zip([1, 3]) {
                    match wait(slot) {
                        Ok(bytes) => assert_eq!(bytes[..], plain(id)),
                        Err(error) => assert!(
                            matches!(*error, Error::Internal(_)) && !mine.contains(&id),
                            "{id}: {error}"
                        ),
                    }
                }
            })
        };
        join(vec![gives_up, waits]);
        read(&cache, &[0, 1, 2, 3]);
        assert_at_rest(&cache);
    });
}

#[test]
fn reading_ahead_in_parts_and_failures_leave_nothing_behind() {
    under_schedules(|| {
        let (_, cache) = new(3, Some(2));
        let ahead: Vec<Batch> = cache.claim((0..CHUNKS).map(ChunkId)).split(2, 1);
        let mut threads: Vec<_> = ahead.into_iter().map(|batch| thread::spawn(move || batch.run())).collect();
        for ids in [[1, 2], [2, 3]] {
            let cache = cache.clone();
            threads.push(thread::spawn(move || {
                let (slots, batch) = cache.request(ids.into_iter().map(ChunkId));
                batch.run();
                for (slot, id) in slots.into_iter().zip(ids) {
                    match wait(slot) {
                        Ok(bytes) => assert_eq!(bytes[..], plain(id)),
                        Err(error) => assert!(matches!(*error, Error::BadChunk { chunk: 2, .. }) && id == 2),
                    }
                }
            }));
        }
        join(threads);
        assert_at_rest(&cache);
    });
}
