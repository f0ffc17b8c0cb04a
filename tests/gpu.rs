//! The GPU backend with what this machine has: the compiler alone, or a device. A test that lacks
//! what it needs says so.
#![cfg(feature = "gpu")]

use std::sync::Arc;

use s3a::codec::choice::open;
use s3a::codec::job::{DecodeJob, EncodeJob};
use s3a::codec::neural::chunk_model::Neural;
use s3a::codec::offload::dispatch::Offload;
use s3a::codec::{ChunkModel, Codec};
use s3a::kernels::Backend;
use s3a::kernels::cuda::{compile, compiler};
use s3a::model::config::{Activation, Config, Latent};
use s3a::model::device::Shape;
use s3a::model::registry::{by_name, default_model};
use s3a::model::sample::{Draw, model_file};
use s3a::model::{Model, device};

fn everything() -> Config {
    let mut config = Config::new("everything", 100, 3, 5000);
    (config.heads, config.kv_heads, config.head_size) = (6, 2, 24);
    (config.orders, config.seconds) = (vec![1, 2, 4, 32], vec![2, 4]);
    (config.ngrams, config.copy, config.window) = (vec![(2, 8)], true, 0);
    config.activation = Activation::GatedGelu;
    config.latent = Some(Latent { symbols: 6, max: 40, layers: 2, ff: 40, steer: false, experts: 3 });
    config.set_adapt(vec![60_000; 3]);
    config
}

#[test]
fn nvrtc_compiles_the_kernel_for_every_architecture() {
    let (major, minor) = match compiler() {
        Ok(version) => version,
        Err(why) => {
            eprintln!("skipped: {why}");
            return;
        }
    };
    eprintln!("NVRTC {major}.{minor}");
    let mut steered = everything();
    steered.activation = Activation::Relu2;
    steered.set_adapt(vec![60_000]);
    steered.latent = Some(Latent { symbols: 6, max: 4, layers: 0, ff: 0, steer: true, experts: 1 });
    let default = default_model().unwrap();
    // Devices differ in the shared memory that a block may have, and so in where a block's rows
    // lie.
    for (config, arch, tile, shared) in [
        (default.config(), 75, 8, 64 << 10),
        (default.config(), 80, 16, 163 << 10),
        (default.config(), 90, 16, 227 << 10),
        (default.config(), 90, 32, 227 << 10),
        (&everything(), 75, 8, 64 << 10),
        (&everything(), 90, 16, 227 << 10),
        (&steered, 80, 16, 99 << 10),
    ] {
        let shape = Shape::new(config, tile, shared);
        let image = compile(arch, shape.macros(), true).unwrap();
        assert!(!image.kept && image.bytes.starts_with(b"\x7fELF"), "{} sm_{arch}", config.name);
    }
}

#[test]
fn what_does_not_compile_is_an_error_with_the_compilers_words() {
    if let Err(why) = compiler() {
        eprintln!("skipped: {why}");
        return;
    }
    let why = compile(90, &[("S3A_WIDTH".into(), "no_such_name".into())], true).unwrap_err().to_string();
    assert!(why.contains("no_such_name"), "{why}");
}

#[test]
fn weights_lie_as_the_warps_take_them() {
    let model = Model::from_bytes(&model_file(Config::new("m", 40, 1, 300), Draw::Even, 3).unwrap()).unwrap();
    let image = device::image(&model).unwrap();
    assert!(image.len() > 300 * 40 && image.len() < 200_000);
    assert_eq!(image, device::image(&model).unwrap());
}

/// The device's results on real models, against the CPU's. `S3A_GPU_CHUNKS` is how many chunks they
/// are (3,000).
#[test]
fn a_gpu_equals_the_cpu() {
    let device = match open(0) {
        Ok(device) => device,
        Err(why) => {
            eprintln!("skipped: {why}");
            return;
        }
    };
    eprintln!("{}", device.name());
    let offload = Arc::new(Offload::to(device));
    let text = include_bytes!("../spec/format.md");
    let history: Vec<Arc<[u8]>> = vec![text[..5000].into(), text[9000..12_000].into()];
    let count = std::env::var("S3A_GPU_CHUNKS").map_or(3000, |count| count.parse().unwrap());
    let jobs: Vec<EncodeJob<'_>> = (0..count)
        .map(|n| EncodeJob {
            raw: &text[n % 7000..n % 7000 + 1 + n * 7 % 2000],
            history: if n % 3 == 0 { history.clone() } else { vec![] },
        })
        .collect();
    let mut models = vec![default_model().unwrap(), by_name("nano").unwrap().model];
    for config in [everything(), Config::new("bare", 48, 1, 256)] {
        models.push(Arc::new(Model::from_bytes(&model_file(config, Draw::Extreme, 3).unwrap()).unwrap()));
    }
    for model in models {
        let cpu = Neural::with_backend(model.clone(), Backend::best()).searching(None, 1);
        let gpu = cpu.clone().offloading(Some(offload.clone()));
        let payloads = gpu.encode(&jobs);
        let decode: Vec<DecodeJob<'_>> = jobs
            .iter()
            .zip(&payloads)
            .map(|(job, payload)| DecodeJob {
                codec: Codec::Neural,
                model: 0,
                payload: payload.as_ref().unwrap(),
                raw_len: job.raw.len(),
                history: job.history.clone(),
                dictionary: None,
            })
            .collect();
        for (job, decoded) in jobs.iter().zip(gpu.decode(&decode.iter().collect::<Vec<_>>())) {
            assert_eq!(decoded.unwrap(), job.raw, "{}", model.config().name);
        }
        assert_eq!(offload.warning(), None);
        // The CPU takes longer, so it gets fewer chunks in both directions.
        let (few, more) = (count.min(60), count.min(200));
        assert_eq!(cpu.encode(&jobs[..few]), payloads[..few], "{}", model.config().name);
        for (job, decoded) in jobs[..more].iter().zip(cpu.decode(&decode[..more].iter().collect::<Vec<_>>()))
        {
            assert_eq!(decoded.unwrap(), job.raw, "{}", model.config().name);
        }
    }
}
