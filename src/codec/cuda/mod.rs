//! Many chunks decoded at once on an NVIDIA GPU.

pub mod decoder;
pub mod tiles;
