//! What is left of a damaged archive: found, and packed anew.

pub mod recover;
pub mod repack;
