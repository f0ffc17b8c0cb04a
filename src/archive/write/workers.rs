//! The threads that code chunks.

use crate::error::{Error, Result};

/// Where chunks are coded.
pub(crate) enum Workers {
    Own(rayon::ThreadPool),
    /// The caller runs in a pool of as many threads, which does as well.
    Callers,
}

impl Workers {
    /// So many threads; a pool of as many that the caller runs in is not made again.
    ///
    /// # Errors
    /// `Usage` if they cannot be started.
    pub fn new(threads: usize) -> Result<Self> {
        if rayon::current_thread_index().is_some() && rayon::current_num_threads() == threads {
            return Ok(Self::Callers);
        }
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().map(Self::Own);
        pool.map_err(|e| Error::Usage(format!("{threads} threads cannot be started: {e}")))
    }

    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        match self {
            Self::Own(pool) => pool.install(work),
            Self::Callers => work(),
        }
    }
}
