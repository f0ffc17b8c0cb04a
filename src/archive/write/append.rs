//! Adds a generation to an archive: groups of its own, and an index of everything (spec/format.md,
//! section 1). Nothing that was written before changes.

use std::collections::{HashMap, VecDeque};
use std::io::Write;

use super::chunk_encoder::ChunkEncoder;
use super::options::{Stats, WriterOptions};
use super::record_writer::RecordWriter;
use super::segments::Segments;
use super::workers::Workers;
use super::writer::{Gathered, Known, Writer};
use crate::archive::read::archive::Archive;
use crate::codec::model::Models;
use crate::error::{Error, Result};
use crate::wire::entries::Base;
use crate::wire::entry::{Entry, Kind};
use crate::wire::index::Index;
use crate::wire::limits;
use crate::wire::models::ModelRef;

impl<W: Write> Writer<W> {
    /// Goes on with `archive`, to whose bytes `out` appends. Chunk size, group length and the reach
    /// of references are the archive's; of `options.models` at most one is used. Chunks of earlier
    /// generations serve no new chunk as history, so what is read of the archive is its index.
    pub fn append(out: W, archive: &Archive, options: WriterOptions) -> Result<Self> {
        let header = archive.header().clone();
        if options.references.as_ref().is_some_and(|references| references.depth() > header.ref_depth) {
            return Err(Error::Usage(
                "the archive was packed with references of less depth, or without".to_owned(),
            ));
        }
        let mut index = Index { generation: archive.index.generation, ..archive.index.clone() };
        index.generation = index.generation.checked_add(1).ok_or(Error::Limit {
            what: "the number of generations",
            got: 1 << 32,
            max: u32::MAX.into(),
        })?;
        let before = index.models.len();
        let (models, embed) = number_models(&mut index.models, &options)?;
        let encoder = ChunkEncoder::new(
            &WriterOptions { models, ..options.clone() },
            header.chunk_size,
            header.ref_window,
        );
        let base = Base { entry: archive.entries().len() as u32, raw: archive.raw_len() };
        let mut writer = Self {
            records: RecordWriter::after(out, archive.archive_len(), index, base),
            pool: Workers::new(options.threads)?,
            encoder,
            observer: options.observer,
            stats: Stats::default(),
            gathered: Gathered::default(),
            group_len: (header.group_len / header.chunk_size * header.chunk_size) as usize,
            known: archive.entries().iter().map(known).collect(),
            contents: HashMap::new(),
            segments: Segments::new(),
            recent: VecDeque::new(),
            previous: None,
            header,
        };
        if writer.records.index.models.len() > before {
            writer.write_models(embed)?;
        }
        Ok(writer)
    }
}

/// Files of the model that is new to the archive, by its number.
type Embed = Vec<(u8, std::sync::Arc<[u8]>)>;

/// Finds the model to code with among those of the archive, or adds it.
fn number_models(named: &mut Vec<ModelRef>, options: &WriterOptions) -> Result<(Models, Embed)> {
    let mut loaded = options.models.loaded();
    let Some((given, model)) = loaded.next() else { return Ok((Models::none(), Vec::new())) };
    if loaded.next().is_some() {
        return Err(Error::Usage("a generation is coded with one model".to_owned()));
    }
    let fingerprint = model.fingerprint();
    let embed = options.embed.iter().find(|(number, _)| *number == given).map(|(_, file)| file.clone());
    let mut added = Vec::new();
    let number = match named.iter().position(|model| model.fingerprint == fingerprint) {
        Some(at) if embed.is_some() && !named[at].embedded => {
            return Err(Error::Usage(
                "the archive names this model without carrying it, which cannot be changed".to_owned(),
            ));
        }
        Some(at) => at,
        None if named.len() == limits::MODELS => {
            let (got, max) = (named.len() as u64 + 1, limits::MODELS as u64);
            return Err(Error::Limit { what: "the number of models", got, max });
        }
        None => {
            let at = named.len();
            named.push(ModelRef { fingerprint, name: model.name().to_owned(), embedded: embed.is_some() });
            added.extend(embed.map(|file| (at as u8, file)));
            at
        }
    };
    let mut slots = vec![None; number];
    slots.push(Some(model.clone()));
    Ok((Models::new(slots), added))
}

/// What a writer would have kept of a file.
fn known(entry: &Entry) -> Option<Known> {
    let Kind::File { size, extents, hash } = &entry.kind else { return None };
    let whole = matches!(&extents[..], [only] if only.len == *size);
    let raw_offset = extents.first().map_or(0, |extent| extent.raw_offset);
    let extents = (!whole).then(|| extents.clone().into_boxed_slice());
    Some(Known { size: *size, raw_offset, hash: *hash, extents })
}
