//! An NVIDIA GPU, found and driven at run time: one binary runs with and without one.
//!
//! The decoder is one kernel (`source/`), which NVRTC compiles for the device and the sizes of a model; what
//! it makes is kept in the user's cache folder. Here is what is below the model: libraries and their functions
//! (`library`), memory and launches (`device`), compiling (`compile`). `model::device` lays out weights and
//! chunks. The kernel equals the scalar kernels bit for bit; docs/gpu.md says how that is tested without a GPU.
//!
//! All that is missing or fails here is a `Fault`, never a panic: the CPU does the work then.

mod compile;
mod device;
mod library;

pub use compile::{Image, compile, compiler};
pub use device::{Device, Kernel, Memory};

/// The kernel's source, in the order in which its parts need each other.
const SOURCE: &[&str] = &[
    include_str!("source/device.cuh"),
    include_str!("source/arith.cuh"),
    include_str!("source/layout.cuh"),
    include_str!("source/rows.cuh"),
    include_str!("source/attention.cuh"),
    include_str!("source/matcher.cuh"),
    include_str!("source/coder.cuh"),
    include_str!("source/decode.cu"),
];

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
    fn failed(why: impl Into<String>) -> Self {
        Self::Failed(why.into())
    }
}
