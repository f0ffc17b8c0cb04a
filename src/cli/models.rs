//! Which models a command works with: the seam between flags and the model registry.

use serde::Serialize;

use crate::cli::output::hex;
use crate::error::Result;
use crate::model::config::Config;
use crate::model::delta::{Change, parts};
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
    /// The fingerprint of the base, if the file is a difference to one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base: Option<String>,
}

/// How much of one matrix a difference changes.
#[derive(Debug, Serialize)]
pub(crate) struct Changed {
    pub name: String,
    pub rows: usize,
    pub elements: usize,
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
            base: found.base.as_ref().map(|base| hex(base)),
        })
    }
}

/// All models at hand.
pub(crate) fn list() -> Result<Vec<Shown>> {
    registry::known(None).iter().map(Shown::of).collect()
}

/// The model that the user names, and what is in it.
pub(crate) fn by_name(name: &str) -> Result<(Shown, Config, Vec<Changed>)> {
    let found = registry::by_name(name)?;
    let config = found.model.config().clone();
    let sizes = parts(&config);
    let changed = |change: &Change| {
        let cols = sizes.iter().find(|part| part.name == change.name).map_or(1, |part| part.cols.max(1));
        let rows = change.differences.chunks(cols).filter(|row| row.iter().any(|&d| d != 0)).count();
        let elements = change.differences.iter().filter(|&&d| d != 0).count();
        Changed { name: change.name.clone(), rows, elements }
    };
    let delta = registry::delta_of(&found)?;
    let changes = delta.iter().flat_map(|delta| &delta.changes).map(changed).collect();
    Ok((Shown::of(&found)?, config, changes))
}
