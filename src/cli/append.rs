//! `s3a append`: more files into an archive.
//!
//! The archive is cloned where the file system can, else copied; the copy gets the new generation
//! and takes the archive's place when it is complete and on disk. Until then, whatever happens, the
//! archive is as it was. An archive with several names (hardlinks) keeps them: what is new is written to
//! the end of it then, while the whole copy lies beside it.

use std::fs::File;
use std::io::{BufWriter, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use rustix::fs::{FlockOperation, XattrFlags, fsetxattr};
use rustix::io::Errno;

use super::args::Global;
use super::console::Console;
use super::destination::{BUFFER, name_output};
use super::outcome::Outcome;
use super::output::{human_bytes, human_time};
use super::take::Take;
use crate::archive::observer::{Observer, Warning};
use crate::archive::os::partial_file::{Partial, left_by_runs};
use crate::archive::os::xattr;
use crate::archive::pack::packer::Packer;
use crate::archive::read::archive::Archive;
use crate::archive::write::options::WriterOptions;
use crate::archive::write::similar::Similar;
use crate::codec::model::Models;
use crate::error::{Error, Result};
use crate::setup::models::open_options;
use crate::setup::{level, models};

/// Names in the partial file's name what it is; nothing goes on with it.
const TAG: &str = "append";

/// Add folders and files to an archive
///
/// Each keeps the path it is given by. Nothing in the archive changes; a path that is there already
/// is refused. The archive is replaced when the new one is complete, which needs room for a copy
/// where the file system cannot clone files.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The archive to add to
    #[arg(value_name = "ARCHIVE")]
    archive: PathBuf,
    #[command(flatten)]
    take: Take,
    /// Leave out what the archive has already, instead of refusing it
    #[arg(long)]
    skip_existing: bool,
    /// Name or file of the model to code with, or `none` [default: the archive's]
    #[arg(long, value_name = "NAME|FILE", env = "S3A_MODEL", hide_env_values = true)]
    model: Option<String>,
    /// Carry the model's file in the archive, if it is new to it
    #[arg(long)]
    embed_model: bool,
    /// Earlier chunks that a chunk may look back on, 0 to 8, if the archive was packed with references
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(0..=8), default_value_t = 0)]
    references: u8,
    /// Milliseconds that a cold read of a large block may take on a nominal machine; 0 for chunks alone
    /// [default: 20 with a model, 0 without]
    #[arg(long, value_name = "MS", env = "S3A_READ_TIME", hide_env_values = true)]
    read_time: Option<u32>,
    /// Do not decode each chunk again to check it
    #[arg(long)]
    no_check: bool,
}

pub(crate) fn run(args: &Args, global: &Global, console: &Console) -> Result<Outcome> {
    let start = Instant::now();
    console.about(&args.archive);
    // Through a link, the archive is replaced and not the link.
    let path = std::fs::canonicalize(&args.archive).map_err(|e| Error::io(&args.archive, e))?;
    let old = File::open(&path).map_err(|e| Error::io(&path, e))?;
    lock(&old, &path)?;
    let found = old.metadata().map_err(|e| Error::io(&path, e))?;
    let archive = Archive::from_file(clone(&old, &path)?, &path, &open_options())?;

    let chosen = for_appending(args.model.as_deref(), args.embed_model, &archive, &path)?;
    let header = archive.header();
    // Without a model everything is zstd's, as in levels 1 to 3.
    let read_time = if chosen.models.is_empty() { 0 } else { level::level(level::DEFAULT).read_time };
    let writer = WriterOptions {
        threads: global.threads,
        models: chosen.models,
        embed: chosen.embed,
        check: !args.no_check,
        block_len: level::block_len(args.read_time.unwrap_or(read_time)),
        references: Similar::for_options(args.references, header.ref_depth, header.chunk_size),
        observer: Arc::new(console.clone()),
        ..WriterOptions::default()
    };
    if args.references > 0 && writer.references.is_none() {
        return Err(Error::Usage("the archive was packed without references, so none can be added".into()));
    }
    let mut skip = left_by_runs(&path);
    skip.push((found.dev(), found.ino()));
    let options = args.take.options(true, skip)?;
    let sources = args.take.sources()?;
    let mut packer = Packer::scan(&sources, args.take.directory.as_deref(), &options, console)?;
    let skipped = packer.only_new(&archive, args.skip_existing)?;
    if packer.is_empty() {
        console.say(&format!("{}: nothing to append, {skipped} entries are there already", path.display()));
        return Ok(Outcome::Done);
    }

    let (partial, file) = Partial::create(&path, true, TAG)?;
    let named = |e| name_output(e, &path);
    let file = copy(&old, &path, file, archive.archive_len(), console).map_err(named)?;
    let out = BufWriter::with_capacity(BUFFER, file);
    let (out, stats) = packer.append(&archive, out, writer).map_err(named)?;
    let file = out.into_inner().map_err(|e| Error::io(&path, e.into_error()))?;
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::fchown(&file, Some(found.uid()), Some(found.gid()))
            .map_err(|e| Error::io(&path, e))?;
    }
    keep_xattrs(&old, &file, &path, console);
    partial.commit_after(&file, &found)?;
    console.finish();
    console.say(&format!(
        "{}: {} entries and {} added, now {}, in {}{}",
        path.display(),
        stats.entries,
        human_bytes(stats.file_bytes),
        human_bytes(stats.archive_len),
        human_time(start.elapsed()),
        if skipped > 0 { format!("; {skipped} were there already") } else { String::new() },
    ));
    Ok(Outcome::Done)
}

/// Keeps two runs from appending to one archive, of which the first to end would be lost.
fn lock(file: &File, path: &Path) -> Result<()> {
    match rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive) {
        Err(Errno::WOULDBLOCK) => {
            Err(Error::Usage(format!("{}: another s3a is appending to it", path.display())))
        }
        // Where there are no locks, the user has to see to it.
        _ => {
            let same = |a: std::fs::Metadata, b: std::fs::Metadata| (a.dev(), a.ino()) == (b.dev(), b.ino());
            let still = std::fs::metadata(path).and_then(|now| Ok(same(now, file.metadata()?)));
            match still.map_err(|e| Error::io(path, e))? {
                true => Ok(()),
                false => Err(Error::Changed(path.to_owned())),
            }
        }
    }
}

/// The model for more of an archive: the one named, or else the last of the archive's own.
fn for_appending(name: Option<&str>, embed: bool, archive: &Archive, path: &Path) -> Result<models::Chosen> {
    let (None, Some((number, wanted))) = (name, archive.models().iter().enumerate().next_back()) else {
        return models::for_packing(&[name.unwrap_or(models::NO_MODEL)], embed, 1_usize.into());
    };
    let found = models::for_reading(archive.models(), |index| archive.embedded_model(index), Some(path))?;
    let model = u8::try_from(number).ok().and_then(|number| found.get(number)).cloned();
    let missing = || Error::ModelMissing { fingerprint: wanted.hex(), name: wanted.name.clone() };
    let models = Models::one(model.ok_or_else(missing)?);
    Ok(models::Chosen { models, embed: Vec::new(), bases: Vec::new(), missing: None, zstd_alone: false })
}

fn clone(file: &File, path: &Path) -> Result<File> {
    file.try_clone().map_err(|e| Error::io(path, e))
}

/// Gives the new file the extended attributes of the old one, access control lists among them.
fn keep_xattrs(old: &File, new: &File, path: &Path, console: &Console) {
    let set = |(key, value): &(Vec<u8>, Vec<u8>)| fsetxattr(new, &key[..], value, XattrFlags::empty());
    let kept: rustix::io::Result<()> = xattr::read_open(old).and_then(|found| {
        // What can be kept is, whatever comes of the others.
        let all: Vec<_> = found.iter().map(set).collect();
        all.into_iter().collect()
    });
    if let Err(e) = kept {
        let e = std::io::Error::from(e);
        let what = format_args!("not all of its own extended attributes are kept: {e}");
        console.warning(Warning::new(path.as_os_str().as_encoded_bytes(), what));
    }
}

/// Fills `new` with the archive, sharing its blocks where the file system can.
fn copy(old: &File, path: &Path, mut new: File, len: u64, console: &Console) -> Result<File> {
    let failed = Error::Output;
    let unread = |e| Error::io(path, e);
    if rustix::fs::ioctl_ficlone(&new, old).is_ok() {
        new.seek(SeekFrom::Start(len)).map_err(failed)?;
        return Ok(new);
    }
    console.phase("copying the archive", Some(len));
    let mut old = old.try_clone().map_err(unread)?;
    old.seek(SeekFrom::Start(0)).map_err(unread)?;
    let mut left = len;
    while left > 0 {
        if console.interrupted() {
            return Err(Error::Interrupted);
        }
        let part = std::io::copy(&mut (&mut old).take(left.min(64 << 20)), &mut new).map_err(failed)?;
        if part == 0 {
            return Err(Error::Changed(path.to_owned()));
        }
        console.advanced(part);
        left -= part;
    }
    Ok(new)
}
