//! What long work tells its caller while it runs: progress, warnings, and whether to go on.
//!
//! A warning is something that was not done although the work as a whole went on; it makes the
//! exit code 1. Methods may be called from several threads.

use std::fmt;

use super::path::escape;

/// Something that was skipped or not restored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// The path it happened on, as raw bytes.
    pub path: Vec<u8>,
    /// What happened.
    pub what: String,
    /// What the caller could ask for instead.
    pub remedy: Option<Remedy>,
}

/// What a caller could ask for, where something was left out because it did not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Remedy {
    /// Objects that are neither files, directories nor symlinks can be packed.
    PackSpecial,
    /// Several tar streams that follow each other can be packed.
    IgnoreZeros,
}

impl Warning {
    /// A warning about `path`.
    pub fn new(path: impl Into<Vec<u8>>, what: impl fmt::Display) -> Self {
        Self { path: path.into(), what: what.to_string(), remedy: None }
    }

    /// The same with a remedy.
    pub fn with(self, remedy: Remedy) -> Self {
        Self { remedy: Some(remedy), ..self }
    }
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The root has no name of its own.
        let path = if self.path.is_empty() { ".".into() } else { escape(&self.path) };
        write!(f, "{path}: {}", self.what)
    }
}

/// Receiver of what long work has to tell. `()` ignores it all.
pub trait Observer: Sync {
    /// Something was skipped or not restored.
    fn warning(&self, _warning: Warning) {}
    /// A new phase of the work began, of `bytes` in all where known.
    fn phase(&self, _name: &str, _bytes: Option<u64>) {}
    /// `bytes` more of the phase are done.
    fn advanced(&self, _bytes: u64) {}
    /// What follows is about this archive.
    fn archive(&self, _name: &std::path::Path) {}
    /// An entry was packed or unpacked.
    fn entry(&self, _path: &[u8]) {}
    /// Whether the user asked to stop. Asked between files and between batches of chunks.
    fn interrupted(&self) -> bool {
        false
    }
}

impl Observer for () {}
