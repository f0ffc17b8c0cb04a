//! This program's own part: pack, read in order, read at random.

use std::fs::File;
use std::io::{BufReader, BufWriter};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::row::{Reads, Row};
use super::tree::{Scratch, Tree};
use crate::archive::pack::packer::Packer;
use crate::archive::read::archive::Archive;
use crate::archive::read::chunk_cache::ChunkCache;
use crate::archive::read::stream::StreamReader;
use crate::archive::write::options::WriterOptions;
use crate::archive::write::similar::Similar;
use crate::codec::model::Models;
use crate::error::{Error, Result};
use crate::setup::level;
use crate::setup::level::Level;
use crate::setup::models::{Chosen, open_options};
use crate::wire::entry::{ChunkId, EntryId, Kind};

/// Bytes of a random read.
const READ: usize = 4096;

/// One way to pack.
pub(crate) struct Setup {
    pub name: String,
    pub chunk_size: u32,
    level: Level,
    models: Models,
    dictionary: u32,
    threads: usize,
}

impl Setup {
    pub fn new(number: u8, level: Level, chosen: &Chosen, chunk_size: u32, threads: usize) -> Self {
        let name = match chosen.models.get(0) {
            Some(model) => format!("s3a -l {number} ({})", model.name()),
            None => format!("s3a -l {number}"),
        };
        let dictionary = if chosen.zstd_alone { level.dictionary } else { 0 };
        Self { name, chunk_size, level, models: chosen.models.clone(), dictionary, threads }
    }

    fn options(&self) -> WriterOptions {
        WriterOptions {
            chunk_size: self.chunk_size,
            threads: self.threads,
            models: self.models.clone(),
            references: Similar::for_options(self.level.references, self.level.depth, self.chunk_size),
            zstd_level: self.level.zstd,
            block_len: level::block_len(self.level.read_time),
            dictionary: self.dictionary,
            ..WriterOptions::default()
        }
    }
}

/// Packs the tree, unpacks it to nowhere and reads from it.
pub(crate) fn measure(
    setup: &Setup,
    tree: &Tree,
    scratch: &Scratch,
    reads: usize,
) -> Result<(Row, Option<Reads>)> {
    let path = scratch.path("packed.s3a");
    let file = File::create(&path).map_err(|e| Error::io(&path, e))?;
    let start = Instant::now();
    let mut packer = Packer::scan(
        std::slice::from_ref(&tree.path),
        None,
        &crate::archive::pack::found::ScanOptions::default(),
        &(),
    )?;
    if setup.level.arrange {
        packer.arrange(&())?;
    }
    let (_, stats) = packer.write(BufWriter::with_capacity(1 << 20, file), setup.options(), None)?;
    let packed = start.elapsed();

    let file = File::open(&path).map_err(|e| Error::io(&path, e))?;
    let start = Instant::now();
    let mut reader = StreamReader::open(BufReader::with_capacity(1 << 20, file), &open_options())?;
    reader.set_models(setup.models.clone());
    while reader.next_event()?.is_some() {}
    let unpacked = start.elapsed();

    let mut archive = Archive::open(&path, &open_options())?;
    archive.set_models(setup.models.clone());
    let cold = cold_reads(&archive, reads, setup)?;
    let row = Row {
        program: setup.name.clone(),
        access: Some(setup.chunk_size.into()),
        bytes: stats.archive_len,
        bits_per_byte: stats.archive_len as f64 * 8.0 / tree.bytes as f64,
        pack: speed(tree.bytes, packed),
        unpack: speed(tree.bytes, unpacked),
        own: true,
    };
    Ok((row, cold))
}

/// Megabytes a second.
pub(crate) fn speed(bytes: u64, time: Duration) -> f64 {
    bytes as f64 / 1e6 / time.as_secs_f64().max(1e-9)
}

/// Reads at places that are the same in every run, each with nothing decoded before.
fn cold_reads(archive: &Archive, reads: usize, setup: &Setup) -> Result<Option<Reads>> {
    let files: Vec<(EntryId, u64)> = (0..)
        .map(EntryId)
        .zip(archive.entries())
        .filter_map(|(id, entry)| match entry.kind {
            Kind::File { size, .. } if size > 0 => Some((id, size)),
            _ => None,
        })
        .collect();
    let total: u64 = files.iter().map(|(_, size)| size).sum();
    if reads == 0 || total == 0 {
        return Ok(None);
    }
    let counting = Counting::default();
    let mut micros = Vec::with_capacity(reads);
    let mut seed = 1u64;
    let mut buffer = [0; READ];
    for _ in 0..reads {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        // A byte of all files' bytes, each as likely as any other.
        let mut at = (seed >> 16) % total;
        let file = files.iter().find(|(_, size)| at.checked_sub(*size).map(|rest| at = rest).is_none());
        let Some((id, _)) = file else { continue };
        let start = Instant::now();
        archive.read_at(*id, at / READ as u64 * READ as u64, &mut buffer, &counting)?;
        micros.push(u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX));
    }
    micros.sort_unstable();
    let decoded = counting.0.load(Ordering::Relaxed) as f64 / micros.len().max(1) as f64;
    Ok(Some(Reads { program: setup.name.clone(), chunk_size: setup.chunk_size, micros, decoded }))
}

/// Keeps nothing, and counts what was decoded.
#[derive(Default)]
struct Counting(AtomicU64);

impl ChunkCache for Counting {
    fn get(&self, _: ChunkId) -> Option<Arc<[u8]>> {
        None
    }

    fn put(&self, _: ChunkId, _: &Arc<[u8]>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}
