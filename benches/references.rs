//! How well cheap measures of similarity predict what a reference is worth in bits.
//!
//! `cargo bench --bench references -- FOLDER [CHUNK_KIB] [CHUNKS]` takes some chunks of a directory
//! in packing order, and for each some earlier chunks as candidates. It codes the chunk with each
//! candidate as its history, and writes a CSV row for each pair: bits without history, bits with
//! it, and the measures.

use std::collections::{HashMap, HashSet};
use std::error::Error;
use std::io::Read;
use std::path::PathBuf;
use std::sync::Arc;

use s3a::archive::pack::found::ScanOptions;
use s3a::archive::pack::order::packing_order;
use s3a::archive::pack::scan::Tree;
use s3a::archive::{References, Similar};
use s3a::codec::neural::chunk_model::Neural;
use s3a::model::matcher::Matcher;
use s3a::model::registry::default_model;
use s3a::wire::zstd_raw;

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let Some(folder) = args.first() else {
        println!("usage: cargo bench --bench references -- FOLDER [CHUNK_KIB] [CHUNKS]");
        return Ok(());
    };
    let chunk_len = args.get(1).map_or(Ok(16), |kib| kib.parse::<usize>())? << 10;
    let want: usize = args.get(2).map_or(Ok(40), |chunks| chunks.parse())?;
    let chunks = chunks(folder, chunk_len)?;
    if let [_, _, _, refs, depth] = &args[..] {
        return planned(&chunks, chunk_len, want, refs.parse()?, depth.parse()?);
    }
    let neural = Neural::new(default_model()?);
    let shingles: Vec<[HashSet<u64>; 3]> =
        chunks.iter().map(|chunk| [5, 6, 8].map(|len| sampled(chunk, len))).collect();
    let mut holders: HashMap<u64, Vec<usize>> = HashMap::new();
    for (at, [_, _, eights]) in shingles.iter().enumerate() {
        eights.iter().for_each(|&hash| holders.entry(hash).or_default().push(at));
    }
    println!(
        "chunk,candidate,alone,with,shared5,shared6,shared8,rare8,zstd3_alone,zstd3,zstd19_alone,zstd19,misses_alone,misses"
    );
    let step = (chunks.len() / want).max(1);
    for at in (step..chunks.len()).step_by(step) {
        let rare = |other: usize| -> f64 {
            let both = shingles[at][2].intersection(&shingles[other][2]);
            both.map(|hash| (chunks.len() as f64 / holders[hash].len() as f64).ln()).sum()
        };
        let shared = |other: usize, len: usize| shingles[at][len].intersection(&shingles[other][len]).count();
        let mut candidates: Vec<usize> = (0..at).collect();
        candidates.sort_by_key(|&other| std::cmp::Reverse((shared(other, 2), other)));
        // The most similar candidates, and two that merely stand somewhere before.
        candidates.truncate(6);
        candidates.extend([at / 2, at / 3]);
        candidates.sort_unstable();
        candidates.dedup();
        let bits = |history: &[Arc<[u8]>]| -> Result<u64, Box<dyn Error>> {
            Ok(neural.encode_with(&chunks[at], history, &[])?.residual_bits)
        };
        let zstd =
            |prefix: &[u8], level| zstd_raw::compress_at(&chunks[at], prefix, level).map(|out| 8 * out.len());
        let (alone, missed) = (bits(&[])?, misses(&neural, &chunks[at], &[])?);
        let (three, nineteen) = (zstd(&[], 3)?, zstd(&[], 19)?);
        for other in candidates {
            let history = [Arc::clone(&chunks[other])];
            println!(
                "{at},{other},{alone},{},{},{},{},{:.1},{three},{},{nineteen},{},{missed},{}",
                bits(&history)?,
                shared(other, 0),
                shared(other, 1),
                shared(other, 2),
                rare(other),
                zstd(&chunks[other], 3)?,
                zstd(&chunks[other], 19)?,
                misses(&neural, &chunks[at], &history)?,
            );
        }
    }
    Ok(())
}

/// What a plan is worth: bits per byte of some of the chunks, without references and as planned.
fn planned(
    chunks: &[Arc<[u8]>],
    len: usize,
    want: usize,
    refs: usize,
    depth: u8,
) -> Result<(), Box<dyn Error>> {
    let neural = Neural::new(default_model()?);
    let start = std::time::Instant::now();
    let plans = Similar::new(refs, depth, len as u32, (32 << 20) / len as u32).plan(&[], chunks);
    let took = start.elapsed();
    let mut closures: Vec<HashSet<usize>> = Vec::new();
    let mut named = HashSet::new();
    for (at, plan) in plans.iter().enumerate() {
        let mut closure = HashSet::from([at]);
        for &distance in plan {
            closure.extend(&closures[at - distance as usize]);
            named.insert(at - distance as usize);
        }
        closures.push(closure);
    }
    let to_decode = closures.iter().map(HashSet::len).sum::<usize>() as f64 / chunks.len() as f64;
    let step = (chunks.len() / want).max(1);
    let (mut bytes, mut alone, mut forward, mut back, mut first, mut best, mut naming) =
        (0, 0, 0, 0, 0, 0, 0);
    for at in (step / 2..chunks.len()).step_by(step) {
        let history: Vec<_> = plans[at].iter().map(|&d| Arc::clone(&chunks[at - d as usize])).collect();
        let bits = |history: &[Arc<[u8]>]| -> Result<u64, Box<dyn Error>> {
            Ok(neural.encode_with(&chunks[at], history, &[])?.residual_bits)
        };
        let reversed: Vec<_> = history.iter().rev().cloned().collect();
        let a = bits(&[])?;
        let f = if history.is_empty() { a } else { bits(&history)? };
        let b = if history.len() < 2 { f } else { bits(&reversed)? };
        let o = if history.len() < 2 { f } else { bits(&history[..1])? };
        bytes += chunks[at].len();
        (alone, forward, back, first, best) =
            (alone + a, forward + f, back + b, first + o, best + a.min(f).min(b).min(o));
        naming += usize::from(!history.is_empty());
    }
    let bpb = |bits: u64| bits as f64 / bytes as f64;
    let refs_named = plans.iter().map(Vec::len).sum::<usize>() as f64 / chunks.len() as f64;
    println!(
        "{refs} {depth}: alone {:.4} planned {:.4} ({:.2}%) reversed {:.4} ({:.2}%) first only {:.4} best {:.4} ({:.2}%); {:.0}% named, {refs_named:.2} refs a chunk, {to_decode:.2} to decode, {naming} name; plan {took:?}",
        bpb(alone),
        bpb(forward),
        100.0 - 100.0 * forward as f64 / alone as f64,
        bpb(back),
        100.0 - 100.0 * back as f64 / alone as f64,
        bpb(first),
        bpb(best),
        100.0 - 100.0 * best as f64 / alone as f64,
        100.0 * named.len() as f64 / chunks.len() as f64,
    );
    Ok(())
}

/// The distinct byte strings of this length, one in eight of them.
fn sampled(chunk: &[u8], len: usize) -> HashSet<u64> {
    let hash = |shingle: &[u8]| {
        let word = shingle.iter().fold(0, |word, &byte| word << 8 | u64::from(byte));
        let mixed = (word ^ word >> 29).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (mixed ^ mixed >> 32).wrapping_mul(0xd6e8_feb8_6659_fd93)
    };
    chunk.windows(len).map(hash).filter(|hash| hash >> 61 == 0).collect()
}

/// Tokens that no slot of the match input offers.
fn misses(neural: &Neural, chunk: &[u8], history: &[Arc<[u8]>]) -> Result<usize, Box<dyn Error>> {
    let (config, vocabulary) = (neural.model().config(), neural.model().vocabulary());
    let capacity = history.iter().map(|bytes| bytes.len()).sum::<usize>() + chunk.len();
    let mut matcher = Matcher::new(&config.orders, &config.seconds, capacity, vocabulary.separator())?;
    history.iter().for_each(|bytes| matcher.extend(&vocabulary.tokenize(bytes)));
    matcher.extend(&[]);
    let mut missed = 0;
    for token in vocabulary.tokenize(chunk) {
        let slots = matcher.look_up();
        missed += usize::from(!slots.iter().any(|slot| slot.class > 0 && slot.candidate == token));
        matcher.update(token);
    }
    Ok(missed)
}

/// All files of a directory in the order in which they are packed, cut into chunks.
fn chunks(folder: &str, len: usize) -> Result<Vec<Arc<[u8]>>, Box<dyn Error>> {
    let tree = Tree::scan(&[PathBuf::from(folder)], None, &ScanOptions::default(), &())?;
    let mut raw = Vec::new();
    for at in packing_order(&tree.entries) {
        if let Ok(file) = tree.open(&tree.entries[at as usize]) {
            // A directory has no bytes to read.
            let _ = std::fs::File::from(file).read_to_end(&mut raw);
        }
    }
    Ok(raw.chunks(len).map(Arc::from).collect())
}
