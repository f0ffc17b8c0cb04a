//! The threads that wait for servers, one pair for a process.

use std::io;
use std::sync::{Mutex, PoisonError};

use tokio::runtime::{Builder, Handle, Runtime};

/// Requests are few and large: two threads move more than a network does.
const THREADS: usize = 2;

/// The runtime, and the process that started it: threads do not live on in a process that was forked.
static RUNTIME: Mutex<Option<(u32, Runtime)>> = Mutex::new(None);

pub(super) fn handle() -> io::Result<Handle> {
    let mut runtime = RUNTIME.lock().unwrap_or_else(PoisonError::into_inner);
    let process = std::process::id();
    if let Some((owner, runtime)) = &*runtime
        && *owner == process
    {
        return Ok(runtime.handle().clone());
    }
    let new =
        Builder::new_multi_thread().worker_threads(THREADS).thread_name("s3a-remote").enable_all().build()?;
    let handle = new.handle().clone();
    // The parent's runtime waits for threads that are not there; it is never dropped.
    if let Some(old) = runtime.replace((process, new)) {
        std::mem::forget(old);
    }
    Ok(handle)
}
