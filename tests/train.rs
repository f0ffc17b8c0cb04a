//! Training on a small scale: the data are the product's own sources, the networks have a few
//! thousand weights.
#![cfg(feature = "train")]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use s3a::Error;
use s3a::codec::ChunkModel;
use s3a::codec::job::{DecodeJob, EncodeJob};
use s3a::codec::neural::chunk_model::Neural;
use s3a::codec::neural::search::Compressor as _;
use s3a::model::Model;
use s3a::train::compressor::Compressor;
use s3a::train::net::NetConfig;
use s3a::train::pair_config::{CompressorConfig, PairConfig};
use s3a::train::{Progress, TrainOptions, run};

fn options(folder: &Path, pair: bool) -> TrainOptions {
    let net = NetConfig {
        vocab: 300,
        width: 16,
        layers: 1,
        heads: 2,
        kv_heads: 1,
        head_size: 8,
        ff: 24,
        window: 16,
        orders: vec![1, 2, 4],
        seconds: vec![2],
        ngrams: vec![(2, 8)],
        copy: true,
        adapt: 0.0,
        steering: None,
    };
    let pair = pair.then(|| PairConfig {
        compressor: CompressorConfig::new(300, 6, 2, 16, 32, 1),
        experts: 3,
        rows: true,
        reproduce: 3,
        imitate: 4,
        cost: 0.1,
        empty: 0.2,
        rate: 1e-3,
        encoder_layers: 0,
        gamma: 1.0,
        lambda: 1.0,
        draws: 2,
        entropy: 0.01,
    });
    TrainOptions {
        weights: None,
        data: vec![PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src/model"), "src/train".into()],
        output: folder.join("model.safetensors"),
        name: "tiny".to_owned(),
        net,
        optimizer: Default::default(),
        steps: 14,
        warm_up: 2,
        decay: 0.5,
        sequences: 4,
        len: 64,
        seed: 7,
        token_dropout: 0.0,
        bfloat16: true,
        checkpoint: folder.join("model.checkpoint"),
        resume: false,
        every: 7,
        log: Some(folder.join("log.csv")),
        device: "cpu".to_owned(),
        init: None,
        grow: false,
        pair,
    }
}

/// Runs a training, and returns what was measured at every step.
fn train(options: &TrainOptions) -> s3a::Result<Vec<f64>> {
    let mut steps = Vec::new();
    run(options, &AtomicBool::new(false), |p: Progress| steps.push(p.train_bpb))?;
    Ok(steps)
}

fn read(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap()
}

/// The log without its column of seconds.
fn log(options: &TrainOptions) -> Vec<Vec<String>> {
    let text = String::from_utf8(read(options.log.as_ref().unwrap())).unwrap();
    let without = |line: &str| {
        line.split(',').enumerate().filter(|(i, _)| *i != 2).map(|(_, v)| v.to_owned()).collect()
    };
    text.lines().map(without).collect()
}

#[test]
fn the_same_seed_gives_the_same_steps_log_and_files() {
    let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for pair in [false, true] {
        let (a, b) = (options(a.path(), pair), options(b.path(), pair));
        for options in [&a, &b] {
            let _ = std::fs::remove_file(options.log.as_ref().unwrap());
        }
        assert_eq!(train(&a).unwrap(), train(&b).unwrap());
        assert_eq!(log(&a), log(&b));
        assert!(read(&a.output) == read(&b.output));
        if pair {
            assert_eq!(log(&a)[0].len(), log(&a)[2].len());
            let file = |options: &TrainOptions| read(&options.output.with_extension("compressor"));
            assert!(file(&a) == file(&b));
        }
    }
    let other = TrainOptions { seed: 8, ..options(a.path(), false) };
    let first = train(&options(b.path(), false)).unwrap();
    assert_ne!(first, train(&other).unwrap());
    let dropped = TrainOptions { token_dropout: 0.5, ..options(a.path(), false) };
    let steps = train(&dropped).unwrap();
    assert_ne!(first, steps);
    assert_eq!(steps, train(&dropped).unwrap());
}

#[test]
fn a_trained_pair_codes_chunks_with_its_sequences() {
    let folder = tempfile::tempdir().unwrap();
    let options = options(folder.path(), true);
    train(&options).unwrap();
    let model = Arc::new(Model::from_bytes(&read(&options.output)).unwrap());
    assert_eq!(model.config().latent.as_ref().unwrap().experts, 3);
    let bytes = read(&options.output.with_extension("compressor"));
    let compressor = Compressor::load(&bytes, "tiny", &candle_core::Device::Cpu).unwrap();
    let fingerprint = blake3::Hash::from_bytes(model.fingerprint()).to_hex().to_string();
    assert_eq!(compressor.config.model.as_deref(), Some(fingerprint.as_str()));
    let raw = read(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lib.rs").as_path());
    let tokens = model.vocabulary().tokenize(&raw);
    let candidates = compressor.candidates(&tokens, 5);
    assert!((1..=5).contains(&candidates.len()));
    assert_eq!(candidates, compressor.candidates(&tokens, 5));
    // More candidates never make a chunk longer, and every chunk decodes.
    let compressor: Arc<dyn s3a::codec::neural::search::Compressor> = Arc::new(compressor);
    let mut before = usize::MAX;
    for effort in [0, 1, 8] {
        for compressor in [Some(compressor.clone()), None] {
            let with = compressor.is_some();
            let neural = Neural::new(model.clone()).searching(compressor, effort);
            let payload = neural.encode(&[EncodeJob { raw: &raw, history: vec![] }]).remove(0).unwrap();
            let job = DecodeJob {
                codec: s3a::codec::Codec::Neural,
                model: 0,
                payload: &payload,
                raw_len: raw.len(),
                history: vec![],
                dictionary: None,
            };
            assert!(neural.decode(&[&job]).remove(0).unwrap() == raw);
            assert!(neural.learned(&payload).is_some_and(|learned| effort > 0 || learned.c.is_empty()));
            if with {
                assert!(payload.len() <= before);
                before = payload.len();
            }
        }
    }
}

#[test]
fn a_run_goes_on_from_its_checkpoint_and_from_a_model() {
    let folder = tempfile::tempdir().unwrap();
    let half = TrainOptions { steps: 7, ..options(folder.path(), true) };
    train(&half).unwrap();
    let rest = TrainOptions { resume: true, ..options(folder.path(), true) };
    assert_eq!(train(&rest).unwrap().len(), 7);
    // A new run that starts with the weights of the model, and one with those of the checkpoint.
    for init in [&rest.output, &rest.checkpoint] {
        let second = tempfile::tempdir().unwrap();
        let next = TrainOptions { init: Some(init.clone()), steps: 1, ..options(second.path(), true) };
        train(&next).unwrap();
        let record = Model::from_bytes(&read(&next.output)).unwrap().config().training.clone();
        assert_eq!(record["from"]["steps"], 14);
    }
}

#[test]
fn what_cannot_be_trained_on_is_refused_and_leaves_the_last_good_files() {
    let folder = tempfile::tempdir().unwrap();
    let good = options(folder.path(), false);
    train(&good).unwrap();
    let checkpoint = read(&good.checkpoint);
    let refused = |options: TrainOptions| {
        let error = train(&options).unwrap_err();
        assert_eq!(read(&good.checkpoint), checkpoint, "{error}");
        error
    };
    let missing = TrainOptions { data: vec!["no such folder".into()], ..good.clone() };
    assert!(matches!(refused(missing), Error::Io { .. }));
    // A file that is no checkpoint, and one that is cut short.
    let broken = folder.path().join("broken.checkpoint");
    std::fs::write(&broken, &checkpoint[..checkpoint.len() / 2]).unwrap();
    let resume = TrainOptions { resume: true, checkpoint: broken.clone(), ..good.clone() };
    assert!(matches!(refused(resume), Error::BadModel { .. }));
    assert!(matches!(refused(TrainOptions { init: Some(broken), ..good.clone() }), Error::BadModel { .. }));
    // More experts than symbols that could choose them.
    let mut experts = options(folder.path(), true);
    experts.pair.as_mut().unwrap().experts = 9;
    assert!(matches!(refused(experts), Error::Usage(_)));
    // Without room for the new checkpoint, the old one stays.
    if Path::new("/dev/full").exists() {
        let full = folder.path().join("full.partial");
        std::os::unix::fs::symlink("/dev/full", &full).unwrap();
        let kept = folder.path().join("full.checkpoint");
        std::fs::write(&kept, b"the last good one").unwrap();
        let options = TrainOptions { checkpoint: kept.clone(), ..good.clone() };
        assert!(matches!(refused(options), Error::Io { .. }));
        assert_eq!(read(&kept), b"the last good one");
    }
}

#[test]
fn a_grown_network_begins_as_what_it_grew_from() {
    let folder = tempfile::tempdir().unwrap();
    let first = options(folder.path(), false);
    train(&first).unwrap();
    let other = tempfile::tempdir().unwrap();
    let next = TrainOptions {
        init: Some(first.checkpoint.clone()),
        steps: 1,
        every: 1,
        warm_up: 1,
        ..options(other.path(), false)
    };
    let same = train(&next).unwrap();
    let grown = |net: NetConfig| TrainOptions { net, grow: true, ..next.clone() };
    // New hidden values that no weight reads yet change nothing.
    let wide = train(&grown(NetConfig { ff: 40, ..next.net.clone() })).unwrap();
    assert!((wide[0] - same[0]).abs() < 1e-4, "{wide:?} {same:?}");
    let all = grown(NetConfig { width: 24, ff: 40, window: 8, ..next.net.clone() });
    let fresh = train(&TrainOptions { init: None, ..all.clone() }).unwrap();
    let grew = train(&all).unwrap();
    assert!(grew[0] < fresh[0] && grew[0] < same[0] + 0.3, "{grew:?} {fresh:?} {same:?}");
    let model = Model::from_bytes(&read(&all.output)).unwrap();
    assert_eq!((model.config().width, model.config().ff, model.config().window), (24, 40, 8));
    let heads = train(&grown(NetConfig { heads: 1, ..next.net.clone() })).unwrap_err();
    assert!(matches!(&heads, Error::Usage(why) if why.contains("attention heads")), "{heads}");
}
