//! What the command makes of an error: its exit code, and what a user can do about it.

use crate::error::Error;

/// The process exit code for an error, as the README lists it.
pub(crate) fn code(error: &Error) -> u8 {
    match error {
        Error::Usage(_) | Error::Clash(_) | Error::InArchive { .. } => 2,
        Error::NotAnArchive
        | Error::Truncated { .. }
        | Error::Corrupt { .. }
        | Error::Inconsistent { .. }
        | Error::BadChunk { .. }
        | Error::Unreadable { .. }
        | Error::BadContent { .. } => 3,
        Error::ModelMissing { .. } | Error::BadModel { .. } => 4,
        Error::UnsafeEntry { .. } | Error::Device { .. } => 5,
        Error::Limit { .. } | Error::TooLarge { .. } => 6,
        Error::Io { .. } | Error::Output(_) | Error::Changed(_) | Error::ObjectChanged(_) => 7,
        Error::UnsupportedVersion { .. } | Error::UnsupportedFeature { .. } => 8,
        Error::Exists(_) => 11,
        Error::Internal(_) | Error::Training(_) => 70,
        Error::Interrupted => 130,
    }
}

/// What a user can do about an error, to follow its text.
pub(crate) fn advice(error: &Error) -> &'static str {
    match error {
        Error::Truncated { .. }
        | Error::Corrupt { .. }
        | Error::Inconsistent { .. }
        | Error::Unreadable { .. } => "; `s3a salvage` recovers what is intact",
        Error::ModelMissing { .. } => {
            ": put its file beside the archive or in a directory of S3A_MODEL_PATH, or pass --model FILE"
        }
        Error::Device { .. } => "; --devices unpacks devices, --exclude leaves it out",
        Error::TooLarge { .. } => "; --max-size raises that",
        Error::Clash(_) => "; --on-clash first or last chooses which stays",
        Error::InArchive { .. } => "; --skip-existing leaves out what is there",
        Error::Changed(_) => "; nothing was written to it, try again",
        Error::ObjectChanged(_) => "; what was read before is of the one that was opened, try again",
        Error::Exists(_) => "; use --force to replace it",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_that_no_command_line_can_cause_have_their_codes() {
        assert_eq!((code(&Error::Internal("x")), code(&Error::Interrupted)), (70, 130));
    }
}
