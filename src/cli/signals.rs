//! SIGINT, SIGTERM and SIGHUP set a flag that long work asks for; a second one ends the process.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGXFSZ};
use signal_hook::flag;

use crate::error::{Error, Result};

/// Exit code of an interrupted command.
const INTERRUPTED: i32 = 130;

/// From now on, the signals set `interrupt`.
pub(crate) fn install(interrupt: &Arc<AtomicBool>) -> Result<()> {
    let failed = |e| Error::io("signal handlers", e);
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        // In this order: the first signal finds the flag unset and sets it, a second finds it set.
        flag::register_conditional_shutdown(signal, INTERRUPTED, Arc::clone(interrupt)).map_err(failed)?;
        flag::register(signal, Arc::clone(interrupt)).map_err(failed)?;
    }
    // A limit on file sizes then shows as an error of write instead of killing the process.
    flag::register(SIGXFSZ, Arc::new(AtomicBool::new(false))).map_err(failed)?;
    Ok(())
}
