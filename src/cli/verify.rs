//! `s3a verify`: whether every byte of an archive is as it was written.

use std::path::PathBuf;

use serde::Serialize;

use super::console::Console;
use super::outcome::Outcome;
use super::output::Out;
use crate::archive::check::verify::{Report, verify};
use crate::archive::path::escape;
use crate::archive::read::archive::Archive;
use crate::error::Result;
use crate::setup::models;

/// Exit code for an archive with damage.
const DAMAGED: u8 = 3;

/// Check an archive and name the files and ranges that are damaged
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The archives, or their URLs (https, http, s3, gs, az)
    #[arg(required = true, value_name = "ARCHIVE")]
    archives: Vec<PathBuf>,
    /// Check only the coded bytes, which finds any rot, and decode nothing
    #[arg(long)]
    fast: bool,
    /// Print a JSON object per archive
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Result_<'a> {
    archive: String,
    clean: bool,
    chunks: u64,
    chunks_decoded: u64,
    files_hashed: u64,
    damages: Vec<Damage>,
    files: Vec<File<'a>>,
}

#[derive(Serialize)]
struct Damage {
    offset: u64,
    len: u64,
    chunk: Option<u32>,
    what: String,
}

#[derive(Serialize)]
struct File<'a> {
    path: String,
    /// First byte and the one after the last.
    ranges: Vec<[u64; 2]>,
    #[serde(skip)]
    raw: &'a [u8],
}

pub(crate) fn run(args: &Args, console: &Console) -> Result<Outcome> {
    let mut out = Out::new();
    let mut damaged = false;
    for path in &args.archives {
        console.about(path);
        let archive = models::open(path)?;
        let report = verify(&archive, !args.fast, console)?;
        console.finish();
        let damaged_here = !report.is_clean();
        damaged |= damaged_here;
        let result = describe(&archive, path.display().to_string(), &report);
        if args.json {
            out.json(&result)?;
        } else if damaged_here || !console.is_quiet() {
            print(&result, &mut out)?;
        }
    }
    out.finish()?;
    Ok(if damaged { Outcome::Code(DAMAGED) } else { Outcome::Done })
}

fn describe<'a>(archive: &'a Archive, name: String, report: &Report) -> Result_<'a> {
    let damages = report.damages.iter();
    let files = report.files.iter().filter_map(|file| {
        let raw = archive.entry(file.id)?.path.as_slice();
        let ranges = file.ranges.iter().map(|range| [range.start, range.end]).collect();
        Some(File { path: String::from_utf8_lossy(raw).into_owned(), ranges, raw })
    });
    Result_ {
        archive: name,
        clean: report.is_clean(),
        chunks: report.chunks,
        chunks_decoded: report.chunks_decoded,
        files_hashed: report.files_hashed,
        damages: damages
            .map(|d| Damage {
                offset: d.offset,
                len: d.len,
                chunk: d.chunk.map(|c| c.0),
                what: d.error.to_string(),
            })
            .collect(),
        files: files.collect(),
    }
}

fn print(result: &Result_<'_>, out: &mut Out) -> Result<()> {
    let name = escape(result.archive.as_bytes());
    for damage in &result.damages {
        out.line(format_args!(
            "{name}: bytes {} to {}: {}",
            damage.offset,
            damage.offset.saturating_add(damage.len),
            damage.what
        ))?;
    }
    for file in &result.files {
        let ranges: Vec<_> = file.ranges.iter().map(|[start, end]| format!("{start} to {end}")).collect();
        out.line(format_args!("{name}: hit: {}: bytes {}", escape(file.raw), ranges.join(", ")))?;
    }
    if result.clean {
        let (chunks, decoded, hashed) = (result.chunks, result.chunks_decoded, result.files_hashed);
        out.line(format_args!("{name}: intact; {chunks} chunks, {decoded} decoded, {hashed} files hashed"))
    } else {
        let (places, files) = (result.damages.len(), result.files.len());
        out.line(format_args!(
            "{name}: damaged in {places} places, {files} files are hit; `s3a salvage` recovers the rest"
        ))
    }
}
