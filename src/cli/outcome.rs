//! How a command ended.

/// How a command ended that did not fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// With code 0, or 1 if there were warnings.
    Done,
    /// With a code that the command has already explained.
    Code(u8),
}

/// The error of a command whose part was left out of this build.
#[cfg(not(all(feature = "mount", feature = "serve", feature = "train")))]
pub(crate) fn built_without(feature: &str) -> crate::error::Error {
    crate::error::Error::Usage(format!(
        "this s3a was built without `{feature}`; build it with `--features {feature}`"
    ))
}
