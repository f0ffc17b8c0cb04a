//! Every backend equals `scalar`: at awkward lengths, with seeded random values and with extremes.

use super::*;
use crate::model::sample::Random;

/// The backends other than the scalar one, which defines the results.
fn others() -> Vec<Backend> {
    Backend::available().split_off(1)
}

/// Numbers of at most `top` in magnitude, of all orders of magnitude, with the extremes among them.
fn numbers(len: usize, top: i32, random: &mut Random) -> Vec<i32> {
    let digits = 33 - top.leading_zeros();
    let mut number = || match random.below(8) {
        0 => top,
        1 => -top,
        2 => 0,
        _ => {
            let top = (1i32 << random.below(digits).min(30)).min(top);
            random.between(-top, top)
        }
    };
    (0..len).map(|_| number()).collect()
}

/// Rows of numbers, padded with zeros.
fn rows(rows: usize, len: usize, top: i32, random: &mut Random) -> Buffer<i32> {
    let stride = padded(len);
    let mut x = Buffer::zeroed(rows * stride);
    for row in x.chunks_exact_mut(stride) {
        let top = top >> random.below(30).min(top.ilog2());
        row[..len].copy_from_slice(&numbers(len, top.max(1), random));
    }
    x
}

fn weights(len: usize, extreme: bool, random: &mut Random) -> Vec<i8> {
    let mut weight = || if extreme { 254 * random.between(0, 1) - 127 } else { random.between(-127, 127) };
    (0..len).map(|_| weight() as i8).collect()
}

#[test]
fn quantized_and_normalized_rows_are_equal() {
    let mut random = Random::new(1);
    for len in [1, 3, 16, 20, 33, 128, 384, 2048] {
        let x = rows(9, len, 1 << 30, &mut random);
        for normalize in [false, true] {
            let mut expected = Activations::new(9, len);
            Backend::Scalar.quantize(&x, 9, normalize, &mut expected);
            for backend in others() {
                let mut act = Activations::new(9, len);
                backend.quantize(&x, 9, normalize, &mut act);
                for row in 0..9 {
                    assert_eq!(act.row(row), expected.row(row), "{backend:?}, length {len}, row {row}");
                }
            }
        }
    }
}

#[test]
fn quantized_values_keep_their_bounds() {
    for amax in (1..1 << 30).step_by(7_919_003).chain([1, 2, 32_767, 32_768, 65_535, 1 << 30]) {
        let mut x = Buffer::zeroed(16);
        (x[0], x[1], x[2]) = (amax, -amax, amax / 2);
        let mut act = Activations::new(1, 3);
        Backend::Scalar.quantize(&x, 1, false, &mut act);
        let (q, m, e) = act.row(0);
        assert!(q[0] == 127 && q[1] == -127 && (1 << 14..=1 << 15).contains(&m), "{amax}: {q:?} {m} {e}");
        Backend::Scalar.quantize(&x, 1, true, &mut act);
        let (_, m, e) = act.row(0);
        assert!((1 << 14..1 << 15).contains(&m) && (-6..=0).contains(&e), "{amax}: {m} {e}");
    }
}

#[test]
fn products_are_equal_for_any_number_of_rows() {
    let mut random = Random::new(2);
    for (outputs, inputs) in [(1, 1), (5, 20), (17, 36), (48, 128), (40, 384), (33, 2048)] {
        for extreme in [false, true] {
            let w = weights(outputs * inputs, extreme, &mut random);
            let pre = u32::from(crate::model::write::least_pre(&w, inputs));
            let scale: Vec<u16> = (0..outputs).map(|_| u16::MAX - random.below(3) as u16 * 30_000).collect();
            for (count, shift) in [(1, 0), (2, 10), (3, 31), (6, 12), (7, 20), (29, 12)] {
                let product = Product::new(&w, &scale, pre, shift);
                let mut x = rows(count, inputs, 1 << 30, &mut random);
                let mut act = Activations::new(count, inputs);
                let mut expected = vec![0; count * padded(outputs)];
                for normalize in [false, true] {
                    if shift == 12 {
                        x.iter_mut().for_each(|x| *x = x.abs());
                    }
                    Backend::Scalar.quantize(&x, count, normalize, &mut act);
                    Backend::Scalar.linear(&product, &act, count, &mut expected);
                    for backend in others() {
                        backend.quantize(&x, count, normalize, &mut act);
                        let mut out = vec![-1; count * padded(outputs)];
                        backend.linear(&product, &act, count, &mut out);
                        assert!(out == expected, "{backend:?}: {outputs} x {inputs}, {count} rows");
                    }
                }
            }
        }
    }
}

#[test]
fn small_row_kernels_are_equal() {
    let mut random = Random::new(3);
    for len in [16, 48, 160] {
        let x = rows(1, len, 1 << 29, &mut random);
        let y = rows(1, len, 1 << 29, &mut random);
        let table = Table::new(&weights(40 * len, false, &mut random), &[u16::MAX; 40]);
        let picked: Vec<_> = (0..32).map(|row| table.row(row)).collect();
        let run = |backend: Backend| {
            let (mut relu2, mut relu, mut sum) = (x.clone(), x.clone(), x.clone());
            backend.relu2(&mut relu2);
            backend.relu(&mut relu);
            backend.add_residual(&mut sum, &y);
            let mut inputs = [vec![0; len], vec![0; len]];
            backend.embed(&picked, 0, &mut inputs[0]);
            backend.embed(&picked[..11], 9, &mut inputs[1]);
            let mut queries = vec![0; len];
            backend.queries(&x, &mut queries);
            let mut gained = x.clone();
            let gains: Vec<i32> = y.iter().map(|y| y & ((1 << 14) - 1)).collect();
            backend.gain(&mut gained, &gains);
            (relu2.to_vec(), relu.to_vec(), sum.to_vec(), inputs, queries, gained.to_vec())
        };
        let expected = run(Backend::Scalar);
        for backend in others() {
            assert_eq!(run(backend), expected, "{backend:?}, length {len}");
        }
    }
}

#[test]
fn attention_is_equal_for_any_heads_and_reach() {
    let mut random = Random::new(4);
    for (heads, kv_heads, size) in [(1, 1, 8), (4, 1, 32), (4, 4, 24), (6, 2, 16), (7, 1, 128)] {
        for (top, score_shift) in [(300, 7), (2047, 0), (5000, 12)] {
            let window = 21;
            let mut kv = KeyValues::new(kv_heads, size, window);
            let mut scores = Scores::new(4, window);
            let bias = Bias::new(heads, window - 1, 0, |head, distance| distance as i32 * 300 * head as i32);
            for t in 0..70 {
                let keys = numbers(kv_heads * size, top, &mut random);
                let values = numbers(kv_heads * size, top, &mut random);
                for backend in others() {
                    let mut other = kv.clone();
                    backend.store(&mut other, t, &keys, &values);
                    let mut expected = kv.clone();
                    Backend::Scalar.store(&mut expected, t, &keys, &values);
                    assert_eq!(&other.keys[..], &expected.keys[..], "{backend:?}: {size} at {t}");
                    assert_eq!(&other.values[..], &expected.values[..], "{backend:?}: {size} at {t}");
                }
                Backend::Scalar.store(&mut kv, t, &keys, &values);
                let query: Vec<i16> =
                    numbers(heads * size, top.min(2047), &mut random).iter().map(|&q| q as i16).collect();
                let reach = Reach { t, first: (t + 1).saturating_sub(window), last: t };
                let next = (t % 2 == 0).then_some(Next { kv: &kv, first: reach.first });
                for bias in [Some(&bias), None] {
                    let mut run = |backend: Backend| {
                        let mut out = vec![-1; heads * size];
                        backend.attend(&kv, &query, reach, bias, score_shift, next, &mut scores, &mut out);
                        out
                    };
                    let expected = run(Backend::Scalar);
                    assert!(expected.iter().all(|o| o.abs() < 1 << 26));
                    for backend in others() {
                        assert_eq!(run(backend), expected, "{backend:?}: {heads}, {kv_heads}, {size} at {t}");
                    }
                }
            }
        }
    }
}

#[test]
fn slots_are_equal_and_hold_every_symbol() {
    let mut random = Random::new(5);
    for symbols in [1, 7, 31, 32, 33, 256, 511, 512, 1000, 1024, 1500] {
        for top in [1, 3000, 40_000, H_MAX] {
            let z = numbers(symbols, top, &mut random);
            let mut expected = Slots::new(symbols);
            Backend::Scalar.slots(&z, &mut expected);
            assert!(expected.slots().iter().all(|&slot| (1..=(1 << 22) + 1).contains(&slot)));
            let mut cum = 0;
            for (symbol, &slot) in expected.slots().iter().enumerate() {
                assert_eq!(expected.share(symbol), (cum, slot.into()));
                assert_eq!(expected.find(cum), (symbol, cum, slot.into()));
                cum += u64::from(slot);
                assert_eq!(expected.find(cum - 1).0, symbol);
            }
            assert_eq!(cum, expected.total());
            for backend in others() {
                let mut slots = Slots::new(symbols);
                backend.slots(&z, &mut slots);
                assert_eq!(slots.slots(), expected.slots(), "{backend:?}: {symbols} symbols");
                assert_eq!((&slots.sums, slots.total), (&expected.sums, expected.total));
            }
        }
    }
}

#[test]
fn biases_learn_alike_and_stay_within_bounds() {
    let mut random = Random::new(11);
    for symbols in [1, 7, 33, 256, 1000, 1024, 1500] {
        for (top, rate) in [(1, RATE_END - 1), (3000, 57_000), (40_000, 1), (H_MAX, 300)] {
            let mut slots = Slots::new(symbols);
            Backend::Scalar.slots(&numbers(symbols, top, &mut random), &mut slots);
            let start = numbers(symbols, 1 << 28, &mut random);
            let symbol = random.below(symbols as u32) as usize;
            let run = |backend: Backend| {
                let (mut bias, mut z) = (start.clone(), vec![H_MAX; symbols]);
                backend.learn(&slots, symbol, rate, &mut bias);
                backend.add_bias(&mut z, &bias);
                (bias, z)
            };
            let (bias, z) = run(Backend::Scalar);
            assert!(bias.iter().all(|b| b.abs() <= 1 << 28));
            assert!(z.iter().zip(&bias).all(|(z, b)| *z == H_MAX + (b >> 8)));
            // What the symbol gains, all symbols lose, but for what is rounded away.
            let mut fresh = vec![0; symbols];
            Backend::Scalar.learn(&slots, symbol, rate, &mut fresh);
            let sum: i64 = fresh.iter().map(|&b| i64::from(b)).sum();
            let lost = i64::from(rate / 100) + 2 * symbols as i64;
            assert!((0..=lost).contains(&sum), "{symbols} symbols, rate {rate}: {sum}");
            for backend in others() {
                assert_eq!(run(backend), (bias.clone(), z.clone()), "{backend:?}: {symbols} symbols");
            }
        }
    }
}

#[test]
fn exp2neg_is_close_to_the_real_function_and_falls() {
    let mut before = u32::MAX;
    for d in 0..40_000 {
        let slot = scalar::exp2neg(d, 7);
        assert!(slot <= before);
        before = slot;
        let real = (-f64::from(d) / 1024.0).exp2() * f64::from(1 << 22);
        assert!((f64::from(slot) - real).abs() <= 1.0 + real * 0.004, "{d}: {slot} for {real}");
    }
}
