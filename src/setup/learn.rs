//! `pack --learn`: a difference to the model at hand, learned from the data that are to be packed.
//!
//! A sample is learned; another, of long stretches, is packed with and without the difference, so that what
//! it saves is measured with everything that packing does. The difference is kept if it saves more bytes
//! in all than it takes.

use std::io::sink;
use std::sync::Arc;

use super::budget::{LEN, Plan, SEQUENCES, TOKEN_BYTES};
use super::models::{Chosen, carrying, compressor};
use crate::archive::observer::Observer;
use crate::archive::pack::packer::Packer;
use crate::archive::write::content::Content;
use crate::archive::write::options::WriterOptions;
use crate::archive::write::writer::Writer;
use crate::codec::choice;
use crate::codec::model::Models;
use crate::codec::neural::chunk_model::Neural;
use crate::codec::neural::search::Search;
use crate::error::{Error, Result};
use crate::model::delta;
use crate::model::registry::{self, Found};
use crate::model::weights::Model;
use crate::train::learn::{LearnOptions, Sample, learn};
use crate::wire::entry::{Entry, Kind, Timestamp};

/// Most bytes of the sample that is learned, and the bytes of its stretches.
const SAMPLE: u64 = 256 << 20;
const STRETCH: u64 = 256 << 10;
/// Most bytes of the sample that is packed to see what is saved, and of its stretches.
const TRIAL: u64 = 3 << 20;
const TRIAL_STRETCH: u64 = 1 << 20;
/// Bytes of what stands around a model that is carried.
const FRAMES: u64 = 128;
/// Less than this is not worth looking at.
const LEAST: u64 = 128 << 10;

/// What came of learning.
#[allow(clippy::large_enum_variant, reason = "there is one at a time")]
pub(crate) enum Learning {
    /// A difference that saves more than it takes: it, and the model that it makes.
    Pays { chosen: Chosen, delta_len: u64, saved: u64 },
    /// What is saved is less than the difference takes, or there is too little to learn.
    DoesNotPay,
}

/// Learns what `packer` is to pack. `found` is the model that learns, `search` how learned sequences are looked
/// for, `options` how it will be packed.
pub(crate) fn learn_tree(
    packer: &Packer,
    found: &Found,
    search: Search,
    plan: Plan,
    options: &WriterOptions,
    embed_base: bool,
) -> Result<Learning> {
    let total = packer.bytes();
    let observer = options.observer.clone();
    observer.phase("sampling", None);
    let stretches = packer.sample(SAMPLE, STRETCH);
    let bytes: u64 = stretches.iter().map(|stretch| stretch.len() as u64).sum();
    if bytes < LEAST {
        return Ok(Learning::DoesNotPay);
    }
    let sample = Sample::new(&stretches, options.chunk_size, options.references.as_deref().map(|r| r as _));
    drop(stretches);
    let base = registry::file_bytes(found)?;
    if delta::is_delta(&base) {
        return Err(Error::Usage("a model that is a difference itself cannot learn; name its base".into()));
    }
    let how = LearnOptions {
        steps: plan.steps as usize,
        sequences: SEQUENCES,
        len: LEN,
        seed: 1,
        bytes: total,
        name: format!("{}-learned", found.model.config().name),
    };
    let tokens = (SEQUENCES * LEN) as u64;
    observer.phase("learning", Some(plan.steps * tokens * TOKEN_BYTES));
    let interrupted = std::sync::atomic::AtomicBool::new(false);
    let learned = learn(&base, &sample, &how, &interrupted, |_| {
        observer.advanced(tokens * TOKEN_BYTES);
        interrupted.store(observer.interrupted(), std::sync::atomic::Ordering::Relaxed);
    })?;
    let Some(delta) = learned else { return Ok(Learning::DoesNotPay) };
    let delta_len = delta.len() as u64;
    let chosen = with_delta(found, &base, delta, search, embed_base)?;
    let trial = packer.sample(TRIAL, TRIAL_STRETCH);
    observer.phase("comparing", None);
    let before = packed(&trial, WriterOptions { embed: Vec::new(), bases: Vec::new(), ..options.clone() })?;
    let alone = chosen.models.loaded().next().map(|(_, model)| Models::one(model.clone()));
    let after = packed(
        &trial,
        WriterOptions {
            models: alone.unwrap_or_default(),
            embed: Vec::new(),
            bases: Vec::new(),
            ..options.clone()
        },
    )?;
    let of_sample: u64 = trial.iter().map(|stretch| stretch.len() as u64).sum();
    let saved = before.saturating_sub(after) as u128 * u128::from(total) / u128::from(of_sample.max(1));
    let saved = u64::try_from(saved).unwrap_or(u64::MAX);
    if saved <= delta_len + delta_len / 8 + FRAMES {
        return Ok(Learning::DoesNotPay);
    }
    Ok(Learning::Pays { chosen, delta_len, saved })
}

/// The model that a delta makes of the one found, as a new archive takes it.
pub(crate) fn with_delta(
    found: &Found,
    base: &[u8],
    delta: Vec<u8>,
    search: Search,
    embed_base: bool,
) -> Result<Chosen> {
    let compressor = if search.effort > 0 { compressor(found)? } else { None };
    let model = Arc::new(Model::from_delta(base, &delta)?);
    let model = Neural::new(model).searching(compressor, search).offloading(choice::chosen());
    carrying(Arc::new(model), Some(delta), embed_base.then(|| found.model.fingerprint()))
}

/// Bytes of an archive of these contents, a file each.
fn packed(contents: &[Vec<u8>], options: WriterOptions) -> Result<u64> {
    let quiet = Quiet(options.observer.clone());
    let mut writer = Writer::create(sink(), WriterOptions { observer: Arc::new(quiet), ..options })?;
    for (number, content) in contents.iter().enumerate() {
        let entry = Entry {
            path: number.to_string().into_bytes(),
            kind: Kind::File { size: content.len() as u64, extents: vec![], hash: [0; 16] },
            mode: 0o644,
            uid: 0,
            gid: 0,
            mtime: Timestamp { secs: 0, nanos: 0 },
            xattrs: vec![],
        };
        writer.add(entry, Content::Data(&mut &content[..]))?;
    }
    let (_, stats) = writer.finish()?;
    Ok(stats.archive_len)
}

/// An observer that hears nothing of a trial but asks whether to stop.
struct Quiet(Arc<dyn Observer + Send + Sync>);

impl Observer for Quiet {
    fn interrupted(&self) -> bool {
        self.0.interrupted()
    }
}
