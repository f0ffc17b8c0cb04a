//! The command. Everything is in the library; this turns its result into an exit code.

use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::io::{Errno, fcntl_getfd};

static NO_STDIN: AtomicBool = AtomicBool::new(false);
static NO_STDOUT: AtomicBool = AtomicBool::new(false);

/// Looks which standard streams are closed. Before `main`, the runtime opens `/dev/null` in their place, and what is
/// written there is lost without a word.
extern "C" fn look() {
    NO_STDIN.store(fcntl_getfd(rustix::stdio::stdin()) == Err(Errno::BADF), Ordering::Relaxed);
    NO_STDOUT.store(fcntl_getfd(rustix::stdio::stdout()) == Err(Errno::BADF), Ordering::Relaxed);
}

// SAFETY: the loader calls what is listed there once, in the only thread, before the runtime starts; `look` needs nothing
// of that.
#[used]
#[cfg_attr(target_vendor = "apple", unsafe(link_section = "__DATA,__mod_init_func"))]
#[cfg_attr(not(target_vendor = "apple"), unsafe(link_section = ".init_array"))]
static LOOK: extern "C" fn() = look;

fn main() -> ExitCode {
    ExitCode::from(s3a::cli::run(NO_STDIN.load(Ordering::Relaxed), NO_STDOUT.load(Ordering::Relaxed)))
}
