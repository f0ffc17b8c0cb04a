//! The sets of kernels, and which of them a CPU can run. Each call chooses its kernel once.

#[cfg(target_arch = "x86_64")]
use super::avx2;
#[cfg(target_arch = "x86_64")]
use super::avx2::vector::Avx2;
#[cfg(target_arch = "x86_64")]
use super::avx512;
#[cfg(target_arch = "x86_64")]
use super::avx512::vector::Avx512;
use super::cache::{Bias, KeyValues, Next, Reach, Scores};
#[cfg(target_arch = "aarch64")]
use super::neon;
#[cfg(target_arch = "aarch64")]
use super::neon::proof::Neon;
use super::pack::{Activations, Product};
use super::scalar;
use super::slots::{BIAS_MAX, RATE_END, Slots};

/// A set of kernels that this CPU can run.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Backend {
    /// Portable code for every machine, which defines the results.
    Scalar,
    /// x86-64 with AVX2.
    #[cfg(target_arch = "x86_64")]
    Avx2(Avx2),
    /// x86-64 with AVX-512 and VNNI.
    #[cfg(target_arch = "x86_64")]
    Avx512(Avx512),
    /// Arm64 with NEON, and with dot products where the proof says so.
    #[cfg(target_arch = "aarch64")]
    Neon(Neon),
}

/// Calls the function of this name in the backend's module.
macro_rules! dispatch {
    ($self:ident, $name:ident($($argument:expr),*)) => {
        match $self {
            Self::Scalar => scalar::$name($($argument),*),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(proof) => avx2::$name(proof, $($argument),*),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512(proof) => avx512::$name(proof, $($argument),*),
            #[cfg(target_arch = "aarch64")]
            Self::Neon(proof) => neon::$name(proof, $($argument),*),
        }
    };
}

impl Backend {
    /// All backends that this CPU can run, the slowest first.
    pub fn available() -> Vec<Self> {
        let mut all = vec![Self::Scalar];
        #[cfg(target_arch = "x86_64")]
        {
            all.extend(Avx2::detect().map(Self::Avx2));
            all.extend(Avx512::detect().map(Self::Avx512));
        }
        #[cfg(target_arch = "aarch64")]
        all.extend(Neon::detect().map(Self::Neon));
        all
    }

    /// The backend's name for people, as `S3A_KERNELS` takes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Scalar => "scalar",
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(_) => "avx2",
            #[cfg(target_arch = "x86_64")]
            Self::Avx512(_) => "avx512",
            #[cfg(target_arch = "aarch64")]
            Self::Neon(proof) => proof.name(),
        }
    }

    /// Does 8-bit multiply-adds as fast as this backend's instructions allow, with operands in the
    /// first-level cache, and returns how many. Measurements of products are compared with this.
    pub fn peak(self, rounds: usize) -> u64 {
        match self {
            Self::Scalar => scalar::peak(rounds),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(proof) => avx2::peak(proof, rounds),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512(proof) => avx512::peak(proof, rounds),
            #[cfg(target_arch = "aarch64")]
            Self::Neon(_) => neon::peak(rounds),
        }
    }

    /// Quantizes the first `rows` rows of `x` into `act`, or, with `normalize`, quantizes and
    /// normalizes them (spec/numerics.md, section 5). Rows are padded.
    pub fn quantize(self, x: &[i32], rows: usize, normalize: bool, act: &mut Activations) {
        assert!(x.len() >= rows * super::buffer::padded(act.len()));
        dispatch!(self, quantize(x, rows, normalize, act));
    }

    /// The product of a weight matrix with the first `rows` vectors of `act`, requantized; row `r`
    /// of the result starts at `r * padded(outputs)`.
    pub fn linear(self, product: &Product, act: &Activations, rows: usize, out: &mut [i32]) {
        assert_eq!(product.cols(), act.len());
        assert!(out.len() >= rows * super::buffer::padded(product.rows()));
        dispatch!(self, linear(product, act, rows, out));
    }

    /// Multiplies the hidden values `x` by gains below 2^14, in units of 2^-12, in place. The rest
    /// of the activation is `relu2`.
    pub fn gain(self, x: &mut [i32], gains: &[i32]) {
        assert_eq!(x.len(), gains.len());
        dispatch!(self, gain(x, gains));
    }

    /// Squared ReLU, in place.
    pub fn relu2(self, x: &mut [i32]) {
        dispatch!(self, relu2(x));
    }

    /// ReLU, in place.
    pub fn relu(self, x: &mut [i32]) {
        dispatch!(self, relu(x));
    }

    /// Each row of `y` holds `len` elements `u` and then `len` elements `g`; a row of `out` becomes
    /// `gelu(u) * g`. Rows are padded; the elements are in units of `2^-unit`.
    pub fn gated_gelu(self, y: &[i32], rows: usize, len: usize, unit: u32, out: &mut [i32]) {
        assert!(
            y.len() >= rows * super::buffer::padded(2 * len)
                && out.len() >= rows * super::buffer::padded(len)
        );
        super::gelu::gated(y, rows, len, unit, out);
    }

    /// Adds a layer's result `y` to the residual stream `h`.
    pub fn add_residual(self, h: &mut [i32], y: &[i32]) {
        assert_eq!(h.len(), y.len());
        dispatch!(self, add_residual(h, y));
    }

    /// The vector at the input of the decoder: the sum of padded table rows times their scales,
    /// shifted right by `shift`.
    pub fn embed(self, rows: &[(&[i8], u16)], shift: u32, h: &mut [i32]) {
        assert!(rows.len() <= 32 && rows.iter().all(|(row, _)| row.len() == h.len()));
        dispatch!(self, embed(rows, shift, h));
    }

    /// Stores the keys and values of a position, `heads * size` elements each, clamped to `KV_MAX`.
    pub fn store(self, kv: &mut KeyValues, position: usize, keys: &[i32], values: &[i32]) {
        let len = kv.heads() * kv.size();
        assert!(keys.len() == len && values.len() == len);
        dispatch!(self, store(kv, position, keys, values));
    }

    /// Clamps the queries of one position to `KV_MAX`.
    pub fn queries(self, x: &[i32], out: &mut [i16]) {
        assert_eq!(x.len(), out.len());
        dispatch!(self, queries(x, out));
    }

    /// Attention of all heads at one position: `query` and `out` hold `heads * size` elements.
    /// `next` names what the following call will read; it changes the speed and never the result.
    #[expect(clippy::too_many_arguments, reason = "each is a distinct operand")]
    pub fn attend(
        self,
        kv: &KeyValues,
        query: &[i16],
        reach: Reach,
        bias: Option<&Bias>,
        score_shift: u32,
        next: Option<Next<'_>>,
        scores: &mut Scores,
        out: &mut [i32],
    ) {
        assert_eq!(query.len(), out.len());
        assert!(next.is_none_or(|next| (next.kv.heads(), next.kv.size()) == (kv.heads(), kv.size())));
        assert!(reach.first <= reach.last && query.len().is_multiple_of(kv.heads() * kv.size()));
        dispatch!(self, attend(kv, query, reach, bias, score_shift, next, scores, out));
    }

    /// Turns the scores `z` of all symbols into slots.
    pub fn slots(self, z: &[i32], slots: &mut Slots) {
        assert_eq!(z.len(), slots.slots().len());
        dispatch!(self, slots(z, slots));
    }

    /// Adds to the scores what a bias has learned within the chunk.
    pub fn add_bias(self, z: &mut [i32], bias: &[i32]) {
        assert_eq!(z.len(), bias.len());
        dispatch!(self, add_bias(z, bias));
    }

    /// Lets a bias learn that `symbol` came under `slots`; `rate` is below `RATE_END`.
    pub fn learn(self, slots: &Slots, symbol: usize, rate: u32, bias: &mut [i32]) {
        assert!(bias.len() == slots.slots().len() && rate < RATE_END);
        let share = slots.share_of_rate(rate);
        dispatch!(self, learn(slots, share, bias));
        bias[symbol] = (bias[symbol] + rate as i32).min(BIAS_MAX);
    }
}
