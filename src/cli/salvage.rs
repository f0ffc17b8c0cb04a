//! `s3a salvage`: everything that is intact in a damaged archive.

use std::fs::File;
use std::path::PathBuf;

use super::args::{Patterns, open_options};
use super::console::Console;
use super::unpack::How;
use super::{Outcome, models};
use crate::archive::events::{Observer, Warning};
use crate::archive::extract::extract;
use crate::archive::salvage::salvage;
use crate::error::{Error, Result};

/// Unpack what is intact in a damaged archive, without its index
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[arg(value_name = "ARCHIVE")]
    archive: PathBuf,
    #[command(flatten)]
    how: How,
    #[command(flatten)]
    patterns: Patterns,
}

pub(crate) fn run(args: &Args, console: &Console) -> Result<Outcome> {
    console.about(&args.archive);
    let file = File::open(&args.archive).map_err(|e| Error::io(&args.archive, e))?;
    let (mut archive, damages) = salvage(file, &args.archive, &open_options())?;
    for damage in &damages {
        let name = args.archive.as_os_str().as_encoded_bytes();
        console.warning(Warning::new(
            name,
            format_args!(
                "bytes {} to {}: {}",
                damage.offset,
                damage.offset.saturating_add(damage.len),
                damage.error
            ),
        ));
    }
    let found =
        models::for_reading(archive.models(), |index| archive.embedded_model(index), Some(&args.archive))?;
    archive.set_models(found);
    let options = args.how.options(&args.patterns, &[], Some(archive.archive_len()))?;
    let target = args.how.target(&archive, &args.archive, ".salvaged")?;
    match extract(&archive, &target, &options, console) {
        Ok(summary) => console.say(&format!(
            "{}: {} entries, {} files",
            target.display(),
            summary.entries,
            summary.files
        )),
        // Warnings told which files these are; what is left of the archive is unpacked.
        Err(Error::BadChunk { .. } | Error::Corrupt { .. } | Error::Truncated { .. }) => {
            console.say(&format!(
                "{}: the files named above are lost, the others are unpacked",
                target.display()
            ));
        }
        Err(e) => return Err(e),
    }
    Ok(Outcome::Done)
}
