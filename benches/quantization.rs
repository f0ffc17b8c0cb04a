//! What quantization costs: bits of the network of floats compared with bits of the integer model,
//! for the same chunks.
//!
//! `cargo bench --bench quantization -- CHECKPOINT MODEL FOLDER [CHUNKS]` measures chunks of 16
//! KiB, spread evenly over the files of FOLDER, without references.

use std::path::PathBuf;
use std::sync::Arc;

use candle_core::Device;
use s3a::codec::neural::chunk_model::Neural;
use s3a::model::Model;
use s3a::model::tokens::Vocabulary;
use s3a::train::checkpoint;
use s3a::train::corpus::{Corpus, Featuriser};
use s3a::train::net::Net;
use s3a::train::run::measure;

const CHUNK_LEN: usize = 16 << 10;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let [checkpoint_path, model, folder, rest @ ..] = &args[..] else {
        println!("usage: cargo bench --bench quantization -- CHECKPOINT MODEL FOLDER [CHUNKS]");
        return;
    };
    let limit: usize = rest.first().map_or(100, |n| n.parse().expect("CHUNKS is a number"));
    let checkpoint_path = PathBuf::from(checkpoint_path);
    let head = checkpoint::head(&checkpoint_path).expect("a checkpoint");
    let net = Net::new(head.net.clone(), head.seed, &Device::Cpu).expect("a network");
    checkpoint::load(&checkpoint_path, &net, None, head.step).expect("the checkpoint's tensors");
    let vocabulary = Vocabulary::new(&head.vocabulary).expect("a vocabulary");
    let bytes = std::fs::read(model).expect("the model file");
    let neural = Neural::new(Arc::new(Model::from_bytes(&bytes).expect("a model")));
    let corpus = Corpus::read(&[PathBuf::from(folder)], None).expect("files");

    let all = corpus.sample(usize::MAX);
    let step = all.len().div_ceil(limit).max(1);
    let (mut float_bits, mut coded_bits, mut raw) = (0.0, 0.0, 0usize);
    for block in all.into_iter().step_by(step) {
        let chunk = &block[..block.len().min(CHUNK_LEN)];
        let batch = Featuriser::whole(&net.config, &vocabulary, chunk).expect("features");
        float_bits += measure(&net, &[batch]).expect("a loss") * chunk.len() as f64;
        coded_bits += 8.0 * neural.encode_with(chunk, &[], &[]).expect("a payload").payload.len() as f64;
        raw += chunk.len();
    }
    println!(
        "float {:.4} bits per byte, integer {:.4} (payload bytes)",
        float_bits / raw as f64,
        coded_bits / raw as f64
    );
    println!("quantization and coding cost {:.2} %", 100.0 * (coded_bits / float_bits - 1.0));
}
