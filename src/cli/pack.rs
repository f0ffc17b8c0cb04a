//! `s3a pack`: folders and files to an archive.

use std::ffi::OsString;
use std::fs::File;
use std::io::{BufWriter, IsTerminal, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use super::args::{Global, Patterns, chunk_size};
use super::console::Console;
use super::output::{human_bytes, human_time, ratio};
use super::{Outcome, levels, models};
use crate::archive::pack::Packer;
use crate::archive::partial::Partial;
use crate::archive::{Similar, Stats, WriterOptions, scan};
use crate::error::{Error, Result};

/// Bytes that are collected before they are written.
const BUFFER: usize = 1 << 20;

/// What errors of the writer, which does not know its file, have as their path.
const WRITER_PATH: &str = "output";

/// Pack folders and files into an archive
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// What to pack; a single folder becomes the root of the archive
    #[arg(required = true, value_name = "PATH")]
    sources: Vec<PathBuf>,
    /// The archive to write, or `-` for standard output [default: the source's name with .s3a, in the current folder]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Replace an existing archive
    #[arg(short, long)]
    force: bool,
    /// From 1, the fastest, to 9, the smallest; sets what the options below do not
    #[arg(short, long, value_name = "1..9", value_parser = clap::value_parser!(u8).range(1..=9), default_value_t = levels::DEFAULT, env = "S3A_LEVEL", hide_env_values = true)]
    level: u8,
    /// Name or file of the model to code with, or `none`
    #[arg(long, value_name = "NAME|FILE", env = "S3A_MODEL", hide_env_values = true)]
    model: Option<String>,
    /// Carry the model's file in the archive, so that any s3a can read it
    #[arg(long)]
    embed_model: bool,
    /// Bytes of a chunk, the least that is decoded for a read: 4k to 1m
    #[arg(long, value_name = "SIZE", value_parser = chunk_size, env = "S3A_CHUNK_SIZE", hide_env_values = true)]
    chunk_size: Option<u32>,
    /// Earlier chunks that a chunk may look back on, 0 to 8; a read decodes them too
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(0..=8))]
    references: Option<u8>,
    /// How deep references may chain, 1 to 8
    #[arg(long, value_name = "D", value_parser = clap::value_parser!(u8).range(1..=8))]
    depth: Option<u8>,
    /// Do not decode each chunk again to check it
    #[arg(long)]
    no_check: bool,
    /// Sources are named from this folder
    #[arg(short = 'C', long = "directory", value_name = "DIR")]
    directory: Option<PathBuf>,
    #[command(flatten)]
    patterns: Patterns,
    /// Do not enter other file systems
    #[arg(short = 'x', long)]
    one_file_system: bool,
    /// Pack FIFOs, sockets and devices too
    #[arg(long)]
    special: bool,
    /// Leave out extended attributes
    #[arg(long)]
    no_xattrs: bool,
}

pub(crate) fn run(args: &Args, global: &Global, console: &Console) -> Result<Outcome> {
    let start = Instant::now();
    let output = match &args.output {
        Some(output) => output.clone(),
        None => default_output(&args.sources, args.directory.as_deref())?,
    };
    let to_stdout = output.as_os_str() == "-";
    if to_stdout && std::io::stdout().is_terminal() {
        return Err(Error::Usage(
            "an archive is not written to a terminal; name a file with -o or use a pipe".into(),
        ));
    }
    console.about(&output);
    // Told before the scan, which may take long.
    let existing = std::fs::metadata(&output).ok().filter(|_| !to_stdout);
    if existing.as_ref().is_some_and(std::fs::Metadata::is_dir) {
        return Err(Error::Usage(format!("{} is a folder; -o names a file", output.display())));
    }
    let is_pipe =
        existing.as_ref().is_some_and(|m| m.file_type().is_fifo() || m.file_type().is_char_device());
    if !args.force && !is_pipe && existing.is_some() {
        return Err(Error::Exists(output));
    }
    let level = levels::level(args.level);
    let names = args.model.as_deref().map_or(level.models.to_vec(), |name| vec![name]);
    let chosen = models::for_packing(&names, args.embed_model)?;
    if let Some(missing) = &chosen.missing {
        console.say(missing);
    }
    let chunk_size = args.chunk_size.unwrap_or(level.chunk_size);
    let (references, depth) =
        (args.references.unwrap_or(level.references), args.depth.unwrap_or(level.depth));
    let writer = WriterOptions {
        chunk_size,
        threads: global.threads,
        models: chosen.models,
        embed: chosen.embed,
        check: !args.no_check,
        references: Similar::for_options(references, depth, chunk_size),
        zstd_level: level.zstd,
        // What a model codes needs none.
        dictionary: if chosen.zstd_alone { level.dictionary } else { 0 },
        observer: Arc::new(console.clone()),
        ..WriterOptions::default()
    };
    let options = scan::Options {
        selection: args.patterns.selection()?,
        one_file_system: args.one_file_system,
        special: args.special,
        xattrs: !args.no_xattrs,
        latest_mtime: source_date_epoch()?,
        skip: existing.iter().map(|m| (m.dev(), m.ino())).collect(),
    };
    let mut packer = Packer::scan(&args.sources, args.directory.as_deref(), &options, console)?;
    if level.arrange {
        packer.arrange(console)?;
    }
    let stats = if to_stdout {
        write_plain(packer, std::io::stdout().lock(), writer)?
    } else if is_pipe {
        let file = File::options().write(true).open(&output).map_err(|e| Error::io(&output, e))?;
        write_plain(packer, file, writer)?
    } else {
        write_file(packer, &output, args.force, writer)?
    };
    console.finish();
    console.say(&report(&output, &stats, start));
    Ok(Outcome::Done)
}

fn write_plain(packer: Packer, out: impl Write, options: WriterOptions) -> Result<Stats> {
    let (mut out, stats) = packer.write(BufWriter::with_capacity(BUFFER, out), options)?;
    out.flush().map_err(|e| Error::io("archive", e))?;
    Ok(stats)
}

fn write_file(packer: Packer, output: &Path, force: bool, options: WriterOptions) -> Result<Stats> {
    let (partial, file) = Partial::create(output, force)?;
    // The writer does not know what its file is called.
    let named = |e| match e {
        Error::Io { path, source } if path.as_os_str() == WRITER_PATH => Error::io(output, source),
        e => e,
    };
    let (out, stats) = packer.write(BufWriter::with_capacity(BUFFER, file), options).map_err(named)?;
    let file = out.into_inner().map_err(|e| Error::io(output, e.into_error()))?;
    partial.commit(&file)?;
    Ok(stats)
}

/// The source's own name with `.s3a`, in the current folder.
fn default_output(sources: &[PathBuf], base: Option<&Path>) -> Result<PathBuf> {
    let [source] = sources else {
        return Err(Error::Usage("several sources: name the archive with -o".into()));
    };
    let path = base.map_or_else(|| source.clone(), |base| base.join(source));
    let name = match path.file_name() {
        Some(name) => name.to_owned(),
        // `.` and the like have a name too.
        None => {
            let real = std::fs::canonicalize(&path).map_err(|e| Error::io(&path, e))?;
            real.file_name().map_or_else(|| OsString::from("root"), ToOwned::to_owned)
        }
    };
    let mut file = name;
    file.push(".s3a");
    Ok(file.into())
}

fn source_date_epoch() -> Result<Option<i64>> {
    let Some(text) = std::env::var_os("SOURCE_DATE_EPOCH") else { return Ok(None) };
    let seconds = text.to_str().and_then(|text| text.parse().ok());
    seconds.map(Some).ok_or_else(|| Error::Usage("SOURCE_DATE_EPOCH is no number of seconds".into()))
}

fn report(output: &Path, stats: &Stats, start: Instant) -> String {
    let bits = stats.archive_len.saturating_mul(8);
    format!(
        "{}: {} entries, {} to {} ({} bits per byte) in {}",
        output.display(),
        stats.entries,
        human_bytes(stats.file_bytes),
        human_bytes(stats.archive_len),
        ratio(bits, stats.file_bytes, 3),
        human_time(start.elapsed()),
    )
}
