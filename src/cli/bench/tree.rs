//! What is measured, and a place for what comes of it.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use crate::archive::observer::Observer;
use crate::archive::pack::order::packing_order;
use crate::archive::pack::scan;
use crate::error::{Error, Result};
use crate::wire::entry::Kind;

/// The files to measure on.
pub(crate) struct Tree {
    /// As the user named it, made absolute.
    pub path: PathBuf,
    /// Bytes of all files.
    pub bytes: u64,
    pub files: u64,
    tree: scan::Tree,
}

impl Tree {
    pub fn scan(path: &Path, observer: &dyn Observer) -> Result<Self> {
        let path = std::fs::canonicalize(path).map_err(|e| Error::io(path, e))?;
        let tree = scan::Tree::scan(
            std::slice::from_ref(&path),
            None,
            &crate::archive::pack::found::ScanOptions::default(),
            observer,
        )?;
        let sizes = tree.entries.iter().filter_map(|found| match found.entry.kind {
            Kind::File { size, .. } => Some(size),
            _ => None,
        });
        let (files, bytes) = sizes.fold((0, 0), |(files, bytes), size| (files + 1, bytes + size));
        Ok(Self { path, bytes, files, tree })
    }

    /// Hands the contents of all files, one after another as they are packed, on in blocks.
    pub fn blocks(&self, len: usize, mut take: impl FnMut(&[u8])) -> Result<()> {
        let mut block = Vec::with_capacity(len);
        for at in packing_order(&self.tree.entries) {
            let Some(found) = self.tree.entries.get(at as usize) else { continue };
            if !matches!(found.entry.kind, Kind::File { .. }) {
                continue;
            }
            // What cannot be read is left out by everyone.
            let Ok(file) = self.tree.open(found) else { continue };
            let mut file = File::from(file);
            loop {
                let mut part = (&mut file).take((len - block.len()) as u64);
                let got = part.read_to_end(&mut block).map_err(|e| Error::io(&self.path, e))?;
                if block.len() == len {
                    take(&block);
                    block.clear();
                }
                if got == 0 {
                    break;
                }
            }
        }
        if !block.is_empty() {
            take(&block);
        }
        Ok(())
    }
}

/// A folder that goes away again.
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    pub fn new(parent: Option<&Path>) -> Result<Self> {
        let parent = parent.map_or_else(std::env::temp_dir, Path::to_owned);
        let folder = parent.join(format!("s3a-bench-{}", std::process::id()));
        std::fs::create_dir(&folder).map_err(|e| Error::io(&folder, e))?;
        Ok(Self(folder))
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
