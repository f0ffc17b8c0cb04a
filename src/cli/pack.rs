//! `s3a pack`: folders and files to an archive.

use std::ffi::OsString;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use super::args::{Global, budget, chunk_size, group_size};
use super::console::Console;
use super::destination::{BUFFER, name_output, refuse_terminal, through_links};
use super::outcome::Outcome;
use super::output::{human_bytes, human_time, ratio};
use super::standard::stdout;
use super::take::Take;
use crate::archive::os::partial_file::{Partial, left_by_runs};
use crate::archive::pack::packer::Packer;
#[cfg(feature = "train")]
use crate::archive::read::stream::StreamReader;
use crate::archive::write::options::{Stats, WriterOptions};
use crate::archive::write::resume::Previous;
use crate::archive::write::similar::Similar;
use crate::cli::output::hex;
use crate::codec::neural::search::Search;
use crate::error::{Error, Result};
#[cfg(feature = "train")]
use crate::model::delta::is_delta;
#[cfg(feature = "train")]
use crate::model::registry;
use crate::model::registry::Found;
use crate::setup::budget::Budget;
use crate::setup::{level, models};

/// Pack folders and files into an archive
///
/// A single folder becomes the root of the archive; several sources keep the paths they are given by.
/// What an interrupted run has packed is kept beside the archive for --resume.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    take: Take,
    /// The archive to write, or `-` for standard output [default: the source's name with .s3a, in the current folder]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Replace an existing archive
    #[arg(short, long)]
    force: bool,
    /// From 1, the fastest, to 9, the smallest; sets what the options below do not
    #[arg(short, long, value_name = "1..9", value_parser = clap::value_parser!(u8).range(1..=9), default_value_t = level::DEFAULT, env = "S3A_LEVEL", hide_env_values = true)]
    level: u8,
    /// Name or file of the model to code with, or `none`
    #[arg(long, value_name = "NAME|FILE", env = "S3A_MODEL", hide_env_values = true)]
    model: Option<String>,
    /// Carry the model's file in the archive, so that any s3a can read it
    #[arg(long)]
    embed_model: bool,
    /// Learn the data first: the archive carries what it changes in the model, if that saves more than it takes.
    /// For so many tokens (`20m`), seconds (`90s`) or minutes (`5min`) of a nominal machine [default: about one and
    /// a half times what packing takes]
    #[arg(long, value_name = "BUDGET", num_args = 0..=1, require_equals = true, default_missing_value = "default", value_parser = budget, conflicts_with = "tar")]
    learn: Option<Budget>,
    /// Bytes of a chunk, the least that is decoded for a read: 4k to 1m
    #[arg(long, value_name = "SIZE", value_parser = chunk_size, env = "S3A_CHUNK_SIZE", hide_env_values = true)]
    chunk_size: Option<u32>,
    /// Earlier chunks that a chunk may look back on, 0 to 8; a read decodes them too
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(0..=8))]
    references: Option<u8>,
    /// How deep references may chain, 1 to 8
    #[arg(long, value_name = "D", value_parser = clap::value_parser!(u8).range(1..=8))]
    depth: Option<u8>,
    /// Learned sequences that are tried for each chunk, beside the empty one: the best of the model's
    /// compressor if it is at hand, otherwise the likeliest symbols
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(0..=4096))]
    effort: Option<u16>,
    /// Most symbols of a learned sequence; longer ones are cut
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(0..=64))]
    max_symbols: Option<u16>,
    /// Do not decode each chunk again to check it
    #[arg(long)]
    no_check: bool,
    /// Milliseconds that a cold read of a large block may take on a nominal machine; 0 for chunks alone [default: by level]
    #[arg(long, value_name = "MS", env = "S3A_READ_TIME", hide_env_values = true)]
    read_time: Option<u32>,
    /// Pack what a tar stream holds, from a file or `-` for standard input
    #[arg(long, value_name = "FILE|-", conflicts_with_all = ["sources", "files_from", "directory", "one_file_system", "no_recursion", "resume"])]
    tar: Option<PathBuf>,
    /// Go on behind the end of a tar stream: what follows it, joined by `cat`, is packed too
    #[arg(short = 'i', long, requires = "tar")]
    ignore_zeros: bool,
    /// Go on with what an interrupted run of the same command has left
    #[arg(long)]
    resume: bool,
    /// Bytes that are gathered and written together, and that an interruption may cost
    #[arg(long, value_name = "SIZE", value_parser = group_size, default_value = "16m")]
    group_size: u32,
}

pub(crate) fn run(args: &Args, global: &Global, console: &Console) -> Result<Outcome> {
    let start = Instant::now();
    let sources = if args.tar.is_some() { Vec::new() } else { args.take.sources()? };
    let output = match (&args.output, &args.tar) {
        (Some(output), _) => output.clone(),
        (None, Some(_)) => return Err(Error::Usage("name the archive with -o".into())),
        (None, None) => default_output(&args.take, &sources)?,
    };
    let to_stdout = output.as_os_str() == "-";
    if to_stdout {
        refuse_terminal()?;
    }
    console.about(&output);
    if !args.force && !to_stdout && output.is_symlink() && !output.exists() {
        return Err(Error::Exists(output));
    }
    let output = if to_stdout { output } else { through_links(&output) };
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
    if args.resume && (to_stdout || is_pipe) {
        return Err(Error::Usage("--resume goes on with a file, not with a pipe".into()));
    }
    let level = level::level(args.level);
    let names = args.model.as_deref().map_or(level.models.to_vec(), |name| vec![name]);
    let mut search = Search::from(usize::from(args.effort.unwrap_or(level.effort)));
    search.longest = args.max_symbols.map_or(usize::MAX, usize::from);
    let found = models::find(&names)?;
    if args.learn.is_some() && found.is_none() {
        return Err(Error::Usage(
            "there is no model to learn with: take a level from 4 on, or name one".into(),
        ));
    }
    let chosen = models::for_packing(&names, args.embed_model, search)?;
    if let Some(missing) = &chosen.missing {
        console.say(missing);
    }
    let chunk_size = args.chunk_size.unwrap_or(level.chunk_size);
    let (references, depth) =
        (args.references.unwrap_or(level.references), args.depth.unwrap_or(level.depth));
    let mut writer = WriterOptions {
        chunk_size,
        group_len: args.group_size.max(chunk_size),
        threads: global.threads,
        models: chosen.models,
        embed: chosen.embed,
        bases: chosen.bases,
        check: !args.no_check,
        block_len: level::block_len(args.read_time.unwrap_or(level.read_time)),
        references: Similar::for_options(references, depth, chunk_size),
        zstd_level: level.zstd,
        // What a model codes needs none.
        dictionary: if chosen.zstd_alone { level.dictionary } else { 0 },
        observer: Arc::new(console.clone()),
    };
    if let Some(tar) = &args.tar {
        let options = args.take.tar_options(args.ignore_zeros)?;
        let how = (args.force || is_pipe, is_pipe || to_stdout);
        let stats = super::tar::pack(tar, &options, &output, how, writer)?;
        console.finish();
        console.say(&report(&output, &stats, start));
        return Ok(Outcome::Done);
    }
    let tag = tag(args, &output, &writer);
    let mut skip: Vec<(u64, u64)> = existing.iter().map(|m| (m.dev(), m.ino())).collect();
    if to_stdout {
        skip.extend(stdout_file());
    } else {
        skip.extend(left_by_runs(&output));
    }
    let options = args.take.options(false, skip)?;
    let mut packer = Packer::scan(&sources, args.take.directory.as_deref(), &options, console)?;
    if level.arrange {
        packer.arrange(console)?;
    }
    if let (Some(budget), Some((found, _))) = (args.learn, found) {
        learn((args, budget, &tag), &output, &packer, &found, search, &mut writer, console)?;
    }
    let stats = if to_stdout {
        write_plain(packer, stdout(), writer)?
    } else if is_pipe {
        let file = File::options().write(true).open(&output).map_err(|e| Error::io(&output, e))?;
        write_plain(packer, file, writer)?
    } else {
        let partial = Partials { output: &output, force: args.force, resume: args.resume, tag };
        partial.write(packer, writer, console)?
    };
    console.finish();
    console.say(&report(&output, &stats, start));
    Ok(Outcome::Done)
}

/// The difference that the partial archive of an interrupted run carries, if this run is to go on with it.
#[cfg(feature = "train")]
fn partial_model(args: &Args, output: &Path, tag: &str) -> Result<Option<Vec<u8>>> {
    if !args.resume {
        return Ok(None);
    }
    let Some((partial, file)) = Partial::find(output, args.force, tag)? else { return Ok(None) };
    drop(partial.keep());
    let stream = StreamReader::open(file, &models::open_options()).ok();
    let carried = stream.as_ref().and_then(|stream| {
        let numbers = (0..=u8::MAX).take(stream.models().len());
        numbers.filter_map(|number| stream.embedded_model(number)).find(|file| is_delta(file))
    });
    Ok(carried.map(<[u8]>::to_vec))
}

/// Learns the tree, or takes what an interrupted run has learned, and packs with it if that pays.
#[cfg(feature = "train")]
fn learn(
    (args, budget, tag): (&Args, Budget, &str),
    output: &Path,
    packer: &Packer,
    found: &Found,
    search: Search,
    writer: &mut WriterOptions,
    console: &Console,
) -> Result<()> {
    use crate::setup::learn::{Learning, learn_tree, with_delta};

    if let Some(delta) = partial_model(args, output, tag)? {
        console.say("going on with what the interrupted run has learned");
        let base = registry::file_bytes(found)?;
        take_model(writer, with_delta(found, &base, delta, search, args.embed_model)?);
        return Ok(());
    }
    let plan = budget.plan(packer.bytes());
    console.say(&format!(
        "learning {} tokens, about {} on two cores",
        plan.tokens(),
        human_time(std::time::Duration::from_secs(plan.seconds)),
    ));
    match learn_tree(packer, found, search, plan, writer, args.embed_model)? {
        Learning::Pays { chosen, delta_len, saved } => {
            console.say(&format!(
                "learned: {} carried, about {} saved",
                human_bytes(delta_len),
                human_bytes(saved)
            ));
            take_model(writer, chosen);
        }
        Learning::DoesNotPay => console.say("what was learned does not pay: packing without it"),
    }
    Ok(())
}

#[cfg(not(feature = "train"))]
fn learn(
    _: (&Args, Budget, &str),
    _: &Path,
    _: &Packer,
    _: &Found,
    _: Search,
    _: &mut WriterOptions,
    _: &Console,
) -> Result<()> {
    Err(super::outcome::built_without("train"))
}

#[cfg(feature = "train")]
fn take_model(writer: &mut WriterOptions, chosen: models::Chosen) {
    (writer.models, writer.embed, writer.bases) = (chosen.models, chosen.embed, chosen.bases);
}

/// Device and inode of the file that standard output goes to.
fn stdout_file() -> Option<(u64, u64)> {
    let found = rustix::fs::fstat(std::io::stdout()).ok()?;
    let is_file = rustix::fs::FileType::from_raw_mode(found.st_mode) == rustix::fs::FileType::RegularFile;
    #[allow(clippy::unnecessary_cast, reason = "widths differ between systems")]
    is_file.then_some((found.st_dev as u64, found.st_ino as u64))
}

fn write_plain(packer: Packer, out: impl Write, options: WriterOptions) -> Result<Stats> {
    let (mut out, stats) = packer.write(BufWriter::with_capacity(BUFFER, out), options, None)?;
    out.flush().map_err(|e| Error::io("archive", e))?;
    Ok(stats)
}

/// Tells partial files of commands apart that would write other bytes: a digest of all flags, the
/// model and this version.
fn tag(args: &Args, output: &Path, writer: &WriterOptions) -> String {
    let same = Args { output: None, force: false, resume: false, ..args.clone() };
    let models: Vec<_> = writer.models.loaded().map(|(_, model)| hex(&model.fingerprint())).collect();
    let text = format!("{} {:?} {models:?} {same:?}", env!("CARGO_PKG_VERSION"), output.file_name());
    hex(&blake3::hash(text.as_bytes()).as_bytes()[..8])
}

/// A file that is an archive once it is complete, and that a later run can go on with before.
struct Partials<'a> {
    output: &'a Path,
    force: bool,
    resume: bool,
    tag: String,
}

impl Partials<'_> {
    fn write(&self, packer: Packer, options: WriterOptions, console: &Console) -> Result<Stats> {
        let output = self.output;
        let (partial, file, previous) = match Partial::find(output, self.force, &self.tag)? {
            Some((partial, file)) if self.resume => {
                let copy = file.try_clone().map_err(|e| Error::io(output, e))?;
                (partial, file, Some(Previous::new(copy, output)?))
            }
            found => {
                match found {
                    Some((partial, _)) => console.say(&format!(
                        "{} is left of an interrupted run; --resume would go on with it",
                        partial.keep().display()
                    )),
                    None if self.resume => console.say("no interrupted run of this command left anything"),
                    None => {}
                }
                let (partial, file) = Partial::create(output, self.force, &self.tag)?;
                (partial, file, None)
            }
        };
        let handle = file.try_clone().map_err(|e| Error::io(output, e))?;
        match packer.write(BufWriter::with_capacity(BUFFER, file), options, previous) {
            Ok((out, stats)) => {
                let file = out.into_inner().map_err(|e| Error::io(output, e.into_error()))?;
                // What an interrupted run wrote beyond is of no use.
                file.set_len(stats.archive_len).map_err(|e| Error::io(output, e))?;
                partial.commit(&file)?;
                Ok(stats)
            }
            Err(Error::Interrupted) => {
                if Previous::has_groups(&handle, output) {
                    console.finish();
                    console.say(&format!(
                        "{} keeps what is packed; the same command with --resume goes on with it",
                        partial.keep().display()
                    ));
                }
                Err(Error::Interrupted)
            }
            Err(e) => Err(name_output(e, output)),
        }
    }
}

/// The source's own name with `.s3a`, in the current folder.
fn default_output(take: &Take, sources: &[PathBuf]) -> Result<PathBuf> {
    let ([source], None) = (sources, &take.files_from) else {
        return Err(Error::Usage("several sources: name the archive with -o".into()));
    };
    let path = take.directory.as_ref().map_or_else(|| source.clone(), |base| base.join(source));
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

/// What became of the data by codec, in a line.
fn by_codec(stats: &Stats) -> String {
    let names = ["stored", "zstd", "network", "LZMA2"];
    let parts = names.iter().zip(&stats.codecs).filter(|(_, codec)| codec.chunks > 0);
    let parts = parts.map(|(name, codec)| {
        format!("{name} {} to {}", human_bytes(codec.raw_bytes), human_bytes(codec.payload_bytes))
    });
    let mut parts: Vec<String> = parts.collect();
    let before = stats.file_bytes.saturating_sub(stats.raw_bytes);
    if before > 0 {
        parts.push(format!("seen before {}", human_bytes(before)));
    }
    parts.join(", ")
}

fn report(output: &Path, stats: &Stats, start: Instant) -> String {
    let bits = stats.archive_len.saturating_mul(8);
    let codecs = by_codec(stats);
    format!(
        "{}: {} entries, {} to {} ({} bits per byte) in {}\n  {codecs}",
        output.display(),
        stats.entries,
        human_bytes(stats.file_bytes),
        human_bytes(stats.archive_len),
        ratio(bits, stats.file_bytes, 3),
        human_time(start.elapsed()),
    )
}
