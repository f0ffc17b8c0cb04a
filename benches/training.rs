//! Speed of a training step on all cores, and its share of the speed that plain f32 products reach
//! in the same run.
//!
//! `cargo bench --bench training -- [FOLDER]` trains a decoder of about a million multiply-adds a
//! token on the files of FOLDER (the sources, if none is given) for some steps.

use std::path::PathBuf;
use std::time::Instant;

use candle_core::Device;
use rayon::prelude::*;
use s3a::kernels::sgemm::mat::Mat;
use s3a::kernels::sgemm::matmul;
use s3a::model::tokens::Vocabulary;
use s3a::train::corpus::{Batches, Corpus, Featuriser};
use s3a::train::net::{Net, NetConfig};
use s3a::train::optimizer::Optimizer;
use s3a::train::vocabulary;

const STEPS: usize = 20;
const SEQUENCES: usize = 8;
const LEN: usize = 512;

fn main() {
    let folder = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
    let folder =
        folder.map_or_else(|| PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/src")), PathBuf::from);
    let corpus = Corpus::read(&[folder], None).expect("files to train on");
    let tokens = vocabulary::learn(&corpus.sample(4 << 20), 1024).expect("a vocabulary");
    let config = NetConfig {
        vocab: tokens.len(),
        width: 160,
        layers: 3,
        heads: 5,
        kv_heads: 1,
        head_size: 32,
        ff: 480,
        window: 128,
        orders: vec![1, 2, 3, 4, 6],
        seconds: vec![2, 3],
        ngrams: vec![(2, 14), (3, 15)],
        copy: true,
        adapt: 0.0,
        steering: None,
    };
    let vocabulary = Vocabulary::new(&tokens).expect("a valid vocabulary");
    let macs = config.macs_per_token();
    let net = Net::new(config.clone(), 1, &Device::Cpu).expect("a network");
    let mut optimizer = Optimizer::new(&net, Default::default()).expect("an optimizer");
    let featuriser = Featuriser { config: &config, vocabulary: &vocabulary, len: LEN };
    let mut batches = Batches::new(&corpus, featuriser, 1);
    let mut step = || {
        let batch = batches.next(SEQUENCES).expect("a batch");
        let grads = net.loss(&batch).and_then(|loss| loss.backward()).expect("gradients");
        optimizer.step(&net, &grads, 0.1).expect("a step");
    };
    step();
    let start = Instant::now();
    (0..STEPS).for_each(|_| step());
    let seconds = start.elapsed().as_secs_f64();
    let tokens = (STEPS * SEQUENCES * LEN) as f64;
    // One forward pass and twice its work in the backward pass; a multiply-add counts as two
    // operations.
    let reached = 6.0 * macs as f64 * tokens / seconds / 1e9;
    let plain = plain_products();
    println!("{macs} multiply-adds a token, {:.0} tokens/s", tokens / seconds);
    println!(
        "{reached:.1} GFLOP/s of {plain:.1} that plain products reach: {:.0} %",
        100.0 * reached / plain
    );
}

/// GFLOP/s of products of matrices that stay in the cache, one stream of them per core.
fn plain_products() -> f64 {
    const N: usize = 384;
    const ROUNDS: usize = 200;
    let threads = rayon::current_num_threads();
    let start = Instant::now();
    (0..threads).into_par_iter().for_each(|_| {
        let (a, b) = (vec![0.5f32; N * N], vec![0.25f32; N * N]);
        let mut c = vec![0.0; N * N];
        for _ in 0..ROUNDS {
            matmul(&mut c, N, 0.0, Mat::new(&a, N, N, N), Mat::new(&b, N, N, N), 1.0);
        }
        assert!(c[0] > 0.0);
    });
    (threads * ROUNDS * 2 * N * N * N) as f64 / start.elapsed().as_secs_f64() / 1e9
}
