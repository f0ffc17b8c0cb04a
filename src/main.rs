//! The command. Everything is in the library; this turns its result into an exit code.

use std::process::ExitCode;

// A training step's tensors come and go with every step; the system's allocator would fetch and
// return their pages each time.
#[cfg(feature = "train")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    ExitCode::from(s3a::cli::run())
}
