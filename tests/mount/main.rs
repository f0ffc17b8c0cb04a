//! The mount as programs see it, with real FUSE. Each test says why it skips where it must.
#![cfg(feature = "mount")]

#[path = "../common/mod.rs"]
mod common;
mod contents;
#[cfg(feature = "gpu")]
mod device;
#[cfg(feature = "gpu")]
#[path = "../emulation/mod.rs"]
mod emulation;
mod life;
mod place;
mod soak;
