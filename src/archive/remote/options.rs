//! How remote archives are read.

use std::time::Duration;

use crate::archive::byte_size;
use crate::error::{Error, Result};

/// The environment variables that `RemoteOptions::from_env` reads.
const TIMEOUT: &str = "S3A_REMOTE_TIMEOUT";
const CACHE: &str = "S3A_REMOTE_CACHE";

/// Bounds on how remote archives are read.
#[derive(Clone, Debug)]
pub struct RemoteOptions {
    /// How long a read may go without a byte from the server, retries included.
    pub timeout: Duration,
    /// Most bytes of the archive that are cached in memory.
    pub cache_bytes: u64,
}

impl Default for RemoteOptions {
    fn default() -> Self {
        Self { timeout: Duration::from_secs(60), cache_bytes: 64 << 20 }
    }
}

impl RemoteOptions {
    /// The defaults, or what `S3A_REMOTE_TIMEOUT` (seconds) and `S3A_REMOTE_CACHE` (bytes, with `k`, `m` or `g`) say.
    ///
    /// # Errors
    /// `Usage` if a variable holds something else.
    pub fn from_env() -> Result<Self> {
        let mut options = Self::default();
        if let Some(text) = variable(TIMEOUT) {
            let seconds = text.parse::<f64>().ok().filter(|seconds| (0.1..=86_400.0).contains(seconds));
            options.timeout = seconds.map(Duration::from_secs_f64).ok_or_else(|| {
                Error::Usage(format!("{TIMEOUT} is {text:?}; it takes from 0.1 to 86400 seconds"))
            })?;
        }
        if let Some(text) = variable(CACHE) {
            options.cache_bytes = byte_size::parse(&text)
                .ok_or_else(|| Error::Usage(format!("{CACHE} is {text:?}; it takes a size such as 64m")))?;
        }
        Ok(options)
    }
}

/// What an environment variable holds, if it holds anything.
pub(super) fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}
