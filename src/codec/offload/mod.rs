//! Work for a device: what it costs there and on the CPU, and which side does it.

pub mod costs;
pub mod device;
pub mod dispatch;
