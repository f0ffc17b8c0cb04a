//! What can be wrong with an archive: its checks, and its comparison with a directory.

pub mod content_hashes;
pub mod diff;
pub mod record_order;
pub mod verify;
