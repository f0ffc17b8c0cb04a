//! Which models an archive names (spec/format.md, section 5).

/// A model as an archive names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelRef {
    /// BLAKE3 of the model file.
    pub fingerprint: [u8; 32],
    pub name: String,
    /// The archive carries the model file.
    pub embedded: bool,
}
