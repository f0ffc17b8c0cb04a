//! `s3a cat`: contents of files to standard output.

use std::path::PathBuf;

use super::args::size;
use super::console::Console;
use super::entries::{BadContents, copy_out, find};
use super::outcome::Outcome;
use super::output::Out;
use crate::archive::read::chunk_cache::RecentChunks;
use crate::error::{Error, Result};
use crate::setup::models;
use crate::wire::entry::Kind;

/// Write files of an archive to standard output
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The archive, or its URL (https, http, s3, gs, az)
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
    let mut bad = BadContents::default();
    for path in &args.paths {
        let id = find(&archive, path)?;
        let is_file =
            archive.entry(id).is_some_and(|e| matches!(e.kind, Kind::File { .. } | Kind::Hardlink { .. }));
        if !is_file {
            return Err(Error::Usage(format!("{} is not a file", path.display())));
        }
        let length = args.length.unwrap_or(u64::MAX);
        bad.note(copy_out(&archive, id, args.offset, length, &cache, &mut out, console), console)?;
    }
    out.finish()?;
    bad.finish()?;
    Ok(Outcome::Done)
}
