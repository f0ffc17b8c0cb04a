//! The GPU's decoder on an emulated device equals the scalar kernels, bit for bit.
//!
//! The host's C++ compiler compiles the kernel's source, with every thread of a block as a fiber of
//! its own, and the kernel is driven through the same calls of the driver's interface as on a GPU.
//! Each test here starts this program again with the emulation's libraries in place, and runs one
//! of the tests of `on_the_device`.
#![cfg(feature = "gpu")]

mod common;
mod emulation;

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use common::{command, expect, put};
use s3a::model::config::Config;
use s3a::model::sample::Random;
use s3a::model::{Model, device};

/// Runs a test of `on_the_device` with these variables set. Without a compiler it prints a message
/// and passes.
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
fn no_access_is_out_of_bounds_and_nothing_overflows() {
    let Some(variables) = emulation::sanitized() else {
        eprintln!("skipped: the C++ compiler has no sanitizers");
        return;
    };
    let variables: Vec<(&str, &str)> =
        variables.iter().map(|(name, value)| (*name, value.as_str())).collect();
    run("one_model", &variables);
    run("damage", &variables);
}

#[test]
fn damaged_payloads_come_to_the_same_end() {
    // With one multiprocessor, forty chunks are enough for the larger tiles.
    run("damage", &[("S3A_EMULATED_PROCESSORS", "1")]);
}

/// The memory that a chunk of `raw_len` bytes takes on a device.
fn memory_of(config: &Config, raw_len: usize) -> usize {
    let payload = vec![1; raw_len / 3];
    let history = vec![0];
    let request =
        device::Request { payload: &payload, raw_len, capacity: raw_len, history, ..Default::default() };
    request.memory(config).total()
}

/// Runs the program with the emulated device in place.
fn s3a_with(dir: &Path, libraries: &Path, variables: &[(&str, &str)], args: &[&str]) -> Output {
    let mut command = command(dir);
    command.args(args).env("S3A_CUDA_PATH", libraries).env("XDG_CACHE_HOME", dir.join("cache"));
    command.envs(variables.iter().copied()).output().unwrap()
}

#[test]
fn commands_give_the_same_bytes_on_a_device_and_when_it_fails() {
    let Some(libraries) = emulation::libraries() else {
        eprintln!("skipped: there is no C++ compiler `c++`");
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    let model = emulation::tiny();
    fs::write(dir.join("tiny.safetensors"), &model).unwrap();
    let model = Model::from_bytes(&model).unwrap();
    let mut random = Random::new(4);
    let mut words = |count: usize| emulation::words(&model, &mut random, count);
    let files = [words(1000), words(600), words(100)];
    for (name, bytes) in ["a", "b", "c"].iter().zip(&files) {
        put(dir, format!("tree/{name}").as_bytes(), bytes);
    }
    let gpu = |variables: &[(&str, &str)], args: &[&str]| s3a_with(dir, &libraries, variables, args);
    let pack = |device, out| {
        let model = ["pack", "tree", "--model", "tiny.safetensors", "--chunk-size", "4k", "--no-check"];
        gpu(&[], &[&model[..], &["--device", device, "-o", out]].concat())
    };
    expect(&pack("cpu", "cpu.s3a"), 0);
    expect(&pack("cuda", "gpu.s3a"), 0);
    assert_eq!(fs::read(dir.join("cpu.s3a")).unwrap(), fs::read(dir.join("gpu.s3a")).unwrap());
    let info = gpu(&[], &["info", "cpu.s3a", "--chunks", "--json"]);
    let info: serde_json::Value = serde_json::from_slice(&info.stdout).unwrap();
    assert_eq!(info["codecs"]["neural"]["chunks"], 3, "{info}");

    let unpacked = |target: &str| {
        for (name, bytes) in ["a", "b", "c"].iter().zip(&files) {
            assert_eq!(fs::read(dir.join(target).join(name)).unwrap(), *bytes, "{target}/{name}");
        }
    };
    let unpack = |variables: &[(&str, &str)], target, code| {
        let output = gpu(variables, &["unpack", "cpu.s3a", "-C", target, "--device", "cuda:0"]);
        expect(&output, code);
        unpacked(target);
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    unpack(&[], "whole", 0);
    // Launch 1 is the self-test; the next is the first of the work.
    let warned = unpack(&[("S3A_EMULATED_FAIL", "2")], "lost", 1);
    assert!(warned.contains("emulated was given up") && warned.contains("launch failure"), "{warned}");
    // All chunks together do not fit: the driver says so beforehand, or only when memory is asked
    // for.
    let weights = device::image(&model).unwrap().len();
    let chunks: usize = [4096, 4096, 308].into_iter().map(|len| memory_of(model.config(), len)).sum();
    for (target, memory) in [("narrow", weights + chunks), ("halved", weights + chunks * 8 / 7 + 3000)] {
        unpack(&[("S3A_EMULATED_MEMORY", &memory.to_string())], target, 0);
    }
    let warned = unpack(&[("S3A_EMULATED_MEMORY", "1000")], "full", 1);
    assert!(warned.contains("not enough memory"), "{warned}");
    expect(&gpu(&[], &["verify", "cpu.s3a", "--device", "cuda"]), 0);
    let cat = gpu(&[], &["cat", "cpu.s3a", "b", "--device", "cuda"]);
    assert_eq!(cat.stdout, files[1]);

    // A broken cached file is made anew.
    let kept: Vec<_> =
        fs::read_dir(dir.join("cache/s3a")).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(!kept.is_empty());
    kept.iter().for_each(|path| fs::write(path, b"broken").unwrap());
    expect(&gpu(&[], &["cat", "cpu.s3a", "c", "--device", "cuda"]), 0);
    assert!(kept.iter().any(|path| fs::read(path).unwrap().len() > 1000));
}

#[test]
fn auto_uses_the_device_where_it_ends_sooner_and_only_there() {
    let Some(libraries) = emulation::libraries() else {
        eprintln!("skipped: there is no C++ compiler `c++`");
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    let model = emulation::tiny();
    fs::write(dir.join("tiny.safetensors"), &model).unwrap();
    let bytes = emulation::words(&Model::from_bytes(&model).unwrap(), &mut Random::new(9), 8000);
    put(dir, b"tree/a", &bytes);
    let pack =
        ["pack", "tree", "--model", "tiny.safetensors", "--chunk-size", "4k", "--no-check", "-o", "a.s3a"];
    // Without `--read-time 0`, LZMA2 would take the files as blocks.
    let pack = [&pack[..], &["--read-time", "0"]].concat();
    expect(&s3a_with(dir, &libraries, &[("S3A_EMULATED_NONE", "1")], &pack), 0);
    let launches = || fs::read_to_string(dir.join("log")).map_or(0, |log| log.lines().count());
    let log = dir.join("log").display().to_string();
    // Ten chunks of 4 KiB: 40 s on one thread of this CPU, a little more than 4 s on this device.
    let (slow, fast) = ("1000000000,1000000000,1000000000,1,", "1,1,1000000000,1,");
    for (number, (costs, start, device, used)) in [
        (slow, "0", "auto", true),
        (slow, "100000000000", "auto", false),
        (fast, "0", "auto", false),
        (fast, "0", "cuda", true),
        (slow, "0", "cpu", false),
        // The CPU is measured: so little work is never worth starting the device.
        ("", "", "auto", false),
    ]
    .into_iter()
    .enumerate()
    {
        let before = launches();
        let costs = format!("{costs}{start}");
        let target = format!("x{number}");
        let variables = [("S3A_DEVICE_COSTS", costs.as_str()), ("S3A_EMULATED_LOG", &log)];
        let unpack = ["unpack", "a.s3a", "-C", &target, "-j", "1", "--device", device];
        expect(&s3a_with(dir, &libraries, &variables, &unpack), 0);
        assert_eq!(fs::read(dir.join(target).join("a")).unwrap(), bytes, "{costs} {device}");
        assert_eq!(launches() > before, used, "{costs} {device}");
    }
    let unpack = ["unpack", "a.s3a", "-C", "y"];
    let wrong = expect(&s3a_with(dir, &libraries, &[("S3A_DEVICE_COSTS", "1,2")], &unpack), 2);
    assert!(wrong.contains("are not five numbers"), "{wrong}");
}

#[test]
fn what_was_found_is_told_and_what_is_missing_is_refused() {
    let Some(libraries) = emulation::libraries() else {
        eprintln!("skipped: there is no C++ compiler `c++`");
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    let told = |variables: &[(&str, &str)]| {
        let output = s3a_with(dir, &libraries, variables, &["info", "--devices"]);
        expect(&output, 0);
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    assert!(told(&[]).contains("cuda:0: emulated, sm_80, 2 multiprocessors, 1"), "{}", told(&[]));
    assert!(told(&[("S3A_EMULATED_NONE", "1")]).contains("cuda: none: the NVIDIA driver finds no device"));
    put(dir, b"tree/a", b"abc");
    expect(&s3a_with(dir, &libraries, &[], &["pack", "tree", "-o", "a.s3a", "-l", "1"]), 0);
    for (device, variables) in [("cuda", &[("S3A_EMULATED_NONE", "1")][..]), ("cuda:1", &[])] {
        let output =
            s3a_with(dir, &libraries, variables, &["unpack", "a.s3a", "-C", "x", "--device", device]);
        expect(&output, 2);
        assert!(!dir.join("x").exists());
    }
    // No GPU was asked for, so it does not matter that there is none.
    expect(&s3a_with(dir, &libraries, &[("S3A_EMULATED_NONE", "1")], &["unpack", "a.s3a", "-C", "x"]), 0);
}

mod on_the_device {
    use std::sync::Arc;

    use s3a::codec::choice::open;
    use s3a::codec::job::{DecodeJob, EncodeJob};
    use s3a::codec::neural::chunk_model::Neural;
    use s3a::codec::offload::dispatch::Offload;
    use s3a::codec::{ChunkModel, Codec};
    use s3a::kernels::Backend;
    use s3a::model::Model;
    use s3a::model::config::{Activation, Config, Latent};
    use s3a::model::sample::{Draw, Random, model_file};

    /// Prose and code: the source of this test.
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

    /// Parts of the text that repeat themselves, with noise in between, so that all kinds of
    /// matches occur.
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
    type Change = fn(&mut Config);

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
        config.set_adapt(vec![60_000; 3]);
        round_trip(&both(model(config, Draw::Even), 2), &chunks(9, 60));
    }

    #[test]
    #[ignore = "needs the emulated device"]
    fn all_models() {
        let all: &[(&str, Change)] = &[
            ("plain", |c| (c.orders, c.seconds, c.ngrams, c.copy) = (vec![], vec![], vec![], false)),
            ("default", |_| {}),
            ("relu", |c| (c.activation, c.heads, c.kv_heads, c.head_size) = (Activation::Relu, 6, 2, 24)),
            ("wide", |c| (c.width, c.ff, c.heads, c.head_size, c.vocab) = (100, 33, 1, 128, 1100)),
            ("unlimited", |c| (c.window, c.layers, c.orders, c.seconds) = (0, 1, vec![1, 5, 32], vec![5])),
            ("experts", |c| {
                c.latent = latent(0, false, 4, 3);
                c.set_adapt(vec![60_000, 0, 200_000, 1]);
            }),
            ("steered", |c| {
                c.latent = latent(0, true, 1, 3);
                c.set_adapt(vec![60_000]);
            }),
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
                // The models with extreme weights share the compiled kernel with the others.
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
