//! Time of each integer kernel on its own, for one row and for the rows of a full lockstep.
//!
//! `cargo bench --bench kernels -- [BACKEND ...]` prints nanoseconds a row, the least of many runs,
//! at the sizes of the default model and with random operands. Weights come from the second-level
//! cache, as they do among the other weights of a model; rows are in the first-level cache.

use std::hint::black_box;
use std::time::Instant;

use s3a::codec::work::LANES;
use s3a::kernels::{
    Activations, Backend, Bias, Buffer, KeyValues, Product, Reach, Scores, Slots, Table, padded,
};
use s3a::model::sample::Random;

const WIDTH: usize = 128;
const FF: usize = 384;
const VOCAB: usize = 1024;
const HEADS: usize = 4;
const HEAD_SIZE: usize = 32;
const WINDOW: usize = 128;
/// Bytes of weights of one kind: as many as the default model has, and more than fit into the
/// first-level cache.
const WEIGHTS: usize = 410 << 10;

fn main() {
    let names: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let chosen = |backend: &Backend| match names.is_empty() {
        true => backend.name() != "scalar",
        false => names.iter().any(|name| name == backend.name()),
    };
    println!("backend,kernel,rows,ns_per_row");
    for backend in Backend::available().into_iter().filter(chosen) {
        let mut bench = Bench { backend, random: Random::new(7) };
        for rows in [1, LANES] {
            bench.products(rows);
            bench.rows(rows);
        }
        bench.attention();
        bench.slots();
    }
}

struct Bench {
    backend: Backend,
    random: Random,
}

impl Bench {
    fn report(&self, kernel: &str, rows: usize, mut work: impl FnMut(usize)) {
        let mut best = f64::MAX;
        for _ in 0..60 {
            let times = 200_usize.div_ceil(rows);
            let start = Instant::now();
            for time in 0..times {
                work(time);
            }
            best = best.min(start.elapsed().as_secs_f64() / (times * rows) as f64);
        }
        println!("{},{kernel},{rows},{:.1}", self.backend.name(), 1e9 * best);
    }

    fn numbers(&mut self, len: usize, top: i32) -> Buffer<i32> {
        let mut numbers = Buffer::zeroed(len);
        numbers.iter_mut().for_each(|number| *number = self.random.between(-top, top));
        numbers
    }

    fn weights(&mut self, len: usize) -> Vec<i8> {
        (0..len).map(|_| self.random.between(-127, 127) as i8).collect()
    }

    fn products(&mut self, rows: usize) {
        for (name, outputs, inputs) in [
            ("product qkv", 192, WIDTH),
            ("product out", WIDTH, HEADS * HEAD_SIZE),
            ("product up", FF, WIDTH),
            ("product down", WIDTH, FF),
            ("product head", VOCAB, WIDTH),
            ("product copy", 7, WIDTH),
        ] {
            let copies = (WEIGHTS / (outputs * inputs)).max(1);
            let products: Vec<Product> = (0..copies)
                .map(|_| Product::new(&self.weights(outputs * inputs), &vec![30_000; outputs], 7, 10))
                .collect();
            let mut act = Activations::new(rows, inputs);
            let x = self.numbers(rows * padded(inputs), 1 << 20);
            self.backend.quantize(&x, rows, true, &mut act);
            let mut out = Buffer::zeroed(rows * padded(outputs));
            let backend = self.backend;
            self.report(name, rows, |time| {
                backend.linear(&products[time % copies], black_box(&act), rows, &mut out);
            });
        }
    }

    fn rows(&mut self, rows: usize) {
        let backend = self.backend;
        for (name, len, normalize) in
            [("normalize", WIDTH, true), ("quantize width", WIDTH, false), ("quantize ff", FF, false)]
        {
            let x = self.numbers(rows * padded(len), 1 << 20);
            let mut act = Activations::new(rows, len);
            self.report(name, rows, |_| backend.quantize(black_box(&x), rows, normalize, &mut act));
        }
        let mut x = self.numbers(rows * FF, 1 << 20);
        self.report("relu2", rows, |_| backend.relu2(black_box(&mut x)));
        let (mut h, y) = (self.numbers(rows * WIDTH, 1 << 20), self.numbers(rows * WIDTH, 1 << 10));
        self.report("add_residual", rows, |_| backend.add_residual(black_box(&mut h), &y));
        let table = Table::new(&self.weights(17 * WIDTH), &[30_000; 17]);
        let picked: Vec<_> = (0..17).map(|row| table.row(row)).collect();
        self.report("embed 17 rows", rows, |_| {
            for h in h.chunks_exact_mut(WIDTH) {
                backend.embed(black_box(&picked), 15, h);
            }
        });
    }

    fn attention(&mut self) {
        let backend = self.backend;
        let mut kv = KeyValues::new(1, HEAD_SIZE, WINDOW);
        for t in 0..2 * WINDOW {
            let (keys, values) = (self.numbers(HEAD_SIZE, 2047), self.numbers(HEAD_SIZE, 2047));
            kv.store(t, &keys, &values);
        }
        let x = self.numbers(HEADS * HEAD_SIZE, 2047);
        let (mut query, mut out) = (Buffer::zeroed(x.len()), Buffer::zeroed(x.len()));
        let bias = Bias::new(HEADS, WINDOW - 1, 0, |_, distance| distance as i32);
        let mut scores = Scores::new(HEADS, WINDOW);
        self.report("queries", 1, |_| backend.queries(black_box(&x), &mut query));
        self.report("attend", 1, |time| {
            let t = WINDOW + time % WINDOW;
            let reach = Reach { t, first: t + 1 - WINDOW, last: t };
            backend.attend(&kv, black_box(&query), reach, Some(&bias), 13, None, &mut scores, &mut out);
        });
        let (keys, values) = (self.numbers(HEAD_SIZE, 2047), self.numbers(HEAD_SIZE, 2047));
        self.report("store keys, values", 1, |time| {
            backend.store(&mut kv, WINDOW + time, black_box(&keys), &values);
        });
    }

    fn slots(&mut self) {
        let backend = self.backend;
        let z = self.numbers(VOCAB, 10_000);
        let mut slots = Slots::new(VOCAB);
        self.report("slots", 1, |_| backend.slots(black_box(&z), &mut slots));
        let targets: Vec<u64> = (0..200).map(|time| slots.total() / 211 * (time * 97 % 211)).collect();
        self.report("find", 1, |time| {
            black_box(slots.find(black_box(targets[time])));
        });
    }
}
