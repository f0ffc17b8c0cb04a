//! Which models a command works with: the seam between flags and the model registry.

use std::path::Path;
use std::sync::Arc;

use serde::Serialize;

use super::args::open_options;
use super::output::hex;
use crate::archive::Archive;
use crate::codec::neural::Neural;
use crate::codec::{ChunkModel, Models};
use crate::error::{Error, Result};
use crate::model::Model;
use crate::model::registry::{self, Found};
use crate::wire::models::ModelRef;

/// The name that stands for packing without a model.
pub(crate) const NO_MODEL: &str = "none";

/// The name of the model inside the binary.
const DEFAULT: &str = "default";

/// Models for a new archive, and the files of those that it is to carry.
pub(crate) struct Chosen {
    pub models: Models,
    pub embed: Vec<(u8, Arc<[u8]>)>,
}

/// The models for a new archive: the one named, or else the default.
pub(crate) fn for_packing(name: Option<&str>, embed: bool) -> Result<Chosen> {
    let name = name.unwrap_or(DEFAULT);
    if name == NO_MODEL {
        return Ok(Chosen { models: Models::none(), embed: Vec::new() });
    }
    let found = registry::by_name(name)?;
    let embed = if embed { vec![(0, registry::file_bytes(&found)?.into())] } else { Vec::new() };
    Ok(Chosen { models: Models::one(neural(found.model)), embed })
}

/// The model for more of an archive: the one named, or else the last of the archive's own.
pub(crate) fn for_appending(
    name: Option<&str>,
    embed: bool,
    archive: &Archive,
    path: &Path,
) -> Result<Chosen> {
    let (None, Some((number, wanted))) = (name, archive.models().iter().enumerate().next_back()) else {
        return for_packing(Some(name.unwrap_or(NO_MODEL)), embed);
    };
    let found = for_reading(archive.models(), |index| archive.embedded_model(index), Some(path))?;
    let model = u8::try_from(number).ok().and_then(|number| found.get(number)).cloned();
    let missing = || Error::ModelMissing { fingerprint: wanted.hex(), name: wanted.name.clone() };
    Ok(Chosen { models: Models::one(model.ok_or_else(missing)?), embed: Vec::new() })
}

/// The models that an archive names. `embedded` gives the file of one that the archive carries;
/// others are looked for, beside the archive too. One that is missing is an error only when a
/// chunk needs it.
pub(crate) fn for_reading(
    refs: &[ModelRef],
    embedded: impl Fn(u8) -> Result<Option<Vec<u8>>>,
    archive: Option<&Path>,
) -> Result<Models> {
    let mut slots: Vec<Option<Arc<dyn ChunkModel>>> = Vec::with_capacity(refs.len());
    for (index, wanted) in (0..=u8::MAX).zip(refs) {
        let carried = if wanted.embedded { embedded(index)? } else { None };
        let model = match carried.filter(|file| *blake3::hash(file).as_bytes() == wanted.fingerprint) {
            Some(file) => Some(Arc::new(Model::from_bytes(&file)?)),
            None => match registry::by_fingerprint(&wanted.fingerprint, &wanted.name, archive) {
                Ok(found) => Some(found.model),
                Err(Error::ModelMissing { .. }) => None,
                Err(e) => return Err(e),
            },
        };
        slots.push(model.map(neural));
    }
    Ok(Models::new(slots))
}

fn neural(model: Arc<Model>) -> Arc<dyn ChunkModel> {
    Arc::new(Neural::new(model))
}

/// Opens an archive with its models.
pub(crate) fn open(path: &Path) -> Result<Archive> {
    let mut archive = Archive::open(path, &open_options())?;
    let models = for_reading(archive.models(), |index| archive.embedded_model(index), Some(path))?;
    archive.set_models(models);
    Ok(archive)
}

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

/// The model that the user names.
pub(crate) fn by_name(name: &str) -> Result<Shown> {
    Shown::of(&registry::by_name(name)?)
}
