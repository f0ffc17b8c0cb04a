//! Training a decompressor: `s3a train`.
//!
//! This is the only home of floats. A network (`net`) is trained on chunks with their match
//! features (`corpus`) by an optimizer (`optimizer`), saved in checkpoints, and quantized into a
//! model file for the integer engine (`export`). A compressor that writes c may be trained beside
//! it (`compressor`, `actor_critic`). `docs/research/training.md` says what was tried.

pub mod actor_critic;
pub mod checkpoint;
pub mod clusters;
pub mod compressor;
pub mod corpus;
pub mod encoder;
pub mod error;
pub mod export;
#[cfg(test)]
mod export_tests;
pub mod import;
pub mod init;
pub mod learn;
pub mod net;
pub mod ops;
pub mod optimizer;
pub mod pair_config;
pub mod params;
pub mod prior;
pub mod quantize;
pub mod random;
pub mod replace;
pub mod run;
pub(crate) mod sizes;
pub mod t5;
pub mod vocabulary;

pub use run::{Progress, TrainOptions, run};
