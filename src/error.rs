//! The crate's error, as data: a caller can match it, a user learns where and what to do.
//!
//! Texts speak of data and of what is wrong with it. What a user of the command can do about it, and the exit code of
//! each error, are told by the command.

use std::path::PathBuf;

/// What a call of this crate returns.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why something could not be done.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The configuration asked for is not possible.
    #[error("{0}")]
    Usage(String),

    /// The file does not start as an archive does.
    #[error("not an s3a archive (the first bytes are not its magic)")]
    NotAnArchive,

    /// The file ends before what it declares.
    #[error("cut short: the file ends at byte {offset}, {needed} bytes early")]
    Truncated { offset: u64, needed: u64 },

    /// Bytes break a rule of the format.
    #[error("damaged at byte {offset}: {rule}")]
    Corrupt { offset: u64, rule: &'static str },

    /// The parts of an archive contradict each other, at no single place.
    #[error("the archive is damaged: {rule}")]
    Inconsistent { rule: &'static str },

    /// A chunk's bytes are not those that were packed.
    #[error("chunk {chunk} at byte {offset} is damaged: {rule}")]
    BadChunk { chunk: u32, offset: u64, rule: &'static str },

    /// The system does not give bytes of the archive: a sector of the disk that cannot be read.
    #[error("the {len} bytes at byte {offset} cannot be read: {source}")]
    Unreadable { offset: u64, len: u64, source: std::io::Error },

    /// The content of a file is not what was packed.
    #[error("{path}: its content has another hash than its entry")]
    BadContent { path: String },

    /// The archive was written by a newer major format version.
    #[error("format version {got} is not supported, this build reads up to {max}; a newer s3a is needed")]
    UnsupportedVersion { got: u16, max: u16 },

    /// The archive needs a feature that this build does not know.
    #[error("the archive needs features {bits:#x} that this build does not know; a newer s3a is needed")]
    UnsupportedFeature { bits: u32 },

    /// No model of the wanted fingerprint was found.
    #[error("model {fingerprint} ({name}) is missing")]
    ModelMissing { fingerprint: String, name: String },

    /// A model file breaks a rule of its format.
    #[error("model file {name}: {rule}")]
    BadModel { name: String, rule: String },

    /// An entry would reach outside the target folder, or is of a kind that is refused.
    #[error("unsafe entry {path}: {rule}")]
    UnsafeEntry { path: String, rule: &'static str },

    /// A device, which is unpacked for those only who ask for it.
    #[error("unsafe entry {path}: it is a device")]
    Device { path: String },

    /// The files to unpack would hold more bytes than the caller allows.
    #[error("the unpacked files would hold {bytes} bytes, more than the {max} that are allowed")]
    TooLarge { bytes: u64, max: u64 },

    /// A limit was exceeded.
    #[error("limit exceeded: {what} is {got}, at most {max} is allowed")]
    Limit { what: &'static str, got: u64, max: u64 },

    /// The destination exists.
    #[error("{} exists", .0.display())]
    Exists(PathBuf),

    /// Another file stands at this path than when the work began, or its content was changed.
    #[error("{} was replaced or changed meanwhile", .0.display())]
    Changed(PathBuf),

    /// A remote archive is another one than was opened: its ETag, length or time differs.
    #[error("{} was replaced or changed while it was read", .0.display())]
    ObjectChanged(PathBuf),

    /// Two archives that are to be merged contradict each other.
    #[error("{0}")]
    Clash(String),

    /// A path that is to be added is in the archive.
    #[error("{path} is in the archive already, or stands in the way there")]
    InArchive { path: String },

    /// Input or output failed.
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: std::io::Error },

    /// What is written could not be: a stream that has no path here.
    #[error("output: {0}")]
    Output(std::io::Error),

    /// A network could not be trained.
    #[error("training failed: {0}")]
    Training(String),

    /// The user interrupted the work.
    #[error("interrupted")]
    Interrupted,

    /// Something that the code holds to be impossible.
    #[error("internal error: {0}")]
    Internal(&'static str),
}

impl Error {
    /// An I/O error with the path it happened on.
    pub fn io(path: impl Into<PathBuf>, source: std::io::Error) -> Self {
        Self::Io { path: path.into(), source }
    }

    /// Whether it tells of damage to an archive, which costs what is damaged and nothing else.
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

    /// The same error, where damage of a chunk's frame is damage of that chunk.
    pub(crate) fn in_chunk(self, chunk: u32, offset: u64) -> Self {
        match self {
            Self::Corrupt { rule, .. } => Self::BadChunk { chunk, offset, rule },
            other => other,
        }
    }
}
