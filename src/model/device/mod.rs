//! A model in the form that the kernel of the GPU needs (docs/research/gpu.md): sizes for the
//! compiler, weights as one sequence of bytes, and the record of a chunk.
//! `src/kernels/cuda/source/layout.cuh` declares the same structures.

pub mod image;
pub mod job;
pub mod shape;

pub use image::image;
pub use job::{Job, Memory, Request, Status, UNKNOWN};
pub use shape::{Shape, supports};
