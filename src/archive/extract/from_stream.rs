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
use super::plan::{ExtractOptions, ExtractSummary, LINK_LOST, link};
use super::target::Target;
use crate::archive::observer::{Observer, Warning};
use crate::archive::path::{escape, is_beneath};
use crate::archive::read::stream::{Event, StreamReader};
use crate::error::{Error, Result};
use crate::wire::entry::{Entry, EntryId, Extent, Kind};

/// Bytes that are copied at a time.
const COPY: usize = 1 << 20;

/// What arrived so far.
#[derive(Default)]
struct Arrived {
    /// Number in the filler, and path in the target, of each file.
    files: HashMap<EntryId, (u32, Vec<u8>)>,
    /// Hardlinks: path in the target, whose, and the entry.
    links: Vec<(Vec<u8>, EntryId, Entry)>,
    others: Vec<(Vec<u8>, Entry)>,
    entries: u64,
    /// Length of the raw stream that went by.
    passed: u64,
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
    let mut arrived = Arrived::default();
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
                let Some(path) = options.path(&entry) else { continue };
                checker.admit(id, &entry, path)?;
                arrived.take(&mut filler, stream, id, path, &entry)?;
            }
            Ok(Some(Event::Models)) => load(stream)?,
            Ok(Some(Event::FileEnd { id, hash })) => {
                if let Some((file, _)) = arrived.files.get(&id) {
                    filler.set_hash(*file, hash);
                }
            }
            Ok(Some(Event::Data { raw_offset, bytes, .. })) => {
                filler.feed(raw_offset, &bytes)?;
                arrived.passed = raw_offset + bytes.len() as u64;
                observer.advanced(bytes.len() as u64);
            }
        }
    };
    let Filled { files, failure, lost } = filler.finish();
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
        None => Ok(ExtractSummary { files, entries: arrived.entries }),
        Some(path) => Err(Error::Usage(format!("{} is not in the archive", escape(path)))),
    }
}

const LEFT_BEHIND: &str =
    "not unpacked: its content came with a file that was left out; unpack from a file instead of a pipe";

impl Arrived {
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
                self.files.insert(id, (file, path.to_vec()));
                for extent in
                    extents.iter().filter(|extent| extent.len > 0 && extent.raw_offset < self.passed)
                {
                    if !self.copy(filler, stream, file, extent)? {
                        filler.give_up(file, LEFT_BEHIND.trim_start_matches("not unpacked: "));
                        self.files.remove(&id);
                        break;
                    }
                }
                Ok(())
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

    /// Copies an extent from the file that brought it; `false` where that was not unpacked.
    fn copy<R: Read>(
        &self,
        filler: &mut Filler<'_, '_>,
        stream: &StreamReader<R>,
        file: u32,
        extent: &Extent,
    ) -> Result<bool> {
        let Some((owner, offset)) = stream.owner(extent.raw_offset) else { return Ok(false) };
        let Some((_, path)) = self.files.get(&owner) else { return Ok(false) };
        let Ok(source) = filler.target.open_file(path) else { return Ok(false) };
        let mut buf = vec![0; usize::try_from(extent.len).unwrap_or(COPY).min(COPY)];
        let mut at = 0;
        while at < extent.len {
            let len = usize::try_from(extent.len - at).unwrap_or(COPY).min(COPY);
            match source.read_at(&mut buf[..len], offset.saturating_add(at)) {
                Ok(0) => return Ok(false),
                Ok(got) => {
                    filler.write(file, extent.file_offset + at, &buf[..got])?;
                    at += got as u64;
                }
                Err(e) => return Err(Error::io(filler.target.display(path), e)),
            }
        }
        Ok(true)
    }
}
