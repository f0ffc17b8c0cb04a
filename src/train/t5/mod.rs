//! T5, the network of compressors: its sizes, and the network itself.

pub mod config;
pub mod network;
#[cfg(test)]
mod tests;

pub use config::{FeedForward, T5Config};
pub use network::T5;
