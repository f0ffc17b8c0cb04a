//! What is taken into an archive, and how it is named there: flags that `pack` and `append` share.

use std::ffi::OsString;
use std::io::Read;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use super::args::Patterns;
use super::standard::stdin;
use crate::archive::pack::found::ScanOptions;
use crate::archive::pack::from_tar;
use crate::error::{Error, Result};

/// The sources, and what of them takes part.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Take {
    /// Folders and files to pack
    #[arg(value_name = "PATH")]
    pub sources: Vec<PathBuf>,
    /// Take the paths in this file, or `-` for standard input, one a line; each keeps its path
    #[arg(long, value_name = "FILE|-")]
    pub files_from: Option<PathBuf>,
    /// Paths of --files-from end with a NUL byte, as `find -print0` has them
    #[arg(short = '0', long, requires = "files_from")]
    pub null: bool,
    /// Take named folders without what is in them
    #[arg(long)]
    pub no_recursion: bool,
    /// Sources are named from this folder
    #[arg(short = 'C', long = "directory", value_name = "DIR")]
    pub directory: Option<PathBuf>,
    #[command(flatten)]
    pub patterns: Patterns,
    /// Do not enter other file systems
    #[arg(short = 'x', long)]
    pub one_file_system: bool,
    /// Pack FIFOs, sockets and devices too
    #[arg(long)]
    pub special: bool,
    /// Leave out extended attributes
    #[arg(long)]
    pub no_xattrs: bool,
    /// Leave out owners: everything belongs to user and group 0
    #[arg(long)]
    pub no_owner: bool,
    /// Keep owners as numbers, which are all that an archive holds; for those who know it from tar
    #[arg(long)]
    pub numeric_owner: bool,
}

impl Take {
    /// The sources, those of the list after those of the command line.
    pub fn sources(&self) -> Result<Vec<PathBuf>> {
        let mut sources = self.sources.clone();
        if let Some(list) = &self.files_from {
            sources.extend(read_list(list, self.null)?);
        } else if sources.is_empty() {
            return Err(Error::Usage(
                "name what to pack: PATH, a list with --files-from, or a tar stream with --tar".into(),
            ));
        }
        Ok(sources)
    }

    /// What of a tar stream is taken.
    pub fn tar_options(&self, ignore_zeros: bool) -> Result<from_tar::TarOptions> {
        Ok(from_tar::TarOptions {
            selection: self.patterns.selection()?,
            special: self.special,
            xattrs: !self.no_xattrs,
            owners: !self.no_owner,
            latest_mtime: source_date_epoch()?,
            ignore_zeros,
        })
    }

    /// How they are looked at. `as_given`: a single one keeps its path too.
    pub fn options(&self, as_given: bool, skip: Vec<(u64, u64)>) -> Result<ScanOptions> {
        Ok(ScanOptions {
            selection: self.patterns.selection()?,
            one_file_system: self.one_file_system,
            special: self.special,
            xattrs: !self.no_xattrs,
            latest_mtime: source_date_epoch()?,
            skip,
            as_given: as_given || self.files_from.is_some(),
            recurse: !self.no_recursion,
            lenient: self.files_from.is_some(),
            owners: !self.no_owner,
            ..ScanOptions::default()
        })
    }
}

/// The paths in a list; empty ones are passed over.
fn read_list(list: &Path, null: bool) -> Result<Vec<PathBuf>> {
    let mut bytes = Vec::new();
    if list.as_os_str() == "-" {
        stdin()?.read_to_end(&mut bytes).map_err(|e| Error::io("standard input", e))?;
    } else {
        bytes = std::fs::read(list).map_err(|e| Error::io(list, e))?;
    }
    let end = if null { 0 } else { b'\n' };
    let paths = bytes.split(|&b| b == end).filter(|path| !path.is_empty());
    Ok(paths.map(|path| OsString::from_vec(path.to_vec()).into()).collect())
}

fn source_date_epoch() -> Result<Option<i64>> {
    let Some(text) = std::env::var_os("SOURCE_DATE_EPOCH") else { return Ok(None) };
    let seconds = text.to_str().and_then(|text| text.parse().ok());
    seconds.map(Some).ok_or_else(|| Error::Usage("SOURCE_DATE_EPOCH is no number of seconds".into()))
}
