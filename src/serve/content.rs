//! Bytes of files as bodies of answers.
//!
//! A piece is decoded while the one before is sent. Of a whole file, the last piece is held back until the hash of
//! the content is right; whatever is wrong ends the connection before the length that was told.

use std::ops::Range;
use std::sync::Arc;

use axum::body::{Body, Bytes};
use futures_util::stream;
use tokio::sync::mpsc;

use crate::archive::path::escape;
use crate::archive::read::archive::Archive;
use crate::archive::read::chunk_cache::RecentChunks;
use crate::error::{Error, Result};
use crate::wire::entry::EntryId;

/// Bytes of the first piece, so that it comes soon, and of later ones, so that many chunks are decoded together.
const FIRST: u64 = 64 << 10;
const PIECE: u64 = 4 << 20;

/// Is told of each file that could not be read, by its path.
pub(super) type Failed = Box<dyn Fn(&[u8], &Error) + Send + Sync>;

/// What all requests share.
pub(super) struct Contents {
    pub archive: Archive,
    pub cache: RecentChunks,
    pub failed: Failed,
}

impl Contents {
    /// Hands the bytes of a range of a file to `put`, piece by piece, until it says that it has enough.
    fn read(&self, id: EntryId, range: Range<u64>, put: &mut dyn FnMut(Bytes) -> bool) -> Result<()> {
        let is_whole = range.start == 0 && Some(range.end) == self.archive.file_size(id);
        let mut check = self.archive.content_check(id).filter(|_| is_whole);
        let (mut at, mut most) = (range.start, FIRST);
        while at < range.end {
            let mut bytes = vec![0; most.min(range.end - at) as usize];
            if self.archive.read_at(id, at, &mut bytes, &self.cache)? != bytes.len() {
                return Err(Error::Internal("a file is shorter than its entry says"));
            }
            at += bytes.len() as u64;
            most = (most * 2).min(PIECE);
            if let Some(check) = &mut check {
                check.feed(&bytes);
                if at == range.end && check.is_right() == Some(false) {
                    let path = self.archive.entry(id).map(|entry| escape(&entry.path));
                    return Err(Error::BadContent { path: path.unwrap_or_default() });
                }
            }
            if !put(bytes.into()) {
                break;
            }
        }
        Ok(())
    }
}

/// The body with the bytes of a range of a file. Its first piece is there when this returns.
pub(super) async fn body(contents: Arc<Contents>, id: EntryId, range: Range<u64>) -> Result<Body, String> {
    // Who sends waits for one piece at most, and who decodes is one piece ahead.
    let (send, mut receive) = mpsc::channel(1);
    tokio::task::spawn_blocking(move || {
        // The client may have gone away.
        let read = contents.read(id, range, &mut |piece| send.blocking_send(Ok(piece)).is_ok());
        if let Err(error) = read {
            let path = contents.archive.entry(id).map(|entry| &entry.path[..]);
            (contents.failed)(path.unwrap_or_default(), &error);
            let _ = send.blocking_send(Err(error.to_string()));
        }
    });
    let Some(first) = receive.recv().await else { return Ok(Body::empty()) };
    let first = first?;
    let pieces = stream::unfold((Some(first), receive), |(first, mut receive)| async move {
        match first {
            Some(first) => Some((Ok(first), (None, receive))),
            None => receive.recv().await.map(|piece| (piece, (None, receive))),
        }
    });
    Ok(Body::from_stream(pieces))
}
