//! NEON kernels for aarch64: products and attention, where nearly all of the time goes. Exactly the
//! results of `scalar`, whose other kernels the compiler turns into the same instructions.

#![deny(clippy::float_arithmetic)]

mod attention;
mod linear;

use super::cache::KeyValues;
use super::pack::Activations;
use super::scalar;
use super::slots::{RateShare, Slots};

pub use super::scalar::peak;
pub use attention::attend;
pub use linear::linear;

/// Leaves a kernel to `scalar`.
macro_rules! scalar {
    ($($name:ident($($argument:ident: $type:ty),*);)*) => { $(
        pub fn $name(_: Neon, $($argument: $type),*) {
            scalar::$name($($argument),*);
        }
    )* };
}

scalar! {
    quantise(x: &[i32], rows: usize, normalise: bool, act: &mut Activations);
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

/// Proof that this CPU has NEON, and whether it has dot products of bytes.
#[derive(Clone, Copy, Debug)]
pub struct Neon {
    dot: bool,
}

impl Neon {
    /// Without dot products first.
    pub fn detect() -> impl Iterator<Item = Self> {
        let neon = std::arch::is_aarch64_feature_detected!("neon");
        let dot = neon && std::arch::is_aarch64_feature_detected!("dotprod");
        [neon.then_some(Self { dot: false }), dot.then_some(Self { dot: true })].into_iter().flatten()
    }

    pub fn name(self) -> &'static str {
        if self.dot { "neon-dot" } else { "neon" }
    }
}
