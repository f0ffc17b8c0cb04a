//! Archives at URLs: https, http, s3, gs and az, by the crate object_store.
//!
//! `location` tells URLs from paths, in every build. `store` makes a client of a URL, `request` gets one range with
//! retries and holds every answer against the version that was opened, `ahead` finds out who reads in sequence, and
//! `file` joins them: blocks that are fetched once and cached in bounded memory.

#[cfg(feature = "remote")]
mod ahead;
#[cfg(feature = "remote")]
mod aws_files;
#[cfg(feature = "remote")]
mod failure;
#[cfg(feature = "remote")]
pub mod file;
pub mod location;
#[cfg(feature = "remote")]
pub mod options;
#[cfg(feature = "remote")]
mod request;
#[cfg(feature = "remote")]
mod runtime;
#[cfg(feature = "remote")]
mod store;
