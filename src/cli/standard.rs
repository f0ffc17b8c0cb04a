//! The standard streams: whether they were there when the process began.
//!
//! The runtime opens `/dev/null` in the place of a stream that is closed, where what is written is lost without a word. So
//! the program looks before that, and tells it here.

use std::io::{self, StdinLock, StdoutLock, Write};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::{Error, Result};

/// What errors on standard output name as their path.
pub(crate) const STDOUT: &str = "standard output";
const STDIN: &str = "standard input";

static NO_STDIN: AtomicBool = AtomicBool::new(false);
static NO_STDOUT: AtomicBool = AtomicBool::new(false);

/// Notes which streams were closed when the process began.
pub(crate) fn note_closed(stdin: bool, stdout: bool) {
    NO_STDIN.store(stdin, Ordering::Relaxed);
    NO_STDOUT.store(stdout, Ordering::Relaxed);
}

/// Standard input, if there is one.
pub(crate) fn stdin() -> Result<StdinLock<'static>> {
    if NO_STDIN.load(Ordering::Relaxed) {
        return Err(Error::io(STDIN, closed()));
    }
    Ok(io::stdin().lock())
}

/// Standard output. Writing to it fails if it was closed.
pub(crate) struct Stdout(StdoutLock<'static>);

pub(crate) fn stdout() -> Stdout {
    Stdout(io::stdout().lock())
}

/// Fails if standard output was closed, before work is done for it.
pub(crate) fn check_stdout() -> Result<()> {
    if NO_STDOUT.load(Ordering::Relaxed) { Err(Error::io(STDOUT, closed())) } else { Ok(()) }
}

impl Write for Stdout {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        if NO_STDOUT.load(Ordering::Relaxed) { Err(closed()) } else { self.0.write(buf) }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

fn closed() -> io::Error {
    rustix::io::Errno::BADF.into()
}
