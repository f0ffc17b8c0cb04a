//! The cache of decoded chunks, on real threads.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::cache::{Cache, ENTRY_COST, Outcome, Slot};
use super::fake::Fake;
use crate::archive::read::chunk_cache::ChunkCache;
use crate::error::Error;
use crate::wire::entry::ChunkId;

/// Reads through the cache on this thread, as the pool does on its own.
fn read(cache: &Arc<Cache>, id: u32) -> Outcome {
    let (mut slots, batch) = cache.request([ChunkId(id)].into_iter());
    batch.run();
    match slots.remove(0) {
        Slot::Ready(plain) => Ok(plain),
        Slot::Pending(receiver) => receiver.blocking_recv().unwrap(),
    }
}

#[test]
fn a_chunk_is_decoded_once_however_many_threads_ask() {
    let fake = Arc::new(Fake::chunks(64, 1000).slow(2));
    let cache = Cache::new(fake.clone(), 1 << 20);
    let reads = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for thread in 0..16u32 {
            let (cache, fake, reads) = (&cache, &fake, &reads);
            scope.spawn(move || {
                for step in 0..64 {
                    let id = (thread * 7 + step) % 64;
                    assert_eq!(read(cache, id).unwrap()[..], fake.plain(id)[..]);
                    reads.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    assert_eq!(reads.into_inner(), 16 * 64);
    assert_eq!(fake.decodes(), vec![1; 64]);
}

#[test]
fn the_cache_stays_below_its_bound_and_forgets_the_oldest() {
    let fake = Arc::new(Fake::chunks(10, 1000));
    let cache = Cache::new(fake.clone(), 3 * (1000 + ENTRY_COST));
    for id in [0, 1, 2, 0, 3] {
        read(&cache, id).unwrap();
        assert!(cache.bytes() <= cache.capacity());
    }
    assert!(cache.get(ChunkId(0)).is_some());
    assert!(cache.get(ChunkId(1)).is_none());
    assert_eq!(cache.bytes(), cache.capacity());
}

#[test]
fn threads_that_thrash_a_cache_of_two_chunks_get_the_right_bytes() {
    let fake = Arc::new(Fake::chunks(32, 500));
    let cache = Cache::new(fake.clone(), 2 * (500 + ENTRY_COST));
    std::thread::scope(|scope| {
        for thread in 0..8u32 {
            let (cache, fake) = (&cache, &fake);
            scope.spawn(move || {
                for step in 0..500 {
                    let id = (step * 17 + thread * 5) % 32;
                    assert_eq!(read(cache, id).unwrap()[..], fake.plain(id)[..]);
                }
            });
        }
    });
    assert!(cache.bytes() <= cache.capacity());
}

#[test]
fn a_chunk_larger_than_the_cache_is_read_and_not_kept() {
    let cache = Cache::new(Arc::new(Fake::chunks(1, 5000)), 100);
    assert_eq!(read(&cache, 0).unwrap().len(), 5000);
    assert_eq!(cache.bytes(), 0);
}

#[test]
fn an_error_reaches_all_who_wait_and_is_then_forgotten() {
    let fake = Arc::new(Fake::chunks(2, 100));
    fake.damage(1, true);
    let cache = Cache::new(fake.clone(), 1 << 20);
    let (slots, batch) = cache.request([ChunkId(0), ChunkId(1)].into_iter());
    let (more, empty) = cache.request([ChunkId(1)].into_iter());
    assert!(empty.ids().is_empty());
    batch.run();
    let mut outcomes = slots.into_iter().chain(more).map(|slot| match slot {
        Slot::Ready(_) => unreachable!(),
        Slot::Pending(receiver) => receiver.blocking_recv().unwrap(),
    });
    assert!(outcomes.next().unwrap().is_ok());
    assert!(matches!(*outcomes.next().unwrap().unwrap_err(), Error::BadChunk { chunk: 1, .. }));
    assert!(matches!(*outcomes.next().unwrap().unwrap_err(), Error::BadChunk { chunk: 1, .. }));
    fake.damage(1, false);
    assert_eq!(read(&cache, 1).unwrap()[..], fake.plain(1)[..]);
}

#[test]
fn a_panic_costs_its_chunk_and_a_dropped_batch_fails_its_waiters() {
    let fake = Arc::new(Fake::chunks(4, 100));
    fake.panic_on(2);
    let cache = Cache::new(fake, 1 << 20);
    let (slots, batch) = cache.request([ChunkId(2), ChunkId(3)].into_iter());
    batch.run();
    for (slot, panicked) in slots.into_iter().zip([true, false]) {
        let Slot::Pending(receiver) = slot else { unreachable!() };
        let outcome = receiver.blocking_recv().unwrap();
        assert_eq!(outcome.is_err_and(|e| matches!(*e, Error::Internal(_))), panicked);
    }
    let (slots, batch) = cache.request([ChunkId(0)].into_iter());
    drop(batch);
    for slot in slots {
        let Slot::Pending(receiver) = slot else { unreachable!() };
        assert!(matches!(*receiver.blocking_recv().unwrap().unwrap_err(), Error::Internal(_)));
    }
    assert!(read(&cache, 0).is_ok());
    assert!(read(&cache, 3).is_ok());
}

#[test]
fn a_batch_splits_into_runs_that_hold_every_chunk_once() {
    let cache = Cache::new(Arc::new(Fake::chunks(10, 10)), 1 << 20);
    for (parts, least, sizes) in
        [(3, 2, vec![4, 4, 2]), (8, 4, vec![5, 5]), (1, 1, vec![10]), (4, 99, vec![10])]
    {
        let split = cache.claim((0..10).map(ChunkId)).split(parts, least);
        assert_eq!(split.iter().map(|batch| batch.ids().len()).collect::<Vec<_>>(), sizes);
        let ids: Vec<_> = split.iter().flat_map(|batch| batch.ids().iter().map(|id| id.0)).collect();
        assert_eq!(ids, (0..10).collect::<Vec<_>>());
    }
    assert!(cache.claim(std::iter::empty()).split(4, 2).is_empty());
}
