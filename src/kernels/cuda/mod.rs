//! An NVIDIA GPU, found and driven at run time: one binary runs with and without one.
//!
//! The decoder is one kernel (`source/`), which NVRTC compiles for the device and the sizes of a
//! model; the compiled kernel is cached in the user's cache directory. This directory holds what
//! lies below the model: libraries and their functions (`library`), memory and launches (`device`),
//! compiling (`compile`). `model::device` lays out weights and chunks. The kernel equals the scalar
//! kernels bit for bit; docs/research/gpu.md says how that is tested without a GPU.
//!
//! Whatever is missing or fails here is a `Fault`, never a panic: the CPU then does the work.

pub mod compile;
pub mod device;
pub mod fault;
pub mod library;

pub use compile::{Image, compile, compiler};
pub use device::{Device, Kernel, Memory};
