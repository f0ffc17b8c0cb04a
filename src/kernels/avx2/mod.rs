//! AVX2 kernels. Exactly the results of `scalar`, for all inputs within the bounds of the spec.
//!
//! Vectors hold eight 32-bit values. Slices are cut into arrays of a vector's size, so that loads
//! and stores are checked by their types; only the products' inner loops work on pointers.

#![deny(clippy::float_arithmetic)]

pub mod attention;
pub mod linear;
pub mod peak;
pub mod rows;
pub mod vector;

pub use attention::attend;
pub use linear::linear;
pub use peak::peak;
pub use rows::{add_bias, add_residual, embed, gain, learn, quantize, queries, relu, relu2, slots, store};
