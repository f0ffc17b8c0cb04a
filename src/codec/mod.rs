//! One chunk: raw bytes to coded bytes and back.
//!
//! A chunk may name earlier chunks whose raw bytes serve as history. This layer is given those
//! bytes; the archive layer decides which chunks they are.

pub mod choice;
pub mod chunk;
#[cfg(feature = "gpu")]
pub mod cuda;
pub mod job;
pub mod lz;
pub mod model;
pub mod neural;
pub mod offload;
pub mod stored;
pub mod work;
pub mod zstd_chunk;

pub use chunk::{decode, decode_bulk, encode};
pub use job::{DecodeError, DecodeJob, Decoded, EncodeJob, Encoded};
pub use model::{ChunkModel, Learned, Models};
pub use zstd_chunk::Zstd;

pub use crate::wire::chunk::Codec;
pub use crate::wire::zstd_raw::Dictionary;
