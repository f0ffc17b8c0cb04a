//! A model as the difference to another, its base: what an archive carries that has learned its own
//! data (spec/numerics.md section 12).
//!
//! Rows of tables and products change by whole steps, most of them not at all, and the differences
//! are written by the product's range coder under adaptive bits, so that no change costs next to
//! nothing. With the base they make a model file like any other; its fingerprint is that of the
//! delta.

mod bits;
mod change;
mod file;
mod matrix;
mod parts;
#[cfg(test)]
mod tests;

pub use file::{Change, Delta, LARGEST_STEP, base_fingerprint, is_delta, write};
pub use parts::{Part, parts};
