//! The GPU's decoder on an emulated device, against the scalar kernels, bit for bit.
//!
//! The kernel's source is compiled by the host's C++ compiler, every thread of a block a fiber of its own, and
//! driven through the same calls of the driver's interface as a GPU. Each test here starts this program again
//! with the emulation's libraries in place and runs one of the tests of `on_the_device`.
#![cfg(feature = "gpu")]

mod emulation;

use std::process::Command;

/// Runs a test of `on_the_device` with these variables set; says so and passes if there is no compiler.
fn run(test: &str, variables: &[(&str, &str)]) {
    let Some(folder) = emulation::libraries() else {
        eprintln!("skipped: there is no C++ compiler `c++`");
        return;
    };
    let cache = tempfile::tempdir().unwrap();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", &format!("on_the_device::{test}"), "--ignored", "--nocapture"])
        .env("S3A_CUDA_PATH", folder)
        .env("XDG_CACHE_HOME", cache.path());
    command.envs(variables.iter().copied());
    let output = command.output().unwrap();
    let text =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && text.contains("1 passed"), "{test} {variables:?}:\n{text}");
}

#[test]
fn every_feature_of_models_decodes_and_encodes_as_the_scalar_kernels_do() {
    run("all_models", &[]);
}

#[test]
fn threads_may_run_in_any_order() {
    run("one_model", &[("S3A_EMULATED_ORDER", "reverse")]);
    run("one_model", &[("S3A_EMULATED_ORDER", "7")]);
}

#[test]
fn damaged_payloads_come_to_the_same_end() {
    run("damage", &[]);
}

mod on_the_device {
    use std::sync::Arc;

    use s3a::codec::device::{Offload, open};
    use s3a::codec::neural::Neural;
    use s3a::codec::{ChunkModel, Codec, DecodeJob, EncodeJob};
    use s3a::kernels::Backend;
    use s3a::model::Model;
    use s3a::model::config::{Activation, Config, Latent};
    use s3a::model::sample::{Draw, Random, model_file};

    /// Prose and code: what is beside this test.
    const TEXT: &[u8] = include_bytes!("gpu_emulation.rs");

    struct Both {
        scalar: Neural,
        device: Neural,
        offload: Arc<Offload>,
    }

    fn both(model: Arc<Model>, effort: usize) -> Both {
        let offload = Arc::new(Offload::to(open(0).unwrap()));
        let scalar = Neural::with_backend(model, Backend::Scalar).searching(None, effort);
        Both { device: scalar.clone().offloading(Some(offload.clone())), scalar, offload }
    }

    fn model(config: Config, draw: Draw) -> Arc<Model> {
        Arc::new(Model::from_bytes(&model_file(config, draw, 7).unwrap()).unwrap())
    }

    /// Parts of the text that repeat themselves, with noise in between: all sorts of matches.
    fn chunk(random: &mut Random, len: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        while bytes.len() < len {
            let from = random.below((TEXT.len() - 300) as u32) as usize;
            let more = random.below(60) as usize;
            match random.below(4) {
                0 if !bytes.is_empty() => {
                    let from = random.below(bytes.len() as u32) as usize;
                    bytes.extend_from_within(from..bytes.len().min(from + 3 * more));
                }
                1 => bytes.extend((0..more / 8).map(|_| random.below(256) as u8)),
                _ => bytes.extend(&TEXT[from..from + more]),
            }
        }
        bytes.truncate(len);
        bytes
    }

    type Chunk = (Vec<u8>, Vec<Arc<[u8]>>);

    fn chunks(count: usize, longest: usize) -> Vec<Chunk> {
        let mut random = Random::new(5);
        let shared: Vec<Arc<[u8]>> = (0..4).map(|_| chunk(&mut random, 150).into()).collect();
        let mut one = |number: usize| {
            let len = if number == 0 { 1 } else { 1 + random.below(longest as u32) as usize };
            let mut raw = chunk(&mut random, len);
            let history: Vec<_> = (0..random.below(3)).map(|i| shared[i as usize].clone()).collect();
            if let (Some(first), true) = (history.first(), len > 60) {
                raw[..50].copy_from_slice(&first[40..90]);
            }
            (raw, history)
        };
        (0..count).map(&mut one).collect()
    }

    fn decode_jobs<'a>(chunks: &'a [Chunk], payloads: &'a [Vec<u8>]) -> Vec<DecodeJob<'a>> {
        let job = |((raw, history), payload): (&'a Chunk, &'a Vec<u8>)| DecodeJob {
            codec: Codec::Neural,
            model: 0,
            payload,
            raw_len: raw.len(),
            history: history.clone(),
            dictionary: None,
        };
        chunks.iter().zip(payloads).map(job).collect()
    }

    fn round_trip(both: &Both, chunks: &[Chunk]) {
        let jobs: Vec<_> =
            chunks.iter().map(|(raw, history)| EncodeJob { raw, history: history.clone() }).collect();
        let payloads = both.scalar.encode(&jobs);
        assert_eq!(both.device.encode(&jobs), payloads);
        let payloads: Vec<_> = payloads.into_iter().map(Option::unwrap).collect();
        let jobs = decode_jobs(chunks, &payloads);
        let decoded = both.device.decode(&jobs.iter().collect::<Vec<_>>());
        for ((raw, _), decoded) in chunks.iter().zip(decoded) {
            assert_eq!(decoded.unwrap(), *raw);
        }
        assert_eq!(both.offload.warning(), None);
    }

    fn base(name: &str) -> Config {
        let mut config = Config::new(name, 48, 2, 300);
        (config.heads, config.kv_heads, config.head_size, config.ff) = (4, 1, 16, 80);
        (config.orders, config.seconds) = (vec![1, 2, 4], vec![2]);
        (config.ngrams, config.copy, config.window) = (vec![(2, 8), (3, 7)], true, 24);
        config
    }

    fn latent(layers: usize, steer: bool, experts: usize, max: usize) -> Option<Latent> {
        Some(Latent { symbols: 6, max, layers, ff: if layers > 0 { 40 } else { 0 }, steer, experts })
    }

    #[test]
    #[ignore = "needs the emulated device"]
    fn one_model() {
        let mut config = base("one");
        config.latent = latent(0, true, 3, 2);
        round_trip(&both(model(config, Draw::Even), 2), &chunks(9, 60));
    }

    #[test]
    #[ignore = "needs the emulated device"]
    fn all_models() {
        let all: &[(&str, fn(&mut Config))] = &[
            ("plain", |c| (c.orders, c.seconds, c.ngrams, c.copy) = (vec![], vec![], vec![], false)),
            ("default", |_| {}),
            ("relu", |c| (c.activation, c.heads, c.kv_heads, c.head_size) = (Activation::Relu, 6, 2, 24)),
            ("wide", |c| (c.width, c.ff, c.heads, c.head_size, c.vocab) = (100, 33, 1, 128, 1100)),
            ("unlimited", |c| (c.window, c.layers, c.orders, c.seconds) = (0, 1, vec![1, 5, 32], vec![5])),
            ("experts", |c| c.latent = latent(0, false, 4, 3)),
            ("steered", |c| c.latent = latent(0, true, 1, 3)),
            ("crossed", |c| {
                c.activation = Activation::GatedGelu;
                c.latent = latent(2, false, 2, 40);
            }),
        ];
        for (name, change) in all {
            for draw in [Draw::Even, Draw::Extreme] {
                let mut config = base(name);
                change(&mut config);
                eprintln!("{name} {draw:?}");
                // The extreme ones share the compiled kernel with the others.
                let effort = if config.latent.is_some() { 2 } else { 0 };
                round_trip(
                    &both(model(config, draw), effort),
                    &chunks(if draw == Draw::Even { 13 } else { 5 }, 150),
                );
            }
        }
    }

    #[test]
    #[ignore = "needs the emulated device"]
    fn damage() {
        let mut config = base("damage");
        config.latent = latent(0, true, 3, 2);
        let both = both(model(config, Draw::Even), 2);
        let chunks = chunks(40, 90);
        let jobs: Vec<_> =
            chunks.iter().map(|(raw, history)| EncodeJob { raw, history: history.clone() }).collect();
        let mut payloads: Vec<_> = both.scalar.encode(&jobs).into_iter().map(Option::unwrap).collect();
        let mut random = Random::new(3);
        for payload in &mut payloads {
            match random.below(4) {
                0 => payload.truncate(payload.len() / 2),
                1 => *payload = vec![0xff; 20],
                2 => payload.iter_mut().for_each(|byte| *byte = random.below(255) as u8 + 1),
                _ => payload[0] ^= 1 << random.below(7),
            }
        }
        let mut jobs = decode_jobs(&chunks, &payloads);
        for (number, job) in jobs.iter_mut().enumerate() {
            if number % 3 == 0 {
                job.raw_len = number * 5;
            }
        }
        let jobs: Vec<_> = jobs.iter().collect();
        let (here, there) = (both.scalar.decode(&jobs), both.device.decode(&jobs));
        let mut failed = 0;
        for (here, there) in here.iter().zip(&there) {
            match (here, there) {
                (Ok(here), Ok(there)) => assert_eq!(here, there),
                (Err(here), Err(there)) => {
                    failed += 1;
                    assert_eq!(here.to_string(), there.to_string());
                }
                other => panic!("{other:?}"),
            }
        }
        assert!(failed > 3 && failed < jobs.len(), "{failed} of {} failed", jobs.len());
        assert_eq!(both.offload.warning(), None);
    }
}
