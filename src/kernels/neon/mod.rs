//! NEON kernels for aarch64: products and attention, where nearly all of the time goes. Exactly the
//! results of `scalar`, whose other kernels the compiler turns into the same instructions.

#![deny(clippy::float_arithmetic)]

pub mod attention;
pub mod linear;
pub mod proof;

pub use attention::attend;
pub use linear::linear;
use proof::Neon;

use crate::kernels::cache::KeyValues;
use crate::kernels::pack::Activations;
use crate::kernels::scalar;
pub use crate::kernels::scalar::peak;
use crate::kernels::slots::{RateShare, Slots};

/// Leaves a kernel to `scalar`.
macro_rules! scalar {
    ($($name:ident($($argument:ident: $type:ty),*);)*) => { $(
        pub fn $name(_: Neon, $($argument: $type),*) {
            scalar::$name($($argument),*);
        }
    )* };
}

scalar! {
    quantize(x: &[i32], rows: usize, normalize: bool, act: &mut Activations);
    gain(x: &mut [i32], gains: &[i32]);
    relu2(x: &mut [i32]);
    relu(x: &mut [i32]);
    add_residual(h: &mut [i32], y: &[i32]);
    embed(rows: &[(&[i8], u16)], shift: u32, h: &mut [i32]);
    store(kv: &mut KeyValues, position: usize, keys: &[i32], values: &[i32]);
    queries(x: &[i32], out: &mut [i16]);
    slots(z: &[i32], slots: &mut Slots);
    add_bias(z: &mut [i32], bias: &[i32]);
    learn(slots: &Slots, rate: RateShare, bias: &mut [i32]);
}
