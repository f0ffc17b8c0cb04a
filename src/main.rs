//! The command. Everything is in the library; this turns its result into an exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(s3a::cli::run())
}
