//! Where a command writes an archive: the checks before it, and the name in its errors.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use super::standard::check_stdout;
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

/// Where an archive is written that is to have this name: through a symlink, what it leads to is replaced, or made, and
/// the link stays. Pipes and devices are written to by the name that was given.
pub(crate) fn through_links(output: &Path) -> PathBuf {
    let mut path = output.to_owned();
    if std::fs::metadata(output).is_ok_and(|found| !found.is_file()) {
        return path;
    }
    // As many as Linux follows; what is longer is an error when it is opened.
    for _ in 0..40 {
        let Ok(target) = std::fs::read_link(&path) else { break };
        path = path.parent().unwrap_or(Path::new("")).join(target);
    }
    path
}

/// Archives are for files and pipes.
pub(crate) fn refuse_terminal() -> Result<()> {
    check_stdout()?;
    if !std::io::stdout().is_terminal() {
        return Ok(());
    }
    let what = "an archive is not written to a terminal; name a file with -o or use a pipe";
    Err(Error::Usage(what.into()))
}
