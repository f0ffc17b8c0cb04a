//! `s3a man`: manual pages, one for each command.

use std::path::PathBuf;

use super::outcome::Outcome;
use super::output::Out;
use crate::error::{Error, Result};

/// Print a manual page, or write all of them to a folder
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The command to print the page of [default: s3a itself]
    #[arg(value_name = "COMMAND", conflicts_with = "directory")]
    command: Option<String>,
    /// Write the pages of all commands to this folder
    #[arg(short = 'C', long, value_name = "DIR")]
    directory: Option<PathBuf>,
}

pub(crate) fn run(args: &Args, mut cli: clap::Command) -> Result<Outcome> {
    cli.build();
    if let Some(folder) = &args.directory {
        clap_mangen::generate_to(cli, folder).map_err(|e| Error::io(folder, e))?;
        return Ok(Outcome::Done);
    }
    let page = match &args.command {
        None => cli,
        Some(name) => {
            let found = cli.find_subcommand(name).cloned();
            found.ok_or_else(|| Error::Usage(format!("{name} is no command of s3a")))?
        }
    };
    let mut text = Vec::new();
    clap_mangen::Man::new(page).render(&mut text).map_err(|e| Error::io("manual page", e))?;
    let mut out = Out::new();
    out.bytes(&text)?;
    out.finish()?;
    Ok(Outcome::Done)
}
