//! `s3a serve`: an archive as an HTTP server.

use std::path::PathBuf;

use super::console::Console;
use super::outcome::Outcome;
use crate::error::Result;

/// Serve an archive over HTTP, read only, to this machine unless told otherwise
///
/// Runs until it is interrupted.
#[derive(Debug, clap::Args)]
#[cfg_attr(not(feature = "serve"), allow(dead_code))]
pub(crate) struct Args {
    /// The archive, or its URL (https, http, s3, gs, az)
    #[arg(value_name = "ARCHIVE")]
    archive: PathBuf,
    /// Address and port to listen on; port 0 takes a free one. Whoever reaches the address can read the archive
    #[arg(
        short = 'a',
        long,
        value_name = "ADDRESS:PORT",
        default_value = "127.0.0.1:8080",
        env = "S3A_LISTEN",
        hide_env_values = true
    )]
    listen: String,
}

#[cfg(feature = "serve")]
pub(crate) fn run(args: &Args, console: &Console) -> Result<Outcome> {
    use std::net::ToSocketAddrs;
    use std::sync::Arc;
    use std::sync::atomic::Ordering;
    use std::time::Duration;

    use super::output::Out;
    use crate::archive::observer::{Observer, Warning};
    use crate::archive::remote::location;
    use crate::error::Error;
    use crate::serve::start;
    use crate::setup::models;

    console.about(&args.archive);
    let address = args.listen.to_socket_addrs().ok().and_then(|mut found| found.next()).ok_or_else(|| {
        Error::Usage(format!("--listen {} is no address with a port, such as 127.0.0.1:8080", args.listen))
    })?;
    let archive = models::open(&args.archive)?;
    let told = console.clone();
    let serving = start(archive, address, move |path, error| {
        told.warning(Warning::new(path, error.to_string()));
    })?;
    let mut out = Out::new();
    out.line(format_args!("{} at http://{}/", location::shown(&args.archive).display(), serving.address()))?;
    out.finish()?;
    let interrupt: Arc<_> = console.interrupt();
    while !interrupt.load(Ordering::Relaxed) && !serving.has_ended() {
        std::thread::sleep(Duration::from_millis(100));
    }
    drop(serving);
    Ok(Outcome::Done)
}

#[cfg(not(feature = "serve"))]
pub(crate) fn run(_: &Args, _: &Console) -> Result<Outcome> {
    Err(super::outcome::built_without("serve"))
}
