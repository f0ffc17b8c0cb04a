//! The integer transformer: its file, vocabulary, match input, encoder of c and decoder.
//!
//! Everything from token ids to coder slots is computed in exact integers, as spec/numerics.md
//! defines; the arithmetic itself is in `kernels`. A loaded model has passed all checks of section
//! 11, so no input can make an intermediate value overflow.
#![deny(clippy::float_arithmetic)]

pub mod config;
pub mod decoder;
pub mod delta;
pub mod device;
pub(crate) mod file;
pub mod latent;
mod load;
pub mod matcher;
pub mod registry;
#[doc(hidden)]
pub mod sample;
pub(crate) mod stack;
pub(crate) mod steer;
pub mod tokens;
pub(crate) mod weights;
pub mod write;

pub use steer::GAIN_ONE;
pub use weights::{Model, expert};
