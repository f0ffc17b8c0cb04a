//! An object at a URL as bytes that are read at random.
//!
//! The object is cut into blocks of equal length. A read takes blocks out of the cache, waits for those that are on
//! their way, and asks for the others, neighbors in one request. A block is on its way once at a time. What waits
//! holds the answer itself, so the cache may be smaller than a read.

use std::collections::HashMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use lru::LruCache;
use tokio::runtime::Handle;

use super::ahead::Sequences;
use super::failure::Failure;
use super::options::RemoteOptions;
use super::request::Object;
use super::{location, runtime};
use crate::archive::read_at::ReadAt;
use crate::error::{Error, Result};

/// Bytes of a block: what a random read of a chunk costs besides the chunk.
const BLOCK: u64 = 16 << 10;
/// Bytes of the end of the object that are asked for first: trailer and index, and the whole of a small archive.
const TAIL: u64 = 128 << 10;
/// Blocks of one request at most; more are asked for beside each other.
const PART: u64 = (2 << 20) / BLOCK;
/// Blocks between two wanted ones that are fetched with them, rather than by another request.
const GAP: u64 = (128 << 10) / BLOCK;
/// Most bytes that are fetched ahead of a reader.
const AHEAD: u64 = 16 << 20;
/// The smallest cache, in which the parts of a request fit.
const CACHE: u64 = 4 << 20;

/// An object at a URL, opened. One version of it is read: if it changes, reads fail with `ObjectChanged`.
pub struct RemoteFile {
    shared: Arc<Shared>,
    runtime: Handle,
}

struct Shared {
    object: Object,
    size: u64,
    cache_bytes: u64,
    changed: AtomicBool,
    state: Mutex<State>,
}

struct State {
    blocks: LruCache<u64, Arc<[u8]>>,
    cached: u64,
    /// Blocks that are on their way.
    coming: HashMap<u64, Arc<Coming>>,
    sequences: Sequences,
}

/// What a request will bring.
struct Coming {
    blocks: Range<u64>,
    answer: Mutex<Option<Result<Vec<u8>, Failure>>>,
    arrived: Condvar,
}

/// Where a block of a read comes from.
enum Part {
    Here(Arc<[u8]>),
    Coming(Arc<Coming>),
}

impl RemoteFile {
    /// Opens the object at a URL and gets its end, in one request where the server knows ranges from the end.
    ///
    /// # Errors
    /// `Usage` if the URL is none, `Io` if the object cannot be read: not found, denied, no answer in time.
    pub fn open(url: &Path, options: &RemoteOptions) -> Result<Self> {
        let name = location::shown(url);
        let runtime = runtime::handle().map_err(|e| Error::io(&name, e))?;
        let text = url.to_str().ok_or_else(|| Error::Usage("a URL is not UTF-8".into()))?;
        // The clients want to be made where they run.
        let object = {
            let _inside = runtime.enter();
            Object::new(text, name.clone(), options)?
        };
        let cache_bytes = options.cache_bytes.max(CACHE);
        let (object, opened) = finish(&runtime, async move {
            let opened = object.tail(TAIL, cache_bytes).await;
            (object, opened)
        })
        .ok_or(Error::Internal("a request was lost"))?;
        let (start, bytes, size) = opened.map_err(|failure| failure.to_error(&name))?;
        let sequences = Sequences::new(size, AHEAD.min(cache_bytes / 4));
        let state = State { blocks: LruCache::unbounded(), cached: 0, coming: HashMap::new(), sequences };
        let shared =
            Shared { object, size, cache_bytes, changed: AtomicBool::new(false), state: Mutex::new(state) };
        let mut state = shared.lock();
        // The tail need not begin with a block.
        let first = start.div_ceil(BLOCK);
        if let Some(bytes) = bytes.get((first * BLOCK - start) as usize..) {
            shared.insert(&mut state, first, bytes);
        }
        drop(state);
        Ok(Self { shared: Arc::new(shared), runtime })
    }

    /// Requests so far, and bytes that they brought.
    pub fn spent(&self) -> (u64, u64) {
        self.shared.object.spent()
    }

    /// Asks for those of the blocks that are neither cached nor on their way.
    fn ask(&self, state: &mut State, blocks: Range<u64>) {
        let mut run: Option<Range<u64>> = None;
        for block in blocks.start..=blocks.end {
            let is_missing =
                block < blocks.end && !state.coming.contains_key(&block) && !state.blocks.contains(&block);
            run = match run {
                Some(run) if is_missing && run.end - run.start < PART => Some(run.start..block + 1),
                other => {
                    if let Some(run) = other {
                        self.request(state, run);
                    }
                    is_missing.then_some(block..block + 1)
                }
            };
        }
    }

    fn request(&self, state: &mut State, blocks: Range<u64>) {
        let coming =
            Arc::new(Coming { blocks: blocks.clone(), answer: Mutex::new(None), arrived: Condvar::new() });
        for block in blocks.clone() {
            state.coming.insert(block, Arc::clone(&coming));
        }
        let answer = Answer { shared: Arc::clone(&self.shared), coming: Some(coming) };
        let (start, end) = (blocks.start * BLOCK, (blocks.end * BLOCK).min(self.shared.size));
        self.runtime.spawn(async move {
            let got = answer.shared.object.range(start, end).await;
            answer.give(got);
        });
    }

    fn check(&self) -> Result<()> {
        if self.shared.changed.load(Ordering::Relaxed) {
            return Err(Error::ObjectChanged(self.name()));
        }
        Ok(())
    }

    fn name(&self) -> PathBuf {
        self.shared.object.name.clone()
    }
}

impl ReadAt for RemoteFile {
    fn size(&self) -> u64 {
        self.shared.size
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        self.check()?;
        let end = offset + buf.len() as u64;
        if end > self.shared.size {
            return Err(Error::Truncated { offset: self.shared.size, needed: end - self.shared.size });
        }
        if buf.is_empty() {
            return Ok(());
        }
        let blocks = blocks_of(offset..end);
        let parts: Vec<Part> = {
            let mut state = self.shared.lock();
            self.ask(&mut state, blocks.clone());
            let parts = blocks.clone().map(|block| match state.blocks.get(&block) {
                Some(bytes) => Some(Part::Here(Arc::clone(bytes))),
                None => state.coming.get(&block).map(|coming| Part::Coming(Arc::clone(coming))),
            });
            let parts: Option<Vec<Part>> = parts.collect();
            if let Some(ahead) = state.sequences.note(offset..end) {
                self.ask(&mut state, blocks_of(ahead));
            }
            parts.ok_or(Error::Internal("a block was lost"))?
        };
        let mut rest = buf;
        let mut at = offset;
        for (block, part) in blocks.zip(parts) {
            let from = (at - block * BLOCK) as usize;
            let len = rest.len().min(BLOCK as usize - from);
            let (now, later) = rest.split_at_mut(len);
            part.copy(block, from, now).map_err(|failure| failure.to_error(&self.shared.object.name))?;
            rest = later;
            at += len as u64;
        }
        self.check()
    }

    fn expect(&self, ranges: &[Range<u64>]) {
        let mut ranges: Vec<Range<u64>> =
            ranges.iter().filter(|range| range.start < range.end.min(self.shared.size)).cloned().collect();
        ranges.sort_unstable_by_key(|range| range.start);
        // What does not fit into the cache would be fetched for nothing.
        let mut left = self.shared.cache_bytes / 2;
        let mut joined: Vec<Range<u64>> = Vec::new();
        let mut state = self.shared.lock();
        for range in ranges {
            let range = range.start..range.end.min(self.shared.size);
            if left < range.end - range.start {
                break;
            }
            left -= range.end - range.start;
            let blocks = blocks_of(range.clone());
            // Blocks that are here need no request, and do not join what lies around them.
            if blocks.clone().all(|block| state.blocks.contains(&block) || state.coming.contains_key(&block))
            {
                continue;
            }
            match joined.last_mut().filter(|last| blocks.start <= last.end + GAP) {
                Some(last) => last.end = last.end.max(blocks.end),
                None => joined.push(blocks),
            }
        }
        for blocks in joined {
            let ahead = state.sequences.note(blocks.start * BLOCK..blocks.end * BLOCK);
            self.ask(&mut state, blocks);
            if let Some(ahead) = ahead {
                self.ask(&mut state, blocks_of(ahead));
            }
        }
    }
}

/// The blocks in which the bytes of a range lie.
fn blocks_of(range: Range<u64>) -> Range<u64> {
    range.start / BLOCK..range.end.div_ceil(BLOCK)
}

/// Runs a future on the runtime, whatever thread asks, and waits for its end; `None` if it panics.
fn finish<T: Send + 'static>(
    runtime: &Handle,
    future: impl Future<Output = T> + Send + 'static,
) -> Option<T> {
    let (send, receive) = sync_channel(1);
    runtime.spawn(async move {
        // Who asks waits for it.
        let _ = send.send(future.await);
    });
    receive.recv().ok()
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Caches blocks from `first` on, of which the last may be the short one at the object's end.
    fn insert(&self, state: &mut State, first: u64, bytes: &[u8]) {
        for (block, bytes) in (first..).zip(bytes.chunks(BLOCK as usize)) {
            if bytes.len() as u64 != BLOCK.min(self.size - (block * BLOCK).min(self.size)) {
                continue;
            }
            state.cached += bytes.len() as u64;
            if let Some(old) = state.blocks.put(block, bytes.into()) {
                state.cached -= old.len() as u64;
            }
        }
        while state.cached > self.cache_bytes {
            let Some((_, old)) = state.blocks.pop_lru() else { break };
            state.cached -= old.len() as u64;
        }
    }
}

/// Gives an answer to those who wait for it, in any case.
struct Answer {
    shared: Arc<Shared>,
    coming: Option<Arc<Coming>>,
}

impl Answer {
    fn give(mut self, got: Result<Vec<u8>, Failure>) {
        if let Some(coming) = self.coming.take() {
            self.settle(&coming, got);
        }
    }

    fn settle(&self, coming: &Coming, got: Result<Vec<u8>, Failure>) {
        let mut state = self.shared.lock();
        for block in coming.blocks.clone() {
            state.coming.remove(&block);
        }
        match &got {
            Ok(bytes) => self.shared.insert(&mut state, coming.blocks.start, bytes),
            Err(Failure::Changed) => self.shared.changed.store(true, Ordering::Relaxed),
            Err(Failure::Io(..)) => {}
        }
        drop(state);
        *coming.answer.lock().unwrap_or_else(PoisonError::into_inner) = Some(got);
        coming.arrived.notify_all();
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        if let Some(coming) = self.coming.take() {
            let text = "the request was given up";
            self.settle(&coming, Err(Failure::Io(std::io::ErrorKind::Other, text.into())));
        }
    }
}

impl Part {
    /// Copies bytes of this block from `from` on, once they are here.
    fn copy(&self, block: u64, from: usize, buf: &mut [u8]) -> Result<(), Failure> {
        let short = || Failure::Io(std::io::ErrorKind::UnexpectedEof, "an answer is too short".into());
        match self {
            Self::Here(bytes) => buf.copy_from_slice(bytes.get(from..from + buf.len()).ok_or_else(short)?),
            Self::Coming(coming) => {
                let answer = coming.answer.lock().unwrap_or_else(PoisonError::into_inner);
                let answer = coming.arrived.wait_while(answer, |answer| answer.is_none());
                let answer = answer.unwrap_or_else(PoisonError::into_inner);
                let bytes = match answer.as_ref() {
                    Some(Ok(bytes)) => bytes,
                    Some(Err(failure)) => return Err(failure.clone()),
                    None => return Err(short()),
                };
                let from = from + ((block - coming.blocks.start) * BLOCK) as usize;
                buf.copy_from_slice(bytes.get(from..from + buf.len()).ok_or_else(short)?);
            }
        }
        Ok(())
    }
}
