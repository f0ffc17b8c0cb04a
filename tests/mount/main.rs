//! The mount as programs see it, with real FUSE. A test that cannot run says why it is skipped.
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
