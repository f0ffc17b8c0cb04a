//! Archives that were packed apart, joined without coding a chunk anew.

pub mod joiner;
pub mod plan;

pub use joiner::{Summary, merge};
pub use plan::OnClash;
