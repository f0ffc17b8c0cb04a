//! `s3a diff`: what differs between an archive and a folder.

use std::path::PathBuf;

use serde::Serialize;

use super::args::Patterns;
use super::console::Console;
use super::outcome::Outcome;
use super::output::Out;
use crate::archive::check::diff::{DiffOptions, What, diff};
use crate::archive::path::escape;
use crate::cli::output::hex;
use crate::error::{Error, Result};
use crate::setup::models;

/// Exit code where there are differences, as diff(1) has it.
const DIFFERENT: u8 = 1;

/// Compare an archive with a folder
///
/// Contents are compared by their hashes, and decoded only where these are short: those of files under 4 KiB.
/// Ends with code 1 if anything differs.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[arg(value_name = "ARCHIVE")]
    archive: PathBuf,
    /// The folder that was packed or unpacked
    #[arg(value_name = "DIR")]
    folder: PathBuf,
    /// Do not compare owners
    #[arg(long)]
    no_owner: bool,
    /// Do not compare times
    #[arg(long)]
    no_times: bool,
    /// Do not compare extended attributes
    #[arg(long)]
    no_xattrs: bool,
    /// Print a JSON array with one object per difference
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    patterns: Patterns,
}

#[derive(Serialize)]
struct Row {
    path: String,
    /// The path's bytes in hexadecimal, where it is not UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    path_hex: Option<String>,
    differs: &'static str,
}

pub(crate) fn run(args: &Args, console: &Console) -> Result<Outcome> {
    console.about(&args.archive);
    let archive = models::open(&args.archive)?;
    if !args.folder.is_dir() {
        let e = std::fs::metadata(&args.folder).err();
        return Err(e.map_or_else(
            || Error::Usage(format!("{} is not a folder", args.folder.display())),
            |e| Error::io(&args.folder, e),
        ));
    }
    let options = DiffOptions {
        selection: args.patterns.selection()?,
        owners: !args.no_owner,
        times: !args.no_times,
        xattrs: !args.no_xattrs,
    };
    let mut out = Out::new();
    let mut first = true;
    let count = diff(&archive, &args.folder, &options, console, &mut |path, what| {
        if args.json {
            out.bytes(if first { b"[\n" } else { b",\n" })?;
            let path_hex = std::str::from_utf8(path).is_err().then(|| hex(path));
            out.json_part(&Row {
                path: String::from_utf8_lossy(path).into_owned(),
                path_hex,
                differs: word(what),
            })?;
        } else {
            let path = if path.is_empty() { b"." } else { path };
            out.line(format_args!("{}: {}", escape(path), sentence(what)))?;
        }
        first = false;
        Ok(())
    })?;
    if args.json {
        out.bytes(if first { b"[]\n" } else { b"\n]\n" })?;
    }
    out.finish()?;
    Ok(if count > 0 { Outcome::Code(DIFFERENT) } else { Outcome::Done })
}

fn word(what: What) -> &'static str {
    match what {
        What::OnlyInArchive => "only in archive",
        What::OnlyInTree => "only in folder",
        What::Kind => "kind",
        What::Size => "size",
        What::Content => "content",
        What::Target => "target",
        What::Device => "device",
        What::Mode => "mode",
        What::Owner => "owner",
        What::Time => "time",
        What::Xattrs => "xattrs",
    }
}

fn sentence(what: What) -> &'static str {
    match what {
        What::OnlyInArchive => "only in the archive",
        What::OnlyInTree => "only in the folder",
        What::Kind => "another kind of object",
        What::Size => "another size",
        What::Content => "other content",
        What::Target => "another target",
        What::Device => "another device",
        What::Mode => "another mode",
        What::Owner => "another owner",
        What::Time => "another time",
        What::Xattrs => "other extended attributes",
    }
}
