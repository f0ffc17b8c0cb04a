//! `s3a mount`: an archive as a file system.

use std::path::PathBuf;

use super::args::Global;
use super::console::Console;
use super::outcome::Outcome;
use crate::error::Result;

/// Mount an archive, in the background unless told otherwise
#[derive(Debug, clap::Args)]
#[cfg_attr(not(feature = "mount"), allow(dead_code))]
pub(crate) struct Args {
    /// The archive, or its URL (https, http, s3, gs, az)
    #[arg(value_name = "ARCHIVE")]
    archive: PathBuf,
    /// The folder to mount it on
    #[arg(value_name = "FOLDER")]
    target: PathBuf,
    /// Stay in the foreground until unmounted
    #[arg(short, long)]
    foreground: bool,
    /// Mount options, separated by commas: allow_other, uid=N, gid=N, cachesize=512m, workers=N, readahead=1m, ...
    #[arg(
        short,
        long = "options",
        value_name = "OPTIONS",
        env = "S3A_MOUNT_OPTIONS",
        hide_env_values = true
    )]
    options: Vec<String>,
}

#[cfg(feature = "mount")]
pub(crate) fn run(args: &Args, global: &Global, console: &Console) -> Result<Outcome> {
    use crate::archive::remote::location;
    use crate::codec::choice;
    use crate::mount::daemon::{Launch, launch};
    use crate::mount::mount;
    use crate::mount::options::MountOptions;

    console.about(&args.archive);
    let choice = global.check_device()?;
    let mut options = MountOptions { workers: global.threads, ..MountOptions::default() };
    args.options.iter().try_for_each(|list| options.add(list))?;
    let ready = match launch(args.foreground)? {
        Launch::Here(ready) => ready,
        Launch::Started { exit_code } => return Ok(Outcome::Code(exit_code)),
    };
    global.start_threads()?;
    // After the daemon has left its parent: what a driver holds does not go with it.
    choice::choose(choice)?;
    let archive = crate::setup::models::open(&args.archive)?;
    if let Some(offload) = choice::chosen() {
        // A cold read is for whoever answers it first.
        offload.by_costs();
        archive.prepare_apart(options.worker_count());
    }
    if options.fsname.is_none() {
        let name = match location::is_url(&args.archive) {
            true => Some(location::shown(&args.archive)),
            false => std::fs::canonicalize(&args.archive).ok(),
        };
        options.fsname = name.and_then(|path| path.into_os_string().into_string().ok());
    }
    mount(archive, &args.target, &options, ready)?;
    Ok(Outcome::Done)
}

#[cfg(not(feature = "mount"))]
pub(crate) fn run(_: &Args, _: &Global, _: &Console) -> Result<Outcome> {
    Err(super::outcome::built_without("mount"))
}
