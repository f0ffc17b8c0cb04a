//! Work that goes to a device: what it costs there and here, and who does it.

pub mod costs;
pub mod device;
pub mod dispatch;
