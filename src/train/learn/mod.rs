//! Learning the data of an archive: what changes in a base model, at what price, as a delta.
//!
//! Tables, head and copy gates learn. The layers do not change, because what they would gain is not
//! worth its bytes (docs/research/learning.md). Every change has a price, the bits that it takes in
//! the delta divided by all tokens of the archive, so that what does not pay stays as it was.

mod dense;
mod learner;
mod rows;
mod sample;

use std::f64::consts::LN_2;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use candle_core::Device;

use self::learner::{Learner, Rates};
use self::sample::Draws;
pub use self::sample::Sample;
use super::corpus::Featuriser;
use super::error::failed;
use super::init::{self, Initial};
use super::net::{Batch, Net};
use crate::error::{Error, Result};
use crate::model::delta::{Change, Delta, LARGEST_STEP, Part, parts};
use crate::model::tokens::Vocabulary;
use crate::model::weights::Model;

/// How long to learn, and for how much data.
#[derive(Clone, Debug)]
pub struct LearnOptions {
    /// Steps of the run.
    pub steps: usize,
    /// Windows of a step.
    pub sequences: usize,
    /// Positions of a window.
    pub len: usize,
    /// Seed of all random choices.
    pub seed: u64,
    /// Bytes of the data that the delta is for: the more there are, the more changes pay.
    pub bytes: u64,
    /// Name of the resulting model.
    pub name: String,
}

/// What a run reports after each step.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// Steps done so far.
    pub step: usize,
    /// Smoothed bits per byte of the training windows.
    pub bits_per_byte: f64,
    /// Tokens trained on per second since the run began.
    pub tokens_per_second: f64,
}

/// Rate of table rows.
const ROW_RATE: f64 = 0.06;
/// Rate of the head.
const HEAD_RATE: f64 = 0.012;
/// Rate of biases; gates have a twentieth of it.
const BIAS_RATE: f64 = 0.002;
/// Bits that a changed element of a row is assumed to cost; most of them tell its place.
const ROW_BITS: f64 = 8.0;
/// Bits that any other change is assumed to cost.
const BITS: f64 = 6.0;
/// Weight of each step in the smoothed bits per byte.
const SMOOTHING: f64 = 0.05;
/// Steps until the rates are whole.
const WARM_UP: f64 = 8.0;
/// Share of the steps over which the rates fall to zero.
const DECAY: f64 = 0.6;
/// Share of the steps after which it is chosen what changes.
const CHOSEN: f64 = 0.75;
/// The least change, in steps of the format, that is then chosen.
const LEAST: f64 = 0.4;
/// The least sum of the differences of a row: with less, telling the row's place costs more than
/// the row gains.
const LEAST_OF_ROW: i32 = 3;
/// What a difference of 1 is worth in the head and the gates, in weights of a typical row; in
/// tables it is one weight.
const COARSE: f64 = 9.0;
/// What a difference of 1 is worth in a bias, in units of the format: 0.05 nats.
const BIAS_STEP: u32 = 74;
/// Batches that are measured to choose a set of weights.
const CHOICE: usize = 3;

/// Learns `sample` on top of `base`, the file of a model. Returns the file of the delta, or `None`
/// if no change pays.
///
/// # Errors
/// `BadModel` if the base cannot learn, `Training` if learning diverges, `Interrupted`.
pub fn learn(
    base: &[u8],
    sample: &Sample,
    options: &LearnOptions,
    interrupt: &AtomicBool,
    mut report: impl FnMut(Progress),
) -> Result<Option<Vec<u8>>> {
    let initial = init::from_bytes(base)?;
    let model = Model::from_bytes(base)?;
    let vocabulary = Vocabulary::new(&initial.vocabulary)?;
    let config = initial.config.clone();
    let featuriser = || Featuriser { config: &config, vocabulary: &vocabulary, len: options.len };
    let held = sample.spread(&featuriser(), options.sequences, CHOICE)?;
    if held.is_empty() {
        return Ok(None);
    }
    let first = best_set(&initial, &held)?;
    let net = network(&initial, first)?;
    let (tokens, bytes) = held
        .iter()
        .fold((0, 0), |(tokens, bytes), batch| (tokens + batch.targets.tokens.len(), bytes + batch.bytes));
    let tokens = options.bytes as f64 * tokens as f64 / bytes.max(1) as f64;
    let steps = Steps::new(base, &model, &initial, &format_set(first))?;
    let price = |bits: f64, unit: f64| bits * LN_2 / tokens / unit;
    let rates = Rates {
        rows: ROW_RATE,
        head: HEAD_RATE,
        bias: BIAS_RATE,
        row_price: price(ROW_BITS, steps.unit("embed.token")),
        head_price: price(BITS, steps.unit("head")),
        gate_price: price(BITS, steps.unit("copy")),
        bias_price: price(BITS, steps.unit("copy.bias")),
        units: ["embed.token", "head", "copy", "copy.bias"].map(|name| steps.unit(name)),
    };
    let mut learner = Learner::new(net, rates).map_err(failed)?;
    let mut draws = Draws::new(sample, featuriser(), options.seed);
    let start = Instant::now();
    let mut smooth = None;
    for step in 0..options.steps {
        if interrupt.load(Ordering::Relaxed) {
            return Err(Error::Interrupted);
        }
        let Some(batch) = draws.next(options.sequences)? else { return Ok(None) };
        if step == (options.steps as f64 * CHOSEN) as usize {
            let least = LEAST as f32;
            learner.rows.choose(least * rates.units[0] as f32);
            learner.head.choose(|span| least * span.unit);
        }
        let left = 1.0 - step as f64 / options.steps as f64;
        let factor = ((step + 1) as f64 / WARM_UP).min(left / DECAY).min(1.0);
        let nats = learner.step(&batch, factor).map_err(failed)?;
        if !nats.is_finite() {
            return Err(Error::Training("learning diverged: the loss is no number".to_owned()));
        }
        let bits = nats / LN_2 * batch.targets.tokens.len() as f64 / batch.bytes as f64;
        let before = smooth.unwrap_or(bits);
        let now = before + SMOOTHING * (bits - before);
        smooth = Some(now);
        let tokens = (step + 1) * options.sequences * options.len;
        report(Progress {
            step: step + 1,
            bits_per_byte: now,
            tokens_per_second: tokens as f64 / start.elapsed().as_secs_f64(),
        });
    }
    learner.rows.settle();
    let changes = steps.changes(&mut learner);
    if changes.is_empty() {
        return Ok(None);
    }
    let delta = Delta {
        name: options.name.clone(),
        training: serde_json::json!({ "steps": options.steps, "seed": options.seed }).to_string(),
        first: first as u8,
        changes,
    };
    crate::model::delta::write(&delta, model.config(), &model.fingerprint()).map(Some)
}

fn format_set(set: usize) -> String {
    if set == 0 { String::new() } else { format!("expert.{set}.") }
}

/// The set of weights that codes the batches in the fewest bits.
fn best_set(initial: &Initial, batches: &[Batch]) -> Result<usize> {
    let net = Net::new(initial.config.clone(), 0, &Device::Cpu).map_err(failed)?;
    initial.apply(&net).map_err(failed)?;
    let sets = initial.config.sets().len();
    let mut best = (f64::INFINITY, 0);
    for set in 0..sets {
        let c = if set == 0 { vec![] } else { vec![(set - 1) as u16] };
        let mut nats = 0.0;
        for batch in batches {
            let cs = vec![c.clone(); batch.targets.tokens.len() / batch.len];
            nats += net.nats(batch, &cs).map_err(failed)?.iter().sum::<f64>();
        }
        if nats < best.0 {
            best = (nats, set);
        }
    }
    Ok(best.1)
}

/// A network with a single set of weights, the one with this number.
fn network(initial: &Initial, set: usize) -> Result<Net> {
    let mut own = Initial {
        config: initial.config.clone(),
        vocabulary: Vec::new(),
        values: initial.values.clone(),
        units: Default::default(),
        record: serde_json::Value::Null,
    };
    if set > 0 {
        let prefix = format_set(set);
        let moved: Vec<_> = own
            .values
            .iter()
            .filter_map(|(name, values)| Some((name.strip_prefix(&prefix)?.to_owned(), values.clone())))
            .collect();
        own.values.extend(moved);
    }
    own.config.steering = None;
    let net = Net::new(own.config.clone(), 0, &Device::Cpu).map_err(failed)?;
    own.apply(&net).map_err(failed)?;
    Ok(net)
}

/// What one step of each matrix is worth: in the integers of the format and in the floats of the
/// network.
struct Steps {
    all: Vec<(Part, u32, f64)>,
}

impl Steps {
    fn new(base: &[u8], model: &Model, initial: &Initial, set: &str) -> Result<Self> {
        let mut all = Vec::new();
        let typical = |name: &str| -> Result<f64> { init::typical_scale(base, name) };
        // All tables have the same step, since their rows are added up.
        let table_step = match model.config().ngrams.is_empty() {
            true => COARSE * typical("embed.token")?,
            false => typical("embed.ngram.0")?,
        };
        for part in parts(model.config()) {
            // The first set takes the place of the set that learns, and keeps that set's shifts.
            let own = if part.name.starts_with("embed.") {
                part.name.clone()
            } else {
                format!("{set}{}", part.name)
            };
            let Some(&unit) = initial.units.get(&own) else { continue };
            if part.name.starts_with("expert.") {
                continue;
            }
            let step = match part.name.as_str() {
                name if name.starts_with("embed.") => table_step,
                "head" | "copy" => COARSE * typical(&own)?,
                _ => BIAS_STEP.into(),
            };
            let step = step.clamp(1.0, f64::from(LARGEST_STEP)).round();
            all.push((part, step as u32, step * unit));
        }
        Ok(Self { all })
    }

    fn unit(&self, name: &str) -> f64 {
        self.all.iter().find(|(part, ..)| part.name == name).map_or(1.0, |(.., unit)| *unit)
    }

    /// The changes of what has learned, rounded to steps; the learner continues with the rounded
    /// values.
    fn changes(&self, learner: &mut Learner) -> Vec<Change> {
        let mut changes = Vec::new();
        let segments: Vec<_> = learner
            .net()
            .params
            .iter()
            .flat_map(|param| param.segments.iter().cloned().map(move |s| (param.name == "embed", s)))
            .collect();
        for (is_table, segment) in segments {
            let Some((part, step, unit)) = self.all.iter().find(|(part, ..)| part.name == segment.name)
            else {
                continue;
            };
            let at = segment.offset..segment.offset + segment.rows * segment.cols;
            let (values, base) = if is_table {
                (&mut learner.rows.values[at.clone()], &learner.rows.base[at])
            } else {
                (&mut learner.head.values[at.clone()], &learner.head.base[at])
            };
            let mut differences: Vec<i32> = values
                .iter()
                .zip(base)
                .map(|(value, base)| (f64::from(value - base) / unit).round() as i32)
                .collect();
            for row in differences.chunks_exact_mut(part.cols) {
                if row.iter().map(|d| d.abs()).sum::<i32>() < LEAST_OF_ROW {
                    row.fill(0);
                }
            }
            for ((value, base), d) in values.iter_mut().zip(base).zip(&differences) {
                *value = base + (f64::from(*d) * unit) as f32;
            }
            if differences.iter().any(|&d| d != 0) {
                changes.push(Change { name: part.name.clone(), step: *step, differences });
            }
        }
        changes
    }
}
