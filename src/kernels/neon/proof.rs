//! The proof that a CPU has NEON.

/// Proof that this CPU has NEON, and whether it has dot products of bytes.
#[derive(Clone, Copy, Debug)]
pub struct Neon {
    pub(crate) dot: bool,
}

impl Neon {
    /// The sets of instructions that this CPU has, the one without dot products first.
    pub fn detect() -> impl Iterator<Item = Self> {
        let neon = std::arch::is_aarch64_feature_detected!("neon");
        let dot = neon && std::arch::is_aarch64_feature_detected!("dotprod");
        [neon.then_some(Self { dot: false }), dot.then_some(Self { dot: true })].into_iter().flatten()
    }

    /// The name of the backend with these instructions.
    pub fn name(self) -> &'static str {
        if self.dot { "neon-dot" } else { "neon" }
    }
}
