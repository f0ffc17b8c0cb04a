//! What was measured of one program.

/// One line of the result.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub program: String,
    /// Bytes that a read of one byte decodes at least; all without.
    pub access: Option<u64>,
    pub bytes: u64,
    pub bits_per_byte: f64,
    /// Megabytes a second.
    pub pack: f64,
    pub unpack: f64,
    /// It is this program's.
    pub own: bool,
}

/// Cold reads from one archive.
#[derive(Clone, Debug)]
pub(crate) struct Reads {
    pub program: String,
    pub chunk_size: u32,
    /// Microseconds, ascending.
    pub micros: Vec<u64>,
    /// Mean number of chunks decoded for a read.
    pub decoded: f64,
}
