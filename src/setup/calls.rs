//! The calls that most programs need, with the defaults of the command.

use std::io::BufWriter;
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::level::{DEFAULT, block_len, level};
use super::models;
use crate::archive::extract::from_file::extract;
use crate::archive::extract::metadata::Restore;
use crate::archive::extract::plan::{ExtractOptions, ExtractSummary};
use crate::archive::os::partial_file::Partial;
use crate::archive::pack::found::ScanOptions;
use crate::archive::pack::packer::Packer;
use crate::archive::read::archive::Archive;
use crate::archive::read::chunk_cache::RecentChunks;
use crate::archive::selection::Selection;
use crate::archive::write::options::{Stats, WriterOptions};
use crate::archive::write::similar::Similar;
use crate::codec::model::Models;
use crate::error::{Error, Result};
use crate::wire::models::ModelRef;

/// Bytes that are collected before they are written.
const BUFFER: usize = 1 << 20;
/// Raw bytes of the chunks that one call of `read_range` remembers.
const CACHE: usize = 32 << 20;

/// Packs a directory or a file into the archive `output` at the default level, as `s3a pack` does.
///
/// Names in the archive are relative to `source`. `output` appears when it is complete. What was left
/// out (sockets, unreadable files) is not told; `archive::pack::packer::Packer` tells it to an observer.
///
/// # Errors
/// `Exists` if `output` is there already, `Io` if `source` cannot be read or `output` not be written.
///
/// ```
/// # let dir = std::env::temp_dir().join(format!("s3a-doc-pack-{}", std::process::id()));
/// # std::fs::create_dir_all(dir.join("notes"))?;
/// # std::fs::write(dir.join("notes/today.txt"), "hello, hello, hello")?;
/// # let (notes, archive) = (dir.join("notes"), dir.join("notes.s3a"));
/// let stats = s3a::pack(&notes, &archive)?;
/// assert_eq!(stats.file_bytes, 19);
/// # std::fs::remove_dir_all(dir)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn pack(source: impl AsRef<Path>, output: impl AsRef<Path>) -> Result<Stats> {
    pack_with(source, output, WriterOptions::level(DEFAULT)?)
}

/// The same with other options, for example those of another level.
///
/// # Errors
/// As `pack`; `Usage` if the options contradict each other.
pub fn pack_with(
    source: impl AsRef<Path>,
    output: impl AsRef<Path>,
    options: WriterOptions,
) -> Result<Stats> {
    let (source, output) = (source.as_ref(), output.as_ref());
    let observer = options.observer.clone();
    let mut packer = Packer::scan(&[source.to_path_buf()], None, &ScanOptions::default(), &*observer)?;
    packer.arrange(&*observer)?;
    let (partial, file) = Partial::create(output, false, "library")?;
    let (out, stats) =
        packer.write(BufWriter::with_capacity(BUFFER, file), options, None).map_err(|error| match error {
            Error::Output(source) => Error::io(output, source),
            other => other,
        })?;
    let file = out.into_inner().map_err(|e| Error::io(output, e.into_error()))?;
    partial.commit(&file)?;
    Ok(stats)
}

/// Opens an archive with its models: those that it carries, those of this build, and those in files
/// beside it, in `S3A_MODEL_PATH` and in the user's data directory.
///
/// A model that is missing is an error only when a chunk that needs it is read.
///
/// # Errors
/// `Io`, `NotAnArchive`, and what else is wrong with its index: `Truncated`, `Corrupt`, `Limit`.
pub fn open(path: impl AsRef<Path>) -> Result<Archive> {
    models::open(path.as_ref())
}

/// The models that an archive names, for a `StreamReader`: those that it carries, of which `carried` gives the
/// file by number, those of this build, and those in files.
///
/// A model that is missing leaves its place empty; chunks that need it are then errors.
///
/// # Errors
/// `BadModel` if a file that is carried is no model, `Io` if one that was found cannot be read.
pub fn models_for(refs: &[ModelRef], carried: impl Fn(u8) -> Option<Vec<u8>>) -> Result<Models> {
    models::for_reading(refs, |number| Ok(carried(number)), None)
}

/// Unpacks an archive into the directory `target`, which is made if it is missing; gives the number of
/// entries.
///
/// Modes, times and attributes are restored, owners only for root; set-user-ID bits and devices are not.
/// No file that exists is replaced, no entry leaves `target`. An archive that would unpack to more than
/// 2,000 times its own size and a gibibyte is refused.
///
/// # Errors
/// `Exists`, `UnsafeEntry`, `TooLarge`, `ModelMissing`, `Io`, and what is wrong with the archive.
pub fn unpack(archive: impl AsRef<Path>, target: impl AsRef<Path>) -> Result<ExtractSummary> {
    let archive = open(archive)?;
    let options = ExtractOptions {
        selection: Selection::default(),
        strip: 0,
        replace: false,
        skip_existing: false,
        restore: Restore { owners: rustix::process::geteuid().is_root(), privileges: false, xattrs: true },
        devices: false,
        max_bytes: max_bytes(archive.archive_len()),
    };
    extract(&archive, target.as_ref(), &options, &())
}

/// How many bytes an archive of this length may unpack to where nobody says otherwise.
pub(crate) fn max_bytes(archive_len: u64) -> u64 {
    archive_len.saturating_mul(2000).saturating_add(1 << 30)
}

impl Archive {
    /// The bytes of `range` of the file at `path`; fewer only where the file ends. Chunks that the range
    /// lies in are decoded, with those that they refer to. A range that is all of the file is held against
    /// the hash of its content.
    ///
    /// # Errors
    /// `Io` (not found) if there is no such entry, `Usage` if it is no file, `ModelMissing`, and what is
    /// wrong with the archive.
    pub fn read_range(&self, path: impl AsRef<Path>, range: Range<u64>) -> Result<Vec<u8>> {
        use std::os::unix::ffi::OsStrExt;

        let path = path.as_ref();
        let id = self.lookup(path.as_os_str().as_bytes()).ok_or_else(|| {
            Error::io(PathBuf::from(path), std::io::Error::from(std::io::ErrorKind::NotFound))
        })?;
        let size = self.file_size(id).ok_or_else(|| Error::Usage("only files have content".to_owned()))?;
        let end = range.end.min(size);
        let len = usize::try_from(end.saturating_sub(range.start)).map_err(|_| Error::Limit {
            what: "the bytes of one read",
            got: end - range.start,
            max: usize::MAX as u64,
        })?;
        let mut bytes = vec![0; len];
        let read = self.read_at(id, range.start, &mut bytes, &RecentChunks::new(CACHE))?;
        bytes.truncate(read);
        if range.start == 0
            && let Some(mut check) = self.content_check(id)
        {
            check.feed(&bytes);
            if check.is_right() == Some(false) {
                return Err(Error::BadContent { path: path.display().to_string() });
            }
        }
        Ok(bytes)
    }
}

impl WriterOptions {
    /// The options of `s3a pack -l NUMBER`: from 1, the fastest, to 9, the smallest.
    ///
    /// # Errors
    /// `Usage` if there is no such level, `ModelMissing` or `BadModel` if none of its models is at hand.
    pub fn level(number: u8) -> Result<Self> {
        if !(1..=9).contains(&number) {
            return Err(Error::Usage(format!("there is no level {number}; levels go from 1 to 9")));
        }
        let level = level(number);
        let chosen = models::for_packing(level.models, false, usize::from(level.effort).into())?;
        Ok(Self {
            chunk_size: level.chunk_size,
            models: chosen.models,
            block_len: block_len(level.read_time),
            references: Similar::for_options(level.references, level.depth, level.chunk_size),
            zstd_level: level.zstd,
            dictionary: if chosen.zstd_alone { level.dictionary } else { 0 },
            ..Self::default()
        })
    }
}
