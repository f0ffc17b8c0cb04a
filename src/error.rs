//! The crate's error, as data: a caller can match it, a user learns where and what to do.
//!
//! Every variant belongs to one exit code (`Error::exit_code`), as the table in the README has it.

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
    #[error(
        "cut short: the file ends at byte {offset}, {needed} bytes early; `s3a salvage` recovers what is intact"
    )]
    Truncated { offset: u64, needed: u64 },

    /// Bytes break a rule of the format.
    #[error("damaged at byte {offset}: {rule}; `s3a salvage` recovers what is intact")]
    Corrupt { offset: u64, rule: &'static str },

    /// A chunk's bytes are not those that were packed.
    #[error("chunk {chunk} at byte {offset} is damaged: {rule}")]
    BadChunk { chunk: u32, offset: u64, rule: &'static str },

    /// The archive was written by a newer major format version.
    #[error("format version {got} is not supported, this build reads up to {max}; a newer s3a is needed")]
    UnsupportedVersion { got: u16, max: u16 },

    /// The archive needs a feature that this build does not know.
    #[error("the archive needs features {bits:#x} that this build does not know; a newer s3a is needed")]
    UnsupportedFeature { bits: u32 },

    /// No model of the wanted fingerprint was found.
    #[error(
        "model {fingerprint} ({name}) is missing: put its file beside the archive or in a folder of S3A_MODEL_PATH, or pass --model FILE"
    )]
    ModelMissing { fingerprint: String, name: String },

    /// A model file breaks a rule of its format.
    #[error("model file {name}: {rule}")]
    BadModel { name: String, rule: String },

    /// An entry would reach outside the target folder, or is of a kind that is refused.
    #[error("unsafe entry {path}: {rule}")]
    UnsafeEntry { path: String, rule: &'static str },

    /// A limit was exceeded.
    #[error("limit exceeded: {what} is {got}, at most {max} is allowed")]
    Limit { what: &'static str, got: u64, max: u64 },

    /// The destination exists.
    #[error("{} exists; use --force to replace it", .0.display())]
    Exists(PathBuf),

    /// Input or output failed.
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: std::io::Error },

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

    /// The process exit code for this error.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) => 2,
            Self::NotAnArchive | Self::Truncated { .. } | Self::Corrupt { .. } | Self::BadChunk { .. } => 3,
            Self::ModelMissing { .. } | Self::BadModel { .. } => 4,
            Self::UnsafeEntry { .. } => 5,
            Self::Limit { .. } => 6,
            Self::Io { .. } => 7,
            Self::UnsupportedVersion { .. } | Self::UnsupportedFeature { .. } => 8,
            Self::Exists(_) => 11,
            Self::Internal(_) => 70,
            Self::Interrupted => 130,
        }
    }
}
