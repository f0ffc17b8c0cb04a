//! One range of an object: attempts, pauses between them, and what every answer is held against.
//!
//! The first answer says which version of the object is read. Later requests ask for this version (`If-Match`) where
//! its ETag is a strong one, and every answer must name it, so that bytes of two versions are never joined.

use std::io::ErrorKind;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use object_store::path::Path as ObjectPath;
use object_store::{GetOptions, GetRange, ObjectMeta, ObjectStore};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::failure::{Failure, Verdict, judge};
use super::options::RemoteOptions;
use super::store;
use crate::error::Result;

/// Requests at a time.
const PARALLEL: usize = 16;
/// Attempts in a row without a byte, of a server that has not answered before, and of one that has.
const FIRST_ATTEMPTS: u32 = 5;
const ATTEMPTS: u32 = 9;
/// The pause after the first attempt; each is twice the one before.
const PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// Silence after which an attempt is given up, as a part of the timeout, so that there is time for another.
const STALLS: u32 = 3;
/// Bytes per second that a server must bring in the long run.
const SLOWEST: u64 = 16 << 10;

/// An object, of which one version is read.
pub(super) struct Object {
    store: Arc<dyn ObjectStore>,
    path: ObjectPath,
    /// For messages.
    pub name: PathBuf,
    timeout: Duration,
    version: OnceLock<Version>,
    permits: Semaphore,
    /// When a byte came last.
    progress: Mutex<Instant>,
    requests: AtomicU64,
    bytes: AtomicU64,
}

/// What tells versions of an object apart.
#[derive(Debug, PartialEq)]
struct Version {
    size: u64,
    etag: Option<String>,
    /// Where there is no strong ETag; seconds and nanoseconds.
    modified: Option<(i64, u32)>,
}

impl Version {
    fn of(meta: &ObjectMeta) -> Self {
        let strong = meta.e_tag.as_deref().is_some_and(is_strong);
        let modified = &meta.last_modified;
        let modified = (!strong).then(|| (modified.timestamp(), modified.timestamp_subsec_nanos()));
        Self { size: meta.size, etag: meta.e_tag.clone(), modified }
    }
}

/// A weak ETag never fulfills `If-Match`.
fn is_strong(etag: &str) -> bool {
    !etag.starts_with("W/")
}

/// What was read so far of what a request wants.
struct Progress {
    wanted: Option<GetRange>,
    /// First byte, and the one after the last, since the first answer.
    range: Option<(u64, u64)>,
    bytes: Vec<u8>,
    patience: Patience,
}

/// How long the server is waited for.
struct Patience {
    timeout: Duration,
    /// When a byte came last, or the request began.
    since: Instant,
    /// When all bytes are to be here.
    deadline: Instant,
    /// Attempts since then.
    attempts: u32,
}

impl Patience {
    fn new(timeout: Duration, len: u64) -> Self {
        let since = Instant::now();
        Self { timeout, since, deadline: since + timeout + Duration::from_secs(len / SLOWEST), attempts: 0 }
    }

    /// A byte came.
    fn note(&mut self) {
        self.since = Instant::now();
        self.attempts = 0;
    }

    /// When the server is given up.
    fn end(&self) -> Instant {
        self.deadline.min(self.since + self.timeout)
    }

    /// When an attempt is given up that brings nothing from now on.
    fn stall(&self) -> Instant {
        self.end().min(Instant::now() + self.timeout / STALLS)
    }
}

impl Object {
    pub fn new(url: &str, name: PathBuf, options: &RemoteOptions) -> Result<Self> {
        let (store, path) = store::open(url, options.timeout / STALLS)?;
        Ok(Self {
            store,
            path,
            name,
            timeout: options.timeout,
            version: OnceLock::new(),
            permits: Semaphore::new(PARALLEL),
            progress: Mutex::new(Instant::now()),
            requests: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
        })
    }

    /// Requests so far, and bytes that they brought.
    pub fn spent(&self) -> (u64, u64) {
        (self.requests.load(Ordering::Relaxed), self.bytes.load(Ordering::Relaxed))
    }

    /// The last bytes of the object, at most `most`, or all of an object of at most `whole` bytes whose server does
    /// not serve ranges; with where they begin, and the object's length.
    pub async fn tail(&self, most: u64, whole: u64) -> Result<(u64, Vec<u8>, u64), Failure> {
        let got = match self.get(Some(GetRange::Suffix(most)), most).await {
            Err(Verdict::Unsupported) => {
                // Azure and some servers want to be told where the tail begins.
                let size = self.head().await?;
                let range = GetRange::Bounded(size.saturating_sub(most)..size);
                match self.get((size > 0).then_some(range), most).await {
                    Err(Verdict::Unsupported) if size <= whole => self.get(None, size).await,
                    other => other,
                }
            }
            other => other,
        };
        let (start, bytes) = got.map_err(told)?;
        let size = self.version.get().map_or(0, |version| version.size);
        Ok((start, bytes, size))
    }

    /// The bytes of a range, which lies in the object.
    pub async fn range(&self, start: u64, end: u64) -> Result<Vec<u8>, Failure> {
        let (_, bytes) = self.get(Some(GetRange::Bounded(start..end)), end - start).await.map_err(told)?;
        Ok(bytes)
    }

    /// The object's length.
    async fn head(&self) -> Result<u64, Failure> {
        let mut patience = Patience::new(self.timeout, 0);
        loop {
            self.requests.fetch_add(1, Ordering::Relaxed);
            let options = GetOptions { head: true, ..GetOptions::default() };
            let failure = match timeout_at(patience.stall(), self.store.get_opts(&self.path, options)).await {
                Ok(Ok(answer)) => {
                    self.note();
                    self.is_same(&answer.meta)?;
                    return Ok(answer.meta.size);
                }
                Ok(Err(error)) => match judge(&error, false) {
                    Verdict::Again(failure) => failure,
                    other => return Err(told(other)),
                },
                Err(_) => self.silent(),
            };
            self.pause(&mut patience, failure).await?;
        }
    }

    /// Gets a range, or all, of about `len` bytes, in as many attempts as it takes.
    async fn get(&self, wanted: Option<GetRange>, len: u64) -> Result<(u64, Vec<u8>), Verdict> {
        let _permit = self.permit().await.map_err(Verdict::Final)?;
        let patience = Patience::new(self.timeout, len);
        let mut progress = Progress { wanted, range: None, bytes: Vec::new(), patience };
        loop {
            match self.attempt(&mut progress).await {
                Ok(()) => return Ok((progress.range.map_or(0, |(start, _)| start), progress.bytes)),
                Err(Verdict::Again(failure)) => {
                    self.pause(&mut progress.patience, failure).await.map_err(Verdict::Final)?;
                }
                Err(other) => return Err(other),
            }
            if progress.wanted.is_none() {
                progress.bytes.clear();
            }
        }
    }

    /// Waits before the next attempt, or tells why there is none.
    async fn pause(&self, patience: &mut Patience, failure: Failure) -> Result<(), Failure> {
        patience.attempts += 1;
        let attempts = patience.attempts;
        let most = if self.version.get().is_some() { ATTEMPTS } else { FIRST_ATTEMPTS };
        let pause = PAUSE.saturating_mul(1 << (attempts - 1).min(16)).min(LONGEST_PAUSE);
        // Readers that were turned away together do not come back together.
        let spread = self.requests.load(Ordering::Relaxed).wrapping_mul(0x9e37_79b9) % 64;
        let pause = pause - pause * (spread as u32) / 128;
        if attempts < most && Instant::now() + pause < patience.end() {
            sleep(pause).await;
            return Ok(());
        }
        Err(match failure {
            Failure::Io(ErrorKind::TimedOut, _) => self.silent(),
            Failure::Io(kind, text) => Failure::Io(kind, format!("{text} (after {attempts} attempts)")),
            Failure::Changed => Failure::Changed,
        })
    }

    /// One request.
    async fn attempt(&self, progress: &mut Progress) -> Result<(), Verdict> {
        let version = self.version.get();
        let if_match = version.and_then(|version| version.etag.clone()).filter(|etag| is_strong(etag));
        let range = progress.wanted.clone();
        let options = GetOptions { range, if_match, ..GetOptions::default() };
        self.requests.fetch_add(1, Ordering::Relaxed);
        let answer =
            match timeout_at(progress.patience.stall(), self.store.get_opts(&self.path, options)).await {
                Ok(answer) => answer.map_err(|error| judge(&error, version.is_some()))?,
                Err(_) => return Err(Verdict::Again(self.silent())),
            };
        self.note();
        self.is_same(&answer.meta).map_err(Verdict::Final)?;
        let (start, end) = *progress.range.get_or_insert((answer.range.start, answer.range.end));
        progress.bytes.reserve_exact((end - start) as usize - progress.bytes.len());
        let mut stream = answer.into_stream();
        while let Some(piece) = match timeout_at(progress.patience.stall(), stream.next()).await {
            Ok(piece) => piece,
            Err(_) => return Err(Verdict::Again(self.silent())),
        } {
            let piece = piece.map_err(|error| judge(&error, true))?;
            if piece.len() as u64 > end - start - progress.bytes.len() as u64 {
                let text = "the server sends more bytes than it says";
                return Err(Verdict::Final(Failure::Io(ErrorKind::InvalidData, text.into())));
            }
            progress.bytes.extend_from_slice(&piece);
            self.bytes.fetch_add(piece.len() as u64, Ordering::Relaxed);
            self.note();
            progress.patience.note();
            if progress.wanted.is_some() {
                progress.wanted = Some(GetRange::Bounded(start + progress.bytes.len() as u64..end));
            }
        }
        if (progress.bytes.len() as u64) < end - start {
            let text = "the server ends its answer early";
            return Err(Verdict::Again(Failure::Io(ErrorKind::UnexpectedEof, text.into())));
        }
        Ok(())
    }

    /// Waits for its turn, as long as bytes come for others.
    async fn permit(&self) -> Result<tokio::sync::SemaphorePermit<'_>, Failure> {
        loop {
            match timeout(self.timeout / STALLS, self.permits.acquire()).await {
                Ok(permit) => {
                    return permit.map_err(|_| Failure::Io(ErrorKind::Other, "the archive is closed".into()));
                }
                Err(_) if self.last().elapsed() >= self.timeout => return Err(self.silent()),
                Err(_) => {}
            }
        }
    }

    fn last(&self) -> Instant {
        *self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that the server has brought something.
    fn note(&self) {
        *self.progress.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    fn is_same(&self, meta: &ObjectMeta) -> Result<(), Failure> {
        let version = Version::of(meta);
        // The first answer of all decides, if several come at once.
        if *self.version.get_or_init(|| Version::of(meta)) == version {
            Ok(())
        } else {
            Err(Failure::Changed)
        }
    }

    fn silent(&self) -> Failure {
        let seconds = self.timeout.as_secs_f64();
        let text =
            format!("the server did not bring the bytes within {seconds} s; S3A_REMOTE_TIMEOUT sets that");
        Failure::Io(ErrorKind::TimedOut, text)
    }
}

/// What is said of what no attempt helps against.
fn told(verdict: Verdict) -> Failure {
    match verdict {
        Verdict::Again(failure) | Verdict::Final(failure) => failure,
        Verdict::Unsupported => {
            let text = "the server does not serve ranges of bytes; fetch the archive as a file";
            Failure::Io(ErrorKind::Unsupported, text.into())
        }
    }
}
