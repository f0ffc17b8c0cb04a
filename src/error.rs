//! The crate's error, as data: a caller can match on it, and its text tells a user what is wrong
//! and where.
//!
//! The texts speak of data. What a user of the command can do about an error, and its exit code,
//! are told by the command.

use std::path::PathBuf;

/// What a call of this crate returns.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why something could not be done.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The caller asked for a configuration that is not possible.
    #[error("{0}")]
    Usage(String),

    /// The file does not start with the magic of an archive.
    #[error("not an s3a archive (the first bytes are not its magic)")]
    NotAnArchive,

    /// The file ends at byte `offset`; what it declares needs `needed` bytes more.
    #[error("cut short: the file ends at byte {offset}, {needed} bytes early")]
    Truncated { offset: u64, needed: u64 },

    /// Bytes at `offset` of the archive break `rule` of the format.
    #[error("damaged at byte {offset}: {rule}")]
    Corrupt { offset: u64, rule: &'static str },

    /// Parts of an archive contradict each other, so that no single offset can be blamed.
    #[error("the archive is damaged: {rule}")]
    Inconsistent { rule: &'static str },

    /// Chunk number `chunk`, whose frame begins at byte `offset`, does not give the bytes that were
    /// packed.
    #[error("chunk {chunk} at byte {offset} is damaged: {rule}")]
    BadChunk { chunk: u32, offset: u64, rule: &'static str },

    /// The system cannot read `len` bytes at `offset` of the archive, for example a bad sector of a
    /// disk.
    #[error("the {len} bytes at byte {offset} cannot be read: {source}")]
    Unreadable { offset: u64, len: u64, source: std::io::Error },

    /// The content of the file at `path` is not what was packed, though its chunks pass their
    /// checks.
    #[error("{path}: its content has another hash than its entry")]
    BadContent { path: String },

    /// The archive has the newer major format version `got`; `max` is the newest that this build
    /// reads.
    #[error("format version {got} is not supported, this build reads up to {max}; a newer s3a is needed")]
    UnsupportedVersion { got: u16, max: u16 },

    /// The archive needs features that this build does not know; `bits` has one bit for each of
    /// them.
    #[error("the archive needs features {bits:#x} that this build does not know; a newer s3a is needed")]
    UnsupportedFeature { bits: u32 },

    /// No model with this fingerprint, in hexadecimal digits, was found; `name` is what the archive
    /// calls the model.
    #[error("model {fingerprint} ({name}) is missing")]
    ModelMissing { fingerprint: String, name: String },

    /// The model file `name` breaks `rule` of its format.
    #[error("model file {name}: {rule}")]
    BadModel { name: String, rule: String },

    /// The entry at `path` would reach outside the directory that is unpacked into, or has a kind
    /// that is refused.
    #[error("unsafe entry {path}: {rule}")]
    UnsafeEntry { path: String, rule: &'static str },

    /// The entry at `path` is a device, which is unpacked only for callers who ask for devices.
    #[error("unsafe entry {path}: it is a device")]
    Device { path: String },

    /// The files to unpack hold `bytes` bytes together; the caller allows `max`.
    #[error("the unpacked files would hold {bytes} bytes, more than the {max} that are allowed")]
    TooLarge { bytes: u64, max: u64 },

    /// The quantity `what` is `got`; this build or the format allows at most `max`.
    #[error("limit exceeded: {what} is {got}, at most {max} is allowed")]
    Limit { what: &'static str, got: u64, max: u64 },

    /// The destination exists already.
    #[error("{} exists", .0.display())]
    Exists(PathBuf),

    /// The file at this path was replaced or its content was changed after the work began.
    #[error("{} was replaced or changed meanwhile", .0.display())]
    Changed(PathBuf),

    /// A remote archive is another one than was opened: its ETag, length or time differs.
    #[error("{} was replaced or changed while it was read", .0.display())]
    ObjectChanged(PathBuf),

    /// Two archives that are to be merged contradict each other.
    #[error("{0}")]
    Clash(String),

    /// A path that is to be added is in the archive already, or below something there that is no
    /// directory.
    #[error("{path} is in the archive already, or stands in the way there")]
    InArchive { path: String },

    /// Input or output on the file at `path` failed.
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: std::io::Error },

    /// A stream without a path, such as standard output, could not be written.
    #[error("output: {0}")]
    Output(std::io::Error),

    /// A network could not be trained.
    #[error("training failed: {0}")]
    Training(String),

    /// The user interrupted the work.
    #[error("interrupted")]
    Interrupted,

    /// Something happened that the code holds to be impossible.
    #[error("internal error: {0}")]
    Internal(&'static str),
}

impl Error {
    /// An I/O error together with the path on which it happened.
    pub fn io(path: impl Into<PathBuf>, source: std::io::Error) -> Self {
        Self::Io { path: path.into(), source }
    }

    /// Whether the error tells of damage to an archive: what is damaged is lost, and the rest can
    /// still be read.
    pub fn is_damage(&self) -> bool {
        matches!(
            self,
            Self::Truncated { .. }
                | Self::Corrupt { .. }
                | Self::Inconsistent { .. }
                | Self::BadChunk { .. }
                | Self::Unreadable { .. }
                | Self::BadContent { .. }
        )
    }

    /// Turns damage of a chunk's frame into damage of that chunk; leaves other errors as they are.
    pub(crate) fn in_chunk(self, chunk: u32, offset: u64) -> Self {
        match self {
            Self::Corrupt { rule, .. } => Self::BadChunk { chunk, offset, rule },
            other => other,
        }
    }
}
