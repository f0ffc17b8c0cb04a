//! `s3a ls`: what an archive holds.

use std::path::PathBuf;

use serde::Serialize;

use super::args::Patterns;
use super::console::Console;
use super::entries::{clean, find};
use super::outcome::Outcome;
use super::output::{Out, date};
use super::tree::draw;
use crate::archive::path::{cmp_paths, escape};
use crate::archive::read::archive::Archive;
use crate::cli::output::hex;
use crate::error::Result;
use crate::setup::models::open_options;
use crate::wire::entry::{Entry, Kind, hash_len};

/// List what an archive holds
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The archive, or its URL (https, http, s3, gs, az)
    #[arg(value_name = "ARCHIVE")]
    archive: PathBuf,
    /// List only these paths and what is below them
    #[arg(value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// Show mode, owner, size and time
    #[arg(short, long)]
    long: bool,
    /// Draw folders as a tree
    #[arg(long, conflicts_with_all = ["long", "json", "null"])]
    tree: bool,
    /// List chunks, each with its codec, sizes, references and learned sequence
    #[arg(long, conflicts_with_all = ["long", "tree", "null", "paths"])]
    chunks: bool,
    /// Print a JSON array with one object per entry or chunk
    #[arg(long, conflicts_with_all = ["long", "null"])]
    json: bool,
    /// End each path with a NUL byte and print it as it is, without escapes
    #[arg(short = '0', long)]
    null: bool,
    #[command(flatten)]
    patterns: Patterns,
}

#[derive(Serialize)]
struct Row<'a> {
    path: String,
    /// The path's bytes in hexadecimal, where it is not UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    path_hex: Option<String>,
    kind: &'static str,
    mode: u16,
    uid: u32,
    gid: u32,
    mtime: i64,
    mtime_nanos: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    size: Option<u64>,
    /// As many bytes of the content's BLAKE3 as the archive has: 16, or 6 of a file under 4 KiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    blake3_prefix: Option<String>,
    /// The same of a file with holes: of what lies between them.
    #[serde(skip_serializing_if = "Option::is_none")]
    data_blake3_prefix: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    xattrs: Vec<&'a str>,
}

pub(crate) fn run(args: &Args, console: &Console) -> Result<Outcome> {
    console.about(&args.archive);
    if args.chunks {
        let mut out = Out::new();
        super::chunks::list(&crate::setup::models::open(&args.archive)?, args.json, &mut out)?;
        out.finish()?;
        return Ok(Outcome::Done);
    }
    let archive = Archive::open(&args.archive, &open_options())?;
    for path in &args.paths {
        find(&archive, path)?;
    }
    let selection = args.patterns.selection()?.beneath(args.paths.iter().map(|path| clean(path)));
    let mut out = Out::new();
    if args.tree {
        let taken = |entry: &&Entry| selection.takes(&entry.path, entry.kind == Kind::Directory);
        let mut entries: Vec<&Entry> = archive.entries().iter().filter(taken).collect();
        entries.sort_by(|a, b| cmp_paths(&a.path, &b.path));
        let note = |entry: &Entry| arrow(&archive, entry);
        let list: Vec<_> = entries.iter().map(|entry| (&entry.path[..], note(entry))).collect();
        draw(&list).iter().try_for_each(|line| out.line(line))?;
        out.finish()?;
        return Ok(Outcome::Done);
    }
    let mut first = true;
    for id in archive.by_path() {
        let Some(entry) = archive.entry(*id) else { continue };
        if !selection.takes(&entry.path, entry.kind == Kind::Directory) {
            continue;
        }
        if args.json {
            out.bytes(if first { b"[\n" } else { b",\n" })?;
            out.json_part(&row(&archive, entry))?;
        } else if args.null {
            out.bytes(shown(entry))?;
            out.bytes(b"\0")?;
        } else if args.long {
            out.line(long(&archive, entry))?;
        } else {
            out.line(escape(shown(entry)))?;
        }
        first = false;
    }
    if args.json {
        out.bytes(if first { b"[]\n" } else { b"\n]\n" })?;
    }
    out.finish()?;
    Ok(Outcome::Done)
}

/// The root has an empty path, which no one would see.
fn shown(entry: &Entry) -> &[u8] {
    if entry.path.is_empty() { b"." } else { &entry.path }
}

/// What kind of object it is: a word, and the letter that `ls -l` has for it.
fn kind(entry: &Entry) -> (&'static str, char) {
    match entry.kind {
        Kind::Directory => ("directory", 'd'),
        Kind::File { .. } => ("file", '-'),
        Kind::Symlink { .. } => ("symlink", 'l'),
        Kind::Hardlink { .. } => ("hardlink", 'h'),
        Kind::Fifo => ("fifo", 'p'),
        Kind::Socket => ("socket", 's'),
        Kind::CharDevice { .. } => ("chardevice", 'c'),
        Kind::BlockDevice { .. } => ("blockdevice", 'b'),
    }
}

/// Where a link leads.
fn target<'a>(archive: &'a Archive, entry: &'a Entry) -> Option<&'a [u8]> {
    match &entry.kind {
        Kind::Symlink { target } => Some(target),
        Kind::Hardlink { target } => archive.entry(*target).map(|entry| entry.path.as_slice()),
        _ => None,
    }
}

fn arrow(archive: &Archive, entry: &Entry) -> String {
    target(archive, entry).map(|to| format!(" -> {}", escape(to))).unwrap_or_default()
}

fn long(archive: &Archive, entry: &Entry) -> String {
    let mut mode: Vec<char> = "rwxrwxrwx".chars().collect();
    for (at, shown) in mode.iter_mut().enumerate() {
        if entry.mode & (0o400 >> at) == 0 {
            *shown = '-';
        }
    }
    for (bit, at, set, unset) in [(0o4000, 2, 's', 'S'), (0o2000, 5, 's', 'S'), (0o1000, 8, 't', 'T')] {
        if entry.mode & bit != 0 {
            mode[at] = if mode[at] == 'x' { set } else { unset };
        }
    }
    let size = match entry.kind {
        Kind::File { size, .. } => size.to_string(),
        Kind::CharDevice { major, minor } | Kind::BlockDevice { major, minor } => format!("{major},{minor}"),
        _ => "-".into(),
    };
    let arrow = arrow(archive, entry);
    let mode: String = mode.into_iter().collect();
    let (uid, gid) = (entry.uid, entry.gid);
    format!(
        "{}{mode} {uid:>5} {gid:>5} {size:>12} {} {}{arrow}",
        kind(entry).1,
        date(entry.mtime),
        escape(shown(entry))
    )
}

fn row<'a>(archive: &Archive, entry: &'a Entry) -> Row<'a> {
    let (mut size, mut blake3_prefix, mut data_blake3_prefix) = (None, None, None);
    if let Kind::File { size: len, extents, hash } = &entry.kind {
        let data = extents.iter().fold(0u64, |sum, extent| sum.saturating_add(extent.len));
        let prefix = Some(hex(&hash[..hash_len(data)]));
        size = Some(*len);
        *(if data == *len { &mut blake3_prefix } else { &mut data_blake3_prefix }) = prefix;
    }
    Row {
        path: String::from_utf8_lossy(&entry.path).into_owned(),
        path_hex: std::str::from_utf8(&entry.path).is_err().then(|| hex(&entry.path)),
        kind: kind(entry).0,
        mode: entry.mode,
        uid: entry.uid,
        gid: entry.gid,
        mtime: entry.mtime.secs,
        mtime_nanos: entry.mtime.nanos,
        size,
        blake3_prefix,
        data_blake3_prefix,
        target: target(archive, entry).map(|to| String::from_utf8_lossy(to).into_owned()),
        xattrs: entry.xattrs.iter().filter_map(|(key, _)| std::str::from_utf8(key).ok()).collect(),
    }
}
