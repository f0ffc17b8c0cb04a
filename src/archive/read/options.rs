//! How an archive is opened.

/// Bounds on what an archive may make a reader hold.
#[derive(Clone, Debug, Default)]
pub struct OpenOptions {
    /// Most entries; `None` derives a bound from the archive's length.
    pub max_entries: Option<u64>,
    /// Most bytes of unpacked metadata; `None` derives a bound from the archive's length.
    pub max_metadata: Option<u64>,
}
