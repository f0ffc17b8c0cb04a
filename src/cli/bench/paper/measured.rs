//! What was measured in the paper's setting.

use super::measure::{Sizes, Speed};

/// All that comes of it.
#[derive(Default)]
pub(crate) struct Measured {
    pub(crate) sizes: Vec<Sizes>,
    pub(crate) speeds: Vec<Speed>,
}
