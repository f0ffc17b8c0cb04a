//! Why a call on the mounted tree failed, and the errno that its caller sees.

use std::sync::Arc;

use rustix::io::Errno;

use crate::error::Error;

/// Why a call on the mounted tree failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Fault {
    #[error("no such file or directory")]
    NoEntry,
    #[error("not a directory")]
    NotDirectory,
    #[error("is a directory")]
    IsDirectory,
    #[error("not of the kind that the call is for")]
    WrongKind,
    #[error("no such attribute")]
    NoAttribute,
    #[error("the position lies beyond the data")]
    BeyondData,
    #[error("an archive is read only")]
    ReadOnly,
    #[error("{0}")]
    Archive(Arc<Error>),
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Self::Archive(Arc::new(error))
    }
}

impl From<Arc<Error>> for Fault {
    fn from(error: Arc<Error>) -> Self {
        Self::Archive(error)
    }
}

impl Fault {
    /// The errno for it.
    pub fn errno(&self) -> Errno {
        match self {
            Self::NoEntry => Errno::NOENT,
            Self::NotDirectory => Errno::NOTDIR,
            Self::IsDirectory => Errno::ISDIR,
            Self::WrongKind => Errno::INVAL,
            Self::NoAttribute => Errno::NODATA,
            Self::BeyondData => Errno::NXIO,
            Self::ReadOnly => Errno::ROFS,
            Self::Archive(error) => of_error(error),
        }
    }
}

/// The errno for an error of the crate. Whatever is wrong with the archive is EIO, so that no
/// reader takes it for something about the file's name or rights.
fn of_error(error: &Error) -> Errno {
    match error {
        Error::NotAnArchive
        | Error::Truncated { .. }
        | Error::Corrupt { .. }
        | Error::Inconsistent { .. }
        | Error::BadChunk { .. }
        | Error::Unreadable { .. }
        | Error::BadContent { .. }
        | Error::UnsupportedVersion { .. }
        | Error::UnsupportedFeature { .. }
        | Error::ModelMissing { .. }
        | Error::BadModel { .. }
        | Error::UnsafeEntry { .. }
        | Error::Device { .. }
        | Error::Io { .. }
        | Error::Output(_)
        | Error::Changed(_)
        | Error::ObjectChanged(_)
        | Error::Training(_)
        | Error::Internal(_) => Errno::IO,
        Error::Limit { .. } | Error::TooLarge { .. } => Errno::NOMEM,
        Error::Interrupted => Errno::INTR,
        Error::Exists(_) => Errno::EXIST,
        Error::Usage(_) | Error::Clash(_) | Error::InArchive { .. } => Errno::INVAL,
    }
}
