//! Which models a command works with: the seam between flags and the model registry.

use std::path::Path;

use crate::archive::Archive;
use crate::codec::Models;
use crate::error::{Error, Result};
use crate::wire::models::ModelRef;

use super::args::open_options;

/// The name that stands for packing without a model.
pub(crate) const NO_MODEL: &str = "none";

/// The models for a new archive: the one named, or else the default.
pub(crate) fn for_packing(name: Option<&str>) -> Result<Models> {
    match name {
        None | Some(NO_MODEL) => Ok(Models::none()),
        Some(name) => Err(Error::Usage(format!("model {name:?} is not known; `s3a model ls` lists those at hand"))),
    }
}

/// The models that an archive names, as far as they are found. `embedded` gives the file of one
/// that the archive carries; others are looked for beside the archive too.
pub(crate) fn for_reading(
    refs: &[ModelRef],
    _embedded: impl Fn(u8) -> Result<Option<Vec<u8>>>,
    _archive: Option<&Path>,
) -> Result<Models> {
    Ok(Models::new(refs.iter().map(|_| None).collect()))
}

/// Opens an archive with its models.
pub(crate) fn open(path: &Path) -> Result<Archive> {
    let mut archive = Archive::open(path, &open_options())?;
    let models = for_reading(archive.models(), |index| archive.embedded_model(index), Some(path))?;
    archive.set_models(models);
    Ok(archive)
}

/// A model at hand.
#[derive(Debug, serde::Serialize)]
pub(crate) struct Known {
    pub name: String,
    pub fingerprint: String,
    pub origin: String,
}

/// All models at hand.
pub(crate) fn list() -> Result<Vec<Known>> {
    Ok(Vec::new())
}
