//! Archives with the size of a strong solid compressor, readable at random.
#![deny(unsafe_code)]

pub mod error;
