//! Turns the raw stream, as it passes by once in order, into files.
//!
//! Pieces of files wait in a heap, sorted by where they lie in the raw stream; a piece may be
//! wanted by many files. Few files are open at a time. A file is hashed as it is written and gets
//! its name only when it is complete and the hash is right.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet, VecDeque};
use std::fs::File;
use std::os::unix::fs::FileExt;

use super::target::{Target, Temp};
use crate::archive::observer::{Observer, Warning};
use crate::archive::path::escape;
use crate::error::{Error, Result};
use crate::wire::entry::{ContentHash, Entry, Extent, Kind, content_hash};

/// How many files are held open at a time.
const OPEN_FILES: usize = 64;

/// A part of a file, ordered by where it lies in the raw stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Piece {
    raw_offset: u64,
    file: u32,
    file_offset: u64,
    len: u64,
}

/// A file on its way.
struct Filling {
    path: Vec<u8>,
    entry: Entry,
    temp: Temp,
    /// Closed when many others are open.
    file: Option<File>,
    /// Bytes that are still to come.
    left: u64,
    hasher: blake3::Hasher,
    /// End of the bytes that went into `hasher`, holes left out; `None` once they came out of order.
    hashed: Option<u64>,
}

/// Files that wait for the raw stream.
pub(crate) struct Filler<'t, 'a> {
    pub target: &'t mut Target<'a>,
    observer: &'t dyn Observer,
    heap: BinaryHeap<Reverse<Piece>>,
    files: HashMap<u32, Filling>,
    /// Files of which no byte arrived yet: path, entry and length of what is to come.
    waiting: HashMap<u32, (Vec<u8>, Entry, u64)>,
    open: VecDeque<u32>,
    next: u32,
    /// The first reason for which a file was not restored.
    failure: Option<Error>,
    /// Paths in the target of those that were not.
    lost: HashSet<Vec<u8>>,
    done: u64,
}

/// What became of the files.
pub(crate) struct Filled {
    pub files: u64,
    /// Why not all were restored.
    pub failure: Option<Error>,
    /// Paths in the target of those that were not.
    pub lost: HashSet<Vec<u8>>,
}

impl<'t, 'a> Filler<'t, 'a> {
    pub fn new(target: &'t mut Target<'a>, observer: &'t dyn Observer) -> Self {
        Self {
            target,
            observer,
            heap: BinaryHeap::new(),
            files: HashMap::new(),
            waiting: HashMap::new(),
            open: VecDeque::new(),
            next: 0,
            failure: None,
            lost: HashSet::new(),
            done: 0,
        }
    }

    /// Adds a file that is to become `path`; its number is for `write` and `set_hash`. One without
    /// data is made at once. Of what lies before `passed` in the raw stream, the caller brings the
    /// bytes.
    pub fn add(&mut self, path: &[u8], entry: &Entry, passed: u64) -> Result<u32> {
        let Kind::File { extents, .. } = &entry.kind else {
            return Err(Error::Internal("only files are filled"));
        };
        let file = self.next;
        self.next += 1;
        for extent in extents {
            let before = passed.saturating_sub(extent.raw_offset).min(extent.len);
            let len = extent.len - before;
            if len > 0 {
                let (raw_offset, file_offset) = (extent.raw_offset + before, extent.file_offset + before);
                self.heap.push(Reverse(Piece { raw_offset, file, file_offset, len }));
            }
        }
        let left = extents.iter().fold(0u64, |sum, extent| sum.saturating_add(extent.len));
        let kind = match &entry.kind {
            // One extent arrives in order; of several that may not, the hash needs their places.
            Kind::File { size, hash, extents } if extents.len() < 2 => {
                Kind::File { size: *size, hash: *hash, extents: Vec::new() }
            }
            other => other.clone(),
        };
        let entry = Entry { path: entry.path.clone(), xattrs: entry.xattrs.clone(), kind, ..*entry };
        if left == 0 {
            let filling = self.begin(path.to_vec(), entry, 0)?;
            self.complete(filling)?;
        } else {
            self.waiting.insert(file, (path.to_vec(), entry, left));
        }
        Ok(file)
    }

    /// Whether a file is neither complete nor given up.
    pub fn is_pending(&self, file: u32) -> bool {
        self.files.contains_key(&file) || self.waiting.contains_key(&file)
    }

    /// Sets the hash of a file whose end was not known when it was added.
    pub fn set_hash(&mut self, file: u32, known: [u8; 16]) {
        let entry = match (self.files.get_mut(&file), self.waiting.get_mut(&file)) {
            (Some(filling), _) => &mut filling.entry,
            (None, Some((_, entry, _))) => entry,
            (None, None) => return,
        };
        if let Kind::File { hash, .. } = &mut entry.kind {
            *hash = known;
        }
    }

    /// Gives up what the raw stream did not bring, and tells why not everything was unpacked.
    pub fn finish(mut self) -> Filled {
        if !self.heap.is_empty() {
            self.failure.get_or_insert(Error::Inconsistent { rule: "extents lie beyond the raw stream" });
        }
        while let Some(Reverse(piece)) = self.heap.pop() {
            self.give_up(piece.file, "the archive does not hold its data");
        }
        Filled { files: self.done, failure: self.failure.take(), lost: std::mem::take(&mut self.lost) }
    }

    /// Takes the bytes of the raw stream from `raw_offset` on.
    pub fn feed(&mut self, raw_offset: u64, bytes: &[u8]) -> Result<()> {
        self.pass(raw_offset, bytes.len() as u64, |filler, piece| {
            let start = usize::try_from(piece.raw_offset - raw_offset)
                .map_err(|_| Error::Internal("piece beyond its chunk"))?;
            let len = usize::try_from(piece.len).map_err(|_| Error::Internal("piece beyond its chunk"))?;
            let part = bytes.get(start..start + len).ok_or(Error::Internal("piece beyond its chunk"))?;
            filler.write(piece.file, piece.file_offset, part)
        })
    }

    /// Takes notice that a part of the raw stream cannot be had: the files in it are given up.
    pub fn lose(&mut self, raw_offset: u64, len: u64, why: Error) -> Result<()> {
        let reason = why.to_string();
        self.failure.get_or_insert(why);
        self.pass(raw_offset, len, |filler, piece| {
            filler.give_up(piece.file, &reason);
            Ok(())
        })
    }

    fn pass(
        &mut self,
        raw_offset: u64,
        len: u64,
        mut take: impl FnMut(&mut Self, Piece) -> Result<()>,
    ) -> Result<()> {
        let end = raw_offset.saturating_add(len);
        while let Some(&Reverse(piece)) = self.heap.peek().filter(|Reverse(piece)| piece.raw_offset < end) {
            self.heap.pop();
            if piece.raw_offset < raw_offset {
                // Where an archive is salvaged, the raw stream has gaps.
                let rule = "a group that holds data of a file is lost";
                self.give_up(piece.file, rule);
                self.failure.get_or_insert(Error::Inconsistent { rule });
                continue;
            }
            let here = piece.len.min(end - piece.raw_offset);
            take(self, Piece { len: here, ..piece })?;
            if here < piece.len {
                let Piece { raw_offset, file, file_offset, len } = piece;
                self.heap.push(Reverse(Piece {
                    raw_offset: raw_offset + here,
                    file,
                    file_offset: file_offset + here,
                    len: len - here,
                }));
            }
        }
        Ok(())
    }

    /// Writes bytes of a file; completes it with the last of them.
    pub fn write(&mut self, file: u32, file_offset: u64, bytes: &[u8]) -> Result<()> {
        if let Some((path, entry, left)) = self.waiting.remove(&file) {
            let filling = self.begin(path, entry, left)?;
            self.files.insert(file, filling);
            self.opened(file);
        }
        let Some(filling) = self.files.get_mut(&file) else { return Ok(()) };
        let handle = match filling.file.take() {
            Some(handle) => handle,
            None => {
                let handle = self.target.reopen(&filling.temp)?;
                self.opened(file);
                handle
            }
        };
        let Some(filling) = self.files.get_mut(&file) else { return Ok(()) };
        handle
            .write_all_at(bytes, file_offset)
            .map_err(|e| Error::io(self.target.display(&filling.path), e))?;
        filling.hash_at(file_offset, bytes);
        filling.file = Some(handle);
        filling.left = filling.left.saturating_sub(bytes.len() as u64);
        if filling.left == 0 {
            self.open.retain(|&other| other != file);
            if let Some(filling) = self.files.remove(&file) {
                self.complete(filling)?;
            }
        }
        Ok(())
    }

    /// Gives up a file: nothing of it stays.
    pub fn give_up(&mut self, file: u32, why: &str) {
        let (place, path) = match (self.files.remove(&file), self.waiting.remove(&file)) {
            (Some(filling), _) => {
                self.target.discard(&filling.temp);
                (filling.path, filling.entry.path)
            }
            (None, Some((place, entry, _))) => (place, entry.path),
            (None, None) => return,
        };
        self.lost.insert(place);
        self.open.retain(|&other| other != file);
        self.observer.warning(Warning::new(path, format_args!("not unpacked: {why}")));
    }

    fn begin(&mut self, path: Vec<u8>, entry: Entry, left: u64) -> Result<Filling> {
        let (temp, file) = self.target.begin_file(&path)?;
        Ok(Filling {
            path,
            entry,
            temp,
            file: Some(file),
            left,
            hasher: blake3::Hasher::new(),
            hashed: Some(0),
        })
    }

    /// Notes that a file is open, and closes the one that has been open longest.
    fn opened(&mut self, file: u32) {
        self.open.push_back(file);
        while self.open.len() > OPEN_FILES {
            let oldest = self.open.pop_front();
            if let Some(filling) = oldest.and_then(|oldest| self.files.get_mut(&oldest)) {
                filling.file = None;
            }
        }
    }

    fn complete(&mut self, mut filling: Filling) -> Result<()> {
        let finished = self.finish_content(&mut filling);
        let failed = match finished {
            Ok(Some(file)) => {
                match self.target.commit_file(&filling.temp, file, &filling.path, &filling.entry) {
                    Ok(()) => {
                        self.done += 1;
                        self.observer.entry(&filling.entry.path);
                        return Ok(());
                    }
                    Err(e) => Err(e),
                }
            }
            Ok(None) => Ok(()),
            Err(e) => Err(e),
        };
        self.target.discard(&filling.temp);
        failed?;
        self.lost.insert(filling.path);
        let why = "its content is not what was packed";
        self.failure.get_or_insert(Error::BadContent { path: escape(&filling.entry.path) });
        self.observer.warning(Warning::new(filling.entry.path, format_args!("not unpacked: {why}")));
        Ok(())
    }

    /// Sets the size and checks the hash; `None` where it is wrong.
    fn finish_content(&self, filling: &mut Filling) -> Result<Option<File>> {
        let io = |e| Error::io(self.target.display(&filling.path), e);
        let Kind::File { size, hash, extents } = &filling.entry.kind else {
            return Err(Error::Internal("only files are filled"));
        };
        let file = match filling.file.take() {
            Some(file) => file,
            None => self.target.reopen(&filling.temp)?,
        };
        if filling.hashed != Some(*size) {
            // A hole at the end.
            file.set_len(*size).map_err(io)?;
        }
        let found = if filling.hashed.is_some() {
            content_hash(filling.hasher.finalize().as_bytes(), filling.hasher.count())
        } else {
            hash_extents(&file, extents).map_err(io)?
        };
        Ok((found == *hash).then_some(file))
    }
}

impl Filling {
    fn hash_at(&mut self, file_offset: u64, bytes: &[u8]) {
        self.hashed = match self.hashed {
            Some(end) if file_offset >= end => {
                self.hasher.update(bytes);
                Some(file_offset + bytes.len() as u64)
            }
            _ => None,
        };
    }
}

/// Hashes what lies between the holes of a file.
fn hash_extents(file: &File, extents: &[Extent]) -> std::io::Result<ContentHash> {
    let mut hasher = blake3::Hasher::new();
    let mut buf = vec![0; 256 << 10];
    for extent in extents {
        let (mut at, mut left) = (extent.file_offset, extent.len);
        while left > 0 {
            let want = usize::try_from(left).unwrap_or(usize::MAX).min(buf.len());
            file.read_exact_at(&mut buf[..want], at)?;
            hasher.update(&buf[..want]);
            at += want as u64;
            left -= want as u64;
        }
    }
    Ok(content_hash(hasher.finalize().as_bytes(), hasher.count()))
}

impl Drop for Filler<'_, '_> {
    fn drop(&mut self) {
        for filling in self.files.values() {
            self.target.discard(&filling.temp);
        }
    }
}
