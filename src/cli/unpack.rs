//! `s3a unpack`: an archive to a folder.

use std::path::{Path, PathBuf};

use super::args::{Patterns, size};
use super::console::Console;
use super::entries::{BadContents, clean, copy_out, find};
use super::outcome::Outcome;
use super::output::Out;
use super::standard::stdin;
use crate::archive::extract::from_file::extract;
use crate::archive::extract::from_stream::extract_stream;
use crate::archive::extract::metadata::Restore;
use crate::archive::extract::plan::{ExtractOptions, ExtractSummary};
use crate::archive::observer::Observer;
use crate::archive::path::is_beneath;
use crate::archive::read::archive::Archive;
use crate::archive::read::chunk_cache::RecentChunks;
use crate::archive::read::stream::StreamReader;
use crate::archive::remote::location;
use crate::error::{Error, Result};
use crate::setup::calls::max_bytes;
use crate::setup::models;
use crate::setup::models::open_options;
use crate::wire::entry::{EntryId, Kind};

/// Unpack an archive into a folder
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The archive, its URL, or `-` for standard input
    #[arg(value_name = "ARCHIVE")]
    archive: PathBuf,
    /// Unpack only these paths and what is below them
    #[arg(value_name = "PATH")]
    paths: Vec<PathBuf>,
    #[command(flatten)]
    how: How,
    /// Write the contents of files to standard output, one after the other
    #[arg(long, conflicts_with = "skip_existing")]
    to_stdout: bool,
    /// Write a tar stream to a file or, with `-`, to standard output, instead of unpacking
    #[arg(long, value_name = "FILE|-", conflicts_with_all = ["to_stdout", "directory", "skip_existing"])]
    tar: Option<PathBuf>,
    #[command(flatten)]
    patterns: Patterns,
}

/// Flags that `unpack` and `salvage` share.
#[derive(Debug, clap::Args)]
pub(crate) struct How {
    /// Folder to unpack into [default: one with the name of the archive if that is of a folder, else the current one]
    #[arg(short = 'C', long = "directory", value_name = "DIR")]
    pub directory: Option<PathBuf>,
    /// Replace existing files
    #[arg(short, long)]
    pub force: bool,
    /// Leave what is there already, and do not decode it again: an interrupted run goes on
    #[arg(long, conflicts_with = "force")]
    pub skip_existing: bool,
    /// Take this many leading components off each path
    #[arg(long, value_name = "N", default_value_t = 0)]
    strip_components: usize,
    /// Restore owners [default: only for root]
    #[arg(long, conflicts_with = "no_same_owner")]
    same_owner: bool,
    /// Do not restore owners
    #[arg(long, visible_alias = "no-owner")]
    no_same_owner: bool,
    /// Take owners as numbers, which are all that an archive holds; for those who know it from tar
    #[arg(long)]
    numeric_owner: bool,
    /// Restore set-user-ID and set-group-ID bits and capabilities too
    #[arg(short, long)]
    preserve_permissions: bool,
    /// Do not restore extended attributes
    #[arg(long)]
    no_xattrs: bool,
    /// Unpack devices, which otherwise are refused
    #[arg(long)]
    devices: bool,
    /// Most bytes that all files together may have [default: 1 GiB and 2000 times the archive]
    #[arg(long, value_name = "SIZE", value_parser = size, env = "S3A_MAX_SIZE", hide_env_values = true)]
    max_size: Option<u64>,
}

impl How {
    /// The options of the library for an archive of `archive_len` bytes, or of unknown length.
    pub fn options(
        &self,
        patterns: &Patterns,
        paths: &[PathBuf],
        archive_len: Option<u64>,
    ) -> Result<ExtractOptions> {
        Ok(ExtractOptions {
            selection: patterns.selection()?.beneath(paths.iter().map(|path| clean(path))),
            strip: self.strip_components,
            replace: self.force,
            skip_existing: self.skip_existing,
            restore: Restore {
                owners: self.same_owner || (!self.no_same_owner && rustix::process::geteuid().is_root()),
                privileges: self.preserve_permissions,
                xattrs: !self.no_xattrs,
            },
            devices: self.devices,
            max_bytes: self.max_size.unwrap_or_else(|| archive_len.map_or(u64::MAX, max_bytes)),
        })
    }

    /// The folder to unpack into. One that was not named must not be there yet.
    pub fn target(&self, archive: &Archive, path: &Path, suffix: &str) -> Result<PathBuf> {
        if let Some(directory) = &self.directory {
            return Ok(directory.clone());
        }
        if archive.lookup(b"").is_none() {
            return Ok(".".into());
        }
        let path = &*location::shown(path);
        let mut name =
            if path.extension().is_some_and(|e| e == "s3a") { path.file_stem() } else { path.file_name() }
                .ok_or_else(|| Error::Usage("name the folder to unpack into with -C".into()))?
                .to_owned();
        name.push(suffix);
        if name == path.file_name().unwrap_or_default()
            && path.parent().is_none_or(|p| p.as_os_str().is_empty())
        {
            name.push(".unpacked");
        }
        let target = PathBuf::from(name);
        if !self.force && !self.skip_existing && target.symlink_metadata().is_ok() {
            return Err(Error::Exists(target));
        }
        Ok(target)
    }
}

pub(crate) fn run(args: &Args, console: &Console) -> Result<Outcome> {
    console.about(&args.archive);
    if args.archive.as_os_str() == "-" {
        return from_pipe(args, console);
    }
    let archive = models::open(&args.archive)?;
    for path in &args.paths {
        let top = clean(path);
        // A folder may be there only by what is in it.
        if !archive.entries().iter().any(|entry| is_beneath(&entry.path, &top)) {
            find(&archive, path)?;
        }
    }
    let options = args.how.options(&args.patterns, &args.paths, Some(archive.archive_len()))?;
    if args.to_stdout {
        to_stdout(&archive, &options, console)?;
        return Ok(Outcome::Done);
    }
    if let Some(tar) = &args.tar {
        // Whoever unpacks the stream decides about owners, unless they are to be left out.
        let restore = Restore { owners: !args.how.no_same_owner, ..options.restore };
        let options = ExtractOptions { restore, devices: true, ..options };
        return super::tar::unpack(&archive, tar, args.how.force, &options, console);
    }
    let target = args.how.target(&archive, &args.archive, "")?;
    let summary = extract(&archive, &target, &options, console)?;
    console.finish();
    console.say(&told(&target, &summary));
    Ok(Outcome::Done)
}

/// What was done.
fn told(target: &Path, summary: &ExtractSummary) -> String {
    let skipped = match summary.skipped {
        0 => String::new(),
        count => format!("; {count} were there already"),
    };
    format!("{}: {} entries, {} files{skipped}", target.display(), summary.entries, summary.files)
}

fn from_pipe(args: &Args, console: &Console) -> Result<Outcome> {
    if args.to_stdout || args.tar.is_some() {
        return Err(Error::Usage("--to-stdout and --tar need the archive as a file".into()));
    }
    let options = args.how.options(&args.patterns, &args.paths, None)?;
    let mut stream = StreamReader::open(stdin()?, &open_options())?;
    let load = |stream: &mut StreamReader<_>| {
        let carried = |index| Ok(stream.embedded_model(index).map(<[u8]>::to_vec));
        let found = models::for_reading(stream.models(), carried, None)?;
        stream.set_models(found);
        Ok(())
    };
    let target = args.how.directory.clone().unwrap_or_else(|| ".".into());
    let summary = extract_stream(&mut stream, &target, &options, &load, console)?;
    console.finish();
    console.say(&told(&target, &summary));
    Ok(Outcome::Done)
}

fn to_stdout(archive: &Archive, options: &ExtractOptions, console: &Console) -> Result<()> {
    let cache = RecentChunks::new(16 << 20);
    let mut out = Out::new();
    let (mut bytes, max) = (0u64, options.max_bytes);
    let mut bad = BadContents::default();
    for (id, entry) in (0..).map(EntryId).zip(archive.entries()) {
        let file = match entry.kind {
            Kind::Hardlink { target } => archive.entry(target).map(|entry| &entry.kind),
            _ => Some(&entry.kind),
        };
        let Some(&Kind::File { size, .. }) = file else { continue };
        if options.selection.takes(&entry.path, false) {
            bytes = bytes.saturating_add(size);
            if bytes > max {
                let what = "the size of the files (--max-size raises it)";
                return Err(Error::Limit { what, got: bytes, max });
            }
            console.entry(&entry.path);
            bad.note(copy_out(archive, id, 0, u64::MAX, &cache, &mut out, console), console)?;
        }
    }
    out.finish()?;
    bad.finish()
}
