//! `s3a completions`: a script that lets a shell complete commands and flags.

use clap_complete::Shell;

use super::outcome::Outcome;
use super::output::Out;
use crate::error::Result;

/// Print a script for completing commands and flags in a shell
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[arg(value_enum)]
    shell: Shell,
}

pub(crate) fn run(args: &Args, mut cli: clap::Command) -> Result<Outcome> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut cli, "s3a", &mut script);
    let mut out = Out::new();
    out.bytes(&script)?;
    out.finish()?;
    Ok(Outcome::Done)
}
