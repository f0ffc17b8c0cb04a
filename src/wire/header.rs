//! The first bytes of an archive (spec/format.md, section 3).

/// What holds for the whole archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    pub major: u16,
    pub minor: u16,
    /// Features that a reader must know.
    pub required: u32,
    /// Features that a reader may ignore.
    pub optional: u32,
    pub chunk_size: u32,
    /// How deep references may chain.
    pub ref_depth: u8,
    /// How many chunks back references may reach.
    pub ref_window: u32,
    /// Most raw bytes of a group.
    pub group_len: u32,
}
