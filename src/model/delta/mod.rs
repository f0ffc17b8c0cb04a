//! A model as the difference to another model, its base: an archive whose model has learned the
//! archive's own data carries such a delta (spec/numerics.md, section 12).
//!
//! Rows of tables and products change by whole steps, most of them not at all. The differences are
//! written with the range coder under adaptive bits, so that what does not change costs almost
//! nothing. With the base they make an ordinary model file; its fingerprint is that of the delta.

mod bits;
mod change;
mod file;
mod matrix;
mod parts;
#[cfg(test)]
mod tests;

pub use file::{Change, Delta, LARGEST_STEP, base_fingerprint, is_delta, write};
pub use parts::{Part, parts};
