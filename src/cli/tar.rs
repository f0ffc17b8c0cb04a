//! tar streams as input of `pack` and output of `unpack`.

use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Seek, Write};
use std::path::Path;

use super::console::Console;
use super::destination::{BUFFER, name_output, refuse_terminal, through_links};
use super::outcome::Outcome;
use super::output::is_stdout;
use super::standard::{stdin, stdout};
use crate::archive::extract::plan::ExtractOptions;
use crate::archive::extract::to_tar::{STREAM, extract_tar};
use crate::archive::os::partial_file::Partial;
use crate::archive::pack::from_tar::{TarOptions, TarPlan, pack_tar};
use crate::archive::read::archive::Archive;
use crate::archive::write::options::{Stats, WriterOptions};
use crate::error::{Error, Result};

/// Names in the partial file's name what it is; nothing goes on with it.
const TAG: &str = "tar";

/// Packs a tar stream into `output`, which `force` replaces; `plain` writes as it comes, to a pipe.
pub(crate) fn pack(
    tar: &Path,
    options: &TarOptions,
    output: &Path,
    (force, plain): (bool, bool),
    writer: WriterOptions,
) -> Result<Stats> {
    let from_stdin = tar.as_os_str() == "-";
    let mut plan = None;
    let mut file = None;
    if !from_stdin {
        let mut opened = File::open(tar).map_err(|e| Error::io(tar, e))?;
        if opened.metadata().is_ok_and(|metadata| metadata.is_file()) {
            let observer = &*writer.observer;
            plan = Some(TarPlan::look(BufReader::with_capacity(BUFFER, &opened), tar, options, observer)?);
            opened.rewind().map_err(|e| Error::io(tar, e))?;
        }
        file = Some(opened);
    }
    let name = if from_stdin { Path::new("standard input") } else { tar };
    let write = |out: &mut dyn Write| -> Result<Stats> {
        let plan = plan.as_ref();
        let input: Box<dyn Read> = match &file {
            Some(file) => Box::new(BufReader::with_capacity(BUFFER, file)),
            None => Box::new(stdin()?),
        };
        pack_tar(input, name, plan, options, out, writer).map(|(_, stats)| stats)
    };
    if plain {
        let out: Box<dyn Write> = if is_stdout(output) {
            Box::new(stdout())
        } else {
            Box::new(File::options().write(true).open(output).map_err(|e| Error::io(output, e))?)
        };
        let mut out = BufWriter::with_capacity(BUFFER, out);
        let stats = write(&mut out)?;
        out.flush().map_err(|e| Error::io("archive", e))?;
        return Ok(stats);
    }
    let (partial, new) = Partial::create(output, force, TAG)?;
    let mut out = BufWriter::with_capacity(BUFFER, new);
    let stats = write(&mut out).map_err(|e| name_output(e, output))?;
    partial.commit(&out.into_inner().map_err(|e| Error::io(output, e.into_error()))?)?;
    Ok(stats)
}

/// Writes an archive as a tar stream.
pub(crate) fn unpack(
    archive: &Archive,
    tar: &Path,
    force: bool,
    options: &ExtractOptions,
    console: &Console,
) -> Result<Outcome> {
    let named = |e| match e {
        Error::Io { path, source } if path.as_os_str() == STREAM => {
            Error::io(if is_stdout(tar) { Path::new("standard output") } else { tar }, source)
        }
        other => other,
    };
    let summary = if is_stdout(tar) {
        refuse_terminal()?;
        let out = BufWriter::with_capacity(BUFFER, stdout());
        let (mut out, summary) = extract_tar(archive, out, options, console).map_err(named)?;
        out.flush().map_err(|e| Error::io("standard output", e))?;
        summary
    } else {
        let through = if force { through_links(tar) } else { tar.to_owned() };
        let (partial, new) = Partial::create(&through, force, TAG)?;
        let (out, summary) =
            extract_tar(archive, BufWriter::with_capacity(BUFFER, new), options, console).map_err(named)?;
        partial.commit(&out.into_inner().map_err(|e| Error::io(tar, e.into_error()))?)?;
        summary
    };
    console.finish();
    console.say(&format!("{}: {} entries, {} files", tar.display(), summary.entries, summary.files));
    Ok(Outcome::Done)
}
