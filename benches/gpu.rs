//! What a GPU decodes a second, beside the CPU in the same run, and how far it is from its limits.
//!
//! `cargo bench --bench gpu -- FOLDER [MODEL]`: codes the files of FOLDER in chunks of 16 KiB with a model (the
//! default), and prints: start of the device, equality with the CPU in both directions, bulk decoding and
//! encoding for several numbers of chunks, the CPU on all its cores, and the share of the int8 rate and of
//! the memory's speed that the device could reach. Without a device it says why. `S3A_GPU_RATE` is the int8
//! rate of the device in multiply-adds a second, where this does not know it.

use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rayon::prelude::*;
use s3a::codec::device::{Offload, devices, open};
use s3a::codec::neural::{LANES, Neural};
use s3a::codec::{ChunkModel, Codec, DecodeJob, EncodeJob};
use s3a::kernels::Backend;
use s3a::model::registry::by_name;

const CHUNK_LEN: usize = 16 << 10;
/// Chunks that are coded on the CPU; more of them repeat these.
const DISTINCT: usize = 512;
const RUNS: usize = 3;

/// Dense int8 multiply-adds a second of the tensor cores, and bytes a second of the memory, by name.
const DEVICES: &[(&str, f64, f64)] = &[
    ("H200", 0.99e15, 4.8e12),
    ("H100", 0.99e15, 3.35e12),
    ("A100", 0.312e15, 1.9e12),
    ("L40S", 0.366e15, 0.86e12),
    ("L4", 0.121e15, 0.3e12),
    ("T4", 0.065e15, 0.32e12),
];

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> =
        std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let folder =
        arguments.first().cloned().unwrap_or_else(|| concat!(env!("CARGO_MANIFEST_DIR"), "/src").into());
    let found = devices();
    let found = match found.as_ref().map(|all| all.first()) {
        Ok(Some(Ok(found))) => found.clone(),
        Ok(Some(Err(why))) => return skipped(why),
        Ok(None) => return skipped("there is no device"),
        Err(why) => return skipped(why),
    };
    println!(
        "{}, sm_{}, {} multiprocessors, {:.0} GiB",
        found.name,
        found.arch,
        found.processors,
        found.memory as f64 / f64::from(1 << 30)
    );
    let model = by_name(arguments.get(1).map_or("default", String::as_str))?.model;
    let mut text = vec![];
    read_files(Path::new(&folder), DISTINCT * CHUNK_LEN, &mut text)?;
    let chunks: Vec<&[u8]> = text.chunks(CHUNK_LEN).collect();
    let tokens: usize = chunks.iter().map(|chunk| model.vocabulary().tokenise(chunk).len()).sum();
    let per_byte = tokens as f64 / text.len() as f64;
    println!("model {}: {} multiply-adds a token in products", model.config().name, model.multiply_adds());
    println!("{} bytes in {} chunks, {:.2} bytes a token", text.len(), chunks.len(), 1.0 / per_byte);

    // The CPU on all its cores.
    let cpu = Neural::with_backend(model.clone(), Backend::best());
    let jobs: Vec<EncodeJob<'_>> = chunks.iter().map(|&raw| EncodeJob { raw, history: vec![] }).collect();
    let start = Instant::now();
    let payloads: Vec<Vec<u8>> =
        jobs.par_chunks(8).flat_map_iter(|jobs| cpu.encode(jobs)).map(Option::unwrap_or_default).collect();
    report("CPU, encode", text.len(), start.elapsed());
    let decode: Vec<DecodeJob<'_>> =
        chunks.iter().zip(&payloads).map(|(raw, payload)| job(payload, raw.len())).collect();
    let start = Instant::now();
    let parts = decode.par_chunks(LANES).flat_map_iter(|jobs| cpu.decode(&jobs.iter().collect::<Vec<_>>()));
    let decoded: Vec<_> = parts.collect();
    let of_cpu = report("CPU, decode", text.len(), start.elapsed());
    println!("CPU: {} threads, {} kernels", rayon::current_num_threads(), Backend::best().name());
    check(&decoded, &chunks);

    let start = Instant::now();
    let gpu = cpu.clone().offloading(Some(Arc::new(Offload::to(open(0)?))));
    check(&gpu.decode(&[&decode[0]]), &chunks[..1]);
    println!("start of the device until the first chunk: {:.0} ms", start.elapsed().as_secs_f64() * 1e3);
    let start = Instant::now();
    check(&gpu.decode(&[&decode[0]]), &chunks[..1]);
    println!("one chunk, once it is started: {:.0} ms", start.elapsed().as_secs_f64() * 1e3);

    // Both directions.
    check(&gpu.decode(&decode.iter().collect::<Vec<_>>()), &chunks);
    let of_gpu: Vec<Vec<u8>> = gpu.encode(&jobs).into_iter().map(Option::unwrap_or_default).collect();
    println!("payloads of GPU and CPU are equal: {}", of_gpu == payloads);

    let mut fastest: f64 = 0.0;
    for count in [256, 1024, 4096, 8192, 16_384, 32_768] {
        let many: Vec<&DecodeJob<'_>> = decode.iter().cycle().take(count).collect();
        let bytes: usize = many.iter().map(|job| job.raw_len).sum();
        let mut best = Duration::MAX;
        for _ in 0..RUNS {
            let start = Instant::now();
            let decoded = gpu.decode(&many);
            best = best.min(start.elapsed());
            let raws: Vec<&[u8]> = chunks.iter().copied().cycle().take(count).collect();
            check(&decoded, &raws);
        }
        fastest = fastest.max(report(&format!("GPU, decode, {count} chunks"), bytes, best));
    }
    let many: Vec<EncodeJob<'_>> =
        chunks.iter().cycle().take(4096).map(|&raw| EncodeJob { raw, history: vec![] }).collect();
    let start = Instant::now();
    let coded = gpu.encode(&many).into_iter().flatten().count();
    report(
        &format!("GPU, encode, {coded} chunks"),
        many.iter().map(|job| job.raw.len()).sum(),
        start.elapsed(),
    );

    println!("GPU against CPU: {:.1} times", fastest / of_cpu);
    let products = model.multiply_adds() as f64 * fastest * per_byte;
    let known = DEVICES.iter().find(|(name, ..)| found.name.contains(name));
    let rate =
        std::env::var("S3A_GPU_RATE").ok().and_then(|rate| rate.parse().ok()).or(known.map(|known| known.1));
    if let Some(rate) = rate {
        println!(
            "{:.2} T multiply-adds/s in products, {:.2} % of {:.0} T",
            products / 1e12,
            100.0 * products / rate,
            rate / 1e12
        );
    }
    if let Some(&(_, _, speed)) = known {
        let config = model.config();
        let cache = config.layers * 4 * config.kv_heads * config.head_size * config.window;
        let limit = speed / cache as f64 / per_byte;
        println!(
            "{cache} bytes of keys and values a token: at most {:.0} MB/s from memory, {:.1} % of it reached",
            limit / 1e6,
            100.0 * fastest / limit
        );
    }
    Ok(())
}

fn skipped(why: &str) -> Result<(), Box<dyn Error>> {
    println!("skipped: {why}");
    Ok(())
}

/// Prints and returns bytes a second.
fn report(what: &str, bytes: usize, time: Duration) -> f64 {
    let speed = bytes as f64 / time.as_secs_f64();
    println!("{what:<28} {:9.2} MB/s  ({:.2} s)", speed / 1e6, time.as_secs_f64());
    speed
}

fn check(decoded: &[s3a::Result<Vec<u8>>], raws: &[&[u8]]) {
    let equal = decoded.iter().zip(raws).all(|(got, raw)| got.as_deref().is_ok_and(|got| got == *raw));
    assert!(equal && decoded.len() == raws.len(), "decoded other bytes");
}

fn job(payload: &[u8], raw_len: usize) -> DecodeJob<'_> {
    DecodeJob { codec: Codec::Neural, model: 0, payload, raw_len, history: vec![], dictionary: None }
}

fn read_files(folder: &Path, want: usize, text: &mut Vec<u8>) -> std::io::Result<()> {
    let mut entries: Vec<_> = std::fs::read_dir(folder)?.flatten().map(|entry| entry.path()).collect();
    entries.sort();
    for path in entries {
        if text.len() >= want {
            break;
        }
        if path.is_dir() {
            read_files(&path, want, text)?;
        } else {
            text.extend(std::fs::read(&path)?);
        }
    }
    text.truncate(want);
    Ok(())
}
