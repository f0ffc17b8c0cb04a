//! `s3a salvage`: everything that is intact in a damaged archive.

use std::fs::File;
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::args::{Global, Patterns};
use super::console::Console;
use super::destination::{BUFFER, name_output, through_links};
use super::outcome::Outcome;
use super::output::human_bytes;
use super::unpack::How;
use crate::archive::extract::from_file::extract;
use crate::archive::observer::{Observer, Warning};
use crate::archive::os::partial_file::Partial;
use crate::archive::read::archive::Archive;
use crate::archive::salvage::recover::salvage;
use crate::archive::salvage::repack;
use crate::archive::salvage::repack::repack;
use crate::archive::write::options::WriterOptions;
use crate::codec::model::Models;
use crate::error::{Error, Result};
use crate::model::delta::base_fingerprint;
use crate::setup::models;
use crate::setup::models::open_options;

/// Names in the partial file's name what it is; nothing goes on with it.
const TAG: &str = "salvage";

/// Recover what is intact in a damaged archive, without its index
///
/// Files of which a part is lost are named, and left out.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[arg(value_name = "ARCHIVE")]
    archive: PathBuf,
    /// Write a new archive, with the models of the old one, instead of unpacking
    #[arg(short, long, value_name = "FILE", conflicts_with_all = [
        "directory", "skip_existing", "strip_components", "same_owner", "no_same_owner", "numeric_owner",
        "preserve_permissions", "no_xattrs", "devices",
    ])]
    output: Option<PathBuf>,
    #[command(flatten)]
    how: How,
    #[command(flatten)]
    patterns: Patterns,
}

pub(crate) fn run(args: &Args, global: &Global, console: &Console) -> Result<Outcome> {
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
    if let Some(output) = &args.output {
        let new = writer_options(&archive, &found, global, console)?;
        archive.set_models(found);
        return to_archive(args, &archive, output, new, console);
    }
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
        // Warnings told which files these are, as far as their entries are left.
        Err(e) if e.is_damage() => {
            console.say(&format!(
                "{}: what is whole is unpacked; files with damaged chunks, and groups named above, are lost",
                target.display()
            ));
        }
        Err(e) => return Err(e),
    }
    Ok(Outcome::Done)
}

/// A new archive is coded as the old one was: with its chunk size and the last of its models that is at hand.
fn writer_options(
    archive: &Archive,
    found: &Models,
    global: &Global,
    console: &Console,
) -> Result<WriterOptions> {
    let last = found.loaded().last();
    let chosen = last.map(|(number, model)| {
        let file = archive.embedded_model(number).ok().flatten();
        // A difference needs its base, which the archive may carry too.
        let base = file.as_deref().and_then(base_fingerprint).and_then(|base| {
            let named = (0..=u8::MAX).zip(archive.models()).find(|(_, named)| named.fingerprint == base);
            named.and_then(|(number, _)| archive.embedded_model(number).ok().flatten())
        });
        models::carrying_files(Arc::clone(model), file, base)
    });
    let (models, embed, bases) =
        chosen.map_or_else(Default::default, |chosen| (chosen.models, chosen.embed, chosen.bases));
    Ok(WriterOptions {
        chunk_size: archive.largest_chunk().unwrap_or(WriterOptions::default().chunk_size),
        threads: global.threads,
        models,
        embed,
        bases,
        observer: Arc::new(console.clone()),
        ..WriterOptions::default()
    })
}

fn to_archive(
    args: &Args,
    archive: &Archive,
    output: &Path,
    writer: WriterOptions,
    console: &Console,
) -> Result<Outcome> {
    let limits = args.how.options(&args.patterns, &[], Some(archive.archive_len()))?;
    let options = repack::RepackOptions { selection: limits.selection, max_bytes: limits.max_bytes };
    let through = if args.how.force { through_links(output) } else { output.to_owned() };
    let (partial, file) = Partial::create(&through, args.how.force, TAG)?;
    let named = |e| name_output(e, output);
    let out = BufWriter::with_capacity(BUFFER, file);
    let (out, summary) = repack(archive, out, &options, writer).map_err(named)?;
    let file = out.into_inner().map_err(|e| Error::io(output, e.into_error()))?;
    partial.commit(&file)?;
    console.finish();
    console.say(&format!(
        "{}: {} entries, {} files, {}{}",
        output.display(),
        summary.entries,
        summary.files,
        human_bytes(summary.archive_len),
        if summary.lost > 0 { format!("; {} entries are lost", summary.lost) } else { String::new() },
    ));
    Ok(Outcome::Done)
}
