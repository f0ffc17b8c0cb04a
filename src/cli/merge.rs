//! `s3a merge`: several archives to one, without coding anything again.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::PathBuf;

use clap::ValueEnum;

use super::console::Console;
use super::destination::{BUFFER, name_output, refuse_terminal, through_links};
use super::outcome::Outcome;
use super::output::human_bytes;
use super::standard::stdout;
use crate::archive::merge::joiner;
use crate::archive::merge::joiner::merge;
use crate::archive::os::partial_file::Partial;
use crate::archive::read::archive::Archive;
use crate::error::{Error, Result};
use crate::setup::models::open_options;

/// Names in the partial file's name what it is; nothing goes on with it.
const TAG: &str = "merge";

/// Join archives without coding them again
///
/// Folders that several archives have come together. Content that several have is kept as often.
/// What is copied passes the checks of its coded bytes; nothing is decoded, so that hashes of contents
/// are not checked: `s3a verify` does.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The archives to join, in their order
    #[arg(required = true, value_name = "ARCHIVE")]
    archives: Vec<PathBuf>,
    /// The archive to write, or `-` for standard output
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// Replace an existing archive
    #[arg(short, long)]
    force: bool,
    /// What becomes of a path that several archives have
    #[arg(long, value_enum, default_value_t)]
    on_clash: OnClash,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum OnClash {
    /// Nothing is written
    #[default]
    Refuse,
    /// The entry of the first of them stays
    First,
    /// The entry of the last of them stays
    Last,
}

impl From<OnClash> for joiner::OnClash {
    fn from(value: OnClash) -> Self {
        match value {
            OnClash::Refuse => Self::Refuse,
            OnClash::First => Self::First,
            OnClash::Last => Self::Last,
        }
    }
}

pub(crate) fn run(args: &Args, console: &Console) -> Result<Outcome> {
    let to_stdout = args.output.as_os_str() == "-";
    if to_stdout {
        refuse_terminal()?;
    } else if !args.force && args.output.symlink_metadata().is_ok() {
        return Err(Error::Exists(args.output.clone()));
    }
    let mut archives = Vec::new();
    for path in &args.archives {
        console.about(path);
        archives.push(Archive::open(path, &open_options())?);
    }
    console.about(&args.output);
    let summary = if to_stdout {
        let out = BufWriter::with_capacity(BUFFER, stdout());
        let (mut out, summary) = merge(&archives, out, args.on_clash.into(), console)?;
        out.flush().map_err(|e| Error::io("standard output", e))?;
        summary
    } else {
        write_file(args, &archives, console)?
    };
    console.finish();
    console.say(&format!(
        "{}: {} archives, {} entries, {}{}",
        args.output.display(),
        archives.len(),
        summary.entries,
        human_bytes(summary.archive_len),
        if summary.dropped > 0 { format!("; {} entries gave way", summary.dropped) } else { String::new() },
    ));
    Ok(Outcome::Done)
}

fn write_file(args: &Args, archives: &[Archive], console: &Console) -> Result<joiner::MergeSummary> {
    let output = if args.force { through_links(&args.output) } else { args.output.clone() };
    let (partial, file): (Partial, File) = Partial::create(&output, args.force, TAG)?;
    let named = |e| name_output(e, &args.output);
    let out = BufWriter::with_capacity(BUFFER, file);
    let (out, summary) = merge(archives, out, args.on_clash.into(), console).map_err(named)?;
    let file = out.into_inner().map_err(|e| Error::io(&args.output, e.into_error()))?;
    partial.commit(&file)?;
    Ok(summary)
}
