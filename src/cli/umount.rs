//! `s3a umount`: takes a mount away, also one whose daemon died.

use std::path::PathBuf;

use super::outcome::Outcome;
use crate::error::Result;

/// Unmount an archive, also one whose daemon has died
#[derive(Debug, clap::Args)]
#[cfg_attr(not(feature = "mount"), allow(dead_code))]
pub(crate) struct Args {
    /// The folder that it is mounted on
    #[arg(value_name = "FOLDER")]
    target: PathBuf,
    /// Take the name away now; what still uses the mount keeps it until it is done
    #[arg(short, long)]
    lazy: bool,
}

#[cfg(feature = "mount")]
pub(crate) fn run(args: &Args) -> Result<Outcome> {
    crate::mount::umount(&args.target, args.lazy)?;
    Ok(Outcome::Done)
}

#[cfg(not(feature = "mount"))]
pub(crate) fn run(_: &Args) -> Result<Outcome> {
    Err(super::outcome::built_without("mount"))
}
