//! The self-test at first use: every kernel of a backend runs once and is compared with `scalar`,
//! in a fraction of a millisecond. It finds a CPU or a compiler that does not do what it promises;
//! awkward cases are left to the tests.
#![deny(clippy::float_arithmetic)]

use super::backend::Backend;
use super::buffer::{Buffer, padded};
use super::cache::{Bias, KeyValues, Reach, Scores};
use super::pack::{Activations, Product, Table};
use super::slots::Slots;

/// The name of the first kernel whose results differ from those of the scalar kernel.
pub(crate) fn differs(backend: Backend) -> Option<&'static str> {
    first_difference(&results(Backend::Scalar), &results(backend))
}

type Results = Vec<(&'static str, Vec<i64>)>;

fn first_difference(expected: &Results, got: &Results) -> Option<&'static str> {
    let mut pairs = expected.iter().zip(got);
    pairs.find(|(expected, got)| expected != got).map(|(expected, _)| expected.0)
}

/// Numbers below 2^31 in magnitude, of all orders of magnitude.
struct Numbers(u32);

impl Numbers {
    fn next(&mut self) -> i32 {
        self.0 = self.0.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (self.0 as i32) >> (self.0 >> 11 & 15)
    }

    fn rows(&mut self, len: usize, top: i32) -> Buffer<i32> {
        let mut rows = Buffer::zeroed(len);
        rows.iter_mut().for_each(|x| *x = self.next() % (top + 1));
        rows
    }

    fn weights(&mut self, len: usize) -> Vec<i8> {
        (0..len).map(|_| (self.next() % 128) as i8).collect()
    }
}

fn wide<T: Copy + Into<i64>>(values: &[T]) -> Vec<i64> {
    values.iter().map(|&value| value.into()).collect()
}

/// What every kernel makes of the same operands.
fn results(backend: Backend) -> Results {
    let mut numbers = Numbers(1);
    let mut all = vec![];
    products(backend, &mut numbers, &mut all);
    rows(backend, &mut numbers, &mut all);
    attention(backend, &mut numbers, &mut all);
    let z = numbers.rows(620, 20_000);
    let mut slots = Slots::new(z.len());
    backend.slots(&z, &mut slots);
    all.push(("slots", wide(slots.slots())));
    all.push(("sums of slots", wide(&slots.sums)));
    let mut bias = numbers.rows(620, 1 << 28);
    backend.learn(&slots, 500, 57_000, &mut bias);
    all.push(("learn", wide(&bias[..])));
    let mut z = z;
    backend.add_bias(&mut z, &bias);
    all.push(("add_bias", wide(&z[..])));
    all
}

fn products(backend: Backend, numbers: &mut Numbers, all: &mut Results) {
    // All widths of the parts of a panel, and all heights of a tile.
    for (outputs, inputs, rows) in [(112, 80, 1), (96, 48, 11), (16, 176, 6)] {
        // Sums of 176 products are below 2^22.
        let product = Product::new(&numbers.weights(outputs * inputs), &vec![40_000; outputs], 7, 9);
        let mut act = Activations::new(rows, inputs);
        for normalize in [true, false] {
            let x = numbers.rows(rows * padded(inputs), 1 << 29);
            backend.quantize(&x, rows, normalize, &mut act);
            for row in 0..rows {
                let (q, m, e) = act.row(row);
                all.push(("quantize", wide(q)));
                all.push(("scales of quantize", vec![m.into(), e.into()]));
            }
            let mut out = Buffer::<i32>::zeroed(rows * padded(outputs));
            backend.linear(&product, &act, rows, &mut out);
            all.push(("linear", wide(&out[..])));
        }
    }
}

fn rows(backend: Backend, numbers: &mut Numbers, all: &mut Results) {
    let len = 80;
    let (x, y) = (numbers.rows(len, 1 << 29), numbers.rows(len, 1 << 29));
    let mut gains = numbers.rows(len, (1 << 14) - 1);
    gains.iter_mut().for_each(|gain| *gain = gain.abs());
    let mut in_place = |name, kernel: &dyn Fn(&mut [i32])| {
        let mut x = x.clone();
        kernel(&mut x);
        all.push((name, wide(&x[..])));
    };
    in_place("relu2", &|x| backend.relu2(x));
    in_place("relu", &|x| backend.relu(x));
    in_place("gain", &|x| backend.gain(x, &gains));
    in_place("add_residual", &|x| backend.add_residual(x, &y));
    let table = Table::new(&numbers.weights(19 * len), &[u16::MAX; 19]);
    let picked: Vec<_> = (0..19).map(|row| table.row(row)).collect();
    in_place("embed", &|x| backend.embed(&picked, 9, x));
}

fn attention(backend: Backend, numbers: &mut Numbers, all: &mut Results) {
    // Seven heads of a shared key: four, two and one at a time; elements for every width of
    // vectors.
    let (heads, size, window) = (7, 56, 40);
    let mut kv = KeyValues::new(1, size, window);
    // The last position lies in the same block of the ring as the first that it attends to.
    for t in 0..85 {
        let (keys, values) = (numbers.rows(size, 3000), numbers.rows(size, 3000));
        backend.store(&mut kv, t, &keys, &values);
    }
    all.push(("store", [wide(&kv.keys[..]), wide(&kv.values[..])].concat()));
    let mut query = vec![0; heads * size];
    backend.queries(&numbers.rows(heads * size, 3000), &mut query);
    all.push(("queries", wide(&query)));
    let bias = Bias::new(heads, window - 1, 0, |head, distance| distance as i32 * head as i32);
    let mut scores = Scores::new(4, window);
    for (t, bias) in [(20, None), (84, Some(&bias))] {
        let reach = Reach { t, first: (t + 1).saturating_sub(window), last: t };
        let mut out = vec![0; heads * size];
        backend.attend(&kv, &query, reach, bias, 14, None, &mut scores, &mut out);
        all.push(("attend", wide(&out)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_result_of_any_kernel_is_found() {
        let expected = results(Backend::Scalar);
        assert_eq!(first_difference(&expected, &expected), None);
        for place in 0..expected.len() {
            let mut wrong = expected.clone();
            let middle = wrong[place].1.len() / 2;
            wrong[place].1[middle] += 1;
            assert_eq!(first_difference(&expected, &wrong), Some(expected[place].0));
        }
    }

    #[test]
    fn what_this_cpu_can_run_passes() {
        for backend in Backend::available() {
            assert_eq!(differs(backend), None, "{backend:?}");
        }
    }
}
