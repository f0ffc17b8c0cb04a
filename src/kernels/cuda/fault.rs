//! Why a GPU did not do what it was asked.

/// Why the device did not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// Less would fit.
    #[error("the device has not enough memory")]
    Memory,
    /// Nothing more can be expected of it.
    #[error("{0}")]
    Failed(String),
}

impl Fault {
    pub(crate) fn failed(why: impl Into<String>) -> Self {
        Self::Failed(why.into())
    }
}
