//! The models at hand for an archive: those that it carries, those in this build, and files.

use std::path::Path;
use std::sync::Arc;

use crate::archive::path::escape;
use crate::archive::read::archive::Archive;
use crate::archive::read::options::OpenOptions;
use crate::archive::remote::location;
use crate::codec::choice;
use crate::codec::model::{ChunkModel, Models};
use crate::codec::neural::chunk_model::Neural;
use crate::codec::neural::search::{Compressor, Search};
use crate::error::{Error, Result};
use crate::model::registry;
use crate::model::registry::Found;
use crate::model::weights::Model;
use crate::wire::models::ModelRef;

/// The name that stands for packing without a model.
pub(crate) const NO_MODEL: &str = "none";

/// Models for a new archive, and the files of those that it is to carry.
pub(crate) struct Chosen {
    pub models: Models,
    #[cfg_attr(not(feature = "cli"), allow(dead_code, reason = "the library's calls embed nothing"))]
    pub embed: Vec<(u8, Arc<[u8]>)>,
    /// Number and name of the model that is carried for the sake of a difference to it.
    #[cfg_attr(not(feature = "cli"), allow(dead_code, reason = "the library's calls embed nothing"))]
    pub bases: Vec<(u8, String)>,
    /// What to tell the user where the first choice is not at hand.
    #[cfg_attr(not(feature = "cli"), allow(dead_code, reason = "the command tells it"))]
    pub missing: Option<String>,
    pub zstd_alone: bool,
}

/// Of the models named the first that is at hand, and what to tell where that is not the first of all; nothing if
/// none is named.
pub(crate) fn find(names: &[&str]) -> Result<Option<(Found, Option<String>)>> {
    let Some((&first, others)) = names.split_first().filter(|(first, _)| **first != NO_MODEL) else {
        return Ok(None);
    };
    let at_hand = |name: &&str| registry::by_name(name).ok();
    match registry::by_name(first) {
        Ok(found) => Ok(Some((found, None))),
        Err(e) => {
            let found = others.iter().find_map(at_hand).ok_or(e)?;
            let name = escape(found.model.config().name.as_bytes());
            let missing = format!(
                "model {first} is not at hand (`s3a model ls` lists those that are): packing with {name}"
            );
            Ok(Some((found, Some(missing))))
        }
    }
}

/// The models for a new archive: of those named the first that is at hand, none if none is named.
pub(crate) fn for_packing(names: &[&str], embed: bool, search: Search) -> Result<Chosen> {
    let Some((found, missing)) = find(names)? else {
        return Ok(Chosen {
            models: Models::none(),
            embed: Vec::new(),
            bases: Vec::new(),
            missing: None,
            zstd_alone: true,
        });
    };
    // A difference is always carried: it is small, and its base is most likely at hand.
    let file = (embed || found.base.is_some()).then(|| registry::file_bytes(&found)).transpose()?;
    let compressor = if search.effort > 0 { compressor(&found)? } else { None };
    let base = found.base.filter(|_| embed);
    let model = Neural::new(found.model).searching(compressor, search).offloading(choice::chosen());
    let mut chosen = carrying(Arc::new(model), file, base)?;
    chosen.missing = missing;
    Ok(chosen)
}

/// What an archive of one model carries: its file, and before it, as a model that no chunk names, that
/// of its base.
pub(crate) fn carrying(
    model: Arc<dyn ChunkModel>,
    file: Option<Vec<u8>>,
    base: Option<[u8; 32]>,
) -> Result<Chosen> {
    let base = base.map(|base| registry::file_of(&base)).transpose()?;
    Ok(carrying_files(model, file, base))
}

/// The same with the file of the base.
pub(crate) fn carrying_files(
    model: Arc<dyn ChunkModel>,
    file: Option<Vec<u8>>,
    base: Option<Vec<u8>>,
) -> Chosen {
    let number = u8::from(base.is_some());
    let slots = base.iter().map(|_| None).chain([Some(model)]).collect();
    let bases = base.iter().map(|_| (0, "base".to_owned())).collect();
    let files = base.map(|base| (0, base.into())).into_iter();
    let embed = files.chain(file.map(|file| (number, file.into()))).collect();
    Chosen { models: Models::new(slots), embed, bases, missing: None, zstd_alone: false }
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
    let mut lacking = Vec::new();
    let numbered = || (0..=u8::MAX).zip(refs);
    let own = |(index, wanted): (u8, &ModelRef)| -> Result<Option<Vec<u8>>> {
        // A damaged one is missed only where it is not at hand otherwise, by the chunks that need it.
        let carried = match embedded(index) {
            Err(e) if e.is_damage() => None,
            carried => carried?,
        };
        Ok(carried.filter(|file| *blake3::hash(file).as_bytes() == wanted.fingerprint))
    };
    let base = |fingerprint: &[u8; 32]| {
        let named = numbered().find(|(_, named)| named.embedded && named.fingerprint == *fingerprint);
        named.and_then(|named| own(named).ok().flatten())
    };
    for (index, wanted) in numbered() {
        let found = match own((index, wanted))? {
            Some(file) => registry::from_carried(&file, &base, archive),
            None => {
                registry::by_fingerprint(&wanted.fingerprint, &wanted.name, archive).map(|found| found.model)
            }
        };
        let model = match found {
            Ok(model) => Some(model),
            Err(Error::ModelMissing { fingerprint, .. }) => {
                let fingerprint = blake3::Hash::from_hex(&fingerprint).map(|hash| *hash.as_bytes());
                let other = fingerprint.ok().filter(|fingerprint| *fingerprint != wanted.fingerprint);
                lacking.extend(other.map(|fingerprint| (index, fingerprint)));
                None
            }
            Err(e) => return Err(e),
        };
        slots.push(model.map(neural));
    }
    let models = Models::new(slots);
    Ok(lacking.into_iter().fold(models, |models, (index, base)| models.lacking(index, base)))
}

/// The compressor of a model, if there is one beside it and this build can run it.
#[cfg(feature = "train")]
pub(crate) fn compressor(found: &Found) -> Result<Option<Arc<dyn Compressor>>> {
    let Some(bytes) = registry::compressor_bytes(found)? else { return Ok(None) };
    let device = candle_core::Device::Cpu;
    let name = found.model.config().name.as_str();
    let compressor = crate::train::compressor::Compressor::load(&bytes, name, &device)?;
    // What names the learned sequences of a base names those of a difference to it.
    let fingerprint = found.base.unwrap_or_else(|| found.model.fingerprint());
    let own =
        compressor.config.model.as_deref() == Some(blake3::Hash::from_bytes(fingerprint).to_hex().as_str());
    Ok(own.then(|| Arc::new(compressor) as Arc<dyn Compressor>))
}

#[cfg(not(feature = "train"))]
pub(crate) fn compressor(_: &Found) -> Result<Option<Arc<dyn Compressor>>> {
    Ok(None)
}

pub(crate) fn neural(model: Arc<Model>) -> Arc<dyn ChunkModel> {
    Arc::new(Neural::new(model).offloading(choice::chosen()))
}

/// Opens an archive with its models.
pub(crate) fn open(path: &Path) -> Result<Archive> {
    let mut archive = Archive::open(path, &open_options())?;
    // Beside a URL there are no files.
    let beside = Some(path).filter(|path| !location::is_url(path));
    let models = for_reading(archive.models(), |index| archive.embedded_model(index), beside)?;
    archive.set_models(models);
    Ok(archive)
}

/// How archives are opened; the limits come from the archive's own length.
pub(crate) fn open_options() -> OpenOptions {
    OpenOptions { max_entries: None, max_metadata: None }
}
