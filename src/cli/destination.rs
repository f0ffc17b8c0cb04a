//! Where a command writes an archive: the checks before it, and the name in its errors.

use std::io::IsTerminal;
use std::path::Path;

use crate::error::{Error, Result};

/// Bytes that are collected before they are written.
pub(crate) const BUFFER: usize = 1 << 20;

/// Names the archive in an error of the writer, which does not know what its file is called.
pub(crate) fn name_output(error: Error, output: &Path) -> Error {
    match error {
        Error::Output(source) => Error::io(output, source),
        other => other,
    }
}

/// Archives are for files and pipes.
pub(crate) fn refuse_terminal() -> Result<()> {
    if !std::io::stdout().is_terminal() {
        return Ok(());
    }
    let what = "an archive is not written to a terminal; name a file with -o or use a pipe";
    Err(Error::Usage(what.into()))
}
