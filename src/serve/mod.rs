//! An archive as a read-only HTTP server, for machines without FUSE.
//!
//! `names` resolves what a URL names, `listing` shows a directory, `conditions` answers what a client knows already,
//! `content` brings bytes of files, `server` joins them under axum. A file's bytes are exactly those that were
//! packed, or the connection ends before the last of them.

mod conditions;
mod content;
mod listing;
mod names;
mod server;

pub use server::{Serving, start};
