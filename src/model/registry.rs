//! Finding models: those inside the binary, and files by fingerprint or name.
//!
//! Files are looked for in the directories of `S3A_MODEL_PATH`, beside the archive, and in the
//! user's data directory (`$XDG_DATA_HOME/s3a/models`, or `~/.local/share/s3a/models`), in this
//! order. A file is identified by the fingerprint of its contents; its name means nothing.

use std::borrow::Cow;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::{env, fs};

use super::delta;
use super::weights::Model;
use crate::error::{Error, Result};

/// A model that is part of the binary.
struct Inside {
    file: &'static [u8],
    /// The file of the model's compressor, if it has one and this build can run it.
    compressor: Option<&'static [u8]>,
    model: OnceLock<Option<Arc<Model>>>,
}

impl Inside {
    #[cfg(feature = "bundled-models")]
    const fn new(file: &'static [u8], compressor: Option<&'static [u8]>) -> Self {
        Self { file, compressor, model: OnceLock::new() }
    }

    fn load(&self) -> Option<Arc<Model>> {
        self.model.get_or_init(|| Model::from_bytes(self.file).ok().map(Arc::new)).clone()
    }

    fn is(&self, fingerprint: &[u8; 32]) -> bool {
        match self.model.get() {
            Some(loaded) => loaded.as_ref().is_some_and(|model| model.fingerprint() == *fingerprint),
            None => blake3::hash(self.file).as_bytes() == fingerprint,
        }
    }
}

/// The compressors of the two: of no use without floats.
#[cfg(all(feature = "train", feature = "bundled-models"))]
const COMPRESSORS: [Option<&[u8]>; 2] = [
    Some(include_bytes!("../../models/default.compressor")),
    Some(include_bytes!("../../models/nano.compressor")),
];
#[cfg(all(not(feature = "train"), feature = "bundled-models"))]
const COMPRESSORS: [Option<&[u8]>; 2] = [None, None];

/// The models inside the binary, the default first.
#[cfg(feature = "bundled-models")]
static INSIDE: [Inside; 2] = [
    Inside::new(include_bytes!("../../models/default.safetensors"), COMPRESSORS[0]),
    Inside::new(include_bytes!("../../models/nano.safetensors"), COMPRESSORS[1]),
];

#[cfg(not(feature = "bundled-models"))]
static INSIDE: [Inside; 0] = [];

/// The model inside the binary with this fingerprint.
fn inside(fingerprint: &[u8; 32]) -> Option<&'static Inside> {
    INSIDE.iter().find(|inside| inside.is(fingerprint))
}

/// Most bytes of a model file.
const MAX_FILE_LEN: u64 = 1 << 30;

/// A model that was found, and where.
#[derive(Clone, Debug)]
pub struct Found {
    /// The model, ready to run.
    pub model: Arc<Model>,
    /// Path of the file; `None` for a model inside the binary.
    pub path: Option<PathBuf>,
    /// The fingerprint of the base, if the file is a delta.
    pub base: Option<[u8; 32]>,
}

impl Found {
    /// The model of a file's bytes. The base of a delta is looked up with `carried` first, by its
    /// fingerprint.
    ///
    /// # Errors
    /// `BadModel` if the bytes are no model; `ModelMissing` with the fingerprint of the base if
    /// that is not found.
    fn of(
        bytes: &[u8],
        path: Option<PathBuf>,
        carried: &dyn Fn(&[u8; 32]) -> Option<Vec<u8>>,
        archive: Option<&Path>,
    ) -> Result<Self> {
        if !delta::is_delta(bytes) {
            return Ok(Self { model: Arc::new(Model::from_bytes(bytes)?), path, base: None });
        }
        let base = delta::base_fingerprint(bytes).ok_or_else(|| Error::BadModel {
            name: "of a difference".into(),
            rule: "it is of another version; a newer s3a is needed".into(),
        })?;
        let file = match carried(&base) {
            Some(file) => Cow::Owned(file),
            None => base_file(&base, archive)?,
        };
        Ok(Self { model: Arc::new(Model::from_delta(&file, bytes)?), path, base: Some(base) })
    }
}

/// The file of the model that a delta names as its base.
fn base_file(fingerprint: &[u8; 32], archive: Option<&Path>) -> Result<Cow<'static, [u8]>> {
    if let Some(inside) = inside(fingerprint) {
        return Ok(Cow::Borrowed(inside.file));
    }
    let bytes = candidates(archive).into_iter().filter_map(|path| read_file(&path).ok());
    let mut own = bytes.filter(|bytes| blake3::hash(bytes).as_bytes() == fingerprint);
    let fingerprint = blake3::Hash::from_bytes(*fingerprint).to_hex().to_string();
    own.next().map(Cow::Owned).ok_or(Error::ModelMissing { fingerprint, name: "base of a difference".into() })
}

/// The model of a file that an archive carries. The base of a delta may be another model that the
/// archive `carried`.
///
/// # Errors
/// `BadModel` if the bytes are no model; `ModelMissing` with the fingerprint of the base if that is
/// not found.
pub fn from_carried(
    file: &[u8],
    carried: &dyn Fn(&[u8; 32]) -> Option<Vec<u8>>,
    archive: Option<&Path>,
) -> Result<Arc<Model>> {
    Ok(Found::of(file, None, carried, archive)?.model)
}

/// The file of the model with this fingerprint, from the binary or from a directory where models
/// are looked for.
///
/// # Errors
/// `ModelMissing` if it is not found.
pub fn file_of(fingerprint: &[u8; 32]) -> Result<Vec<u8>> {
    base_file(fingerprint, None).map(Cow::into_owned)
}

/// The default model. Fails with `ModelMissing` in a build without it.
pub fn default_model() -> Result<Arc<Model>> {
    let inside =
        INSIDE.first().ok_or(Error::ModelMissing { fingerprint: String::new(), name: "default".into() })?;
    inside.load().ok_or(Error::Internal("the model inside the binary is broken"))
}

/// The bytes of a model file, which an archive may carry. Fails with `Io`, or with `Limit` if the
/// file is too long.
pub fn read_file(path: &Path) -> Result<Vec<u8>> {
    let file = fs::File::open(path).map_err(|source| Error::io(path, source))?;
    let mut bytes = Vec::new();
    file.take(MAX_FILE_LEN + 1).read_to_end(&mut bytes).map_err(|source| Error::io(path, source))?;
    if bytes.len() as u64 > MAX_FILE_LEN {
        return Err(Error::Limit {
            what: "bytes of a model file",
            got: bytes.len() as u64,
            max: MAX_FILE_LEN,
        });
    }
    Ok(bytes)
}

/// The bytes of the file of a model that was found.
pub fn file_bytes(found: &Found) -> Result<Vec<u8>> {
    match (&found.path, inside(&found.model.fingerprint())) {
        (Some(path), _) => read_file(path),
        (None, Some(inside)) => Ok(inside.file.to_vec()),
        (None, None) => Err(Error::Internal("a model without a file")),
    }
}

/// What a model at hand changes in its base, if its file is a delta.
///
/// # Errors
/// `ModelMissing` if the base is nowhere, `BadModel` if either file is broken.
pub fn delta_of(found: &Found) -> Result<Option<delta::Delta>> {
    let Some(base) = &found.base else { return Ok(None) };
    let base = Model::from_bytes(&base_file(base, None)?)?;
    delta::Delta::read(&file_bytes(found)?, base.config()).map(Some)
}

/// The file of a model's compressor: `NAME.compressor` beside `NAME.safetensors`. Whether it
/// belongs to the model is checked later, by its contents.
///
/// # Errors
/// `Io` if it exists and cannot be read, `Limit` if it is too long.
pub fn compressor_bytes(found: &Found) -> Result<Option<Vec<u8>>> {
    if let Some(base) = &found.base {
        return Ok(inside(base).and_then(|inside| inside.compressor).map(<[u8]>::to_vec));
    }
    let Some(path) = &found.path else {
        let compressor = inside(&found.model.fingerprint()).and_then(|inside| inside.compressor);
        return Ok(compressor.map(<[u8]>::to_vec));
    };
    let path = path.with_extension("compressor");
    if path.is_file() { read_file(&path).map(Some) } else { Ok(None) }
}

/// Loads the file of a model, or of a delta whose base can be found.
fn load(path: &Path, archive: Option<&Path>) -> Result<Found> {
    Found::of(&read_file(path)?, Some(path.into()), &|_| None, archive)
}

/// The model with this fingerprint. `archive` is the file that needs it, and calls it `name`.
///
/// # Errors
/// `ModelMissing` if it is not found; `BadModel` if the file with that fingerprint breaks a rule.
pub fn by_fingerprint(fingerprint: &[u8; 32], name: &str, archive: Option<&Path>) -> Result<Found> {
    if let Some(model) = inside(fingerprint).and_then(Inside::load) {
        return Ok(Found { model, path: None, base: None });
    }
    for path in candidates(archive) {
        // A file that cannot be read is passed over.
        let Ok(bytes) = read_file(&path) else { continue };
        if blake3::hash(&bytes).as_bytes() == fingerprint {
            return Found::of(&bytes, Some(path), &|_| None, archive);
        }
    }
    let fingerprint = blake3::Hash::from_bytes(*fingerprint).to_hex().to_string();
    Err(Error::ModelMissing { fingerprint, name: name.into() })
}

/// The model that a user names: `default`; or the path of a file; or the name, or the beginning of
/// the fingerprint (at least 6 digits), of a model that can be found.
///
/// A path contains a `/` or ends in `.safetensors` or `.delta`, so that a file of the current
/// directory is never mistaken for the name of a model.
pub fn by_name(name: &str) -> Result<Found> {
    if name == "default" {
        return Ok(Found { model: default_model()?, path: None, base: None });
    }
    let path = Path::new(name);
    if (name.contains('/') || is_model(path)) && path.is_file() {
        return load(path, None);
    }
    let wanted = |found: &Found| {
        let hex = blake3::Hash::from_bytes(found.model.fingerprint()).to_hex();
        found.model.config().name == name || (name.len() >= 6 && hex.starts_with(name))
    };
    known(None).into_iter().find(wanted).ok_or_else(|| {
        Error::Usage(format!(
            "model {name:?} is neither a file (with a `/`, `.safetensors` or `.delta`) nor known; `s3a model ls` lists those at hand"
        ))
    })
}

/// All models that can be found and loaded, the default first.
pub fn known(archive: Option<&Path>) -> Vec<Found> {
    let inside = INSIDE.iter().filter_map(Inside::load).map(|model| Found { model, path: None, base: None });
    let files = candidates(archive).into_iter().filter_map(|path| load(&path, archive).ok());
    inside.chain(files).collect()
}

/// Model files in the places where models are looked for.
fn candidates(archive: Option<&Path>) -> Vec<PathBuf> {
    let listed = env::var_os("S3A_MODEL_PATH").map(|list| env::split_paths(&list).collect());
    let mut folders: Vec<PathBuf> = listed.unwrap_or_default();
    if let Some(folder) = archive.and_then(Path::parent) {
        folders.push(if folder.as_os_str().is_empty() { ".".into() } else { folder.into() });
    }
    // A relative directory would depend on where the program was started.
    let absolute = |name: &str| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let data = absolute("XDG_DATA_HOME").or_else(|| absolute("HOME").map(|home| home.join(".local/share")));
    folders.extend(data.map(|data| data.join("s3a/models")));
    folders.iter().flat_map(|folder| model_files(folder)).collect()
}

/// Whether a file's name is that of a model or of a delta.
fn is_model(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "safetensors" || extension == "delta")
}

/// The model files of a directory, in the order of their names; none if it cannot be read.
fn model_files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut files: Vec<PathBuf> = entries.filter(|path| is_model(path) && path.is_file()).collect();
    files.sort();
    files
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::config::Config;
    use crate::model::sample::{Draw, model_file};

    #[test]
    fn the_model_inside_the_binary_loads() {
        let model = default_model().unwrap();
        let found = by_fingerprint(&model.fingerprint(), "", None).unwrap();
        assert!(found.path.is_none());
        assert_eq!(blake3::hash(&file_bytes(&found).unwrap()).as_bytes(), &model.fingerprint());
    }

    #[test]
    fn a_model_beside_the_archive_is_found_by_its_contents() {
        let folder = tempfile::tempdir().unwrap();
        let archive = folder.path().join("archive.s3a");
        let bytes = model_file(Config::new("beside", 16, 1, 256), Draw::Even, 3).unwrap();
        let fingerprint = *blake3::hash(&bytes).as_bytes();
        let missing = by_fingerprint(&fingerprint, "beside", Some(&archive));
        assert!(matches!(missing, Err(Error::ModelMissing { name, .. }) if name == "beside"));
        fs::write(folder.path().join("a.safetensors"), b"not a model").unwrap();
        fs::write(folder.path().join("b.safetensors"), &bytes).unwrap();
        let found = by_fingerprint(&fingerprint, "beside", Some(&archive)).unwrap();
        assert_eq!(found.path, Some(folder.path().join("b.safetensors")));
        assert!(known(Some(&archive)).iter().any(|found| found.model.config().name == "beside"));
        assert!(by_name(&folder.path().join("b.safetensors").to_string_lossy()).is_ok());
        assert!(by_name("no such model").is_err());
    }
}
