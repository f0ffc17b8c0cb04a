//! The activation of a gated feed-forward layer: GELU of one half of the values times the other
//! half (spec/numerics.md, section 6).
//!
//! All backends share this one definition: it looks values up in a table, which vector instructions
//! do no faster.
#![deny(clippy::float_arithmetic)]

use super::buffer::padded;
use super::scalar::rshift;

/// The table `G` of the specification. With `x = i / 64`, entry `i` is this, rounded:
/// `32768 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x^3))) / 2`.
#[rustfmt::skip]
pub const SHARE: [u16; 257] = [
    16384, 16588, 16792, 16997, 17200, 17404, 17608, 17811, 18014, 18216, 18418, 18620, 18821, 19021, 19221, 19420,
    19618, 19816, 20013, 20208, 20403, 20597, 20790, 20982, 21173, 21363, 21552, 21739, 21925, 22110, 22294, 22476,
    22657, 22836, 23014, 23191, 23366, 23539, 23711, 23881, 24050, 24217, 24383, 24546, 24708, 24869, 25027, 25184,
    25339, 25492, 25643, 25793, 25940, 26086, 26230, 26372, 26512, 26650, 26787, 26921, 27054, 27184, 27313, 27439,
    27564, 27687, 27808, 27927, 28044, 28159, 28272, 28383, 28493, 28600, 28706, 28810, 28911, 29011, 29110, 29206,
    29300, 29393, 29484, 29573, 29660, 29745, 29829, 29911, 29991, 30070, 30147, 30222, 30296, 30368, 30438, 30507,
    30574, 30640, 30704, 30767, 30828, 30887, 30946, 31002, 31058, 31112, 31165, 31216, 31266, 31315, 31362, 31408,
    31453, 31497, 31540, 31581, 31622, 31661, 31699, 31736, 31772, 31807, 31841, 31874, 31906, 31937, 31967, 31996,
    32024, 32052, 32078, 32104, 32129, 32153, 32176, 32199, 32221, 32242, 32263, 32282, 32302, 32320, 32338, 32355,
    32372, 32388, 32403, 32418, 32433, 32447, 32460, 32473, 32486, 32498, 32509, 32521, 32531, 32542, 32552, 32561,
    32570, 32579, 32588, 32596, 32604, 32611, 32618, 32625, 32632, 32638, 32644, 32650, 32656, 32661, 32666, 32671,
    32676, 32680, 32685, 32689, 32693, 32697, 32700, 32704, 32707, 32710, 32713, 32716, 32719, 32721, 32724, 32726,
    32728, 32730, 32732, 32734, 32736, 32738, 32740, 32741, 32743, 32744, 32745, 32747, 32748, 32749, 32750, 32751,
    32752, 32753, 32754, 32755, 32756, 32756, 32757, 32758, 32758, 32759, 32759, 32760, 32761, 32761, 32761, 32762,
    32762, 32763, 32763, 32763, 32764, 32764, 32764, 32764, 32765, 32765, 32765, 32765, 32765, 32766, 32766, 32766,
    32766, 32766, 32766, 32766, 32767, 32767, 32767, 32767, 32767, 32767, 32767, 32767, 32767, 32767, 32767, 32767,
    32767,
];

/// `gelu(u)` in the unit of `u`, which is `2^-unit`; `|u| < 2^15`, `unit <= 14`.
#[inline]
fn gelu(u: i32, unit: u32) -> i32 {
    let n = unit.saturating_sub(6);
    let w = u.abs() << (6 + n - unit);
    let place = (w >> n) as usize;
    let above = match SHARE.get(place..place + 2) {
        Some(&[low, high]) => {
            i32::from(low) + rshift((i32::from(high) - i32::from(low)) * (w & ((1 << n) - 1)), n)
        }
        _ => 1 << 15,
    };
    let share = if u < 0 { (1 << 15) - above } else { above };
    rshift(u * share, 15)
}

/// `gelu(u) * g` for each row: the first `len` elements of a row of `y` are `u`, the next `len` are
/// `g`. Rows of `y` and `out` are padded.
pub fn gated(y: &[i32], rows: usize, len: usize, unit: u32, out: &mut [i32]) {
    let top = (1 << 15) - 1;
    let pairs = y.chunks_exact(padded(2 * len)).zip(out.chunks_exact_mut(padded(len)));
    for (y, out) in pairs.take(rows) {
        let (u, g) = y[..2 * len].split_at(len);
        for ((out, &u), &g) in out.iter_mut().zip(u).zip(g) {
            *out = gelu(u.clamp(-top, top), unit) * g.clamp(-top, top);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[expect(clippy::float_arithmetic, reason = "the function that integers approximate")]
    fn real(x: f64) -> f64 {
        x / 2.0 * (1.0 + (std::f64::consts::FRAC_2_PI.sqrt() * (x + 0.044_715 * x.powi(3))).tanh())
    }

    #[test]
    fn the_table_and_what_lies_between_are_close_to_the_function() {
        assert_eq!(SHARE[0], 1 << 14);
        for (i, &share) in SHARE.iter().enumerate().skip(1) {
            let x = i as f64 / 64.0;
            assert_eq!(f64::from(share), (real(x) / x * 32_768.0).round());
        }
        for unit in 0..=14 {
            let scale = f64::from(1 << unit);
            for u in -32_767..=32_767 {
                let want = real(f64::from(u) / scale) * scale;
                let error = (f64::from(gelu(u, unit)) - want).abs();
                // Half a unit of rounding, and one part in 20,000 of the share.
                assert!(error < 0.5 + f64::from(u.abs()) / 20_000.0, "{u} in 2^-{unit}: {error}");
            }
        }
    }

    #[test]
    fn halves_are_found_clamped_and_padding_stays_zero() {
        for len in [1, 8, 16, 37] {
            let (wide, stride) = (padded(2 * len), padded(len));
            let mut y = vec![i32::MAX; 3 * wide];
            for row in 0..2 {
                for j in 0..len {
                    y[row * wide + j] = if row == 0 { -1 << 29 } else { 4096 * (j as i32 + 5) };
                    y[row * wide + len + j] = if row == 0 { 1 << 29 } else { -(j as i32) };
                }
            }
            let mut out = vec![0; 3 * stride];
            gated(&y, 2, len, 12, &mut out);
            for j in 0..stride {
                let inside = j < len;
                assert_eq!(out[j], 0, "far below zero nothing passes");
                let u = (4096 * (j as i32 + 5)).min(32_767);
                assert_eq!(out[stride + j], if inside { u * -(j as i32) } else { 0 });
                assert_eq!(out[2 * stride + j], 0);
            }
        }
        // The largest product that quantization must take.
        let mut out = vec![0; 16];
        gated(&[vec![i32::MAX; 2], vec![0; 14]].concat(), 1, 1, 0, &mut out);
        assert_eq!(out[0], 32_767 * 32_767);
    }
}
