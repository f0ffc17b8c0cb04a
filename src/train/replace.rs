//! Files that are replaced as a whole.

use std::path::Path;

use crate::error::{Error, Result};

/// Writes a file beside its final name and renames it, so that a failed write leaves the old file
/// in place.
pub(crate) fn replace(path: &Path, data: &[u8]) -> Result<()> {
    let partial = path.with_extension("partial");
    let write = || -> std::io::Result<()> {
        let mut file = std::fs::File::create(&partial)?;
        std::io::Write::write_all(&mut file, data)?;
        file.sync_all()?;
        std::fs::rename(&partial, path)
    };
    write().map_err(|e| {
        let _ = std::fs::remove_file(&partial);
        Error::io(path, e)
    })
}
