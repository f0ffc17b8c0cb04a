//! The arithmetic of spec/numerics.md, sections 5 to 7, word for word. This code defines the
//! results; every other backend equals it bit for bit.
//!
//! All intermediate values fit the types used here, given the bounds that the model loader checks;
//! debug builds would panic on an overflow.
#![deny(clippy::float_arithmetic)]

use super::buffer::padded;
use super::cache::{Bias, KeyValues, Next, Reach, Scores};
use super::pack::{Activations, PANEL, Product, QUAD};
use super::slots::{BIAS_MAX, RateShare, SUM_SPAN, Slots};

/// `(a + 2^(n-1)) >> n`, and `a` for `n = 0`: a shift that rounds, halves upward.
#[inline]
pub fn rshift(a: i32, n: u32) -> i32 {
    if n == 0 { a } else { (a + (1 << (n - 1))) >> n }
}

/// Binary digits of `a`; 0 for 0.
#[inline]
pub(crate) fn bitlen(a: u32) -> i32 {
    (u32::BITS - a.leading_zeros()) as i32
}

/// `m`, `e` and the multiplier of `quantize` for a largest magnitude above 0.
#[inline]
pub(crate) fn quantize_scale(amax: i32) -> (i32, i32, i32) {
    let e = bitlen(amax as u32) - 15;
    let m = if e >= 0 { rshift(amax, e as u32) } else { amax << -e };
    (m, e, (127 << 23) / m)
}

/// `m` and `e` of `normalize` for a sum of squares above 0 over `n` elements.
#[inline]
pub(crate) fn normalize_scale(n: usize, sum: u32) -> (i32, i32) {
    let v = (((n as u64) << 32) / u64::from(sum)) as u32;
    // The least k >= 0 with v * 4^k >= 2^28; v has at most 30 binary digits.
    let k = (29 - bitlen(v)).max(0).unsigned_abs().div_ceil(2);
    (root(v << (2 * k)), -(k as i32))
}

/// The largest number whose square is at most `a`, for `a` from 2^28 to 2^30. One step of Newton's
/// method from a root that is right to 8 bits gives the root or one more.
#[inline]
fn root(a: u32) -> i32 {
    const FIRST: [u16; 192] = {
        let mut roots = [0; 192];
        let mut top = 0;
        while top < roots.len() {
            // The root of the middle of the numbers whose upper bits are `top + 64`.
            roots[top] = ((2 * (top as u32 + 64) + 1) << 21).isqrt() as u16;
            top += 1;
        }
        roots
    };
    let first = u32::from(FIRST[(a >> 22) as usize - 64]);
    let next = (first + a / first) / 2;
    (next - u32::from(next * next > a)) as i32
}

/// Quantizes rows; with `normalize`, `m` and `e` are those of the normalized vectors. Rows of `x`
/// and `act` are padded with zeros.
pub fn quantize(x: &[i32], rows: usize, normalize: bool, act: &mut Activations) {
    for (row, x) in x.chunks_exact(padded(act.len())).take(rows).enumerate() {
        quantize_row(x, normalize, act, row);
    }
}

fn quantize_row(x: &[i32], normalize: bool, act: &mut Activations, row: usize) {
    let (len, stride) = (act.len(), padded(act.len()));
    act.signed[row] = true;
    let q = &mut act.q[row * stride..(row + 1) * stride];
    let amax = x.iter().map(|x| x.abs()).max().unwrap_or(0);
    if amax == 0 {
        q.fill(0);
        (act.m[row], act.e[row]) = (0, 0);
        return;
    }
    let (m, e, inv) = quantize_scale(amax);
    for (q, &x) in q.iter_mut().zip(x) {
        let scaled = if e >= 0 { rshift(x, e as u32) } else { x << -e };
        *q = rshift(scaled * inv, 23) as i8;
    }
    (act.m[row], act.e[row]) = (m, e);
    if normalize {
        let sum = q.iter().map(|&q| i32::from(q).pow(2) as u32).sum();
        (act.m[row], act.e[row]) = normalize_scale(len, sum);
    }
}

/// The product with the first `rows` rows of `act`; row `r` of the result starts at
/// `r * padded(outputs)`.
pub fn linear(product: &Product, act: &Activations, rows: usize, out: &mut [i32]) {
    for (row, out) in out.chunks_exact_mut(padded(product.rows())).take(rows).enumerate() {
        let (q, m, e) = act.row(row);
        let s = (product.shift as i32 - e).clamp(1, 31) as u32;
        for (first, outputs, weights) in product.panels() {
            let mut sums = [0; PANEL];
            add_products(weights, q, &mut sums[..outputs]);
            let places = first..first + outputs;
            let results = out[places.clone()].iter_mut().zip(&product.scale[places]);
            for ((y, &scale), acc) in results.zip(sums) {
                let t = rshift(acc, product.pre);
                let c = ((scale as u32 * m as u32) >> 15) as i32;
                *y = rshift(t * c, s);
            }
        }
    }
}

/// Adds the products of a panel's outputs, in its layout.
#[inline]
fn add_products(weights: &[i8], q: &[i8], sums: &mut [i32]) {
    let quads = q.as_chunks::<QUAD>().0;
    for (weights, q) in weights.chunks_exact(sums.len() * QUAD).zip(quads) {
        for (sum, weights) in sums.iter_mut().zip(weights.as_chunks::<QUAD>().0) {
            let products = weights.iter().zip(q).map(|(&w, &q)| i32::from(w) * i32::from(q));
            *sum += products.sum::<i32>();
        }
    }
}

/// About `2^(15+up) * 2^(-d/1024)` for `d >= 0`.
#[inline]
pub fn exp2neg(d: i32, up: u32) -> u32 {
    let i = (d >> 10).min(31);
    let f = (d % 1024) * 32;
    let u = 22012 - ((5628 * f) >> 15);
    let m = 32768 - ((f * u) >> 15);
    ((m as u32) << up) >> i
}

/// Squared ReLU: `clamp(u, 0, 32767)^2`.
pub fn relu2(x: &mut [i32]) {
    for x in x {
        *x = (*x).clamp(0, 32767).pow(2);
    }
}

/// Multiplies hidden values by gains: `min((clamp(u, 0, 32767) * gain + 2^11) >> 12, 32767)`; gains
/// are below 2^14.
#[inline]
pub fn gain(x: &mut [i32], gains: &[i32]) {
    for (x, gain) in x.iter_mut().zip(gains) {
        *x = rshift((*x).clamp(0, 32767) * gain, 12).min(32767);
    }
}

/// ReLU: `clamp(u, 0, 2^30)`.
pub fn relu(x: &mut [i32]) {
    for x in x {
        *x = (*x).clamp(0, 1 << 30);
    }
}

/// Adds to the residual stream: `h = clamp(h + y, -2^29, 2^29)`.
pub fn add_residual(h: &mut [i32], y: &[i32]) {
    for (h, &y) in h.iter_mut().zip(y) {
        *h = (*h + y).clamp(-super::scalar::H_MAX, super::scalar::H_MAX);
    }
}

/// The vector at the input: `h = rshift(sum of row * scale, shift)`.
pub fn embed(rows: &[(&[i8], u16)], shift: u32, h: &mut [i32]) {
    for (j, h) in h.iter_mut().enumerate() {
        let sum = rows.iter().map(|(row, scale)| i32::from(row[j]) * i32::from(*scale)).sum();
        *h = rshift(sum, shift);
    }
}

/// Stores a position's keys and values, clamped to their bounds.
pub fn store(kv: &mut KeyValues, position: usize, keys: &[i32], values: &[i32]) {
    kv.store(position, keys, values);
}

/// Clamps queries to their bounds.
pub fn queries(x: &[i32], out: &mut [i16]) {
    for (out, &x) in out.iter_mut().zip(x) {
        *out = x.clamp(-super::cache::KV_MAX, super::cache::KV_MAX) as i16;
    }
}

/// Attention of all heads at one position (spec/numerics.md, section 6, steps 2 to 4).
#[expect(clippy::too_many_arguments, reason = "each is a distinct operand")]
pub fn attend(
    kv: &KeyValues,
    query: &[i16],
    reach: Reach,
    bias: Option<&Bias>,
    score_shift: u32,
    _next: Option<Next<'_>>,
    scores: &mut Scores,
    out: &mut [i32],
) {
    let size = kv.size();
    let share = query.len() / size / kv.heads();
    let span = reach.last - reach.first + 1;
    for (head, (query, out)) in query.chunks_exact(size).zip(out.chunks_exact_mut(size)).enumerate() {
        let kv_head = head / share;
        let z = &mut scores.z[..span];
        for (place, z) in z.iter_mut().enumerate() {
            let position = reach.first + place;
            let products =
                query.iter().enumerate().map(|(i, &q)| i32::from(q) * kv.key(kv_head, position, i));
            *z = rshift(products.sum(), score_shift);
            *z += bias.map_or(0, |bias| bias.from(head, reach.t, reach.first)[place]);
        }
        let max = z.iter().copied().max().unwrap_or(0);
        let mut sum = 0;
        for z in z.iter_mut() {
            *z = exp2neg(max - *z, 0) as i32;
            sum += *z;
        }
        let (g, r) = softmax_scale(sum);
        out.fill(0);
        for (place, &w) in z.iter().enumerate() {
            let p = (w * r) >> (15 + g);
            for (i, out) in out.iter_mut().enumerate() {
                *out += p * kv.value(kv_head, reach.first + place, i);
            }
        }
    }
}

/// `g2` and `R` of the attention weights whose sum, at least 2^15, is `sum`.
#[inline]
pub(crate) fn softmax_scale(sum: i32) -> (u32, i32) {
    let g = (bitlen(sum as u32) - 15).unsigned_abs();
    (g, (1 << 29) / (sum >> g))
}

/// Slots of the scores `z` (spec/numerics.md, section 7).
pub fn slots(z: &[i32], slots: &mut Slots) {
    let max = z.iter().copied().max().unwrap_or(0);
    slots.total = 0;
    for ((span, z), sum) in
        slots.slots.chunks_mut(SUM_SPAN).zip(z.chunks(SUM_SPAN)).zip(slots.sums.iter_mut())
    {
        *sum = 0;
        for (slot, &z) in span.iter_mut().zip(z) {
            *slot = exp2neg(max - z, 7) + 1;
            *sum += *slot;
        }
        slots.total += u64::from(*sum);
    }
}

/// Adds to the scores `z` what a bias has learned (spec/numerics.md, section 7.1).
pub fn add_bias(z: &mut [i32], bias: &[i32]) {
    z.iter_mut().zip(bias).for_each(|(z, b)| *z += b >> 8);
}

/// Takes from a bias each symbol's part of the rate (spec/numerics.md, section 7.1).
pub fn learn(slots: &Slots, rate: RateShare, bias: &mut [i32]) {
    for (b, &slot) in bias.iter_mut().zip(slots.slots()) {
        // The factors are at most 2^15 and below 2^15.
        let part = ((slot >> 7) * rate.factor) >> rate.shift;
        *b = (*b - part as i32).max(-BIAS_MAX);
    }
}

/// Does multiply-adds for measurements, and returns how many.
pub fn peak(rounds: usize) -> u64 {
    let (x, y) = (std::hint::black_box([3i8; 1024]), std::hint::black_box([5i8; 1024]));
    for _ in 0..rounds {
        let products = std::hint::black_box(&x).iter().zip(&y).map(|(&x, &y)| i32::from(x) * i32::from(y));
        std::hint::black_box(products.sum::<i32>());
    }
    1024 * rounds as u64
}

/// Largest magnitude in the residual stream.
pub const H_MAX: i32 = 1 << 29;

#[cfg(test)]
mod tests {
    use super::root;

    #[test]
    fn roots_are_exact() {
        // The root does not change between two consecutive squares.
        for r in 1 << 14..1 << 15 {
            for a in [r * r, r * r + r, r * r + 2 * r] {
                assert_eq!(root(a), r as i32);
            }
        }
    }
}
