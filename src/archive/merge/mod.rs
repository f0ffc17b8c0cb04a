//! Archives that were packed apart, joined without coding a chunk anew.

pub mod joiner;
pub mod plan;

pub use joiner::{MergeSummary, merge};
pub use plan::OnClash;
