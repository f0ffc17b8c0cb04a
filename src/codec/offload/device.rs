//! What a device does for the codec, and what it answers.

use std::sync::Arc;

use crate::coder::share::Share;
use crate::error::Result;
use crate::model::device::job::Request;
use crate::model::weights::Model;

/// What became of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// The tokens of a chunk; their bytes are as many as it has.
    Tokens(Vec<u16>),
    /// For known tokens, the share of each and the total.
    Shares(Vec<(Share, u64)>),
    /// The payload does not decode to its length.
    Damaged,
}

/// Something that runs models for many chunks at once, with the results of the scalar kernels.
pub trait Device: Send + Sync {
    /// What people call it.
    fn name(&self) -> String;

    /// Makes ready what batches of so many chunks need: kernel, weights, self-test. `run` does so
    /// too.
    ///
    /// # Errors
    /// Why nothing is to be expected of it.
    fn prepare(&self, model: &Arc<Model>, chunks: usize) -> Result<(), String> {
        let _ = (model, chunks);
        Ok(())
    }

    /// One output for each request, in their order; or why there is none, and nothing more is to be
    /// expected.
    fn run(&self, model: &Arc<Model>, requests: &[Request<'_>]) -> Result<Vec<Output>, String>;
}
