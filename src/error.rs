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

    /// The file ends before what it declares.
    #[error("cut short: the file ends at byte {offset}, {needed} bytes early")]
    Truncated {
        /// Where the file ends.
        offset: u64,
        /// Bytes that are missing.
        needed: u64,
    },

    /// Bytes of the archive break a rule of the format.
    #[error("damaged at byte {offset}: {rule}")]
    Corrupt {
        /// Offset of the broken bytes, or of the frame that holds them.
        offset: u64,
        /// The rule that is broken.
        rule: &'static str,
    },

    /// Parts of an archive contradict each other, so that no single offset can be blamed.
    #[error("the archive is damaged: {rule}")]
    Inconsistent {
        /// The rule that is broken.
        rule: &'static str,
    },

    /// A chunk does not give the bytes that were packed.
    #[error("chunk {chunk} at byte {offset} is damaged: {rule}")]
    BadChunk {
        /// The chunk's number in the archive.
        chunk: u32,
        /// Offset of the chunk's frame.
        offset: u64,
        /// The rule that is broken.
        rule: &'static str,
    },

    /// The system cannot read bytes of the archive, for example at a bad sector of a disk.
    #[error("the {len} bytes at byte {offset} cannot be read: {source}")]
    Unreadable {
        /// Offset of the first byte that cannot be read.
        offset: u64,
        /// How many bytes cannot be read.
        len: u64,
        /// The error of the system.
        source: std::io::Error,
    },

    /// The content of a file is not what was packed, though its chunks pass their checks.
    #[error("{path}: its content has another hash than its entry")]
    BadContent {
        /// Path of the file in the archive.
        path: String,
    },

    /// The archive has a newer major format version.
    #[error("format version {got} is not supported, this build reads up to {max}; a newer s3a is needed")]
    UnsupportedVersion {
        /// Major version of the archive.
        got: u16,
        /// The newest version that this build reads.
        max: u16,
    },

    /// The archive needs features that this build does not know.
    #[error("the archive needs features {bits:#x} that this build does not know; a newer s3a is needed")]
    UnsupportedFeature {
        /// One bit for each unknown feature.
        bits: u32,
    },

    /// No model with the fingerprint that an archive names was found.
    #[error("model {fingerprint} ({name}) is missing")]
    ModelMissing {
        /// The model's fingerprint in hexadecimal digits.
        fingerprint: String,
        /// What the archive calls the model.
        name: String,
    },

    /// A model file breaks a rule of its format.
    #[error("model file {name}: {rule}")]
    BadModel {
        /// Name or path of the file.
        name: String,
        /// The rule that is broken.
        rule: String,
    },

    /// An entry would reach outside the directory that is unpacked into, or has a kind that is
    /// refused.
    #[error("unsafe entry {path}: {rule}")]
    UnsafeEntry {
        /// Path of the entry.
        path: String,
        /// Why the entry is refused.
        rule: &'static str,
    },

    /// An entry is a device, which is unpacked only for callers who ask for devices.
    #[error("unsafe entry {path}: it is a device")]
    Device {
        /// Path of the entry.
        path: String,
    },

    /// The files to unpack hold more bytes together than the caller allows.
    #[error("the unpacked files would hold {bytes} bytes, more than the {max} that are allowed")]
    TooLarge {
        /// Bytes that the files hold together.
        bytes: u64,
        /// Bytes that the caller allows.
        max: u64,
    },

    /// A quantity exceeds what this build or the format allows.
    #[error("limit exceeded: {what} is {got}, at most {max} is allowed")]
    Limit {
        /// The quantity.
        what: &'static str,
        /// Its value.
        got: u64,
        /// The largest value that is allowed.
        max: u64,
    },

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
    InArchive {
        /// The path.
        path: String,
    },

    /// Input or output on a file failed.
    #[error("{}: {source}", path.display())]
    Io {
        /// Path of the file.
        path: PathBuf,
        /// The error of the system.
        source: std::io::Error,
    },

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
