//! Why a GPU did not do what it was asked.

/// Why a device did not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The device has not enough memory; a smaller batch would fit.
    #[error("the device has not enough memory")]
    Memory,
    /// The device failed and is not used any more; the text says why.
    #[error("{0}")]
    Failed(String),
}

impl Fault {
    pub(crate) fn failed(why: impl Into<String>) -> Self {
        Self::Failed(why.into())
    }
}
