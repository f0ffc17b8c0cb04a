//! What a device does for the codec, and what it returns.

use std::sync::Arc;

use crate::coder::share::Share;
use crate::error::Result;
use crate::model::device::job::Request;
use crate::model::weights::Model;

/// What a device made of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// The tokens of a chunk; together they have exactly its raw bytes.
    Tokens(Vec<u16>),
    /// For known tokens, the interval of each token and the total of its slots.
    Shares(Vec<(Share, u64)>),
    /// The payload does not decode to its length.
    Damaged,
}

/// A device that runs models for many chunks at once, with the same results as the scalar kernels.
pub trait Device: Send + Sync {
    /// The device's name for people.
    fn name(&self) -> String;

    /// Prepares what batches of this many chunks need: kernel, weights, self-test. `run` does the
    /// same if it has not been done.
    ///
    /// # Errors
    /// Why the device cannot be used.
    fn prepare(&self, model: &Arc<Model>, chunks: usize) -> Result<(), String> {
        let _ = (model, chunks);
        Ok(())
    }

    /// One output for each request, in their order.
    ///
    /// # Errors
    /// Why the device cannot be used any more.
    fn run(&self, model: &Arc<Model>, requests: &[Request<'_>]) -> Result<Vec<Output>, String>;
}
