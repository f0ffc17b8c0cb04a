//! A model as the GPU's kernel takes it (docs/research/gpu.md): sizes for the compiler, weights as
//! one run of bytes, and the record of a chunk. `src/kernels/cuda/source/layout.cuh` has the same
//! structures.

pub mod image;
pub mod job;
pub mod shape;

pub use image::image;
pub use job::{Job, Memory, Request, Status, UNKNOWN};
pub use shape::{Shape, supports};
