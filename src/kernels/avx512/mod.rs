//! AVX-512 kernels with the dot products of VNNI. Exactly the results of `scalar`, for all inputs
//! within the bounds of the spec.
//!
//! Vectors hold sixteen 32-bit values, as many as `PAD`, so that rows are whole vectors.

#![deny(clippy::float_arithmetic)]

pub mod attention;
pub mod linear;
pub mod peak;
pub mod quantize;
pub mod rows;
pub mod slots;
pub mod store;
pub mod vector;

pub use attention::attend;
pub use linear::linear;
pub use peak::peak;
pub use quantize::quantize;
pub use rows::{add_residual, embed, gain, relu, relu2};
pub use slots::{add_bias, learn, slots};
pub use store::{queries, store};
