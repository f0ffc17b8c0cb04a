//! Speed of the integer engine on one core, and its share of the CPU's own peak in the same run.
//!
//! `cargo bench --bench engine -- [FOLDER [MODEL]]` codes the files of FOLDER (the sources, if none
//! is given) in chunks under a model file, or under a random model of a realistic shape. Time is
//! the CPU time of the thread where the system reports it, so that a busy machine has little
//! effect.

use std::collections::HashMap;
use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use s3a::codec::job::{DecodeJob, EncodeJob};
use s3a::codec::neural::chunk_model::Neural;
use s3a::codec::work::LANES;
use s3a::codec::{ChunkModel, Codec};
use s3a::kernels::Backend;
use s3a::model::Model;
use s3a::model::config::Config;
use s3a::model::sample::{Draw, Random, model_file_of};
use s3a::model::tokens::Vocabulary;

const CHUNK_LEN: usize = 16 << 10;
const RUNS: usize = 3;
/// Chunks of bulk decoding: so many that a lane that becomes free nearly always finds another
/// chunk.
const BULK: usize = 8 * LANES;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1).filter(|argument| !argument.starts_with('-'));
    let (folder, file) = (arguments.next(), arguments.next());
    let mut text = vec![];
    let want = BULK * CHUNK_LEN;
    read_files(
        Path::new(&folder.unwrap_or_else(|| concat!(env!("CARGO_MANIFEST_DIR"), "/src").into())),
        want,
        &mut text,
    )?;
    let file = match file {
        Some(path) => std::fs::read(path)?,
        None => model_file_of(config(), &vocabulary(&text)?, Draw::Even, &mut Random::new(1))?,
    };
    let model = Arc::new(Model::from_bytes(&file)?);
    let chunks: Vec<&[u8]> = text.chunks(CHUNK_LEN).collect();
    let tokens: usize = chunks.iter().map(|chunk| model.vocabulary().tokenize(chunk).len()).sum();
    let products = model.config().products_per_token();
    println!(
        "{} bytes in {} chunks, {:.2} bytes a token",
        text.len(),
        chunks.len(),
        text.len() as f64 / tokens as f64
    );
    println!("{products} multiply-adds a token in products, {} in attention", attention(model.config()));
    let (_, time) = best(|| (0..20).map(|_| model.vocabulary().tokenize(&text).len()).sum::<usize>());
    println!("tokenize {:.1} MB/s", 20.0 * text.len() as f64 / time.as_secs_f64() / 1e6);

    for backend in Backend::available().into_iter().rev() {
        let rounds = if backend.name() == "scalar" { 1_000_000 } else { 2_000_000 };
        let (done, time) = best(|| backend.peak(rounds));
        let peak = done as f64 / time.as_secs_f64();
        println!("{}: peak {:.1} G multiply-adds/s", backend.name(), peak / 1e9);
        let neural = Neural::with_backend(model.clone(), backend);
        // The scalar kernels are slow, and a few chunks suffice.
        let few = if backend.name() == "scalar" { 1 } else { chunks.len() };
        let report = |what: &str, bytes: usize, time: Duration| {
            let tokens = tokens as f64 * bytes as f64 / text.len() as f64 / time.as_secs_f64();
            println!(
                "  {what:<18} {:8.1} KB/s  {:6.2} us/token  {:5.1} % of peak, {:5.1} % with attention",
                bytes as f64 / time.as_secs_f64() / 1e3,
                1e6 / tokens,
                100.0 * tokens * products as f64 / peak,
                100.0 * tokens * (products + attention(model.config())) as f64 / peak,
            );
        };
        let jobs: Vec<_> = chunks[..few].iter().map(|&raw| EncodeJob { raw, history: vec![] }).collect();
        let (payloads, time) = best(|| neural.encode(&jobs));
        let payloads: Vec<Vec<u8>> = payloads.into_iter().flatten().collect();
        let bytes = jobs.iter().map(|job| job.raw.len()).sum();
        report("encode", bytes, time);
        let jobs: Vec<_> =
            payloads.iter().zip(&chunks).map(|(payload, raw)| job(payload, raw.len())).collect();
        for count in [1, 4, LANES, BULK] {
            let jobs: Vec<&DecodeJob<'_>> = jobs.iter().take(count).collect();
            let (results, time) = best(|| neural.decode(&jobs));
            let equal = results
                .iter()
                .zip(&chunks)
                .all(|(result, &raw)| result.as_deref().is_ok_and(|bytes| bytes == raw));
            assert!(equal, "decoded other bytes");
            report(&format!("decode, {count} chunks"), jobs.iter().map(|job| job.raw_len).sum(), time);
            if jobs.len() < count {
                break;
            }
        }
    }
    Ok(())
}

fn config() -> Config {
    let mut config = Config::new("bench", 128, 2, 1024);
    (config.heads, config.kv_heads, config.head_size) = (4, 1, 32);
    (config.ff, config.window) = (384, 128);
    config.orders = vec![1, 2, 3, 4, 6];
    config.ngrams = vec![(2, 14)];
    config.copy = true;
    config
}

fn attention(config: &Config) -> usize {
    2 * config.layers * config.heads * config.head_size * config.window
}

fn job(payload: &[u8], raw_len: usize) -> DecodeJob<'_> {
    DecodeJob { codec: Codec::Neural, model: 0, payload, raw_len, history: vec![], dictionary: None }
}

/// A vocabulary that suits the text: the substrings that save most, all chosen at once.
fn vocabulary(text: &[u8]) -> s3a::Result<Vocabulary> {
    let mut counts: HashMap<&[u8], usize> = HashMap::new();
    for len in 2..=6 {
        for place in text.windows(len) {
            *counts.entry(place).or_default() += 1;
        }
    }
    let mut best: Vec<(usize, &[u8])> =
        counts.into_iter().map(|(token, count)| (count * (token.len() - 1), token)).collect();
    best.sort_unstable_by(|a, b| b.cmp(a));
    let singles = (0..=255u8).map(|byte| vec![byte]);
    Vocabulary::new(singles.chain(best.iter().take(768).map(|(_, token)| token.to_vec())))
}

fn read_files(folder: &Path, want: usize, text: &mut Vec<u8>) -> std::io::Result<()> {
    let mut entries: Vec<_> = std::fs::read_dir(folder)?.flatten().map(|entry| entry.path()).collect();
    entries.sort();
    for path in entries {
        if text.len() >= want {
            text.truncate(want);
            return Ok(());
        }
        if path.is_dir() {
            read_files(&path, want, text)?;
        } else {
            text.extend(std::fs::read(&path)?);
        }
    }
    Ok(())
}

/// The result of a function, and the shortest of several times that it took.
fn best<T>(mut function: impl FnMut() -> T) -> (T, Duration) {
    let mut time = |_| {
        let (cpu, wall) = (cpu_time(), Instant::now());
        let result = function();
        let cpu = cpu_time().zip(cpu).map(|(after, before)| after - before);
        (result, cpu.unwrap_or_else(|| wall.elapsed()))
    };
    let first = time(0);
    (1..RUNS).map(&mut time).fold(first, |best, next| if next.1 < best.1 { next } else { best })
}

/// CPU time of this thread, where the system reports it.
fn cpu_time() -> Option<Duration> {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    Some(Duration::from_nanos(stat.split_whitespace().next()?.parse().ok()?))
}
