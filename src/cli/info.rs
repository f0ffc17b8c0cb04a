//! `s3a info`: figures of an archive.

use std::collections::{BTreeSet, VecDeque};
use std::path::PathBuf;

use serde::Serialize;

use super::console::Console;
use super::outcome::Outcome;
use super::output::{Out, human_bytes, ratio};
use crate::archive::read::archive::Archive;
use crate::cli::output::hex;
use crate::error::Result;
use crate::setup::models;
use crate::setup::models::open_options;
use crate::wire::chunk::Codec;
use crate::wire::entry::{ChunkId, Kind};
use crate::wire::limits;

/// Show figures of an archive
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The archive, or its URL (https, http, s3, gs, az)
    #[arg(value_name = "ARCHIVE", required_unless_present = "devices")]
    archive: Option<PathBuf>,
    /// Show instead what models can run on here, and why not on more
    #[arg(long, conflicts_with_all = ["archive", "chunks"])]
    devices: bool,
    /// Look at each chunk's head too, and show the codecs
    #[arg(long)]
    chunks: bool,
    /// Print a JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Info {
    format: String,
    archive_bytes: u64,
    file_bytes: u64,
    /// After equal files were merged and holes left out.
    raw_bytes: u64,
    bits_per_byte: String,
    /// All that is no chunk: entries, tables, index, models.
    metadata_bytes: u64,
    entries: usize,
    files: u64,
    folders: u64,
    symlinks: u64,
    hardlinks: u64,
    others: u64,
    chunk_size: u32,
    chunks: u32,
    models: Vec<Model>,
    #[serde(skip_serializing_if = "Option::is_none")]
    codecs: Option<Codecs>,
    #[serde(skip_serializing_if = "Option::is_none")]
    references: Option<References>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bits: Option<Bits>,
}

/// Where the bits of an archive go.
#[derive(Default, Serialize)]
struct Bits {
    models: Vec<ModelBits>,
    /// Of chunks that no model coded.
    fallback: u64,
    /// Everything but the chunks' payloads.
    overhead: u64,
}

/// The bits of the chunks that one model coded.
#[derive(Clone, Default, Serialize)]
struct ModelBits {
    name: String,
    chunks: u64,
    /// Chunks whose learned sequence is not empty, and its symbols.
    with_c: u64,
    symbols: u64,
    c: u64,
    residual: u64,
}

#[derive(Serialize)]
struct Model {
    name: String,
    fingerprint: String,
    embedded: bool,
}

#[derive(Default, Serialize)]
struct Codecs {
    stored: Coded,
    zstd: Coded,
    lz: Coded,
    neural: Coded,
}

impl Codecs {
    /// Each with its name.
    fn all(&self) -> [(&'static str, &Coded); 4] {
        [("stored", &self.stored), ("zstd", &self.zstd), ("lz", &self.lz), ("neural", &self.neural)]
    }
}

#[derive(Default, Serialize)]
struct Coded {
    chunks: u64,
    raw_bytes: u64,
    coded_bytes: u64,
    /// Chunks that look back on others.
    referring: u64,
}

/// How chunks look back on others.
#[derive(Default, Serialize)]
struct References {
    /// Chunks that name others, and chunks that others name.
    naming: u64,
    named: u64,
    /// Mean number of chunks to decode for one, itself included.
    to_decode: String,
}

pub(crate) fn run(args: &Args, console: &Console) -> Result<Outcome> {
    let Some(path) = &args.archive else {
        let mut out = Out::new();
        super::devices::print(args.json, &mut out)?;
        out.finish()?;
        return Ok(Outcome::Done);
    };
    console.about(path);
    let archive = if args.chunks { models::open(path) } else { Archive::open(path, &open_options()) }?;
    let info = gather(&archive, args.chunks)?;
    let mut out = Out::new();
    if args.json {
        out.json(&info)?;
    } else {
        print(&info, &mut out)?;
    }
    out.finish()?;
    Ok(Outcome::Done)
}

fn gather(archive: &Archive, chunks: bool) -> Result<Info> {
    let header = archive.header();
    let mut info = Info {
        format: format!("{}.{}", header.major, header.minor),
        archive_bytes: archive.archive_len(),
        file_bytes: 0,
        raw_bytes: archive.raw_len(),
        bits_per_byte: String::new(),
        metadata_bytes: archive.archive_len().saturating_sub(archive.chunk_bytes()),
        entries: archive.entries().len(),
        files: 0,
        folders: 0,
        symlinks: 0,
        hardlinks: 0,
        others: 0,
        chunk_size: header.chunk_size,
        chunks: archive.chunk_count(),
        models: Vec::new(),
        codecs: None,
        references: None,
        bits: None,
    };
    for entry in archive.entries() {
        match entry.kind {
            Kind::File { size, .. } => {
                info.files += 1;
                info.file_bytes = info.file_bytes.saturating_add(size);
            }
            Kind::Directory => info.folders += 1,
            Kind::Symlink { .. } => info.symlinks += 1,
            Kind::Hardlink { .. } => info.hardlinks += 1,
            Kind::Fifo | Kind::Socket | Kind::CharDevice { .. } | Kind::BlockDevice { .. } => {
                info.others += 1
            }
        }
    }
    info.bits_per_byte = ratio(info.archive_bytes.saturating_mul(8), info.file_bytes, 4);
    let models = archive.models().iter();
    info.models = models
        .map(|m| Model { name: m.name.clone(), fingerprint: hex(&m.fingerprint), embedded: m.embedded })
        .collect();
    if chunks {
        let mut bits = Bits { models: names(archive), ..Bits::default() };
        let (codecs, references) = count_codecs(archive, &mut bits)?;
        let coded = codecs.all().map(|(_, coded)| coded.coded_bytes).iter().sum::<u64>();
        bits.fallback = 8 * (coded - codecs.neural.coded_bytes);
        bits.overhead = 8 * info.archive_bytes.saturating_sub(coded);
        (info.codecs, info.references, info.bits) = (Some(codecs), Some(references), Some(bits));
    }
    Ok(info)
}

fn names(archive: &Archive) -> Vec<ModelBits> {
    archive.models().iter().map(|m| ModelBits { name: m.name.clone(), ..ModelBits::default() }).collect()
}

fn count_codecs(archive: &Archive, bits: &mut Bits) -> Result<(Codecs, References)> {
    let (mut codecs, mut references) = (Codecs::default(), References::default());
    // Of the chunks in the window: those that must be decoded for it, and whether one names it.
    let mut recent: VecDeque<(BTreeSet<u32>, bool)> = VecDeque::new();
    let mut to_decode = 0u64;
    for id in (0..archive.chunk_count()).map(ChunkId) {
        let (head, learned) = archive.learned(id)?;
        let model = bits.models.get_mut(usize::from(head.model)).filter(|_| head.codec == Codec::Neural);
        if let Some(model) = model {
            let (symbols, c) = learned.map_or((0, 0), |learned| (learned.c.len() as u64, learned.bits));
            model.chunks += 1;
            model.with_c += u64::from(symbols > 0);
            model.symbols += symbols;
            model.c += c;
            model.residual += (8 * u64::from(head.coded_len)).saturating_sub(c);
        }
        let coded = match head.codec {
            Codec::Stored => &mut codecs.stored,
            Codec::Zstd => &mut codecs.zstd,
            Codec::Lz => &mut codecs.lz,
            Codec::Neural => &mut codecs.neural,
        };
        coded.chunks += 1;
        coded.raw_bytes += u64::from(head.raw_len);
        coded.coded_bytes += u64::from(head.coded_len);
        coded.referring += u64::from(!head.refs.is_empty());
        references.naming += u64::from(!head.refs.is_empty());
        let mut needed = BTreeSet::from([id.0]);
        for distance in &head.refs {
            let at = recent.len().checked_sub(*distance as usize);
            if let Some((more, named)) = at.and_then(|at| recent.get_mut(at)) {
                // A hostile chain is cut where a writer would have to stop.
                needed.extend(more.iter().take(limits::CLOSURE));
                references.named += u64::from(!std::mem::replace(named, true));
            }
        }
        to_decode += needed.len() as u64;
        recent.push_back((needed, false));
        if recent.len() > archive.header().ref_window as usize {
            recent.pop_front();
        }
    }
    references.to_decode = ratio(to_decode, archive.chunk_count().into(), 2);
    Ok((codecs, references))
}

fn print(info: &Info, out: &mut Out) -> Result<()> {
    out.line(format_args!("format        {}", info.format))?;
    out.line(format_args!(
        "archive       {} ({} bytes)",
        human_bytes(info.archive_bytes),
        info.archive_bytes
    ))?;
    out.line(format_args!("files         {} ({} bytes)", human_bytes(info.file_bytes), info.file_bytes))?;
    out.line(format_args!("merged        {} ({} bytes)", human_bytes(info.raw_bytes), info.raw_bytes))?;
    out.line(format_args!("bits per byte {}", info.bits_per_byte))?;
    out.line(format_args!(
        "metadata      {} ({} bytes)",
        human_bytes(info.metadata_bytes),
        info.metadata_bytes
    ))?;
    let (files, folders, symlinks) = (info.files, info.folders, info.symlinks);
    let (hardlinks, others) = (info.hardlinks, info.others);
    out.line(format_args!(
        "entries       {}: {files} files, {folders} folders, {symlinks} symlinks, {hardlinks} hardlinks, {others} others",
        info.entries
    ))?;
    out.line(format_args!("chunks        {} of {}", info.chunks, human_bytes(info.chunk_size.into())))?;
    for model in &info.models {
        let place = if model.embedded { "in the archive" } else { "not in the archive" };
        let name = crate::archive::path::escape(model.name.as_bytes());
        out.line(format_args!("model         {name}, {place}, {}", model.fingerprint))?;
    }
    let Some(codecs) = &info.codecs else { return Ok(()) };
    for (name, coded) in codecs.all() {
        let bits = ratio(coded.coded_bytes * 8, coded.raw_bytes, 3);
        let (raw, packed) = (human_bytes(coded.raw_bytes), human_bytes(coded.coded_bytes));
        out.line(format_args!(
            "{name:<13} {} chunks, {raw} to {packed}, {bits} bits per byte, {} refer to others",
            coded.chunks, coded.referring
        ))?;
    }
    if let Some(bits) = &info.bits {
        for model in &bits.models {
            let ModelBits { chunks, with_c, symbols, c, residual, .. } = model;
            out.line(format_args!(
                "bits          {c} for c ({symbols} symbols, {with_c} of {chunks} chunks), {residual} for the rest, with {}",
                crate::archive::path::escape(model.name.as_bytes())
            ))?;
        }
        let Bits { fallback, overhead, .. } = bits;
        out.line(format_args!("bits          {fallback} in chunks of no model, {overhead} of overhead"))?;
    }
    if let Some(References { naming, named, to_decode }) = &info.references {
        out.line(format_args!(
            "references    {naming} chunks name others, {named} are named; {to_decode} to decode for one"
        ))?;
    }
    Ok(())
}
