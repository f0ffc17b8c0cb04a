//! Integer arithmetic of the model: `scalar` defines it, other backends equal it bit for bit.
//!
//! A backend is chosen once per process, after a short self-test, and dispatched once per call, each call
//! being a layer's work for many rows. Rows are padded with zeros to `PAD` elements. This is the only home
//! of `unsafe`; a backend is a proof that the CPU has its instructions.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod backend;
mod buffer;
mod cache;
mod check;
#[cfg(feature = "gpu")]
pub mod cuda;
mod gelu;
#[cfg(target_arch = "aarch64")]
mod neon;
mod pack;
pub mod scalar;
#[cfg(feature = "train")]
pub mod sgemm;
mod slots;
#[cfg(test)]
mod tests;

pub use backend::Backend;
pub use buffer::{Buffer, PAD, padded};
pub use cache::{Bias, KV_MAX, KeyValues, Next, Reach, Scores};
pub use gelu::SHARE as GELU_SHARE;
pub use pack::{Activations, Product, Table};
pub use slots::{RATE_END, Slots};

/// Largest magnitude in the residual stream.
pub const H_MAX: i32 = 1 << 29;

/// Asks for the cache line of an element that will be read soon.
#[inline]
pub fn prefetch<T>(slice: &[T], index: usize) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    if let Some(element) = slice.get(index) {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a prefetch of a valid address; it has no effect but on speed.
        unsafe { _mm_prefetch(std::ptr::from_ref(element).cast(), _MM_HINT_T0) };
    }
    #[cfg(not(all(target_arch = "x86_64", not(miri))))]
    let _ = (slice, index);
}
