//! Integer arithmetic of the model: `scalar` defines it, other backends equal it bit for bit.
//!
//! A backend is chosen once per process, after a short self-test. A call does a layer's work for
//! many rows, so choosing the kernel costs nothing. Rows are padded with zeros to `PAD` elements.
//! This is the only home of `unsafe`; a value of a backend proves that the CPU has the backend's
//! instructions.

#[cfg(target_arch = "x86_64")]
pub(crate) mod avx2;
#[cfg(target_arch = "x86_64")]
pub(crate) mod avx512;
pub(crate) mod backend;
pub(crate) mod buffer;
pub(crate) mod cache;
pub(crate) mod check;
pub(crate) mod choice;
#[cfg(feature = "gpu")]
pub mod cuda;
pub(crate) mod gelu;
#[cfg(target_arch = "aarch64")]
pub(crate) mod neon;
pub(crate) mod pack;
pub mod prefetch;
pub mod scalar;
#[cfg(feature = "train")]
pub mod sgemm;
pub(crate) mod slots;
#[cfg(test)]
mod tests;

pub use backend::Backend;
pub use buffer::{Buffer, PAD, padded};
pub use cache::{Bias, KV_MAX, KeyValues, Next, Reach, Scores};
pub use gelu::SHARE as GELU_SHARE;
pub use pack::{Activations, Product, Table};
pub use prefetch::prefetch;
pub use scalar::H_MAX;
pub use slots::{RATE_END, Slots};
