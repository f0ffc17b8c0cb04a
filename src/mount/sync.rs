//! The locks of the cache; `tests/schedules` puts others of the same names in their place.

pub use std::sync::atomic::{AtomicU64, Ordering};
pub use std::sync::{Mutex, MutexGuard, PoisonError};
