//! Errors of candle, as this crate reports them.

/// An error of candle as an error of this crate.
pub(crate) fn failed(error: candle_core::Error) -> crate::error::Error {
    crate::error::Error::Training(error.to_string())
}
