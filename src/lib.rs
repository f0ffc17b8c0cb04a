//! Archives with the size of a strong solid compressor, readable at random.
#![deny(unsafe_code)]

pub mod archive;
#[doc(hidden)]
pub mod cli;
pub mod codec;
pub mod coder;
pub mod error;
#[allow(unsafe_code)]
pub mod kernels;
pub mod model;
#[cfg(feature = "mount")]
pub mod mount;
#[cfg(feature = "train")]
pub mod train;
pub mod wire;
pub use error::{Error, Result};
