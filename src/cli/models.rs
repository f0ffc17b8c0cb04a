//! Which models a command works with: the seam between flags and the model registry.

use serde::Serialize;

use crate::cli::output::hex;
use crate::error::Result;
use crate::model::config::Config;
use crate::model::registry;
use crate::model::registry::Found;

/// A model at hand, as it is shown.
#[derive(Debug, Serialize)]
pub(crate) struct Shown {
    pub name: String,
    pub fingerprint: String,
    /// Bytes of its file.
    pub bytes: u64,
    pub origin: String,
}

impl Shown {
    fn of(found: &Found) -> Result<Self> {
        Ok(Self {
            name: found.model.config().name.clone(),
            fingerprint: hex(&found.model.fingerprint()),
            bytes: registry::file_bytes(found)?.len() as u64,
            origin: found
                .path
                .as_ref()
                .map_or_else(|| "in this program".into(), |path| path.display().to_string()),
        })
    }
}

/// All models at hand.
pub(crate) fn list() -> Result<Vec<Shown>> {
    registry::known(None).iter().map(Shown::of).collect()
}

/// The model that the user names, and what is in it.
pub(crate) fn by_name(name: &str) -> Result<(Shown, Config)> {
    let found = registry::by_name(name)?;
    Ok((Shown::of(&found)?, found.model.config().clone()))
}
