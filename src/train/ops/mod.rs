//! Fused operations of the training graph with backward passes of their own.
//!
//! candle's generic graph spends most of its time moving intermediate tensors. Each operation here
//! computes a whole sublayer: its inputs are the residual stream and one packed parameter tensor,
//! its output is the new residual stream. Threads take sequences; weight gradients are summed over
//! a fixed number of groups, so that results do not depend on the number of threads. On other
//! devices the same sublayers are composed of candle's differentiable operations (`compose`), and
//! tests compare the two.

pub mod attention;
pub mod compose;
pub mod embed;
pub mod feed_forward;
pub mod loss;
pub mod vector;

#[cfg(test)]
mod tests;

use std::sync::Mutex;

use candle_core::{CpuStorage, Layout, Result, Tensor, bail};

/// Groups over which weight gradients are summed separately.
pub const GROUPS: usize = 4;

/// The contiguous floats of a storage.
pub fn floats<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&storage.as_slice::<f32>()?[start..end]),
        None => bail!("a fused operation needs contiguous input"),
    }
}

/// The values of a contiguous tensor on the CPU.
pub fn values(tensor: &Tensor) -> Result<Vec<f32>> {
    tensor.flatten_all()?.to_vec1::<f32>()
}

/// What a forward pass saves for its backward pass.
pub type Kept<T> = Mutex<Option<T>>;

/// Takes what the forward pass saved.
pub fn take<T>(kept: &Kept<T>) -> Result<T> {
    match kept.lock().map(|mut slot| slot.take()) {
        Ok(Some(value)) => Ok(value),
        _ => bail!("the backward pass of a fused operation runs once after its forward pass"),
    }
}

/// Saves a value for the backward pass.
pub fn keep<T>(kept: &Kept<T>, value: T) {
    if let Ok(mut slot) = kept.lock() {
        *slot = Some(value);
    }
}
