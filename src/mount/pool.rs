//! The threads that decode.
//!
//! Reads that someone waits for and chunks decoded ahead run on threads of one tokio runtime. At
//! most `workers` decodes run ahead at a time and the runtime has twice as many threads, so that
//! a read never queues behind what nobody waits for yet; the system shares the cores.

use std::future::Future;
use std::sync::{Arc, Weak};

use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::Semaphore;

use super::cache::{Batch, Cache};
use crate::error::{Error, Result};
use crate::wire::entry::ChunkId;

/// Threads that decode chunks.
pub struct Pool {
    /// `None` only while it is dropped.
    runtime: Option<Runtime>,
    handle: Handle,
    workers: usize,
    ahead: Arc<Semaphore>,
}

impl Pool {
    /// Starts the runtime; its threads start when they are needed.
    pub fn new(workers: usize) -> Result<Self> {
        let workers = workers.max(1);
        let runtime = Builder::new_multi_thread()
            .worker_threads(2)
            .max_blocking_threads(workers * 2)
            .thread_name("s3a-mount")
            .build()
            .map_err(|source| Error::io("threads of the mount", source))?;
        let handle = runtime.handle().clone();
        Ok(Self { runtime: Some(runtime), handle, workers, ahead: Arc::new(Semaphore::new(workers)) })
    }

    /// How many chunks or batches it decodes at once.
    pub fn workers(&self) -> usize {
        self.workers
    }

    /// Runs a future that only waits.
    pub fn spawn(&self, future: impl Future<Output = ()> + Send + 'static) {
        self.handle.spawn(future);
    }

    /// Decodes chunks that someone waits for.
    pub fn decode(&self, batch: Batch) {
        self.handle.spawn_blocking(move || batch.run());
    }

    /// Decodes chunks that are likely to be read, as long as `wanted` lives. They are claimed only
    /// when their turn comes, so a read that overtakes them does not wait for their batch.
    pub fn decode_ahead(&self, cache: &Arc<Cache>, ids: Vec<ChunkId>, wanted: Weak<()>) {
        let (cache, ahead) = (cache.clone(), self.ahead.clone());
        self.spawn(async move {
            let Ok(turn) = ahead.acquire_owned().await else { return };
            if wanted.strong_count() == 0 {
                return;
            }
            tokio::task::spawn_blocking(move || {
                cache.claim(ids.into_iter()).run();
                drop(turn);
            });
        });
    }

    /// Waits for a future on this thread, which must not be one of the pool's.
    #[cfg(test)]
    pub fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        self.handle.block_on(future)
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        // Does not wait: a decode under way ends by itself, and queued batches fail their waiters.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
