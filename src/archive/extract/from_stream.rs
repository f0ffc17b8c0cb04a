//! Unpacks an archive that arrives in order, from a pipe, into a folder.
//!
//! Each entry is checked as it arrives, before anything of it is written. Where an entry has the
//! content of an earlier file, that file is read back from the target. Links are made at the end.

use std::collections::HashMap;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::admission::Checker;
use super::assembler::{Filled, Filler};
use super::existing;
use super::plan::{ExtractOptions, ExtractSummary, LINK_LOST, link};
use super::target::{Target, There};
use crate::archive::observer::{Observer, Warning};
use crate::archive::path::{escape, is_beneath};
use crate::archive::read::stream::{Event, StreamReader};
use crate::archive::read::taken::Above;
use crate::error::{Error, Result};
use crate::wire::entry::{Entry, EntryId, Extent, Kind};

/// Bytes that are copied at a time.
const COPY: usize = 1 << 20;

/// What arrived so far.
#[derive(Default)]
struct Arrived {
    /// Number in the filler, and path in the target, of each file; no number of one that was there already.
    files: HashMap<EntryId, (Option<u32>, Vec<u8>)>,
    /// Hardlinks: path in the target, whose, and the entry.
    links: Vec<(Vec<u8>, EntryId, Entry)>,
    others: Vec<(Vec<u8>, Entry)>,
    /// Bytes that files share with files that are not complete yet.
    shared: Vec<Shared>,
    entries: u64,
    skipped: u64,
    /// Whether what is there already is left.
    skips: bool,
    /// Length of the raw stream that went by.
    passed: u64,
}

/// Bytes that a file has in common with an earlier one.
struct Shared {
    /// Number in the filler, and where in the file the bytes go.
    file: u32,
    file_offset: u64,
    owner: EntryId,
    /// Where in the earlier file they lie.
    offset: u64,
    len: u64,
}

/// Unpacks what `stream` brings into the folder `target`. Fails at the first damage, and at the end if a path that
/// was named did not come; what was complete by then stays. `load` gives the stream the models that it names, at
/// first and when a later generation names more.
pub fn extract_stream<R: Read>(
    stream: &mut StreamReader<R>,
    target: &Path,
    options: &ExtractOptions,
    load: &dyn Fn(&mut StreamReader<R>) -> Result<()>,
    observer: &dyn Observer,
) -> Result<ExtractSummary> {
    load(stream)?;
    let mut checker = Checker::new(options.devices, options.max_bytes);
    let mut target = Target::open(target, options.replace, options.restore, observer)?;
    let mut filler = Filler::new(&mut target, observer);
    let skips = options.skip_existing && !filler.target.fresh;
    let mut arrived = Arrived { skips, ..Arrived::default() };
    let mut above = Folders::default();
    let mut missing: Vec<&Vec<u8>> = options.selection.named().iter().collect();
    observer.phase("unpacking", None);
    let ended = loop {
        if observer.interrupted() {
            break Err(Error::Interrupted);
        }
        match stream.next_event() {
            Err(e) => break Err(e),
            Ok(None) => break Ok(()),
            Ok(Some(Event::Entry(id, entry))) => {
                missing.retain(|named| !is_beneath(&entry.path, named));
                let Some(taken) = above.take(id, &entry, options) else { continue };
                for (id, folder) in taken {
                    let Some(path) = options.path(&folder) else { continue };
                    checker.admit(id, &folder, path)?;
                    arrived.take(&mut filler, stream, id, path, &folder)?;
                }
                let Some(path) = options.path(&entry) else { continue };
                checker.admit(id, &entry, path)?;
                if !arrived.skip(&mut filler, id, path, &entry, observer) {
                    arrived.take(&mut filler, stream, id, path, &entry)?;
                }
            }
            Ok(Some(Event::Models)) => load(stream)?,
            Ok(Some(Event::FileEnd { id, hash })) => {
                if let Some((Some(file), _)) = arrived.files.get(&id) {
                    filler.set_hash(*file, hash);
                }
            }
            Ok(Some(Event::Data { raw_offset, bytes, .. })) => {
                filler.feed(raw_offset, &bytes)?;
                arrived.passed = raw_offset + bytes.len() as u64;
                arrived.copy_shared(&mut filler, false)?;
                observer.advanced(bytes.len() as u64);
            }
        }
    };
    if ended.is_ok() {
        arrived.copy_shared(&mut filler, true)?;
    }
    let Filled { files, failure, lost } = filler.finish();
    target.bound(checker.bytes(), options.max_bytes);
    for (path, entry) in &arrived.others {
        target.make_other(path, entry)?;
    }
    for (path, of, entry) in &arrived.links {
        match arrived.files.get(of) {
            Some((_, first)) if lost.contains(first) => {
                observer.warning(Warning::new(&entry.path[..], LINK_LOST));
            }
            Some((_, first)) => link(&mut target, path, first, entry, observer)?,
            None => observer.warning(Warning::new(&entry.path[..], LEFT_BEHIND)),
        }
    }
    target.finish();
    ended?;
    if let Some(failure) = failure {
        return Err(failure);
    }
    match missing.first() {
        None => Ok(ExtractSummary { files, entries: arrived.entries, skipped: arrived.skipped }),
        Some(path) => Err(Error::Usage(format!("{} is not in the archive", escape(path)))),
    }
}

/// Folders that are taken if something below them is.
#[derive(Default)]
struct Folders {
    above: Above,
    /// Those of which nothing that is taken has come yet.
    aside: HashMap<Vec<u8>, (EntryId, Entry)>,
}

impl Folders {
    /// Whether an entry is taken; if so, gives the folders above it that came before and are taken now.
    fn take(
        &mut self,
        id: EntryId,
        entry: &Entry,
        options: &ExtractOptions,
    ) -> Option<Vec<(EntryId, Entry)>> {
        let mut folders = Vec::new();
        if options.selection.takes_all() {
            return Some(folders);
        }
        let is_folder = entry.kind == Kind::Directory;
        if options.selection.takes(&entry.path, is_folder) {
            self.above.note(&entry.path, |path| folders.extend(self.aside.remove(path)));
            return Some(folders);
        }
        if self.above.has(entry) {
            return Some(folders);
        }
        if is_folder {
            self.aside.insert(entry.path.clone(), (id, entry.clone()));
        }
        None
    }
}

const LEFT_BEHIND: &str =
    "not unpacked: its content came with a file that was left out; unpack from a file instead of a pipe";

impl Arrived {
    /// Whether something is there already, and stays. A link may be to any file.
    fn skip(
        &mut self,
        filler: &mut Filler<'_, '_>,
        id: EntryId,
        path: &[u8],
        entry: &Entry,
        observer: &dyn Observer,
    ) -> bool {
        if !self.skips || entry.kind == Kind::Directory {
            return false;
        }
        let there = existing::look(filler.target, path, entry, entry, observer);
        if there == There::Same && matches!(entry.kind, Kind::File { .. }) {
            self.files.insert(id, (None, path.to_vec()));
        }
        self.skipped += u64::from(there != There::Nothing);
        there != There::Nothing
    }

    fn take<R: Read>(
        &mut self,
        filler: &mut Filler<'_, '_>,
        stream: &StreamReader<R>,
        id: EntryId,
        path: &[u8],
        entry: &Entry,
    ) -> Result<()> {
        self.entries += 1;
        match &entry.kind {
            Kind::Directory => filler.target.make_folder(path, entry),
            Kind::Hardlink { target } => {
                self.links.push((path.to_vec(), *target, entry.clone()));
                Ok(())
            }
            Kind::File { extents, .. } => {
                let file = filler.add(path, entry, self.passed)?;
                self.files.insert(id, (Some(file), path.to_vec()));
                for extent in extents {
                    self.share(filler, stream, id, file, extent);
                }
                self.copy_shared(filler, false)
            }
            Kind::Symlink { .. }
            | Kind::Fifo
            | Kind::Socket
            | Kind::CharDevice { .. }
            | Kind::BlockDevice { .. } => {
                self.others.push((path.to_vec(), entry.clone()));
                Ok(())
            }
        }
    }

    /// Notes what of an extent went by before, and which files brought it.
    fn share<R: Read>(
        &mut self,
        filler: &mut Filler<'_, '_>,
        stream: &StreamReader<R>,
        id: EntryId,
        file: u32,
        extent: &Extent,
    ) {
        let mut at = 0;
        while at < extent.len && extent.raw_offset + at < self.passed {
            let left = (extent.len - at).min(self.passed - extent.raw_offset - at);
            let Some((owner, offset, own)) = stream.owner(extent.raw_offset + at) else {
                self.leave_behind(filler, id, file);
                return;
            };
            let len = own.min(left);
            self.shared.push(Shared { file, file_offset: extent.file_offset + at, owner, offset, len });
            at += len;
        }
    }

    /// Copies what files share with files that are complete; at the `end` there is nothing more to wait for.
    fn copy_shared(&mut self, filler: &mut Filler<'_, '_>, end: bool) -> Result<()> {
        let mut later = Vec::new();
        // One that is copied may complete a file that another waits for.
        loop {
            let before = self.shared.len();
            for shared in std::mem::take(&mut self.shared) {
                let owner = self.files.get(&shared.owner).and_then(|(owner, _)| *owner);
                if owner.is_some_and(|owner| filler.is_pending(owner)) && !end {
                    later.push(shared);
                } else if filler.is_pending(shared.file) && !self.copy(filler, &shared)? {
                    let id = self
                        .files
                        .iter()
                        .find(|(_, (file, _))| *file == Some(shared.file))
                        .map(|(id, _)| *id);
                    self.leave_behind(filler, id.unwrap_or(shared.owner), shared.file);
                }
            }
            std::mem::swap(&mut self.shared, &mut later);
            if self.shared.is_empty() || self.shared.len() == before {
                return Ok(());
            }
        }
    }

    fn leave_behind(&mut self, filler: &mut Filler<'_, '_>, id: EntryId, file: u32) {
        filler.give_up(file, LEFT_BEHIND.trim_start_matches("not unpacked: "));
        if self.files.get(&id).is_some_and(|(known, _)| *known == Some(file)) {
            self.files.remove(&id);
        }
    }

    /// Copies bytes from the file that brought them; `false` where that was not unpacked.
    fn copy(&self, filler: &mut Filler<'_, '_>, shared: &Shared) -> Result<bool> {
        let Some((_, path)) = self.files.get(&shared.owner) else { return Ok(false) };
        let Ok(source) = filler.target.open_file(path) else { return Ok(false) };
        let mut buf = vec![0; usize::try_from(shared.len).unwrap_or(COPY).min(COPY)];
        let mut at = 0;
        while at < shared.len {
            let len = usize::try_from(shared.len - at).unwrap_or(COPY).min(COPY);
            match source.read_at(&mut buf[..len], shared.offset.saturating_add(at)) {
                Ok(0) => return Ok(false),
                Ok(got) => {
                    filler.write(shared.file, shared.file_offset + at, &buf[..got])?;
                    at += got as u64;
                }
                Err(e) => return Err(Error::io(filler.target.display(path), e)),
            }
        }
        Ok(true)
    }
}
