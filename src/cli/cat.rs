//! `s3a cat`: contents of files to standard output.

use std::path::PathBuf;

use super::args::size;
use super::console::Console;
use super::output::Out;
use super::unpack::find;
use super::{Outcome, models};
use crate::archive::{Archive, ChunkCache, EntryId, Kind, Observer, RecentChunks};
use crate::error::{Error, Result};

/// Bytes that are read at first, to show something soon, and at most, so that many chunks are
/// decoded together.
const FIRST: usize = 64 << 10;
const READ: usize = 4 << 20;

/// Write files of an archive to standard output
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[arg(value_name = "ARCHIVE")]
    archive: PathBuf,
    /// Files in the archive
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// First byte of each file to write
    #[arg(long, value_name = "SIZE", value_parser = size, default_value = "0")]
    offset: u64,
    /// Most bytes of each file to write
    #[arg(long, value_name = "SIZE", value_parser = size)]
    length: Option<u64>,
}

pub(crate) fn run(args: &Args, console: &Console) -> Result<Outcome> {
    console.about(&args.archive);
    let archive = models::open(&args.archive)?;
    let cache = RecentChunks::new(16 << 20);
    let mut out = Out::new();
    for path in &args.paths {
        let id = find(&archive, path)?;
        let is_file =
            archive.entry(id).is_some_and(|e| matches!(e.kind, Kind::File { .. } | Kind::Hardlink { .. }));
        if !is_file {
            return Err(Error::Usage(format!("{} is not a file", path.display())));
        }
        copy_out(&archive, id, args.offset, args.length.unwrap_or(u64::MAX), &cache, &mut out, console)?;
    }
    out.finish()?;
    Ok(Outcome::Done)
}

/// Writes up to `len` bytes of a file from `offset` on.
pub(crate) fn copy_out(
    archive: &Archive,
    id: EntryId,
    offset: u64,
    len: u64,
    cache: &dyn ChunkCache,
    out: &mut Out,
    observer: &dyn Observer,
) -> Result<()> {
    // As much at once as a device wants, if one takes part.
    let chunk_size = archive.header().chunk_size.max(1) as usize;
    let size = match archive.entry(id).map(|entry| &entry.kind) {
        Some(Kind::File { size, .. }) => len.min(size.saturating_sub(offset)),
        _ => len,
    };
    let chunks = usize::try_from(size).unwrap_or(0) / chunk_size;
    let read = archive.together(chunks, 0).saturating_mul(chunk_size).max(READ);
    let mut buf = vec![0; usize::try_from(size).unwrap_or(read).min(read)];
    let (mut at, mut left, mut most) = (offset, len, if read > READ { read } else { FIRST });
    while left > 0 {
        if observer.interrupted() {
            return Err(Error::Interrupted);
        }
        let want = usize::try_from(left).unwrap_or(read).min(most).min(buf.len());
        most = (most * 2).min(read);
        let got = archive.read_at(id, at, &mut buf[..want], cache)?;
        if got == 0 {
            break;
        }
        out.bytes(&buf[..got])?;
        at = at.saturating_add(got as u64);
        left -= got as u64;
    }
    Ok(())
}
