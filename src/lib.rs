//! Archives with the size of a strong solid compressor, readable at random.
#![deny(unsafe_code)]

pub mod archive;
pub mod codec;
pub mod error;
pub mod model;
pub mod wire;
