//! A mounted archive: its tree, its cache and its workers; what `fuse` adapts.
//!
//! A read is planned on the caller's thread. If all its chunks are kept it ends there; else those
//! that nobody decodes yet go to the pool at once, before anything is decoded ahead, and the
//! answer is a future that costs no thread while it waits.

use std::collections::HashMap;
use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::cache::{Cache, Plain, Slot};
use super::content;
use super::content::Bytes;
use super::fault::Fault;
use super::options::MountOptions;
use super::pool::Pool;
use super::prefetch::{Limits, Sequence, Walk};
use super::source::Source;
use super::view::{Ino, View};
use crate::archive::read::pieces::Piece;
use crate::error::{Error, Result};
use crate::wire::entry::ChunkId;

/// Chunks of the largest window, unless `readahead=` says otherwise.
const WINDOW: u64 = 64;

/// How long decoding a window may take, in nanoseconds. Bounds what a reader who stops has wasted.
const WINDOW_NANOS: u64 = 2_000_000_000;

/// Fewest chunks that are worth a worker of their own.
const SHARE: usize = 2;

/// A mounted archive.
pub struct Volume {
    view: View,
    cache: Arc<Cache>,
    pool: Pool,
    /// Plain bytes of a usual chunk.
    chunk: u64,
    readahead: Option<u64>,
    handles: Mutex<HashMap<u64, Handle>>,
    next_handle: AtomicU64,
    walk: Mutex<Walk>,
    /// Held as long as the volume is.
    mounted: Arc<()>,
}

/// An open file.
#[derive(Default)]
struct Handle {
    reads: Sequence,
    /// Held as long as the file is open; what is decoded ahead for it stops when it is gone.
    open: Arc<()>,
}

impl Volume {
    /// Builds the tree and starts the workers.
    pub fn new(source: Arc<dyn Source>, options: &MountOptions) -> Result<Arc<Self>> {
        let view = View::new(source.clone())?;
        let chunk = source.chunk(ChunkId(0)).map_or(1, |chunk| u64::from(chunk.raw_len).max(1));
        Ok(Arc::new(Self {
            view,
            cache: Cache::new(source, options.cache_size),
            pool: Pool::new(options.worker_count())?,
            chunk,
            readahead: options.readahead,
            handles: Mutex::default(),
            next_handle: AtomicU64::new(1),
            walk: Mutex::default(),
            mounted: Arc::new(()),
        }))
    }

    /// Its tree.
    pub fn view(&self) -> &View {
        &self.view
    }

    /// Its workers.
    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    /// Opens a file; the handle goes with its reads.
    pub fn open(&self, ino: Ino) -> Result<u64, Fault> {
        self.view.content(ino)?;
        let handle = self.next_handle.fetch_add(1, Ordering::Relaxed);
        lock(&self.handles).insert(handle, Handle::default());
        Ok(handle)
    }

    /// Ends an open.
    pub fn release(&self, handle: u64) {
        lock(&self.handles).remove(&handle);
    }

    /// Where `len` bytes of a file from `offset` on lie.
    pub fn plan(&self, ino: Ino, offset: u64, len: usize) -> Result<Vec<Piece>, Fault> {
        content::pieces(&self.view, ino, offset, len)
    }

    /// The bytes of a plan, if nothing must be decoded for it.
    pub fn kept(&self, plan: &[Piece]) -> Option<Result<Bytes, Fault>> {
        let chunks = self.cache.get_all(plan.iter().filter_map(Piece::chunk))?;
        Some(content::join(plan, &chunks))
    }

    /// Begins to decode what a plan needs; the future ends with exactly its bytes or an error.
    pub fn fetch(&self, plan: Vec<Piece>) -> impl Future<Output = Result<Bytes, Fault>> + Send + use<> {
        let (slots, batch) = self.cache.request(plan.iter().filter_map(Piece::chunk));
        for part in batch.split(self.pool.workers(), SHARE) {
            self.pool.decode(part);
        }
        async move {
            let mut chunks: Vec<Plain> = Vec::with_capacity(slots.len());
            for slot in slots {
                chunks.push(match slot {
                    Slot::Ready(plain) => plain,
                    Slot::Pending(outcome) => {
                        outcome.await.map_err(|_| Error::Internal("a decode was lost"))??
                    }
                });
            }
            content::join(&plan, &chunks)
        }
    }

    /// Notes that a read was asked for, and begins to decode what it will be followed by.
    pub fn look_ahead(&self, ino: Ino, handle: u64, offset: u64, len: u64) {
        let Ok((size, extents)) = self.view.content(ino) else { return };
        let limits = self.limits();
        let (range, open) = match lock(&self.handles).get_mut(&handle) {
            Some(handle) => (handle.reads.note(offset, len, limits), Arc::downgrade(&handle.open)),
            None => return,
        };
        if let Some(range) = range
            && let Ok(plan) = self.plan(ino, range.start, (range.end - range.start) as usize)
        {
            self.decode_ahead(plan.iter().filter_map(Piece::chunk).collect(), open);
        }
        // The end of a file: the next one in the archive may follow.
        if offset.saturating_add(len) >= size
            && let Some(last) = extents.last()
        {
            let file = last.raw_offset..last.raw_offset.saturating_add(last.len);
            let range = lock(&self.walk).note(file, limits);
            if let Some(range) = range {
                let ids = self.view.source().chunks_of(range.start, range.end - range.start);
                self.decode_ahead(ids.map(ChunkId).collect(), Arc::downgrade(&self.mounted));
            }
        }
    }

    fn decode_ahead(&self, ids: Vec<ChunkId>, wanted: std::sync::Weak<()>) {
        let share = ids.len().div_ceil(self.pool.workers()).max(SHARE);
        let share = share.max(self.view.source().bulk(ids.len(), self.pool.workers()));
        for ids in ids.chunks(share) {
            self.pool.decode_ahead(&self.cache, ids.to_vec(), wanted.clone());
        }
    }

    /// How far ahead to decode, by the options, the cache, and the speed seen so far.
    fn limits(&self) -> Limits {
        // What is decoded ahead must not push out what others read.
        let room = self.cache.capacity() / 4 / self.chunk;
        let source = self.view.source();
        let there = room.min(source.chunk_count().into());
        let bulk = source.bulk(usize::try_from(there).unwrap_or(usize::MAX), self.pool.workers()) as u64;
        // A device has one batch waiting while it does another: half of the window is asked for at a time.
        let wanted = WINDOW.max(bulk.saturating_mul(2));
        let asked = self.readahead.map_or(wanted, |bytes| bytes.div_ceil(self.chunk));
        let most = asked.min(room);
        if bulk > 0 {
            // A device takes as long for few chunks as for many.
            return Limits { chunk: self.chunk, most };
        }
        let in_time = match self.cache.cost() {
            0 => u64::MAX,
            nanos => (WINDOW_NANOS / nanos).saturating_mul(1024 * self.pool.workers() as u64) / self.chunk,
        };
        Limits { chunk: self.chunk, most: most.min(in_time.max(1)) }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use crate::mount::fake::{Fake, file};

    fn volume(fake: Arc<Fake>, options: &str) -> Arc<Volume> {
        let mut parsed = MountOptions::default();
        parsed.add(options).unwrap();
        Volume::new(fake, &parsed).unwrap()
    }

    /// What the adapter does for one read.
    fn read(volume: &Volume, ino: Ino, handle: u64, offset: u64, len: usize) -> Result<Vec<u8>, Fault> {
        let plan = volume.plan(ino, offset, len)?;
        let bytes = match volume.kept(&plan) {
            Some(bytes) => {
                volume.look_ahead(ino, handle, offset, len as u64);
                bytes
            }
            None => {
                let future = volume.fetch(plan);
                volume.look_ahead(ino, handle, offset, len as u64);
                volume.pool().block_on(future)
            }
        };
        Ok(bytes?.to_vec())
    }

    /// Waits until the workers have been idle for a while.
    fn settle(fake: &Fake) {
        let mut before = usize::MAX;
        let end = Instant::now() + Duration::from_secs(20);
        while fake.batches().len() != before && Instant::now() < end {
            before = fake.batches().len();
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    #[test]
    fn readers_on_many_threads_get_the_files_bytes() {
        let entries = (0..10).map(|i| file(&format!("f{i}"), i * 10_000, 10_000)).collect();
        let fake = Arc::new(Fake::new(entries, 100_000, 1000));
        let volume = volume(fake.clone(), "cachesize=5k,workers=3");
        std::thread::scope(|scope| {
            for thread in 0..8u64 {
                let (volume, fake) = (&volume, &fake);
                scope.spawn(move || {
                    let ino = Ino(2 + thread);
                    let handle = volume.open(ino).unwrap();
                    for step in 0..200u64 {
                        let (offset, len) = (step * 7919 % 10_000, (step * 31 % 3000) as usize);
                        let raw = (thread * 10_000 + offset) as usize;
                        let end = (raw + len).min((thread as usize + 1) * 10_000);
                        assert_eq!(read(volume, ino, handle, offset, len).unwrap(), fake.raw()[raw..end]);
                    }
                    volume.release(handle);
                });
            }
        });
    }

    #[test]
    fn a_cold_random_read_decodes_one_chunk() {
        let fake = Arc::new(Fake::new(vec![file("f", 0, 100_000)], 100_000, 1000));
        let volume = volume(fake.clone(), "workers=2");
        let handle = volume.open(Ino(2)).unwrap();
        for offset in [50_100, 10_100, 90_100, 30_100] {
            read(&volume, Ino(2), handle, offset, 500).unwrap();
        }
        settle(&fake);
        assert_eq!(fake.batches(), [1, 1, 1, 1]);
    }

    #[test]
    fn a_sequential_reader_finds_its_chunks_decoded_in_batches() {
        let fake = Arc::new(Fake::new(vec![file("f", 0, 400_000)], 400_000, 1000));
        let volume = volume(fake.clone(), "workers=2");
        let handle = volume.open(Ino(2)).unwrap();
        for step in 0..400 {
            read(&volume, Ino(2), handle, step * 1000, 1000).unwrap();
            std::thread::sleep(Duration::from_millis(1));
        }
        settle(&fake);
        assert_eq!(fake.decodes(), vec![1; 400]);
        let batches = fake.batches();
        assert!(batches.len() < 60, "{batches:?}");
        assert!(batches.iter().any(|&len| len >= 16), "{batches:?}");
    }

    #[test]
    fn with_a_device_a_sequential_reader_has_whole_batches_and_one_is_always_waiting() {
        let fake = Fake::new(vec![file("f", 0, 4_000_000)], 4_000_000, 1000).with_device(250).slow(5);
        let fake = Arc::new(fake);
        let volume = volume(fake.clone(), "workers=2");
        let handle = volume.open(Ino(2)).unwrap();
        for step in 0..400 {
            read(&volume, Ino(2), handle, step * 10_000, 10_000).unwrap();
        }
        settle(&fake);
        assert_eq!(fake.decodes(), vec![1; 4000]);
        let batches = fake.batches();
        let whole = batches.iter().filter(|&&len| (200..=250).contains(&len)).count();
        assert!(whole >= 12 && batches.iter().all(|&len| len <= 250), "{batches:?}");
        // The cache bounds what is decoded ahead.
        let limits = |options| super::tests::volume(fake.clone(), options).limits().most;
        assert_eq!(
            (limits("cachesize=100m"), limits("cachesize=400k"), limits("readahead=50k")),
            (500, 102, 52)
        );
    }

    #[test]
    fn what_was_to_be_decoded_for_a_closed_file_is_given_up() {
        let fake = Arc::new(Fake::new(vec![file("f", 0, 1_000_000)], 1_000_000, 1000).slow(50));
        let volume = volume(fake.clone(), "workers=1,readahead=900k");
        let handle = volume.open(Ino(2)).unwrap();
        for step in 0..6 {
            volume.look_ahead(Ino(2), handle, step * 60_000, 60_000);
        }
        volume.release(handle);
        settle(&fake);
        assert!(fake.batches().len() <= 2, "{:?}", fake.batches());
    }

    #[test]
    fn small_files_read_in_order_are_decoded_ahead() {
        let entries = (0..500).map(|i| file(&format!("f{i}"), i * 400, 400)).collect();
        let fake = Arc::new(Fake::new(entries, 200_000, 1000));
        let volume = volume(fake.clone(), "workers=2");
        for i in 0..400 {
            let handle = volume.open(Ino(2 + i)).unwrap();
            let raw = i as usize * 400;
            assert_eq!(read(&volume, Ino(2 + i), handle, 0, 4096).unwrap(), fake.raw()[raw..raw + 400]);
            volume.release(handle);
            std::thread::sleep(Duration::from_millis(1));
        }
        settle(&fake);
        assert!(fake.batches().len() < 60, "{:?}", fake.batches());
        assert!(fake.decodes().iter().all(|&count| count <= 1));
    }

    #[test]
    fn a_damaged_chunk_fails_its_own_range_and_a_panic_is_an_error() {
        let fake = Arc::new(Fake::new(vec![file("f", 0, 10_000)], 10_000, 1000));
        fake.damage(4, true);
        fake.panic_on(7);
        let volume = volume(fake.clone(), "workers=2");
        let handle = volume.open(Ino(2)).unwrap();
        for chunk in 0..10 {
            let got = read(&volume, Ino(2), handle, chunk * 1000, 1000);
            assert_eq!(got.is_ok(), chunk != 4 && chunk != 7, "{chunk}");
        }
        fake.damage(4, false);
        assert!(read(&volume, Ino(2), handle, 4000, 1000).is_ok());
    }
}
